// Huge pages for what kernels walk through: fewer faults while it is filled, fewer misses of the
// address cache when each row lies on a page of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// Pages of the system that lie as a whole within a stretch of memory.
struct PageRange {
  std::uintptr_t begin;
  std::size_t bytes;
};
PageRange whole_pages(std::uintptr_t begin, std::size_t bytes, std::size_t page) noexcept;

/// Whether memory of that size is to have huge pages: not a host's own, and not less than two of
/// them (of 2 MiB, the commonest size).
bool worth_huge_pages(const std::pmr::memory_resource& memory, std::size_t bytes) noexcept;

/// Asks the system for huge pages behind `bytes` from `data` on, where it has them and they are
/// worth it. Only advice: nothing depends on what comes of it.
void advise_huge_pages(const std::pmr::memory_resource& memory, const void* data,
                       std::size_t bytes) noexcept;

}  // namespace ciuic::inline CIUIC_ABI::cpu
