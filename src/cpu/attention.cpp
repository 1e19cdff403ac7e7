// Causal attention over paged keys and values with an online softmax.
//
// For each query row the arithmetic is a function of that row, its position and its sequence's
// cache alone: positions are taken in blocks of 64 at absolute multiples of 64; within a block
// scores are one chain of multiply-adds over head_dim, values one chain over the positions the row
// may see; a block it may not see at all is not touched. Tiles of rows share loads, never sums. So
// a prompt in one piece, in chunks or token by token, in any batch and on any pages gives the same
// bits.
#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kBlocks = kSoftmaxPositions / kBlockPositions;  // 16-blocks per softmax step
constexpr std::size_t kScoreVectors = kSoftmaxPositions / kLanes;

/// Keys and values of one softmax step; blocks beyond the context repeat the first.
struct Step {
  const float* keys[kBlocks];
  const float* values[kBlocks];
};

/// One query row's state between steps.
struct Row {
  const float* q;
  float* out;
  std::size_t limit;  // positions it may see
  float maximum;
};

Step locate(const AttentionTask& task, std::size_t first, std::size_t limit) {
  const KvLayout& layout = task.layout;
  const std::size_t block_floats = kBlockPositions * (layout.head_dim + layout.value_stride);
  const std::size_t blocks_per_page = layout.page_tokens / kBlockPositions;
  Step step;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    const std::size_t position = first + i * kBlockPositions;
    if (position < limit) {
      const std::size_t page =
          static_cast<std::size_t>(task.page_table[position / layout.page_tokens]);
      const std::size_t block = position % layout.page_tokens / kBlockPositions;
      step.keys[i] =
          task.pages +
          ((page * layout.kv_heads + task.kv_head) * blocks_per_page + block) * block_floats;
    } else {
      step.keys[i] = step.keys[0];
    }
    step.values[i] = step.keys[i] + kBlockPositions * layout.head_dim;
  }
  return step;
}

/// Asks for the share of row `row` of `rows` in the keys and values of the step to come, so that
/// memory works while this step computes.
HWY_INLINE void prefetch_share(const Step& coming, std::size_t block_floats, std::size_t row,
                               std::size_t rows) {
  constexpr std::size_t kLineFloats = 16;
  const std::size_t lines = block_floats / kLineFloats;
  const std::size_t begin = lines * row / rows, end = lines * (row + 1) / rows;
  for (const float* block : coming.keys) {
    for (std::size_t line = begin; line < end; ++line) prefetch_l2(block + line * kLineFloats);
  }
}

/// scores [kRows][64] = scale * q k^T.
template <std::size_t kRows>
void score_rows(const Row* rows, const Step& step, std::size_t head_dim, float scale,
                float* HWY_RESTRICT scores) {
  const float* HWY_RESTRICT q[kRows];
  for (std::size_t r = 0; r < kRows; ++r) q[r] = rows[r].q;
  for (std::size_t first = 0; first < kScoreVectors; first += kTileVectors) {
    const float* HWY_RESTRICT keys[kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v) {
      const std::size_t position = (first + v) * kLanes;
      keys[v] = step.keys[position / kBlockPositions] + position % kBlockPositions;
    }
    Vec sum[kRows][kTileVectors];
    for (auto& row : sum) {
      for (Vec& s : row) s = hn::Zero(kTag);
    }
    for (std::size_t d = 0; d < head_dim; ++d) {
      Vec k[kTileVectors];
      for (std::size_t v = 0; v < kTileVectors; ++v)
        k[v] = hn::Load(kTag, keys[v] + d * kBlockPositions);
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec x = hn::Set(kTag, q[r][d]);
        for (std::size_t v = 0; v < kTileVectors; ++v) sum[r][v] = hn::MulAdd(x, k[v], sum[r][v]);
      }
    }
    const Vec scales = hn::Set(kTag, scale);
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t v = 0; v < kTileVectors; ++v) {
        hn::Store(hn::Mul(sum[r][v], scales), kTag,
                  scores + r * kSoftmaxPositions + (first + v) * kLanes);
      }
    }
  }
}

