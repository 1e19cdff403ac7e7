// Root mean square normalisation. The sum of squares runs over four vectors side by side, in an
// order that depends on d alone.
#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

float sum_of_squares(const float* x, std::size_t d) {
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

}  // namespace

void rms_norm(const RmsNormTask& task) noexcept {
  for (std::size_t row = 0; row < task.rows; ++row) {
    const float* x = task.x + row * task.d;
    float* out = task.out + row * task.d;
    const float mean = sum_of_squares(x, task.d) / static_cast<float>(task.d);
    const float scale = 1.0f / __builtin_sqrtf(mean + task.epsilon);
    const Vec scales = hn::Set(kTag, scale);
    std::size_t i = 0;
    for (; i + kLanes <= task.d; i += kLanes) {
      const Vec normed = hn::Mul(hn::LoadU(kTag, x + i), scales);
      hn::StoreU(hn::Mul(normed, hn::LoadU(kTag, task.weight + i)), kTag, out + i);
    }
    for (; i < task.d; ++i) out[i] = x[i] * scale * task.weight[i];
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
