// out = x W^T over packed panels. Every output element is one chain of multiply-adds over k = 0 …
// K-1, whatever the number of rows, the tile it falls into or the thread that computes it; blocking
// over k only parks the running sum in memory. That is what makes results batch invariant.
#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// Vector v of slice s holds the panel's columns from here on. A slice takes half of its vectors
/// from each half of the panel: for a gated matrix, gate and value of the same features.
constexpr std::size_t kSlices = kPanelColumns / (kTileVectors * kLanes);
constexpr std::size_t column_of(std::size_t slice, std::size_t v) {
  constexpr std::size_t half = kTileVectors / 2;
  return (v / half) * kGatedColumns + (slice * half + v % half) * kLanes;
}

/// Steps of k whose weights (64 KiB) stay near while all rows of a chunk pass over them.
constexpr std::size_t kBlockK = 256;
/// How far ahead of the reader weights are asked for when each is used only once.
constexpr std::size_t kStreamAheadBytes = 8192;
constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kUnroll = 4;  ///< steps of k between prefetches

/// Lines at `next`, `per_unroll` of them for every kUnroll steps of k.
struct Prefetch {
  const char* next;
  std::size_t per_unroll;
};

template <std::size_t kRows>
HWY_INLINE void multiply_step(const float* HWY_RESTRICT const (&x)[kRows], std::size_t k,
                              const float* HWY_RESTRICT weights, std::size_t slice,
                              Vec (&sum)[kRows][kTileVectors]) {
  Vec w[kTileVectors];
  for (std::size_t v = 0; v < kTileVectors; ++v)
    w[v] = hn::Load(kTag, weights + column_of(slice, v));
  for (std::size_t r = 0; r < kRows; ++r) {
    const Vec a = hn::Set(kTag, x[r][k]);
    for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = hn::MulAdd(a, w[v], sum[r][v]);
  }
}

/// sums [kRows][64] += x [kRows][k] * panel [k][64]; `first` starts from zero instead.
template <std::size_t kRows>
void multiply_tile(const float* x_rows, std::size_t x_stride, const float* HWY_RESTRICT panel,
                   std::size_t k, bool first, Prefetch prefetch, float* HWY_RESTRICT sums) {
  const float* HWY_RESTRICT x[kRows];
  for (std::size_t r = 0; r < kRows; ++r) x[r] = x_rows + r * x_stride;
  for (std::size_t slice = 0; slice < kSlices; ++slice) {
    Vec sum[kRows][kTileVectors];
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        sum[r][v] =
            first ? hn::Zero(kTag) : hn::Load(kTag, sums + r * kPanelColumns + column_of(slice, v));
      }
    }
    std::size_t i = 0;
    for (; i + kUnroll <= k; i += kUnroll) {
      for (std::size_t line = 0; line < prefetch.per_unroll; ++line) {
        prefetch_l2(prefetch.next);
        prefetch.next += kLineBytes;
      }
      for (std::size_t u = 0; u < kUnroll; ++u)
        multiply_step<kRows>(x, i + u, panel + (i + u) * kPanelColumns, slice, sum);
    }
    for (; i < k; ++i) multiply_step<kRows>(x, i, panel + i * kPanelColumns, slice, sum);
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t v = 0; v < kTileVectors; ++v)
        hn::Store(sum[r][v], kTag, sums + r * kPanelColumns + column_of(slice, v));
    }
    prefetch.per_unroll = 0;  // later slices read what the first one fetched
  }
}

void multiply_rows(std::size_t rows, const float* x, std::size_t x_stride, const float* panel,
                   std::size_t k, bool first, Prefetch prefetch, float* sums) {
  switch (rows) {
    case 1:
      return multiply_tile<1>(x, x_stride, panel, k, first, prefetch, sums);
    case 2:
      return multiply_tile<2>(x, x_stride, panel, k, first, prefetch, sums);
    case 3:
      return multiply_tile<3>(x, x_stride, panel, k, first, prefetch, sums);
    default:
      break;
  }
  if constexpr (kTileRows > 3) {
    switch (rows) {
      case 4:
        return multiply_tile<4>(x, x_stride, panel, k, first, prefetch, sums);
      case 5:
        return multiply_tile<5>(x, x_stride, panel, k, first, prefetch, sums);
      default:
        return multiply_tile<6>(x, x_stride, panel, k, first, prefetch, sums);
    }
  }
}

