// i8 weights times rows of 8-bit integers: a step is four k, sums are exact in i32, and the scales
// of row and column come in at the end.
#include "cpu/dot.hpp"
#include "cpu/gemm_skeleton.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

struct I8Weights {
  using Sum = std::int32_t;
  static constexpr std::size_t kTileRows = cpu::CIUIC_CPU_ISA::kTileRows;
  static constexpr std::size_t kBlockBytes = 65536;
  static constexpr std::size_t kPrefetchSteps = 4;
  static constexpr std::size_t kUnpackTiles = kNever;
  static constexpr std::size_t kStepK = 4, kStepBytes = kPanelColumns * kStepK;
  static std::size_t steps(const GemmTask& task) { return (task.k + kStepK - 1) / kStepK; }
  static std::size_t step_bytes(const GemmTask&) { return kStepBytes; }

  template <std::size_t kRows>
  static HWY_INLINE void add_step(const std::uint8_t* HWY_RESTRICT x, std::size_t stride,
                                  const std::byte* HWY_RESTRICT weights, std::size_t slice,
                                  IntVec (&sum)[kRows][kTileVectors]) {
    WeightBytes w[kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v)
      w[v] = prepare_weights(load_bytes(weights + column_of(slice, v) * kStepK));
    for (std::size_t r = 0; r < kRows; ++r) {
      const IntVec a = broadcast_bytes(row_of(x, stride, r));
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        sum[r][v] = dot_i8(sum[r][v], a, w[v]);
        keep(sum[r][v]);
      }
    }
  }

  template <std::size_t kRows>
  static void multiply(const GemmTask& task, std::size_t row, const std::byte* HWY_RESTRICT stretch,
                       std::size_t step, std::size_t steps, bool first, Prefetch prefetch,
                       std::int32_t* HWY_RESTRICT sums) {
    const std::size_t stride = task.q.stride;
    const std::uint8_t* HWY_RESTRICT x = task.q.integers + row * stride + step * kStepK;
    for (std::size_t slice = 0; slice < kSlices; ++slice) {
      IntVec sum[kRows][kTileVectors];
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          sum[r][v] = first ? hn::Zero(kIntTag)
                            : hn::Load(kIntTag, sums + r * kPanelColumns + column_of(slice, v));
        }
      }
      walk<kPrefetchSteps, kStepK, kStepBytes>(
          x, stretch, steps,
          prefetch, [&](const std::uint8_t* a, const std::byte* w) __attribute__((always_inline)) {
            add_step<kRows>(a, stride, w, slice, sum);
          });
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v)
          hn::Store(sum[r][v], kIntTag, sums + r * kPanelColumns + column_of(slice, v));
      }
      prefetch.lines = 0;  // later slices read what the first one fetched
    }
  }

  struct Terms {
    IntVec offset;  ///< what the activations' offset has put into the sums
    Vec scale;
  };
  static HWY_INLINE Terms terms(const GemmTask& task, std::size_t panel, std::size_t column) {
    const std::size_t at = panel * kPanelColumns + column;
    static_assert(kActivationOffset == 0 || kActivationOffset == 128);
    const IntVec of_weights = hn::Load(kIntTag, task.column_sums + at);
    return {hn::ShiftLeft<7>(of_weights), hn::Load(kTag, task.column_scales + at)};
  }
  static HWY_INLINE Vec value(const GemmTask& task, const Terms& terms, std::size_t row,
                              const std::int32_t* sums) {
    IntVec sum = hn::Load(kIntTag, sums);
    if constexpr (kActivationOffset != 0) sum = hn::Sub(sum, terms.offset);
    const Vec scale = hn::Mul(terms.scale, hn::Set(kTag, task.q.scales[row]));
    return hn::Mul(hn::ConvertTo(kTag, sum), scale);
  }
};

}  // namespace

void gemm_i8(const GemmTask& task) noexcept { run_gemm<I8Weights>(task); }

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