/// Turns the first `visible` scores into weights and the rest into zeros; returns the factor for
/// what the row has summed so far. `sums` [kLanes] holds the row's weights, lane by lane.
float soften_row(float* scores, std::size_t visible, float& maximum, float* sums) {
  Vec s[kScoreVectors];
  const Vec nothing = hn::Set(kTag, -__builtin_inff());
  const Vec end = hn::Set(kTag, static_cast<float>(visible));
  Vec top = hn::Set(kTag, maximum);
  for (std::size_t v = 0; v < kScoreVectors; ++v) {
    const Vec index = hn::Iota(kTag, static_cast<float>(v * kLanes));
    s[v] = hn::IfThenElse(hn::Lt(index, end), hn::Load(kTag, scores + v * kLanes), nothing);
    top = hn::Max(top, s[v]);
  }
  const float new_maximum = hn::GetLane(hn::MaxOfLanes(kTag, top));
  const Vec maxima = hn::Set(kTag, new_maximum);
  const Vec factor = exp(hn::Set(kTag, maximum - new_maximum));
  Vec sum = hn::Mul(hn::Load(kTag, sums), factor);
  for (std::size_t v = 0; v < kScoreVectors; ++v) {
    const Vec index = hn::Iota(kTag, static_cast<float>(v * kLanes));
    // The mask again: a NaN maximum must not put NaN where there is no position.
    const Vec weight =
        hn::IfThenElse(hn::Lt(index, end), exp(hn::Sub(s[v], maxima)), hn::Zero(kTag));
    hn::Store(weight, kTag, scores + v * kLanes);
    sum = hn::Add(sum, weight);
  }
  hn::Store(sum, kTag, sums);
  maximum = new_maximum;
  return hn::GetLane(factor);
}

/// sums [kRows][stride], kVectors from each row's start, = sums * factor + weights * values, over
/// positions [begin, end).
template <std::size_t kRows, std::size_t kVectors>
HWY_INLINE void weigh_columns(const float* HWY_RESTRICT weights, const float* factors,
                              const Step& step, std::size_t column, std::size_t begin,
                              std::size_t end, std::size_t stride, float* HWY_RESTRICT sums) {
  Vec sum[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    const Vec factor = hn::Set(kTag, factors[r]);
    for (std::size_t v = 0; v < kVectors; ++v)
      sum[r][v] = hn::Mul(hn::Load(kTag, sums + r * stride + column + v * kLanes), factor);
  }
  for (std::size_t i = begin; i < end;) {
    const float* HWY_RESTRICT values =
        step.values[i / kBlockPositions] + i % kBlockPositions * stride + column;
    std::size_t stop = (i / kBlockPositions + 1) * kBlockPositions;
    if (stop > end) stop = end;
    for (; i < stop; ++i, values += stride) {
      Vec value[kVectors];
      for (std::size_t v = 0; v < kVectors; ++v) value[v] = hn::Load(kTag, values + v * kLanes);
      for (std::size_t r = 0; r < kRows; ++r) {
        const Vec weight = hn::Set(kTag, weights[r * kSoftmaxPositions + i]);
        for (std::size_t v = 0; v < kVectors; ++v)
          sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v)
      hn::Store(sum[r][v], kTag, sums + r * stride + column + v * kLanes);
  }
}

template <std::size_t kRows>
void weigh_rows(const float* weights, const float* factors, const Step& step, std::size_t begin,
                std::size_t end, std::size_t stride, float* sums) {
  std::size_t column = 0;
  for (; column + 4 * kLanes <= stride; column += 4 * kLanes)
    weigh_columns<kRows, 4>(weights, factors, step, column, begin, end, stride, sums);
  for (; column + 2 * kLanes <= stride; column += 2 * kLanes)
    weigh_columns<kRows, 2>(weights, factors, step, column, begin, end, stride, sums);
  for (; column < stride; column += kLanes)
    weigh_columns<kRows, 1>(weights, factors, step, column, begin, end, stride, sums);
}

/// All rows of a task, and where they stand.
struct Rows {
  Row* rows;  // [count]
  std::size_t count;
  float* scores;       // [kTileRows][64], of the tile at hand
  float* weight_sums;  // [count][kLanes]
  float* value_sums;   // [count][value_stride]
};

/// One softmax step, whose first position is `first`, for kRows rows from `row` on. `coming` is the
/// step after it.
template <std::size_t kRows>
void step_rows(const AttentionTask& task, const Rows& all, std::size_t row, const Step& step,
               const Step& coming, std::size_t first) {
  const std::size_t stride = task.layout.value_stride;
  const std::size_t block_floats = kBlockPositions * (task.layout.head_dim + stride);
  Row* const rows = all.rows + row;
  float* const scores = all.scores;
  float* const value_sums = all.value_sums + row * stride;
  std::size_t visible[kRows], least = kSoftmaxPositions, most = 0;
  for (std::size_t r = 0; r < kRows; ++r) {
    const std::size_t limit = rows[r].limit;
    visible[r] = limit <= first ? 0 : limit - first;
    if (visible[r] > kSoftmaxPositions) visible[r] = kSoftmaxPositions;
    if (visible[r] < least) least = visible[r];
    if (visible[r] > most) most = visible[r];
  }
  if (most == 0) return;
  score_rows<kRows>(rows, step, task.layout.head_dim, task.scale, scores);
  float factors[kRows];
  for (std::size_t r = 0; r < kRows; ++r) {
    // A single row leaves no time to hide it in: the processor's own prefetchers do better.
    if (all.count > 1) prefetch_share(coming, block_floats, row + r, all.count);
    if (visible[r] == 0) continue;
    factors[r] = soften_row(scores + r * kSoftmaxPositions, visible[r], rows[r].maximum,
                            all.weight_sums + (row + r) * kLanes);
  }
  // What all rows see together, then what some see on their own.
  if (least > 0) weigh_rows<kRows>(scores, factors, step, 0, least, stride, value_sums);
  const float one = 1.0f;
  for (std::size_t r = 0; r < kRows; ++r) {
    if (visible[r] == least) continue;
    weigh_rows<1>(scores + r * kSoftmaxPositions, least > 0 ? &one : &factors[r], step, least,
                  visible[r], stride, value_sums + r * stride);
  }
}

void step_tile(std::size_t count, const AttentionTask& task, const Rows& all, std::size_t row,
               const Step& step, const Step& coming, std::size_t first) {
  switch (count) {
    case 1:
      return step_rows<1>(task, all, row, step, coming, first);
    case 2:
      return step_rows<2>(task, all, row, step, coming, first);
    case 3:
      return step_rows<3>(task, all, row, step, coming, first);
    default:
      break;
  }
  if constexpr (kTileRows > 3) {
    switch (count) {
      case 4:
        return step_rows<4>(task, all, row, step, coming, first);
      case 5:
        return step_rows<5>(task, all, row, step, coming, first);
      default:
        return step_rows<6>(task, all, row, step, coming, first);
    }
  }
}

}  // namespace

