// The factor that normalises a row: 1 / sqrt(mean(x^2) + epsilon). The sum of squares runs over
// four vectors side by side, in an order that depends on d alone.
#pragma once

#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

inline float sum_of_squares(const float* x, std::size_t d) {
  constexpr std::size_t kVectors = 4;
  Vec sum[kVectors];
  for (Vec& s : sum) s = hn::Zero(kTag);
  std::size_t i = 0;
  for (; i + kVectors * kLanes <= d; i += kVectors * kLanes) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Vec value = hn::LoadU(kTag, x + i + v * kLanes);
      sum[v] = hn::MulAdd(value, value, sum[v]);
    }
  }
  alignas(64) float rest[kVectors * kLanes] = {};
  for (std::size_t j = 0; i + j < d; ++j) rest[j] = x[i + j];
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Vec value = hn::Load(kTag, rest + v * kLanes);
    sum[v] = hn::MulAdd(value, value, sum[v]);
  }
  const Vec total = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
  return hn::GetLane(hn::SumOfLanes(kTag, total));
}

inline float rms_factor(const float* x, std::size_t d, float epsilon) {
  const float mean = sum_of_squares(x, d) / static_cast<float>(d);
  return 1.0f / __builtin_sqrtf(mean + epsilon);
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
