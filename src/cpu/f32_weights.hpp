// Weights as floats: a step is one k, each element one chain of multiply-adds.
#pragma once

#include "cpu/gemm_skeleton.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

struct F32Weights {
  using Sum = float;
  static constexpr std::size_t kTileRows = cpu::CIUIC_CPU_ISA::kTileRows;
  static constexpr std::size_t kBlockBytes = 65536;
  static constexpr std::size_t kPrefetchSteps = 4;
  static constexpr std::size_t kUnpackTiles = kNever;
  static std::size_t steps(const GemmTask& task) { return task.k; }
  static std::size_t step_bytes(const GemmTask&) { return kPanelColumns * sizeof(float); }

  template <std::size_t kRows>
  static HWY_INLINE void add_step(const float* HWY_RESTRICT x, std::size_t stride,
                                  const float* HWY_RESTRICT weights, std::size_t slice,
                                  Vec (&sum)[kRows][kTileVectors]) {
    Vec w[kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v)
      w[v] = hn::Load(kTag, weights + column_of(slice, v));
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec a = hn::Set(kTag, *row_of(x, stride, r));
      for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = hn::MulAdd(a, w[v], sum[r][v]);
    }
  }

  template <std::size_t kRows>
  static void multiply(const GemmTask& task, std::size_t row, const std::byte* stretch,
                       std::size_t step, std::size_t steps, bool first, Prefetch prefetch,
                       float* HWY_RESTRICT sums) {
    const auto* HWY_RESTRICT panel = reinterpret_cast<const float*>(stretch);
    const float* HWY_RESTRICT x = task.x + row * task.k + step;
    const std::size_t stride = task.k;  // read once: end_step() hides what memory holds
    for (std::size_t slice = 0; slice < kSlices; ++slice) {
      Vec sum[kRows][kTileVectors];
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          sum[r][v] = first ? hn::Zero(kTag)
                            : hn::Load(kTag, sums + r * kPanelColumns + column_of(slice, v));
        }
      }
      walk<kPrefetchSteps, 1, kPanelColumns>(
          x, panel, steps,
          prefetch, [&](const float* a, const float* w) __attribute__((always_inline)) {
            add_step<kRows>(a, stride, w, slice, sum);
          });
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v)
          hn::Store(sum[r][v], kTag, sums + r * kPanelColumns + column_of(slice, v));
      }
      prefetch.lines = 0;  // later slices read what the first one fetched
    }
  }

  struct Terms {};
  static HWY_INLINE Terms terms(const GemmTask&, std::size_t, std::size_t) { return {}; }
  static HWY_INLINE Vec value(const GemmTask&, Terms, std::size_t, const float* sums) {
    return hn::Load(kTag, sums);
  }
};

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
