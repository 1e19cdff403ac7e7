// i4 weights times rows of 8-bit integers: a step is a group. Nibbles are unpacked in registers to
// 0 … 15 and summed exactly in i32, starting from -8 times the sum of the activations, because a
// nibble is the weight + 8; then the group's scale takes the sum into f32, group after group.
#include "cpu/dot.hpp"
#include "cpu/gemm_skeleton.hpp"
#include "cpu/half.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kChunkK = 8, kChunkBytes = kPanelColumns * kChunkK / 2;

/// Multiplies group by group; `Bytes` gives the integers of a group.
template <class Bytes>
struct Groups {
  template <std::size_t kRows>
  static void multiply(const GemmTask& task, std::size_t row, const std::byte* HWY_RESTRICT stretch,
                       std::size_t step, std::size_t steps, bool first, Prefetch prefetch,
                       float* HWY_RESTRICT sums) {
    const std::size_t group = task.q.group, bytes = Bytes::group_bytes(task);
    const std::uint8_t* HWY_RESTRICT x[kRows];
    const std::int32_t* HWY_RESTRICT group_sums[kRows];
    for (std::size_t r = 0; r < kRows; ++r) {
      x[r] = task.q.integers + (row + r) * task.q.stride + step * group;
      group_sums[r] = task.q.group_sums + (row + r) * task.q.groups + step;
    }
    for (std::size_t slice = 0; slice < kSlices; ++slice) {
      for (std::size_t i = 0; i < steps; ++i) {
        const std::byte* HWY_RESTRICT block = stretch + i * bytes;
        prefetch.next();
        IntVec sum[kRows][kTileVectors];
        for (std::size_t r = 0; r < kRows; ++r) {
          const IntVec start = hn::Set(kIntTag, -8 * group_sums[r][i]);
          for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = start;
        }
        for (std::size_t k = 0; k < group; k += kChunkK) {
          Bytes::template add_chunk<kRows>(x, i * group + k, block, k, slice, sum);
        }
        const std::byte* scales = block + bytes - kPanelColumns * 2;
        const bool start = first && i == 0;
        for (std::size_t v = 0; v < kTileVectors; ++v) {
          const Vec scale =
              load_elements(reinterpret_cast<const F16*>(scales) + column_of(slice, v));
          for (std::size_t r = 0; r < kRows; ++r) {
            float* at = sums + r * kPanelColumns + column_of(slice, v);
            const Vec before = start ? hn::Zero(kTag) : hn::Load(kTag, at);
            hn::Store(hn::MulAdd(hn::ConvertTo(kTag, sum[r][v]), scale, before), kTag, at);
          }
        }
      }
      prefetch.lines = 0;  // later slices read what the first one fetched
    }
  }

  template <std::size_t kRows>
  static HWY_INLINE void add(const std::uint8_t* HWY_RESTRICT const (&x)[kRows], std::size_t k,
                             const IntVec (&w)[kTileVectors], IntVec (&sum)[kRows][kTileVectors]) {
    for (std::size_t r = 0; r < kRows; ++r) {
      const IntVec a = broadcast_bytes(x[r] + k);
      for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = dot_u4(sum[r][v], w[v], a);
    }
  }
};

/// Nibbles that were made bytes: [group/4][64][4], then the group's scales.
struct Bytes4 : Groups<Bytes4> {
  static constexpr std::size_t kTileRows = cpu::CIUIC_CPU_ISA::kTileRows;
  using Sum = float;
  static HWY_INLINE std::size_t group_bytes(const GemmTask& task) {
    return task.q.group * kPanelColumns + kPanelColumns * 2;
  }
  template <std::size_t kRows>
  static HWY_INLINE void add_chunk(const std::uint8_t* HWY_RESTRICT const (&x)[kRows],
                                   std::size_t at, const std::byte* HWY_RESTRICT block,
                                   std::size_t k, std::size_t slice,
                                   IntVec (&sum)[kRows][kTileVectors]) {
    for (std::size_t half = 0; half < kChunkK; half += 4) {
      IntVec w[kTileVectors];
      for (std::size_t v = 0; v < kTileVectors; ++v)
        w[v] = load_bytes(block + (k + half) * kPanelColumns + column_of(slice, v) * 4);
      add<kRows>(x, at + half, w, sum);
    }
  }
};

struct I4Weights : Groups<I4Weights> {
  using Sum = float;
  static constexpr std::size_t kTileRows = cpu::CIUIC_CPU_ISA::kTileRows;
  static constexpr std::size_t kBlockBytes = 16384;
  static constexpr std::size_t kPrefetchSteps = 1;
  static constexpr std::size_t kUnpackTiles = 4;
  using Unpacked = Bytes4;
  static std::size_t steps(const GemmTask& task) { return task.q.groups; }
  static std::size_t step_bytes(const GemmTask& task) { return group_bytes(task); }
  static HWY_INLINE std::size_t group_bytes(const GemmTask& task) {
    return task.q.group * kPanelColumns / 2 + kPanelColumns * 2;
  }

  static HWY_INLINE IntVec low(IntVec pair) { return hn::And(pair, hn::Set(kIntTag, 0x0F0F0F0F)); }
  static HWY_INLINE IntVec high(IntVec pair) { return low(hn::ShiftRight<4>(pair)); }

  static void unpack(const GemmTask& task, const std::byte* HWY_RESTRICT stretch, std::size_t steps,
                     std::byte* HWY_RESTRICT unpacked) {
    const std::size_t group = task.q.group, scale_bytes = kPanelColumns * 2;
    for (std::size_t i = 0; i < steps; ++i) {
      for (std::size_t k = 0; k < group; k += kChunkK, stretch += kChunkBytes) {
        for (std::size_t column = 0; column < kPanelColumns; column += kLanes) {
          const IntVec pair = load_bytes(stretch + column * 4);
          auto* out = reinterpret_cast<std::int32_t*>(unpacked) + column;
          hn::Store(low(pair), kIntTag, out);
          hn::Store(high(pair), kIntTag, out + kPanelColumns);
        }
        unpacked += 2 * kChunkBytes;
      }
      __builtin_memcpy(unpacked, stretch, scale_bytes);
      stretch += scale_bytes;
      unpacked += scale_bytes;
    }
  }

  template <std::size_t kRows>
  static HWY_INLINE void add_chunk(const std::uint8_t* HWY_RESTRICT const (&x)[kRows],
                                   std::size_t at, const std::byte* HWY_RESTRICT block,
                                   std::size_t k, std::size_t slice,
                                   IntVec (&sum)[kRows][kTileVectors]) {
    const std::byte* HWY_RESTRICT chunk = block + k / kChunkK * kChunkBytes;
    IntVec w[kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v)
      w[v] = low(load_bytes(chunk + column_of(slice, v) * 4));
    add<kRows>(x, at, w, sum);
    // Loads the pairs again: kept, they would push sums out of the registers.
    __asm__ __volatile__("" ::: "memory");
    for (std::size_t v = 0; v < kTileVectors; ++v)
      w[v] = high(load_bytes(chunk + column_of(slice, v) * 4));
    add<kRows>(x, at + 4, w, sum);
  }

  struct Terms {};
  static HWY_INLINE Terms terms(const GemmTask&, std::size_t, std::size_t) { return {}; }
  static HWY_INLINE Vec value(const GemmTask& task, Terms, std::size_t row, const float* sums) {
    return hn::Mul(hn::Load(kTag, sums), hn::Set(kTag, task.q.scales[row]));
  }
};

}  // namespace

void gemm_i4(const GemmTask& task) noexcept { run_gemm<I4Weights>(task); }

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
