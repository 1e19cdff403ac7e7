// out = x W^T over packed panels, for any format of weights. A format says how a tile of rows is
// multiplied by a stretch of a panel; the skeleton says in which order tiles and stretches come,
// what is asked for ahead of time, and what happens to the sums at the end.
//
// Every output element is one chain of operations over k = 0 … K-1, whatever the number of rows,
// the tile it falls into or the thread that computes it; blocking over k only parks the running sum
// in memory. That is what makes results batch invariant.
//
// A format has
//   Sum                      what a sum is parked as: float or std::int32_t
//   kTileRows                rows of the largest tile
//   kBlockBytes              weights that stay near while all tiles pass over them
//   kPrefetchSteps           steps between two calls of prefetch.next()
//   steps(task)              of a panel
//   step_bytes(task)         of a panel that one step reads
//   multiply<kRows>(task, row, panel, step, steps, first, prefetch, sums)
//                            sums [kRows][64] += rows [row, row + kRows) * the panel's steps from
//                            `step` on; `first`: = instead of +=. Calls prefetch.next() as it goes
//   terms(task, panel, column)
//                            what the columns from `column` on have in common for all rows
//   value(task, terms, row, sums)
//                            the f32 vector that these columns' sums of a row stand for
//   kUnpackTiles             from so many tiles on a block is unpacked once for all of them, by
//                            unpack(task, panel, steps, unpacked), and multiplied by
//                            Unpacked::multiply; kNever: there is nothing to unpack
#pragma once

#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kNever = ~std::size_t{0};
/// How far ahead of the reader weights are asked for: by a single tile, which streams, and by
/// several, which pass over a block again and again.
constexpr std::size_t kStreamAheadBytes = 8192;
constexpr std::size_t kBlocksAheadBytes = 65536;
/// Up to this many tiles memory is the bottleneck, and half a block at a time is best.
constexpr std::size_t kFewTiles = 8;

/// Slices of a panel: the columns that one tile keeps in registers. Vector v of slice s holds the
/// columns from `column_of` on; a slice takes half of its vectors from each half of the panel: for
/// a gated matrix, gate and value of the same features.
constexpr std::size_t kSlices = kPanelColumns / (kTileVectors * kLanes);
constexpr std::size_t column_of(std::size_t slice, std::size_t v) {
  constexpr std::size_t half = kTileVectors / 2;
  return (v / half) * kGatedColumns + (slice * half + v % half) * kLanes;
}

/// Row `r` of a tile, reached from the first or the fourth: an address holds a multiple of a
/// register, and a pointer for each row would be read from memory in every step.
template <class T>
HWY_INLINE const T* row_of(const T* first, std::size_t stride, std::size_t r) {
  return (r < 3 ? first : first + 3 * stride) + r % 3 * stride;
}

/// A tile's share of the weights to come: a few lines at a time.
struct Prefetch {
  const std::byte* at;
  std::size_t lines;  ///< for each call of `next`
  HWY_INLINE void next() {
    for (std::size_t i = 0; i < lines; ++i) {
      prefetch_l2(at);
      at += kLineBytes;
    }
  }
  /// The same for up to one line, without a jump: for none it asks for one line, over and over.
  HWY_INLINE void next_one() {
    prefetch_l2(at);
    at += lines * kLineBytes;
  }
};

/// step(x, weights) for each of `steps` steps of a panel, which are kX and kWeights elements apart;
/// a line is asked for before each kGroup of them. A step of the largest tile is 24 multiply-adds
/// and 10 loads; where another thread shares the core, instructions are what runs out, so nothing
/// counts but the weights' address.
template <bool kOneLine, std::size_t kGroup, std::size_t kX, std::size_t kWeights, class X, class W,
          class Step>
HWY_INLINE void walk_asking(const X* HWY_RESTRICT x, const W* HWY_RESTRICT weights,
                            std::size_t steps, Prefetch prefetch, const Step& step) {
  const W* const groups_end = weights + steps / kGroup * (kGroup * kWeights);
  const W* const end = weights + steps * kWeights;
  while (weights != groups_end) {
    kOneLine ? prefetch.next_one() : prefetch.next();
    for (std::size_t u = 0; u < kGroup; ++u) {
      step(x + u * kX, weights + u * kWeights);
      end_step();
    }
    x += kGroup * kX;
    weights += kGroup * kWeights;
  }
  for (; weights != end; weights += kWeights, x += kX) step(x, weights);
}

