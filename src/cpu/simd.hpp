// Vectors for kernel sources: Highway with static dispatch, at the width of the flags this
// translation unit is compiled with. Everything here has internal linkage.
#pragma once

#include <hwy/highway.h>

#include "cpu/kernels.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;
constexpr Tag kTag;
constexpr std::size_t kLanes = hn::MaxLanes(kTag);

/// Register tiles are kTileRows rows x 4 vectors: 24 accumulators of AVX-512's 32 registers, 12 of
/// the 16 elsewhere.
constexpr std::size_t kTileVectors = 4;
constexpr std::size_t kTileRows = kLanes >= 16 ? 6 : 3;

/// e^x. Relative error below 2^-22.5 (with fused multiply-add 2^-23.39, measured over every third
/// float); +infinity above 88.7228; exactly 0 below -86.6, where the true value is under 2.5e-38;
/// NaN of NaN. Source: own (x = n ln 2 + r in two steps; the rest of e^r after 1 + r interpolated
/// at Chebyshev nodes).
HWY_INLINE Vec exp(Vec x) {
  const Vec low = hn::Set(kTag, -86.6f), high = hn::Set(kTag, 88.7228f);
  const auto below = hn::Lt(x, low), above = hn::Gt(x, high);
  const Vec bounded = hn::IfThenElse(above, high, hn::IfThenElse(below, low, x));
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Vec magic = hn::Set(kTag, 12582912.0f);
  const Vec shifted = hn::MulAdd(bounded, hn::Set(kTag, 1.44269504f), magic);
  const Vec n = hn::Sub(shifted, magic);
  Vec r = hn::NegMulAdd(n, hn::Set(kTag, 0x1.62e4p-1f), bounded);  // n * this is exact
  r = hn::NegMulAdd(n, hn::Set(kTag, 0x1.7f7d1cp-20f), r);
  Vec p = hn::Set(kTag, 0x1.6d10fcp-10f);
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.120b62p-7f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.55551ap-5f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.5554dep-3f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0.5f));
  p = hn::MulAdd(hn::Mul(p, r), r, r);
  p = hn::Add(p, hn::Set(kTag, 1.0f));
  // 2^(n-1), so that n = 128 fits the exponent field; the last factor 2 goes onto p.
  const hn::RebindToSigned<Tag> integer;
  const auto exponent =
      hn::ShiftLeft<23>(hn::Add(hn::BitCast(integer, shifted), hn::Set(integer, 126 - 0x4B400000)));
  const Vec result = hn::Mul(hn::Add(p, p), hn::BitCast(kTag, exponent));
  return hn::IfThenElse(above, hn::Set(kTag, __builtin_inff()),
                        hn::IfThenElse(below, hn::Zero(kTag), result));
}

/// x / (1 + e^-x).
HWY_INLINE Vec silu(Vec x) { return hn::Div(x, hn::Add(hn::Set(kTag, 1.0f), exp(hn::Neg(x)))); }

/// Ends a step of a loop over k: nothing of the next one is read before. Without it g++ 12 reads
/// ahead until the sums of the largest tiles have no registers left.
HWY_INLINE void end_step() { __asm__ __volatile__("" ::: "memory"); }

/// Keeps a sum of integers in the register it is in: g++ 12 copies some of a tile back and forth.
template <class V>
HWY_INLINE void keep([[maybe_unused]] V& sum) {
#if defined(__AVX512F__)
  __asm__ __volatile__("" : "+v"(sum.raw));
#elif defined(__AVX2__)
  __asm__ __volatile__("" : "+x"(sum.raw));
#endif
}

/// Asks for a line on its way to the L2 cache, ahead of a stream that the L1 cache cannot hold.
HWY_INLINE void prefetch_l2(const void* line) { __builtin_prefetch(line, 0, 2); }

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
