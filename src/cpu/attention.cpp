// Causal attention over paged keys and values with an online softmax.
//
// For each query row the arithmetic is a function of that row, its position and its sequence's
// cache alone. Positions are taken in steps of 64 at absolute multiples of 64; within a step a
// score is one chain of multiply-adds over head_dim, a value one chain over the positions the row
// may see. Steps of one segment (512 positions, at absolute multiples) add up from zero, and
// segments are merged in ascending order. Tiles of rows share loads, never sums. So a prompt in one
// piece, in chunks or token by token, in any batch, on any pages, by one thread or with its
// segments spread over several, gives the same bits.
//
// Scores are kept in units of log2(e), so that the softmax needs powers of two only.
#include "cpu/kv_elements.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kBlocks = kSoftmaxPositions / kBlockPositions;
constexpr std::size_t kStepVectors = kSoftmaxPositions / kLanes;
constexpr std::size_t kLineBytes = 64;

/// Rows of a register tile: few rows are kTileVectors wide; more, which only a task without others
/// has, half of it.
constexpr std::size_t kWideRows = kLanes >= 16 ? 6 : 3;
constexpr std::size_t kSingleRows = kLanes >= 16 ? 8 : 6;
constexpr std::size_t vectors_of(std::size_t rows) {
  return rows <= kWideRows ? kTileVectors : kTileVectors / 2;
}
/// Floats from one row's query to the next: constant, and not a multiple of the cache's sets.
constexpr std::size_t kQueryStride = kMaxHeadDim + kBlockPositions;

/// 2^x for x <= 0; exactly 1 of 0; 0 below -126.5; NaN of NaN. Relative error below 2^-22. Source:
/// own (2^r for |r| <= 1/2 by the polynomial 1 + r p(r) of least largest relative error).
HWY_INLINE Vec exp2_of_negative(Vec x) {
  const Vec low = hn::Set(kTag, -127.0f);
#if HWY_ARCH_X86 && HWY_TARGET != HWY_EMU128 && HWY_TARGET != HWY_SCALAR
  x = hn::Max(low, x);  // the second operand where one is NaN
#else
  x = hn::IfThenElse(hn::Lt(x, low), low, x);
#endif
  // Adding 1.5 * 2^23 rounds to an integer and leaves it, here with the exponent's origin added, in
  // the low bits; -127 becomes the exponent field of zero.
  const Vec magic = hn::Set(kTag, 12582912.0f + 127.0f);
  const Vec shifted = hn::Add(x, magic);
  const Vec r = hn::Sub(x, hn::Sub(shifted, magic));
  Vec p = hn::Set(kTag, 0x1.5bba2ep-10f);
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.3cea92p-7f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.c6b752p-5f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.ebf9bcp-3f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 0x1.62e42ap-1f));
  p = hn::MulAdd(p, r, hn::Set(kTag, 1.0f));
  return hn::Mul(p, hn::BitCast(kTag, hn::ShiftLeft<23>(hn::BitCast(kIntegerTag, shifted))));
}

/// Where the keys and values of one step lie.
struct Step {
  const std::byte* blocks[kBlocks];
};

/// What rows have summed, one behind the other.
struct Sums {
  float* values;   // [rows][value_stride]
  float* weights;  // [rows][kLanes], lane by lane
  float* maxima;   // [rows]; whole vectors of it can be read from any row on
};

Sums sums_at(float* memory, std::size_t rows, std::size_t stride) {
  return {memory, memory + rows * stride, memory + rows * (stride + kPartialFloats / 2)};
}
static_assert(kLanes <= kPartialFloats / 2);

void clear(const Sums& sums, std::size_t rows, std::size_t stride) {
  for (std::size_t i = 0; i < rows * stride; ++i) sums.values[i] = 0.0f;
  for (std::size_t i = 0; i < rows * kLanes; ++i) sums.weights[i] = 0.0f;
  for (std::size_t i = 0; i < rows; ++i) sums.maxima[i] = -__builtin_inff();
}

/// Blocks from position `first` on; where the context has ended, the first one again.
Step locate(const AttentionTask& task, const std::int32_t* page_table, std::size_t kv_head,
            std::size_t first, std::size_t context) {
  const KvLayout& layout = task.layout;
  const std::size_t blocks_per_page = layout.page_tokens / kBlockPositions;
  Step step;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    const std::size_t position = first + i * kBlockPositions;
    if (position < context) {
      const std::size_t page = static_cast<std::size_t>(page_table[position / layout.page_tokens]);
      const std::size_t block = position % layout.page_tokens / kBlockPositions;
      step.blocks[i] = task.pages + ((page * layout.kv_heads + kv_head) * blocks_per_page + block) *
                                        layout.block_bytes;
    } else {
      step.blocks[i] = step.blocks[0];
    }
  }
  return step;
}