template <std::size_t kGroup, std::size_t kX, std::size_t kWeights, class X, class W, class Step>
HWY_INLINE void walk(const X* HWY_RESTRICT x, const W* HWY_RESTRICT weights, std::size_t steps,
                     const Prefetch& prefetch, const Step& step) {
  if (prefetch.lines <= 1)
    return walk_asking<true, kGroup, kX, kWeights>(x, weights, steps, prefetch, step);
  walk_asking<false, kGroup, kX, kWeights>(x, weights, steps, prefetch, step);
}

template <class Format>
void multiply_rows(std::size_t rows, const GemmTask& task, std::size_t row, const std::byte* panel,
                   std::size_t step, std::size_t steps, bool first, Prefetch prefetch,
                   typename Format::Sum* sums) {
  switch (rows) {
    case 1:
      return Format::template multiply<1>(task, row, panel, step, steps, first, prefetch, sums);
    case 2:
      return Format::template multiply<2>(task, row, panel, step, steps, first, prefetch, sums);
    case 3:
      return Format::template multiply<3>(task, row, panel, step, steps, first, prefetch, sums);
    default:
      break;
  }
  if constexpr (Format::kTileRows > 3) {
    switch (rows) {
      case 4:
        return Format::template multiply<4>(task, row, panel, step, steps, first, prefetch, sums);
      case 5:
        return Format::template multiply<5>(task, row, panel, step, steps, first, prefetch, sums);
      default:
        return Format::template multiply<6>(task, row, panel, step, steps, first, prefetch, sums);
    }
  }
}

/// Asks for the lines that a tile's rows will be written to: they are far away as a rule, and the
/// last stretch of the panel is just long enough to fetch them.
HWY_INLINE void prefetch_results(const GemmTask& task, std::size_t panel, std::size_t row,
                                 std::size_t rows) {
  const std::size_t width = task.gated ? kGatedColumns : kPanelColumns;
  const std::size_t left = task.out_columns - panel * width;
  const std::size_t columns = left < width ? left : width;
  const float* out = task.out + row * task.out_columns + panel * width;
  for (std::size_t r = 0; r < rows; ++r, out += task.out_columns) {
    for (std::size_t i = 0; i < columns; i += kLineBytes / sizeof(float))
      __builtin_prefetch(out + i, 1, 3);
  }
}

/// Where rows of a panel's results go.
struct Results {
  float* out;               ///< of the first row
  std::size_t stride;       ///< floats from one row to the next
  const float* bias;        ///< null, or of the panel's columns: with kGated of the gates,
  const float* value_bias;  ///< and of the values
};

/// out = sum (+ bias) (+ out), or silu(gate) * value, for `rows` rows from `row` on.
template <class Format, bool kGated>
HWY_INLINE void finish(const GemmTask& task, std::size_t panel, std::size_t row, std::size_t rows,
                       const typename Format::Sum* HWY_RESTRICT sums, const Results& to) {
  constexpr std::size_t width = kGated ? kGatedColumns : kPanelColumns;
  for (std::size_t i = 0; i < width; i += kLanes) {
    const auto terms = Format::terms(task, panel, i);
    const auto value_terms = Format::terms(task, panel, kGated ? kGatedColumns + i : i);
    const bool has_bias = to.bias != nullptr;
    const Vec bias = has_bias ? hn::LoadU(kTag, to.bias + i) : hn::Zero(kTag);
    const Vec value_bias = kGated && has_bias ? hn::LoadU(kTag, to.value_bias + i) : bias;
    float* out = to.out + i;
    for (std::size_t r = 0; r < rows; ++r, out += to.stride) {
      const auto* const sum = sums + r * kPanelColumns + i;
      Vec y = Format::value(task, terms, row + r, sum);
      if (has_bias) y = hn::Add(y, bias);
      if constexpr (kGated) {
        Vec value = Format::value(task, value_terms, row + r, sum + kGatedColumns);
        if (has_bias) value = hn::Add(value, value_bias);
        y = hn::Mul(silu(y), value);
      } else if (task.accumulate) {
        y = hn::Add(hn::LoadU(kTag, out), y);
      }
      hn::StoreU(y, kTag, out);
    }
  }
}

