// Huge pages for what kernels walk through: fewer faults while it is filled, fewer misses of the
// address cache when each row lies on a page of its own.
#pragma once

#include <cstddef>
#include <memory_resource>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// Asks the system for huge pages behind `bytes` from `data` on, where it has them, there are
/// enough of them, and `memory` is not a host's own. Only advice: nothing depends on what comes of
/// it.
void advise_huge_pages(const std::pmr::memory_resource& memory, const void* data,
                       std::size_t bytes) noexcept;

}  // namespace ciuic::inline CIUIC_ABI::cpu
