// Priority: whose turn comes first. One meaning for requests and for leases.
#pragma once

#include <cstdint>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

enum class Priority : std::uint8_t { low, normal, high };
inline constexpr int kPriorityLevels = 3;

}  // namespace ciuic::inline CIUIC_ABI
