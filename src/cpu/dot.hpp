// Dot products of four bytes: the one operation that Highway 1.0.3 lacks and int8 lives on. Each
// instruction set has its own way; all give the exact i32 sum, so i8 results agree bit by bit.
#pragma once

#include "cpu/simd.hpp"

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

using IntTag = hn::RebindToSigned<Tag>;
using IntVec = hn::Vec<IntTag>;  // kLanes columns, or one row's four bytes kLanes times
constexpr IntTag kIntTag;

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define CIUIC_VNNI 1
#endif

#if defined(CIUIC_VNNI)
/// The processor multiplies unsigned by signed bytes: activations are stored with 128 added, and
/// 128 times the sum of the weights is taken off again.
constexpr std::int32_t kActivationOffset = 128;

HWY_INLINE IntVec dot_unsigned_signed(IntVec sum, IntVec u, IntVec s) {
#if defined(__AVX512VNNI__)
  return IntVec{_mm512_dpbusd_epi32(sum.raw, u.raw, s.raw)};
#else
  return IntVec{_mm256_dpbusd_avx_epi32(sum.raw, u.raw, s.raw)};
#endif
}

/// Weights as the dot wants them.
struct WeightBytes {
  IntVec bytes;
};
HWY_INLINE WeightBytes prepare_weights(IntVec bytes) { return {bytes}; }
/// sum + activations . weights, column by column; `activations` carry kActivationOffset.
HWY_INLINE IntVec dot_i8(IntVec sum, IntVec activations, const WeightBytes& weights) {
  return dot_unsigned_signed(sum, activations, weights.bytes);
}
/// The same for weights in 0 … 15 and signed activations.
HWY_INLINE IntVec dot_u4(IntVec sum, IntVec weights, IntVec activations) {
  return dot_unsigned_signed(sum, weights, activations);
}

#elif defined(__AVX2__)
// vpmaddubsw adds two products of an unsigned and a signed byte in 16 bits and saturates there.
// With the sign moved from the weight to the activation both factors stay within 127, and two
// products within 32,258.
constexpr std::int32_t kActivationOffset = 0;

#if defined(__AVX512BW__)
HWY_INLINE IntVec dot_unsigned_signed(IntVec sum, IntVec u, IntVec s) {
  const __m512i pairs = _mm512_maddubs_epi16(u.raw, s.raw);
  return IntVec{_mm512_add_epi32(sum.raw, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
struct WeightBytes {
  IntVec magnitudes;
  __mmask64 negative;
};
HWY_INLINE WeightBytes prepare_weights(IntVec bytes) {
  return {IntVec{_mm512_abs_epi8(bytes.raw)}, _mm512_movepi8_mask(bytes.raw)};
}
HWY_INLINE IntVec dot_i8(IntVec sum, IntVec activations, const WeightBytes& weights) {
  const __m512i turned = _mm512_mask_sub_epi8(activations.raw, weights.negative,
                                              _mm512_setzero_si512(), activations.raw);
  return dot_unsigned_signed(sum, weights.magnitudes, IntVec{turned});
}
#else
HWY_INLINE IntVec dot_unsigned_signed(IntVec sum, IntVec u, IntVec s) {
  const __m256i pairs = _mm256_maddubs_epi16(u.raw, s.raw);
  return IntVec{_mm256_add_epi32(sum.raw, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}
struct WeightBytes {
  IntVec magnitudes, bytes;
};
HWY_INLINE WeightBytes prepare_weights(IntVec bytes) {
  return {IntVec{_mm256_abs_epi8(bytes.raw)}, bytes};
}
HWY_INLINE IntVec dot_i8(IntVec sum, IntVec activations, const WeightBytes& weights) {
  const __m256i turned = _mm256_sign_epi8(activations.raw, weights.bytes.raw);
  return dot_unsigned_signed(sum, weights.magnitudes, IntVec{turned});
}
#endif
HWY_INLINE IntVec dot_u4(IntVec sum, IntVec weights, IntVec activations) {
  return dot_unsigned_signed(sum, weights, activations);
}

#elif defined(__ARM_FEATURE_DOTPROD)
constexpr std::int32_t kActivationOffset = 0;
struct WeightBytes {
  IntVec bytes;
};
HWY_INLINE WeightBytes prepare_weights(IntVec bytes) { return {bytes}; }
HWY_INLINE IntVec dot_i8(IntVec sum, IntVec activations, const WeightBytes& weights) {
  return IntVec{vdotq_s32(sum.raw, vreinterpretq_s8_s32(activations.raw),
                          vreinterpretq_s8_s32(weights.bytes.raw))};
}
HWY_INLINE IntVec dot_u4(IntVec sum, IntVec weights, IntVec activations) {
  return dot_i8(sum, activations, {weights});
}

#else
// One byte after another, for whatever the vectors are.
constexpr std::int32_t kActivationOffset = 0;
struct WeightBytes {
  IntVec bytes;
};
HWY_INLINE WeightBytes prepare_weights(IntVec bytes) { return {bytes}; }
HWY_INLINE IntVec dot_i8(IntVec sum, IntVec activations, const WeightBytes& weights) {
  for (int shift = 24; shift >= 0; shift -= 8) {  // each byte at the top, then down with its sign
    const IntVec a = hn::ShiftRight<24>(hn::ShiftLeftSame(activations, 24 - shift));
    const IntVec w = hn::ShiftRight<24>(hn::ShiftLeftSame(weights.bytes, 24 - shift));
    sum = hn::Add(sum, hn::Mul(a, w));
  }
  return sum;
}
HWY_INLINE IntVec dot_u4(IntVec sum, IntVec weights, IntVec activations) {
  return dot_i8(sum, activations, {weights});
}
#endif

/// Four bytes of one row, for all columns.
HWY_INLINE IntVec broadcast_bytes(const std::uint8_t* bytes) {
  std::int32_t word;
  __builtin_memcpy(&word, bytes, sizeof(word));
  return hn::Set(kIntTag, word);
}
/// Four bytes of kLanes columns.
HWY_INLINE IntVec load_bytes(const std::byte* bytes) {
  return hn::Load(kIntTag, reinterpret_cast<const std::int32_t*>(bytes));
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
