// Element types of tensors, and the two 16-bit floating-point formats that C++20 lacks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What one element of a tensor is. `i4` packs two elements into a byte.
enum class DType : std::uint8_t { f32, f16, bf16, i32, i8, u8, i4 };

constexpr std::string_view to_string(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::i8:
      return "i8";
    case DType::u8:
      return "u8";
    case DType::i4:
      return "i4";
  }
  return "unknown";
}

/// The inverse of `to_string`; empty for a name that is none of ours.
constexpr std::optional<DType> dtype_from_string(std::string_view name) noexcept {
  for (DType dtype :
       {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i8, DType::u8, DType::i4}) {
    if (to_string(dtype) == name) return dtype;
  }
  return std::nullopt;
}

constexpr std::size_t bits_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 32;
    case DType::f16:
    case DType::bf16:
      return 16;
    case DType::i8:
    case DType::u8:
      return 8;
    case DType::i4:
      return 4;
  }
  return 0;
}

/// bfloat16: the upper half of an IEEE binary32.
struct bf16 {
  std::uint16_t bits = 0;

  static constexpr bf16 from_float(float value) noexcept {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(value);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
    return {static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16)};  // nearest even
  }
  constexpr float to_float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

/// IEEE binary16.
struct f16 {
  std::uint16_t bits = 0;

  static constexpr f16 from_float(float value) noexcept {
    const std::uint32_t u = std::bit_cast<std::uint32_t>(value);
    const std::uint16_t sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
    const std::uint32_t magnitude = u & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return {static_cast<std::uint16_t>(sign | 0x7E00u)};  // NaN
    if (magnitude >= 0x477FF000u)
      return {static_cast<std::uint16_t>(sign | 0x7C00u)};  // to infinity
    if (magnitude >= 0x38800000u) {                         // normal
      const std::uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
      return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
    }
    if (magnitude < 0x33000000u) return {sign};  // below half of the least subnormal
    const std::uint32_t exponent = magnitude >> 23;
    const std::uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
    const std::uint32_t shift = 126u - exponent;  // 14 … 24
    const std::uint32_t half = 1u << (shift - 1u);
    const std::uint32_t odd = (mantissa >> shift) & 1u;
    return {static_cast<std::uint16_t>(sign | ((mantissa + half - 1u + odd) >> shift))};
  }
  constexpr float to_float() const noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1Fu;
    std::uint32_t mantissa = bits & 0x3FFu;
    if (exponent == 0x1Fu) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
    if (exponent != 0)
      return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    if (mantissa == 0) return std::bit_cast<float>(sign);
    const std::uint32_t shift = static_cast<std::uint32_t>(std::countl_zero(mantissa)) - 21u;
    mantissa = (mantissa << shift) & 0x3FFu;
    return std::bit_cast<float>(sign | ((113u - shift) << 23) | (mantissa << 13));
  }
};

}  // namespace ciuic::inline CIUIC_ABI
