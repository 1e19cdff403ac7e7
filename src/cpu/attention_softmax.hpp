// The online softmax of query rows: what a row has summed so far, how a step of 64 positions joins
// it, and how the sums of two stretches of positions become one.
//
// A row keeps the largest score it has met, the sum of its weights 2^(score - largest), and its
// values times these weights. A step with a larger score first scales down what there is. Scores
// are kept in units of log2(e), so that powers of two are all that is needed.
#pragma once

#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kStepVectors = kSoftmaxPositions / kLanes;  // of a row's scores

/// 2^x for x <= 0; exactly 1 of 0; 0 below -126.5, and with AVX-512 below -126; NaN of NaN.
/// Relative error below 2^-22. Source: own (2^r by the polynomial 1 + r p(r) of least largest
/// relative error, for |r| <= 1/2 or, with AVX-512, 0 <= r <= 1).
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
HWY_INLINE Vec exp2_of_negative(Vec x) {
  // Two instructions that split x into an integer and r, and multiply by a power of two. Results
  // that are not normal numbers would take it forty times as long.
  const __mmask16 normal = _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  const Vec r{_mm512_reduce_ps(x.raw, _MM_FROUND_TO_NEG_INF)};
  Vec p = hn::Set(kTag, 0x1.e993dep-10f);
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.2771dcp-7f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.c91d98p-5f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.ebdb58p-3f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.62e4bap-1f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 1.0f));
  return Vec{_mm512_maskz_scalef_ps(normal, p.raw, x.raw)};
}
#else
HWY_INLINE Vec exp2_of_negative(Vec x) {
  const Vec low = hn::Set(kTag, -127.0f);
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  x = hn::Max(low, x);  // the second operand where one is NaN
#else
  x = hn::IfThenElse(hn::Lt(x, low), low, x);
#endif
  // Adding 1.5 * 2^23 rounds to an integer and leaves it, here with the exponent's origin added, in
  // the low bits; -127 becomes the exponent field of zero.
  const Vec magic = hn::Set(kTag, 12582912.0f + 127.0f);
  const Vec shifted = hn::Add(x, magic);
  const Vec r = hn::Sub(x, hn::Sub(shifted, magic));
  Vec p = hn::Set(kTag, 0x1.5bba2ep-10f);
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.3cea92p-7f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.c6b752p-5f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.ebf9bcp-3f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.62e42ap-1f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 1.0f));
  const hn::RebindToSigned<Tag> integer;
  return hn::Mul(p, hn::BitCast(kTag, hn::ShiftLeft<23>(hn::BitCast(integer, shifted))));
}
#endif

/// What rows have summed, one behind the other.
struct Sums {
  float* values;   // [rows][value_stride]
  float* weights;  // [rows][kLanes], lane by lane
  float* maxima;   // [rows]; whole vectors of it can be read from any row on
};

Sums sums_at(float* memory, std::size_t rows, std::size_t stride) {
  return {memory, memory + rows * stride, memory + rows * (stride + kPartialFloats / 2)};
}
static_assert(kLanes <= kPartialFloats / 2);

void clear(const Sums& sums, std::size_t rows, std::size_t stride) {
  for (std::size_t i = 0; i < rows * stride; ++i) sums.values[i] = 0.0f;
  for (std::size_t i = 0; i < rows * kLanes; ++i) sums.weights[i] = 0.0f;
  for (std::size_t i = 0; i < rows; ++i) sums.maxima[i] = -__builtin_inff();
}

/// One row's part of a step.
struct Seen {
  std::size_t positions;  // of the step's, that it may see
  float factor;           // for what it has summed before
};

/// The largest of a row's scores and of `maximum`; scores that it may not see, in vectors that it
/// sees some of, become -infinity.
HWY_INLINE float largest_score(float* scores, std::size_t positions, float maximum) {
  Vec top = hn::Set(kTag, maximum);
  if (positions == kSoftmaxPositions) {
    Vec half[2] = {hn::Load(kTag, scores), hn::Load(kTag, scores + kLanes)};
    for (std::size_t v = 2; v < kStepVectors; ++v)
      half[v % 2] = hn::Max(half[v % 2], hn::Load(kTag, scores + v * kLanes));
    top = hn::Max(top, hn::Max(half[0], half[1]));
  } else {
    for (std::size_t i = 0; i < positions; i += kLanes) {
      const Vec index = hn::Iota(kTag, static_cast<float>(i));
      const auto seen = hn::Lt(index, hn::Set(kTag, static_cast<float>(positions)));
      const Vec s =
          hn::IfThenElse(seen, hn::Load(kTag, scores + i), hn::Set(kTag, -__builtin_inff()));
      hn::Store(s, kTag, scores + i);
      top = hn::Max(top, s);
    }
  }
  return hn::GetLane(hn::MaxOfLanes(kTag, top));
}

/// Turns the scores of `count` rows into weights and adds these up.
HWY_NOINLINE void soften_rows(std::size_t count, Seen* seen, float* HWY_RESTRICT scores,
                              const Sums& sums) {
  alignas(64) float maxima[kAttentionRows + kLanes], factors[kAttentionRows + kLanes];
  for (std::size_t r = 0; r < count; ++r)
    maxima[r] = largest_score(scores + r * kSoftmaxPositions, seen[r].positions, sums.maxima[r]);
  for (std::size_t r = 0; r < count; r += kLanes) {
    const Vec change = hn::Sub(hn::LoadU(kTag, sums.maxima + r), hn::Load(kTag, maxima + r));
    hn::Store(exp2_of_negative(change), kTag, factors + r);
  }
  for (std::size_t r = 0; r < count; ++r) {
    seen[r].factor = 1.0f;
    if (seen[r].positions == 0) continue;
    float* const s = scores + r * kSoftmaxPositions;
    const Vec maximum = hn::Set(kTag, maxima[r]);
    const auto weight_at = [s, maximum](std::size_t i) {
      const Vec weight = exp2_of_negative(hn::Sub(hn::Load(kTag, s + i), maximum));
      hn::Store(weight, kTag, s + i);
      return weight;
    };
    float* const weights = sums.weights + r * kLanes;
    Vec sum = hn::Mul(hn::Load(kTag, weights), hn::Set(kTag, factors[r]));
    if (seen[r].positions == kSoftmaxPositions) {
      for (std::size_t v = 0; v < kStepVectors; ++v) sum = hn::Add(sum, weight_at(v * kLanes));
    } else {
      for (std::size_t i = 0; i < seen[r].positions; i += kLanes) sum = hn::Add(sum, weight_at(i));
    }
    hn::Store(sum, kTag, weights);
    sums.maxima[r] = maxima[r];
    seen[r].factor = factors[r];
  }
}

/// total += part, for one row that has summed in both.
void merge_row(const Sums& total, const Sums& part, std::size_t row, std::size_t stride) {
  const float a = total.maxima[row], b = part.maxima[row];
  const float maximum = a > b ? a : b;
  const Vec a_factor = exp2_of_negative(hn::Set(kTag, a - maximum));
  const Vec b_factor = exp2_of_negative(hn::Set(kTag, b - maximum));
  const auto merge = [&](float* to, const float* from) {
    hn::Store(hn::MulAdd(hn::Load(kTag, from), b_factor, hn::Mul(hn::Load(kTag, to), a_factor)),
              kTag, to);
  };
  merge(total.weights + row * kLanes, part.weights + row * kLanes);
  for (std::size_t i = 0; i < stride; i += kLanes)
    merge(total.values + row * stride + i, part.values + row * stride + i);
  total.maxima[row] = maximum;
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
