// Where the keys and values of one step of attention lie: 64 positions, in blocks of 16 that may be
// on different pages; and what their elements stand for.
#pragma once

#include "cpu/kv_elements.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

constexpr std::size_t kBlocks = kSoftmaxPositions / kBlockPositions;
constexpr std::size_t kLineBytes = 64;

/// Where the keys and values of one step lie.
struct Step {
  const std::byte* blocks[kBlocks];
};

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

template <class T>
HWY_INLINE void convert(const T* HWY_RESTRICT from, std::size_t count, float* HWY_RESTRICT to) {
  for (std::size_t i = 0; i < count; i += kLanes) hn::Store(load_elements(from + i), kTag, to + i);
}

/// Multiplies scores or weights of `count` rows by what i8 elements of their positions are to be
/// multiplied by. `which`: 0 for keys, 1 for values.
void apply_factors(const Step& step, std::size_t which, std::size_t count, float* scores) {
  for (std::size_t position = 0; position < kSoftmaxPositions; position += kLanes) {
    const float* from = reinterpret_cast<const float*>(step.blocks[position / kBlockPositions]);
    const Vec factors = hn::Load(kTag, from + which * kBlockPositions + position % kBlockPositions);
    for (std::size_t r = 0; r < count; ++r) {
      float* const at = scores + r * kSoftmaxPositions + position;
      hn::Store(hn::Mul(hn::Load(kTag, at), factors), kTag, at);
    }
  }
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
