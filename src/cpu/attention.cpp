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
// Here is the order of steps and segments; attention_step.hpp takes a step, attention_softmax.hpp
// has what a row sums up, attention_tiles.hpp the multiply-adds.
#include "cpu/attention_step.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

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

/// Where a task's memory lies within its scratch, in floats.
struct Places {
  std::size_t q, total, part, converted, end;  // scores come first
};
constexpr Places places_of(std::size_t rows, std::size_t head_dim, std::size_t value_stride) {
  Places at{};
  at.q = rows * kSoftmaxPositions;
  at.total = at.q + rows * kQueryStride;
  at.part = at.total + rows * (value_stride + kPartialFloats);
  at.converted = at.part + rows * (value_stride + kPartialFloats);
  at.end = at.converted + kSoftmaxPositions * (head_dim + value_stride);
  return at;
}
static_assert(places_of(kAttentionRows, kMaxHeadDim, kMaxHeadDim).end <= kScratchFloats);

template <class T>
void attend(const AttentionTask& task) {
  const KvLayout& layout = task.layout;
  const std::size_t d = layout.head_dim, stride = layout.value_stride;
  Rows rows;
  rows.count = task.tokens * task.heads;
  rows.tiles = rows.count <= kSingleRows ? 1 : (rows.count + kWideRows - 1) / kWideRows;
  for (std::size_t tile = 0; tile <= rows.tiles; ++tile)
    rows.begins[tile] = rows.count * tile / rows.tiles;
  const Places at = places_of(rows.count, d, stride);
  float* const q = task.scratch + at.q;
  rows.scores = task.scratch;
  rows.q = q;
  rows.converted = task.scratch + at.converted;

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
  float* const total_at =
      partial ? task.partials + task.segment * rows.count * (stride + kPartialFloats)
              : task.scratch + at.total;
  const Sums total = sums_at(total_at, rows.count, stride);
  const Sums part = sums_at(task.scratch + at.part, rows.count, stride);
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
