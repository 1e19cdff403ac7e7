// Elements of cached keys and values, as kernels read and write them: f32, f16 (IEEE binary16,
// rounded to nearest even) and i8 (integers -127 … 127 times a factor that is kept beside them).
#pragma once

#include <type_traits>

#include "cpu/half.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr hn::Rebind<std::int8_t, Tag> kByteTag;
constexpr hn::RebindToSigned<Tag> kIntegerTag;

/// kLanes elements as floats; i8 without its factor. Exact.
HWY_INLINE Vec load_elements(const float* from) { return hn::Load(kTag, from); }
HWY_INLINE Vec load_elements(const std::int8_t* from) {
  return hn::ConvertTo(kTag, hn::PromoteTo(kIntegerTag, hn::LoadU(kByteTag, from)));
}

/// Writes x [count] (a multiple of 16) as elements; returns the factor they are to be multiplied
/// by.
HWY_INLINE float store_elements(const float* x, std::size_t count, float* to) {
  for (std::size_t i = 0; i < count; ++i) to[i] = x[i];
  return 1.0f;
}

HWY_INLINE float store_elements(const float* x, std::size_t count, F16* to) {
#if CIUIC_SOFT_HALF
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    std::uint32_t magnitude = bits & 0x7FFFFFFFu, result;
    if (magnitude > 0x7F800000u) {
      result = 0x7E00u;  // NaN
    } else if (magnitude >= 0x477FF000u) {
      result = 0x7C00u;  // rounds to infinity
    } else if (magnitude < 0x38800000u) {
      // Below the least normal number: adding 1/2 leaves the multiple of 2^-24 in the low bits.
      float value;
      __builtin_memcpy(&value, &magnitude, sizeof value);
      value += 0.5f;
      __builtin_memcpy(&magnitude, &value, sizeof value);
      result = magnitude - 0x3F000000u;
    } else {
      result = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    }
    to[i].bits = static_cast<std::uint16_t>(sign | result);
  }
#else
  for (std::size_t i = 0; i < count; i += kLanes)
    hn::StoreU(hn::DemoteTo(kHalfTag, hn::LoadU(kTag, x + i)), kHalfTag, to + i);
#endif
  return 1.0f;
}

/// The factor is max|x| / 127. Where that is not a number or below 1e-30 all elements are 0, and a
/// factor of NaN makes everything of this position NaN, as it should.
HWY_INLINE float store_elements(const float* x, std::size_t count, std::int8_t* to) {
  Vec largest = hn::Zero(kTag), poison = hn::Zero(kTag);
  for (std::size_t i = 0; i < count; i += kLanes) {
    const Vec value = hn::LoadU(kTag, x + i);
    largest = hn::Max(largest, hn::Abs(value));
    poison = hn::MulAdd(value, hn::Zero(kTag), poison);  // 0, or NaN of what is not finite
  }
  const float maximum = hn::GetLane(hn::MaxOfLanes(kTag, largest));
  float factor = maximum / 127.0f, inverse = 127.0f / maximum;
  if (maximum < 1e-30f) factor = inverse = 0.0f;
  const float finite = hn::GetLane(hn::SumOfLanes(kTag, poison));
  if (finite != 0.0f) {
    factor = finite;
    for (std::size_t i = 0; i < count; ++i) to[i] = 0;
    return factor;
  }
  for (std::size_t i = 0; i < count; i += kLanes) {
    const Vec scaled = hn::Mul(hn::LoadU(kTag, x + i), hn::Set(kTag, inverse));
    hn::StoreU(hn::DemoteTo(kByteTag, hn::NearestInt(scaled)), kByteTag, to + i);
  }
  return factor;
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