/// A step's elements of type T and, at the same places, what will be read later.
template <class T>
struct View {
  const T* keys[kBlocks];
  const T* values[kBlocks];
  const T* next_keys[kBlocks];
  const T* next_values[kBlocks];
};

template <class T>
View<T> view_of(const KvLayout& layout, const Step& step, const Step& next) {
  View<T> view;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    view.keys[i] = reinterpret_cast<const T*>(step.blocks[i] + layout.keys_at);
    view.values[i] = reinterpret_cast<const T*>(step.blocks[i] + layout.values_at);
    view.next_keys[i] = reinterpret_cast<const T*>(next.blocks[i] + layout.keys_at);
    view.next_values[i] = reinterpret_cast<const T*>(next.blocks[i] + layout.values_at);
  }
  return view;
}

/// True where element `i` of an array begins a line.
template <class T>
constexpr bool begins_line(std::size_t i) {
  return i * sizeof(T) % kLineBytes == 0;
}

/// scores [kRows][64], kVectors from vector `first` on, = q k^T. With kAhead the lines of the next
/// step at the same places are asked for meanwhile, so that memory works evenly beside us.
template <class T, bool kAhead, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void score_vectors(const float* HWY_RESTRICT q, std::size_t d, const View<T>& step,
                              std::size_t first, float* HWY_RESTRICT scores) {
  const T* HWY_RESTRICT keys[kVectors];
  const T* next[kVectors];
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t position = (first + v) * kLanes;
    keys[v] = step.keys[position / kBlockPositions] + position % kBlockPositions;
    next[v] = step.next_keys[position / kBlockPositions] + position % kBlockPositions;
  }
  Vec sum[kRows][kVectors];
  for (auto& row : sum) {
    for (Vec& s : row) s = hn::Zero(kTag);
  }
  for (std::size_t i = 0; i < d; ++i) {
    Vec k[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      k[v] = load_elements(keys[v] + i * kBlockPositions);
      if (kAhead && begins_line<T>(i * kBlockPositions) && v * kLanes % kBlockPositions == 0)
        prefetch_l2(next[v] + i * kBlockPositions);
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec x = hn::Set(kTag, q[r * kQueryStride + i]);
      for (std::size_t v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(x, k[v], sum[r][v]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v)
      hn::Store(sum[r][v], kTag, scores + r * kSoftmaxPositions + (first + v) * kLanes);
  }
}

/// Multiplies scores or weights of `count` rows by what i8 elements of their positions are to be
/// multiplied by. `which`: 0 for keys, 1 for values.
void apply_factors(const Step& step, std::size_t which, std::size_t count, float* scores) {
  for (std::size_t v = 0; v < kStepVectors; ++v) {
    const std::size_t position = v * kLanes;
    const float* from = reinterpret_cast<const float*>(step.blocks[position / kBlockPositions]);
    const Vec factors = hn::Load(kTag, from + which * kBlockPositions + position % kBlockPositions);
    for (std::size_t r = 0; r < count; ++r) {
      float* const at = scores + r * kSoftmaxPositions + position;
      hn::Store(hn::Mul(hn::Load(kTag, at), factors), kTag, at);
    }
  }
}

/// One row's part of a step.
struct Seen {
  std::size_t positions;  // of the step's, that it may see
  float factor;           // for what it has summed before
};

/// The largest of a row's scores and of `maximum`; scores that it may not see, in vectors that it
/// sees some of, become -infinity.
HWY_INLINE float largest_score(float* scores, std::size_t positions, float maximum) {
  Vec top = hn::Set(kTag, maximum);
  if (positions == kSoftmaxPositions) {
    Vec half[2] = {hn::Load(kTag, scores), hn::Load(kTag, scores + kLanes)};
    for (std::size_t v = 2; v < kStepVectors; ++v)
      half[v % 2] = hn::Max(half[v % 2], hn::Load(kTag, scores + v * kLanes));
    top = hn::Max(top, hn::Max(half[0], half[1]));
  } else {
    for (std::size_t i = 0; i < positions; i += kLanes) {
      const Vec index = hn::Iota(kTag, static_cast<float>(i));
      const auto seen = hn::Lt(index, hn::Set(kTag, static_cast<float>(positions)));
      const Vec s =
          hn::IfThenElse(seen, hn::Load(kTag, scores + i), hn::Set(kTag, -__builtin_inff()));
      hn::Store(s, kTag, scores + i);
      top = hn::Max(top, s);
    }
  }
  return hn::GetLane(hn::MaxOfLanes(kTag, top));
}

/// Turns the scores of `count` rows into weights and adds these up.
HWY_NOINLINE void soften_rows(std::size_t count, Seen* seen, float* HWY_RESTRICT scores,
                              const Sums& sums) {
  alignas(64) float maxima[kAttentionRows + kLanes], factors[kAttentionRows + kLanes];
  for (std::size_t r = 0; r < count; ++r)
    maxima[r] = largest_score(scores + r * kSoftmaxPositions, seen[r].positions, sums.maxima[r]);
  for (std::size_t r = 0; r < count; r += kLanes) {
    const Vec change = hn::Sub(hn::LoadU(kTag, sums.maxima + r), hn::Load(kTag, maxima + r));
    hn::Store(exp2_of_negative(change), kTag, factors + r);
  }
  for (std::size_t r = 0; r < count; ++r) {
    if (seen[r].positions == 0) continue;
    float* const s = scores + r * kSoftmaxPositions;
    const Vec maximum = hn::Set(kTag, maxima[r]);
    const auto weight_at = [s, maximum](std::size_t i) {
      const Vec weight = exp2_of_negative(hn::Sub(hn::Load(kTag, s + i), maximum));
      hn::Store(weight, kTag, s + i);
      return weight;
    };
    float* const weights = sums.weights + r * kLanes;
    Vec sum = hn::Mul(hn::Load(kTag, weights), hn::Set(kTag, factors[r]));
    if (seen[r].positions == kSoftmaxPositions) {
      for (std::size_t v = 0; v < kStepVectors; ++v) sum = hn::Add(sum, weight_at(v * kLanes));
    } else {
      for (std::size_t i = 0; i < seen[r].positions; i += kLanes) sum = hn::Add(sum, weight_at(i));
    }
    hn::Store(sum, kTag, weights);
    sums.maxima[r] = maxima[r];
    seen[r].factor = factors[r];
  }
}

/// values [kRows][stride], kVectors from `column` on, = values * factor + weights * step's values,
/// over positions [begin, end).
template <class T, bool kAhead, std::size_t kRows, std::size_t kVectors>
HWY_INLINE void weigh_columns(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT factors,
                              const View<T>& step, std::size_t column, std::size_t begin,
                              std::size_t end, std::size_t stride, float* HWY_RESTRICT values) {
  Vec sum[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    const Vec factor = hn::Set(kTag, factors[r]);
    for (std::size_t v = 0; v < kVectors; ++v)
      sum[r][v] = hn::Mul(hn::Load(kTag, values + r * stride + column + v * kLanes), factor);
  }
  for (std::size_t i = begin; i < end;) {
    const std::size_t block = i / kBlockPositions;
    const std::size_t offset = i % kBlockPositions * stride + column;
    const T* HWY_RESTRICT from = step.values[block] + offset;
    const T* next = step.next_values[block] + offset;
    std::size_t stop = (block + 1) * kBlockPositions;
    if (stop > end) stop = end;
    for (; i < stop; ++i, from += stride, next += stride) {
      Vec value[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) {
        value[v] = load_elements(from + v * kLanes);
        if (kAhead && begins_line<T>(v * kLanes)) prefetch_l2(next + v * kLanes);
      }
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec weight = hn::Set(kTag, weights[r * kSoftmaxPositions + i]);
        for (std::size_t v = 0; v < kVectors; ++v)
          sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v)
      hn::Store(sum[r][v], kTag, values + r * stride + column + v * kLanes);
  }
}

/// Calls body.template operator()<count>(), for count from 1 to kRows.
template <std::size_t kRows, class Body>
HWY_INLINE void with_rows(std::size_t count, const Body& body) {
  if (count == kRows) return body.template operator()<kRows>();
  if constexpr (kRows > 1) with_rows<kRows - 1>(count, body);
}

/// The rows of a task, and memory for them.
struct Rows {
  std::size_t count, tiles;
  const float* q;                      // [count][kQueryStride], times scale and log2(e)
  std::size_t limits[kAttentionRows];  // positions that each may see
  float* scores;                       // [count][64]
  float* converted;                    // a step's elements as f32

  std::size_t begin_of(std::size_t tile) const { return count * tile / tiles; }
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

/// Asks for the share of tile `tile` of `tiles` in the blocks of a step to come.
HWY_INLINE void prefetch_share(const Step& next, std::size_t block_bytes, std::size_t tile,
                               std::size_t tiles) {
  const std::size_t lines = block_bytes / kLineBytes;
  for (const std::byte* block : next.blocks) {
    for (std::size_t line = lines * tile / tiles; line < lines * (tile + 1) / tiles; ++line)
      prefetch_l2(block + line * kLineBytes);
  }
}

/// Scores of all rows. What comes next is asked for by the tiles, evenly, or with kAhead, where
/// there is only one, line by line as it reads.
template <class T, bool kAhead>
void score_step(const KvLayout& layout, const Rows& rows, const Seen* seen, const View<T>& step,
                const Step& next) {
  for (std::size_t tile = 0; tile < rows.tiles; ++tile) {
    if (!kAhead) prefetch_share(next, layout.block_bytes, tile, rows.tiles);
    const std::size_t begin = rows.begin_of(tile), end = rows.begin_of(tile + 1);
    const std::size_t most = range_of(seen, begin, end).most;
    const std::size_t vectors = (most + kLanes - 1) / kLanes;
    const float* q = rows.q + begin * kQueryStride;
    float* scores = rows.scores + begin * kSoftmaxPositions;
    with_rows<kSingleRows>(end - begin, [&]<std::size_t kRows>() {
      constexpr std::size_t kVectors = vectors_of(kRows);
      std::size_t v = 0;
      for (; v + kVectors <= vectors; v += kVectors)
        score_vectors<T, kAhead, kRows, kVectors>(q, layout.head_dim, step, v, scores);
      for (; v < vectors; ++v)
        score_vectors<T, kAhead, kRows, 1>(q, layout.head_dim, step, v, scores);
    });
  }
}

/// Columns [column, column_end) of all rows' values: what a tile's rows see together, then what
/// some see on their own.
template <class T, bool kAhead>
void weigh_step(const KvLayout& layout, const Rows& rows, const Seen* seen, const View<T>& step,
                std::size_t column, std::size_t column_end, const Sums& sums) {
  const std::size_t stride = layout.value_stride;
  for (std::size_t tile = 0; tile < rows.tiles; ++tile) {
    const std::size_t begin = rows.begin_of(tile), end = rows.begin_of(tile + 1);
    const Range range = range_of(seen, begin, end);
    const std::size_t least = range.least;
    float factors[kSingleRows];
    for (std::size_t r = begin; r < end; ++r) factors[r - begin] = seen[r].factor;
    const float* weights = rows.scores + begin * kSoftmaxPositions;
    float* values = sums.values + begin * stride;
    if (least > 0) {
      with_rows<kSingleRows>(end - begin, [&]<std::size_t kRows>() {
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

template <class T>
HWY_INLINE void convert(const T* HWY_RESTRICT from, std::size_t count, float* HWY_RESTRICT to) {
  for (std::size_t i = 0; i < count; i += kLanes) hn::Store(load_elements(from + i), kTag, to + i);
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

/// total += part, for one row that has summed in both.
void merge_row(const Sums& total, const Sums& part, std::size_t row, std::size_t stride) {
  const float a = total.maxima[row], b = part.maxima[row];
  const float maximum = a > b ? a : b;
  const Vec a_factor = exp2_of_negative(hn::Set(kTag, a - maximum));
  const Vec b_factor = exp2_of_negative(hn::Set(kTag, b - maximum));
  const auto merge = [&](float* to, const float* from) {
    hn::Store(hn::MulAdd(hn::Load(kTag, from), b_factor, hn::Mul(hn::Load(kTag, to), a_factor)),
              kTag, to);
  };
  merge(total.weights + row * kLanes, part.weights + row * kLanes);
  for (std::size_t i = 0; i < stride; i += kLanes)
    merge(total.values + row * stride + i, part.values + row * stride + i);
  total.maxima[row] = maximum;
}

std::size_t limit_of(const AttentionTask& task, std::size_t row) {
  return static_cast<std::size_t>(task.positions[row / task.heads]) + 1;
}

void finish(const AttentionTask& task, const Sums& sums) {
  const std::size_t d = task.layout.head_dim;
  for (std::size_t row = 0; row < task.tokens * task.heads; ++row) {
    const float sum =
        hn::GetLane(hn::SumOfLanes(kTag, hn::Load(kTag, sums.weights + row * kLanes)));
    const float* values = sums.values + row * task.layout.value_stride;
    float* out = task.out + row / task.heads * task.out_stride + row % task.heads * d;
    const float factor = 1.0f / sum;
    std::size_t i = 0;
    for (; i + kLanes <= d; i += kLanes)
      hn::StoreU(hn::Mul(hn::Load(kTag, values + i), hn::Set(kTag, factor)), kTag, out + i);
    for (; i < d; ++i) out[i] = values[i] * factor;
  }
}

template <class T>
void attend(const AttentionTask& task) {
  const KvLayout& layout = task.layout;
  const std::size_t d = layout.head_dim, stride = layout.value_stride;
  const std::size_t row_floats = stride + kPartialFloats;
  static_assert(kAttentionRows * (kSoftmaxPositions + kQueryStride) +
                    2 * kAttentionRows * (kMaxHeadDim + kPartialFloats) +
                    2 * kSoftmaxPositions * kMaxHeadDim <=
                kScratchFloats);
  Rows rows;
  rows.count = task.tokens * task.heads;
  rows.tiles = rows.count <= kSingleRows ? 1 : (rows.count + kWideRows - 1) / kWideRows;
  rows.scores = task.scratch;
  float* const q = rows.scores + rows.count * kSoftmaxPositions;
  rows.q = q;
  float* const total_at = q + rows.count * kQueryStride;
  float* const part_at = total_at + rows.count * row_floats;
  rows.converted = part_at + rows.count * row_floats;

  std::size_t context = 0;
  const float scale = task.scale * 1.44269504f;
  for (std::size_t row = 0; row < rows.count; ++row) {
    const float* from = task.q + row / task.heads * task.q_stride + row % task.heads * d;
    float* const to = q + row * kQueryStride;
    for (std::size_t i = 0; i < d; ++i) to[i] = from[i] * scale;
    rows.limits[row] = limit_of(task, row);
    if (rows.limits[row] > context) context = rows.limits[row];
  }

  const bool partial = task.partials != nullptr;
  const Sums total =
      sums_at(partial ? task.partials + task.segment * rows.count * row_floats : total_at,
              rows.count, stride);
  const Sums part = sums_at(part_at, rows.count, stride);
  const std::size_t begin = partial ? task.segment * kSegmentPositions : 0;
  std::size_t end = context;
  if (partial && end > begin + kSegmentPositions) end = begin + kSegmentPositions;
  clear(total, rows.count, stride);

  Step step = locate(task, task.page_table, task.kv_head, begin, end);
  for (std::size_t first = begin; first < end; first += kSoftmaxPositions) {
    const std::size_t next_first = first + kSoftmaxPositions;
    Step next = step;
    if (next_first < end) {
      next = locate(task, task.page_table, task.kv_head, next_first, end);
    } else if (task.next_page_table != nullptr) {
      next =
          locate(task, task.next_page_table, task.next_kv_head, task.next_first, task.next_context);
    }
    const std::size_t segment = first / kSegmentPositions * kSegmentPositions;
    if (first == segment && segment > begin) clear(part, rows.count, stride);
    const std::size_t left = end - first;
    take_step<T>(layout, rows, step, next, (left + kBlockPositions - 1) / kBlockPositions, first,
                 segment > begin ? part : total);
    if (segment > begin && (next_first >= end || next_first % kSegmentPositions == 0)) {
      for (std::size_t row = 0; row < rows.count; ++row) {
        if (rows.limits[row] > segment) merge_row(total, part, row, stride);
      }
    }
    step = next;
  }
  if (!partial) finish(task, total);
}

}  // namespace

void attention(const AttentionTask& task) noexcept {
  switch (task.layout.type) {
    case KvType::f32:
      return attend<float>(task);
    case KvType::f16:
      return attend<F16>(task);
    case KvType::i8:
      return attend<std::int8_t>(task);
  }
}

void merge_attention(const AttentionTask& task) noexcept {
  const std::size_t count = task.tokens * task.heads, stride = task.layout.value_stride;
  const Sums total = sums_at(task.partials, count, stride);
  for (std::size_t row = 0; row < count; ++row) {
    const std::size_t segments = (limit_of(task, row) + kSegmentPositions - 1) / kSegmentPositions;
    for (std::size_t segment = 1; segment < segments; ++segment) {
      float* const at = task.partials + segment * count * (stride + kPartialFloats);
      merge_row(total, sums_at(at, count, stride), row, stride);
    }
  }
  finish(task, total);
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
