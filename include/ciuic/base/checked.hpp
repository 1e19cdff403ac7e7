// Arithmetic on sizes that come from files and callers: the result, or the news that it would wrap.
#pragma once

#include <concepts>
#include <limits>
#include <optional>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

template <std::unsigned_integral U>
[[nodiscard]] constexpr std::optional<U> checked_add(U a, U b) noexcept {
  if (a > std::numeric_limits<U>::max() - b) return std::nullopt;
  return static_cast<U>(a + b);
}

template <std::unsigned_integral U>
[[nodiscard]] constexpr std::optional<U> checked_mul(U a, U b) noexcept {
  if (b != 0 && a > std::numeric_limits<U>::max() / b) return std::nullopt;
  return static_cast<U>(a * b);
}

/// The least multiple of `alignment` (a power of two) that is not below `value`.
template <std::unsigned_integral U>
[[nodiscard]] constexpr std::optional<U> checked_align_up(U value, U alignment) noexcept {
  const std::optional<U> padded = checked_add(value, static_cast<U>(alignment - 1));
  if (!padded) return std::nullopt;
  return static_cast<U>(*padded & ~static_cast<U>(alignment - 1));
}

/// ceil(a / b) for b > 0, without overflow.
template <std::integral I>
[[nodiscard]] constexpr I ceil_div(I a, I b) noexcept {
  return static_cast<I>(a / b + (a % b != 0 ? 1 : 0));
}

}  // namespace ciuic::inline CIUIC_ABI
