// One step of attention: 64 positions for all rows of a task. Scores, then their softmax, then sums
// of values.
//
// Few rows (decoding) are one tile, which reads elements as they are stored and asks for the next
// step's lines as it reads. Many rows (a prompt) are tiles that take turns: elements become f32
// once for all of them, and each phase passes over all rows, so that first the keys, then the
// values stay in the L1 cache.
#pragma once

#include "cpu/attention_softmax.hpp"
#include "cpu/attention_tiles.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// The rows of a task, and memory for them.
struct Rows {
  std::size_t count, tiles;
  const float* q;                      // [count][kQueryStride], times scale and log2(e)
  std::size_t limits[kAttentionRows];  // positions that each may see
  float* scores;                       // [count][64]
  float* converted;                    // a step's elements as f32
  std::size_t begins[kAttentionRows / kWideRows + 2];  // first row of each tile, and `count`
};

/// Positions that the least and the most seeing rows of a tile see.
struct Range {
  std::size_t least, most;
};
Range range_of(const Seen* seen, std::size_t begin, std::size_t end) {
  Range range{kSoftmaxPositions, 0};
  for (std::size_t r = begin; r < end; ++r) {
    range.least = seen[r].positions < range.least ? seen[r].positions : range.least;
    range.most = seen[r].positions > range.most ? seen[r].positions : range.most;
  }
  return range;
}

/// Asks for lines [begin, end) of each block of a step to come.
HWY_INLINE void prefetch_lines(const Step& next, std::size_t begin, std::size_t end) {
  for (const std::byte* block : next.blocks) {
    for (std::size_t line = begin; line < end; ++line) prefetch_l2(block + line * kLineBytes);
  }
}

/// Scores of all rows. What comes next is asked for by the tiles, evenly, or with kAhead, where
/// there is only one, line by line as it reads.
template <class T, bool kAhead>
void score_step(const KvLayout& layout, const Rows& rows, const Seen* seen, const View<T>& step,
                const Step& next) {
  const std::size_t lines = layout.block_bytes / kLineBytes;
  const std::size_t share = kAhead ? 0 : (lines + rows.tiles - 1) / rows.tiles;
  std::size_t asked = 0;
  for (std::size_t tile = 0; tile < rows.tiles; ++tile) {
    if (!kAhead) {
      const std::size_t ask = asked + share < lines ? asked + share : lines;
      prefetch_lines(next, asked, ask);
      asked = ask;
    }
    const std::size_t begin = rows.begins[tile], end = rows.begins[tile + 1];
    const std::size_t most = range_of(seen, begin, end).most;
    const std::size_t vectors = (most + kLanes - 1) / kLanes;
    const float* q = rows.q + begin * kQueryStride;
    float* scores = rows.scores + begin * kSoftmaxPositions;
    with_count<kSingleRows>(end - begin, [&]<std::size_t kRows>() {
      constexpr std::size_t kVectors = vectors_of(kRows);
      std::size_t v = 0;
      for (; v + kVectors <= vectors; v += kVectors)
        score_vectors<T, kAhead, kRows, kVectors>(q, layout.head_dim, step, v, scores);
      if (v == vectors) return;
      with_count<kVectors - 1>(vectors - v, [&]<std::size_t kLeft>() {
        score_last_vectors<T, kAhead, kRows, kLeft>(q, layout.head_dim, step, v, scores);
      });
    });
  }
}

