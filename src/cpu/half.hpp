// binary16 numbers as floats. Where the processor does not convert them itself Highway's own way is
// for finite numbers only and cuts digits off, so there it is spelled out.
#pragma once

#include "cpu/simd.hpp"

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 || (HWY_ARCH_X86 && !defined(__F16C__))
#define CIUIC_SOFT_HALF 1
#else
#define CIUIC_SOFT_HALF 0
#endif

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

using F16 = hwy::float16_t;
constexpr hn::Rebind<F16, Tag> kHalfTag;

/// kLanes numbers. Exact.
HWY_INLINE Vec load_elements(const F16* from) {
#if CIUIC_SOFT_HALF
  alignas(16) float to[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) {
    const std::uint32_t bits = from[i].bits;
    std::uint32_t magnitude = (bits & 0x7FFFu) << 13;
    float value;
    __builtin_memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;  // what the exponents' origins differ by; turns subnormals into normals
    __builtin_memcpy(&magnitude, &value, sizeof value);
    if ((bits & 0x7C00u) == 0x7C00u) magnitude = 0x7F800000u | (bits & 0x3FFu) << 13;
    magnitude |= (bits & 0x8000u) << 16;
    __builtin_memcpy(&to[i], &magnitude, sizeof value);
  }
  return hn::Load(kTag, to);
#else
  return hn::PromoteTo(kTag, hn::LoadU(kHalfTag, from));
#endif
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
