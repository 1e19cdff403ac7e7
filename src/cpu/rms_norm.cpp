// Root mean square normalisation.
#include "cpu/row_norm.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {

void rms_norm(const RmsNormTask& task) noexcept {
  for (std::size_t row = 0; row < task.rows; ++row) {
    const float* x = task.x + row * task.d;
    float* out = task.out + row * task.d;
    const float scale = rms_factor(x, task.d, task.epsilon);
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
