// Rows of a weight matrix into panels, and back.
#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {

void pack_rows(const float* rows, std::size_t count, std::size_t k, std::size_t first_column,
               float* panel) noexcept {
  constexpr std::size_t kStep = 16;  // one cache line of each row at a time
  for (std::size_t k0 = 0; k0 < k; k0 += kStep) {
    const std::size_t end = k - k0 < kStep ? k : k0 + kStep;
    for (std::size_t r = 0; r < count; ++r) {
      const float* row = rows + r * k;
      float* column = panel + first_column + r;
      for (std::size_t i = k0; i < end; ++i) column[i * kPanelColumns] = row[i];
    }
  }
}

void unpack_row(const float* panel, std::size_t column, std::size_t k, float* out) noexcept {
  for (std::size_t i = 0; i < k; ++i) out[i] = panel[i * kPanelColumns + column];
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