void attention(const AttentionTask& task) noexcept {
  const std::size_t d = task.layout.head_dim, stride = task.layout.value_stride;
  const std::size_t count = task.tokens * task.heads;
  const std::size_t tiles = (count + kTileRows - 1) / kTileRows;
  Row rows[kAttentionRows];
  Rows all{rows, count, task.scratch, nullptr, nullptr};
  all.weight_sums = all.scores + kTileRows * kSoftmaxPositions;
  all.value_sums = all.weight_sums + kAttentionRows * kLanes;
  static_assert(kTileRows * kSoftmaxPositions + kAttentionRows * (kLanes + kMaxHeadDim) <=
                kScratchFloats);

  std::size_t context = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t token = i / task.heads, head = i % task.heads;
    rows[i] = {task.q + token * task.q_stride + head * d,
               task.out + token * task.out_stride + head * d,
               static_cast<std::size_t>(task.positions[token]) + 1, -__builtin_inff()};
    if (rows[i].limit > context) context = rows[i].limit;
  }
  for (std::size_t i = 0; i < count * kLanes; ++i) all.weight_sums[i] = 0.0f;
  for (std::size_t i = 0; i < count * stride; ++i) all.value_sums[i] = 0.0f;

  Step step = locate(task, 0, context);
  for (std::size_t first = 0; first < context; first += kSoftmaxPositions) {
    const std::size_t next = first + kSoftmaxPositions;
    const Step coming = next < context ? locate(task, next, context) : step;
    std::size_t row = 0;
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      const std::size_t end = count * (tile + 1) / tiles;
      step_tile(end - row, task, all, row, step, coming, first);
      row = end;
    }
    step = coming;
  }

  for (std::size_t i = 0; i < count; ++i) {
    const float sum =
        hn::GetLane(hn::SumOfLanes(kTag, hn::Load(kTag, all.weight_sums + i * kLanes)));
    const float* values = all.value_sums + i * stride;
    for (std::size_t j = 0; j < d; ++j) rows[i].out[j] = values[j] / sum;
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