/// What the rows of a tile become.
template <class Format>
HWY_NOINLINE void finish_tile(const GemmTask& task, std::size_t panel, std::size_t row,
                              std::size_t rows, const typename Format::Sum* HWY_RESTRICT sums) {
  const std::size_t width = task.gated ? kGatedColumns : kPanelColumns, begin = panel * width;
  const std::size_t left = task.out_columns - begin, columns = left < width ? left : width;
  float* out = task.out + row * task.out_columns + begin;
  Results to{out, task.out_columns, nullptr, nullptr};
  if (task.bias != nullptr) {
    to.bias = task.bias + begin;
    to.value_bias = to.bias + task.out_columns;
  }
  if (columns == width) {
    if (task.gated) return finish<Format, true>(task, panel, row, rows, sums, to);
    return finish<Format, false>(task, panel, row, rows, sums, to);
  }
  // The last panel reaches beyond the matrix: work on padded copies of what is there.
  alignas(64) float bias[kPanelColumns] = {}, value_bias[kPanelColumns] = {};
  for (std::size_t i = 0; task.bias != nullptr && i < columns; ++i) {
    bias[i] = to.bias[i];
    if (task.gated) value_bias[i] = to.value_bias[i];
  }
  for (std::size_t r = 0; r < rows; ++r, out += task.out_columns, sums += kPanelColumns) {
    alignas(64) float padded[kPanelColumns] = {};
    for (std::size_t i = 0; task.accumulate && i < columns; ++i) padded[i] = out[i];
    to = {padded, 0, task.bias == nullptr ? nullptr : bias, value_bias};
    if (task.gated) {
      finish<Format, true>(task, panel, row + r, 1, sums, to);
    } else {
      finish<Format, false>(task, panel, row + r, 1, sums, to);
    }
    for (std::size_t i = 0; i < columns; ++i) out[i] = padded[i];
  }
}

template <class Format>
HWY_INLINE void run_gemm(const GemmTask& task) {
  const std::size_t rows = task.row_end - task.row_begin;
  const std::size_t tiles = (rows + Format::kTileRows - 1) / Format::kTileRows;
  const std::size_t all_steps = Format::steps(task), step_bytes = Format::step_bytes(task);
  const std::size_t full_block = Format::kBlockBytes / step_bytes;
  const std::size_t block_steps = tiles == 1           ? all_steps
                                  : tiles <= kFewTiles ? (full_block + 1) / 2
                                                       : full_block;
  const std::size_t ahead_bytes = tiles == 1 ? kStreamAheadBytes : kBlocksAheadBytes;
  const std::size_t lines = Format::kPrefetchSteps * step_bytes / kLineBytes;
  using Sum = typename Format::Sum;
  static_assert(kGemmChunkRows * kPanelColumns * sizeof(Sum) + 2 * Format::kBlockBytes <=
                    kScratchFloats * sizeof(float),
                "room for parked sums and an unpacked block, which takes twice its bytes at most");
  auto* const unpacked =
      reinterpret_cast<std::byte*>(task.scratch + kGemmChunkRows * kPanelColumns);

  for (std::size_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    const std::byte* weights = task.panels + panel * task.panel_bytes;
    for (std::size_t step = 0; step < all_steps; step += block_steps) {
      const std::size_t steps = all_steps - step < block_steps ? all_steps - step : block_steps;
      const bool last = step + steps == all_steps;
      const std::byte* block = weights + step * step_bytes;
      const std::size_t calls = steps / Format::kPrefetchSteps;
      if constexpr (Format::kUnpackTiles != kNever) {
        if (tiles >= Format::kUnpackTiles) Format::unpack(task, block, steps, unpacked);
      }
      std::size_t row = 0;
      for (std::size_t tile = 0; tile < tiles; ++tile) {
        const std::size_t end = rows * (tile + 1) / tiles;  // rows divided evenly
        const std::size_t line = lines * tile / tiles, lines_end = lines * (tile + 1) / tiles;
        if (last) prefetch_results(task, panel, task.row_begin + row, end - row);
        const Prefetch prefetch{block + ahead_bytes + line * calls * kLineBytes, lines_end - line};
        float* const out = task.scratch + row * kPanelColumns;
        if constexpr (Format::kUnpackTiles != kNever) {
          if (tiles >= Format::kUnpackTiles) {
            multiply_rows<typename Format::Unpacked>(end - row, task, task.row_begin + row,
                                                     unpacked, step, steps, step == 0, prefetch,
                                                     out);
          }
        }
        if (tiles < Format::kUnpackTiles) {
          multiply_rows<Format>(end - row, task, task.row_begin + row, block, step, steps,
                                step == 0, prefetch, reinterpret_cast<Sum*>(out));
        }
        if (last) {
          finish_tile<Format>(task, panel, task.row_begin + row, end - row,
                              reinterpret_cast<const Sum*>(out));
        }
        row = end;
      }
    }
  }
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
