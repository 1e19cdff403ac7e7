#include "cpu/f32_weights.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {

void gemm_f32(const GemmTask& task) noexcept { run_gemm<F32Weights>(task); }

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
