// bf16 weights, widened in registers: a bf16 is the upper half of a float, so a shift and a mask
// make two vectors of floats of one vector of pairs. Where several tiles use the same weights they
// are widened once for all of them. Sums are f32 multiply-adds, which are twice as fast as the
// processor's own bf16 dot product where it has one.
#include "cpu/f32_weights.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

struct Bf16Weights {
  using Sum = float;
  static constexpr std::size_t kTileRows = cpu::CIUIC_CPU_ISA::kTileRows;
  static constexpr std::size_t kBlockBytes = 49152;
  static constexpr std::size_t kPrefetchSteps = F32Weights::kPrefetchSteps;
  static constexpr std::size_t kUnpackTiles = 4;
  using Unpacked = F32Weights;
  static std::size_t steps(const GemmTask& task) { return task.k; }
  static std::size_t step_bytes(const GemmTask&) { return kPanelColumns * 2; }

  using Words = hn::RebindToUnsigned<Tag>;
  static constexpr std::size_t kHalfVectors = kTileVectors / 2;
  static_assert(kLanes <= 16);

  /// The words of a slice lie in two stretches of a panel's step: those of columns 0 … 31, then
  /// those of columns 32 … 63. Each word holds a column and the one 16 after it.
  static constexpr std::size_t word_of(std::size_t slice, std::size_t v) {
    return v * kPanelColumns / 4 + slice * kLanes;
  }
  static constexpr std::size_t kWordSlices = 16 / kLanes;
  static constexpr std::size_t column_of_word(std::size_t slice, std::size_t v, bool high) {
    return v * kGatedColumns + slice * kLanes + (high ? 16 : 0);
  }

  static HWY_INLINE void widen(const std::uint32_t* HWY_RESTRICT at, Vec& low, Vec& high) {
    constexpr Words words;
    const auto pair = hn::Load(words, at);
    low = hn::BitCast(kTag, hn::ShiftLeft<16>(pair));
    high = hn::BitCast(kTag, hn::And(pair, hn::Set(words, 0xFFFF0000u)));
  }

  /// The same steps as F32Weights wants them.
  static void unpack(const GemmTask&, const std::byte* stretch, std::size_t steps,
                     std::byte* unpacked) {
    const auto* HWY_RESTRICT panel = reinterpret_cast<const std::uint32_t*>(stretch);
    auto* HWY_RESTRICT out = reinterpret_cast<float*>(unpacked);
    for (std::size_t i = 0; i < steps; ++i, panel += kPanelColumns / 2, out += kPanelColumns) {
      for (std::size_t slice = 0; slice < kWordSlices; ++slice) {
        for (std::size_t v = 0; v < kHalfVectors; ++v) {
          Vec low, high;
          widen(panel + word_of(slice, v), low, high);
          hn::Store(low, kTag, out + column_of_word(slice, v, false));
          hn::Store(high, kTag, out + column_of_word(slice, v, true));
        }
      }
    }
  }

  template <std::size_t kRows>
  static HWY_INLINE void add_step(const float* HWY_RESTRICT x, std::size_t stride,
                                  const std::uint32_t* HWY_RESTRICT weights, std::size_t slice,
                                  Vec (&sum)[kRows][kTileVectors]) {
    Vec w[kTileVectors];
    for (std::size_t v = 0; v < kHalfVectors; ++v)
      widen(weights + word_of(slice, v), w[2 * v], w[2 * v + 1]);
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec a = hn::Set(kTag, *row_of(x, stride, r));
      for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = hn::MulAdd(a, w[v], sum[r][v]);
    }
  }

  template <std::size_t kRows>
  static void multiply(const GemmTask& task, std::size_t row, const std::byte* stretch,
                       std::size_t step, std::size_t steps, bool first, Prefetch prefetch,
                       float* HWY_RESTRICT sums) {
    constexpr std::size_t kStepWords = kPanelColumns / 2;
    const auto* HWY_RESTRICT panel = reinterpret_cast<const std::uint32_t*>(stretch);
    const float* HWY_RESTRICT x = task.x + row * task.k + step;
    const std::size_t stride = task.k;  // read once: end_step() hides what memory holds
    for (std::size_t slice = 0; slice < kWordSlices; ++slice) {
      Vec sum[kRows][kTileVectors];
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          const float* at = sums + r * kPanelColumns + column_of_word(slice, v / 2, v % 2 != 0);
          sum[r][v] = first ? hn::Zero(kTag) : hn::Load(kTag, at);
        }
      }
      walk<kPrefetchSteps, 1, kStepWords>(
          x, panel, steps,
          prefetch, [&](const float* a, const std::uint32_t* w) __attribute__((always_inline)) {
            add_step<kRows>(a, stride, w, slice, sum);
          });
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          hn::Store(sum[r][v], kTag,
                    sums + r * kPanelColumns + column_of_word(slice, v / 2, v % 2 != 0));
        }
      }
      prefetch.lines = 0;
    }
  }

  struct Terms {};
  static HWY_INLINE Terms terms(const GemmTask&, std::size_t, std::size_t) { return {}; }
  static HWY_INLINE Vec value(const GemmTask&, Terms, std::size_t, const float* sums) {
    return hn::Load(kTag, sums);
  }
};

}  // namespace

void gemm_bf16(const GemmTask& task) noexcept { run_gemm<Bf16Weights>(task); }

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