/// What one row of a panel becomes: out = sum (+ bias) (+ out), or silu(gate) * value.
void finish_row(const GemmTask& task, std::size_t panel, const float* sum, float* out_row) {
  const std::size_t width = task.gated ? kGatedColumns : kPanelColumns;
  const std::size_t begin = panel * width;
  const std::size_t left = task.out_columns - begin;
  const std::size_t columns = left < width ? left : width;
  float* out = out_row + begin;

  // The last panel may reach beyond the matrix: work on padded copies of what is there.
  alignas(64) float bias_copy[kPanelColumns] = {}, out_copy[kPanelColumns];
  const float* bias = task.bias == nullptr ? nullptr : task.bias + begin;
  const float* value_bias = bias == nullptr ? nullptr : bias + task.out_columns;
  float* result = out;
  if (columns < width) {
    if (bias != nullptr) {
      for (std::size_t i = 0; i < columns; ++i) {
        bias_copy[i] = bias[i];
        if (task.gated) bias_copy[kGatedColumns + i] = value_bias[i];
      }
      bias = bias_copy;
      value_bias = bias_copy + kGatedColumns;
    }
    for (std::size_t i = 0; i < width; ++i)
      out_copy[i] = task.accumulate && i < columns ? out[i] : 0.0f;
    result = out_copy;
  }

  for (std::size_t i = 0; i < width; i += kLanes) {
    Vec y = hn::Load(kTag, sum + i);
    if (bias != nullptr) y = hn::Add(y, hn::LoadU(kTag, bias + i));
    if (task.gated) {
      Vec value = hn::Load(kTag, sum + kGatedColumns + i);
      if (bias != nullptr) value = hn::Add(value, hn::LoadU(kTag, value_bias + i));
      y = hn::Mul(silu(y), value);
    } else if (task.accumulate) {
      y = hn::Add(hn::LoadU(kTag, result + i), y);
    }
    hn::StoreU(y, kTag, result + i);
  }
  if (columns < width) {
    for (std::size_t i = 0; i < columns; ++i) out[i] = out_copy[i];
  }
}

}  // namespace

void gemm(const GemmTask& task) noexcept {
  const std::size_t rows = task.row_end - task.row_begin;
  const std::size_t tiles = (rows + kTileRows - 1) / kTileRows;
  const std::size_t block_k = tiles == 1 ? task.k : kBlockK;
  // The next block's lines are asked for evenly by the tiles that work on this one.
  constexpr std::size_t lines = kUnroll * kPanelColumns * sizeof(float) / kLineBytes;

  for (std::size_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    const float* weights = task.panels + panel * task.k * kPanelColumns;
    for (std::size_t k0 = 0; k0 < task.k; k0 += block_k) {
      const std::size_t k = task.k - k0 < block_k ? task.k - k0 : block_k;
      const float* block = weights + k0 * kPanelColumns;
      const char* ahead = reinterpret_cast<const char*>(
          tiles == 1 ? block + kStreamAheadBytes / sizeof(float) : block + k * kPanelColumns);
      std::size_t row = 0;
      for (std::size_t tile = 0; tile < tiles; ++tile) {
        const std::size_t end = rows * (tile + 1) / tiles;  // rows divided evenly
        const std::size_t line = lines * tile / tiles, lines_end = lines * (tile + 1) / tiles;
        multiply_rows(end - row, task.x + (task.row_begin + row) * task.k + k0, task.k, block, k,
                      k0 == 0, {ahead + line * (k / kUnroll) * kLineBytes, lines_end - line},
                      task.scratch + row * kPanelColumns);
        row = end;
      }
    }
    for (std::size_t row = 0; row < rows; ++row) {
      finish_row(task, panel, task.scratch + row * kPanelColumns,
                 task.out + (task.row_begin + row) * task.out_columns);
    }
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