/// Columns [column, column_end) of all rows' values: what a tile's rows see together, then what
/// some see on their own. A function of its own, so that its loops have all the registers.
template <class T, bool kAhead>
HWY_NOINLINE void weigh_step(const KvLayout& layout, const Rows& rows, const Seen* seen,
                             const View<T>& step, std::size_t column, std::size_t column_end,
                             const Sums& sums) {
  const std::size_t stride = layout.value_stride;
  for (std::size_t tile = 0; tile < rows.tiles; ++tile) {
    const std::size_t begin = rows.begins[tile], end = rows.begins[tile + 1];
    const Range range = range_of(seen, begin, end);
    const std::size_t least = range.least;
    float factors[kSingleRows];
    for (std::size_t r = begin; r < end; ++r) factors[r - begin] = seen[r].factor;
    const float* weights = rows.scores + begin * kSoftmaxPositions;
    float* values = sums.values + begin * stride;
    if (least > 0) {
      with_count<kSingleRows>(end - begin, [&]<std::size_t kRows>() {
        constexpr std::size_t kVectors = vectors_of(kRows);
        std::size_t c = column;
        for (; c + kVectors * kLanes <= column_end; c += kVectors * kLanes)
          weigh_columns<T, kAhead, kRows, kVectors>(weights, factors, step, c, 0, least, stride,
                                                    values);
        for (; c < column_end; c += kLanes)
          weigh_columns<T, kAhead, kRows, 1>(weights, factors, step, c, 0, least, stride, values);
      });
    }
    if (range.most == least) continue;
    for (std::size_t r = begin; r < end; ++r) {
      if (seen[r].positions <= least) continue;
      const float factor = least > 0 ? 1.0f : seen[r].factor;
      const float* row_weights = weights + (r - begin) * kSoftmaxPositions;
      float* row_values = values + (r - begin) * stride;
      std::size_t c = column;
      for (; c + kTileVectors * kLanes <= column_end; c += kTileVectors * kLanes)
        weigh_columns<T, false, 1, kTileVectors>(row_weights, &factor, step, c, least,
                                                 seen[r].positions, stride, row_values);
      for (; c < column_end; c += kLanes)
        weigh_columns<T, false, 1, 1>(row_weights, &factor, step, c, least, seen[r].positions,
                                      stride, row_values);
    }
  }
}

/// The step whose first position is `first`, over elements of type T.
template <class T, bool kAhead>
void step_rows(const KvLayout& layout, const Rows& rows, const Step& raw, const Step& next,
               const View<T>& step, std::size_t first, const Sums& sums) {
  Seen seen[kAttentionRows];
  for (std::size_t r = 0; r < rows.count; ++r) {
    const std::size_t left = rows.limits[r] <= first ? 0 : rows.limits[r] - first;
    seen[r].positions = left > kSoftmaxPositions ? kSoftmaxPositions : left;
  }
  const bool has_factors = layout.type == KvType::i8;
  score_step<T, kAhead>(layout, rows, seen, step, next);
  if (has_factors) apply_factors(raw, 0, rows.count, rows.scores);
  soften_rows(rows.count, seen, rows.scores, sums);
  if (has_factors) apply_factors(raw, 1, rows.count, rows.scores);
  // A few columns outside, rows inside: values stay in the L1 cache.
  constexpr std::size_t kColumns = kTileVectors * kLanes;
  for (std::size_t c = 0; c < layout.value_stride; c += kColumns) {
    const std::size_t end = c + kColumns < layout.value_stride ? c + kColumns : layout.value_stride;
    weigh_step<T, kAhead>(layout, rows, seen, step, c, end, sums);
  }
}

/// One step of all rows; `blocks` of it are in the context.
template <class T>
void take_step(const KvLayout& layout, const Rows& rows, const Step& step, const Step& next,
               std::size_t blocks, std::size_t first, const Sums& sums) {
  const View<T> view = view_of<T>(layout, step, next);
  if (rows.tiles == 1) return step_rows<T, true>(layout, rows, step, next, view, first, sums);
  if constexpr (std::is_same_v<T, float>)
    return step_rows<T, false>(layout, rows, step, next, view, first, sums);
  View<float> converted;
  const std::size_t key_floats = kBlockPositions * layout.head_dim;
  const std::size_t value_floats = kBlockPositions * layout.value_stride;
  for (std::size_t b = 0; b < kBlocks; ++b) {
    float* const keys = rows.converted + b * (key_floats + value_floats);
    float* const values = keys + key_floats;
    converted.keys[b] = converted.next_keys[b] = keys;
    converted.values[b] = converted.next_values[b] = values;
    if (b >= blocks) continue;
    convert(view.keys[b], key_floats, keys);
    convert(view.values[b], value_floats, values);
  }
  step_rows<float, false>(layout, rows, step, next, converted, first, sums);
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
