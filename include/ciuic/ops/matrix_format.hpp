// How the elements of a weight matrix are held.
#pragma once

#include <cstdint>

#include "ciuic/base/dtype.hpp"

namespace ciuic::inline CIUIC_ABI {

/// f32 and bf16 hold the elements themselves; i8 integers with a scale for each output feature; i4
/// integers with a binary16 scale for each `group` of consecutive inputs of an output feature.
struct MatrixFormat {
  DType dtype = DType::f32;
  std::int32_t group = 64;  ///< i4 only: 32, 64 or 128

  // Implicit: where a format is wanted, a type alone says enough.
  constexpr MatrixFormat() noexcept = default;
  constexpr MatrixFormat(DType type, std::int32_t group_size = 64) noexcept
      : dtype(type), group(group_size) {}

  constexpr bool is_valid() const noexcept {
    if (dtype == DType::i4) return group == 32 || group == 64 || group == 128;
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::i8;
  }
  friend constexpr bool operator==(const MatrixFormat& a, const MatrixFormat& b) noexcept {
    return a.dtype == b.dtype && (a.dtype != DType::i4 || a.group == b.group);
  }
};

}  // namespace ciuic::inline CIUIC_ABI
