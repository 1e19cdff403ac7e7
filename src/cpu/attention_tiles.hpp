// Register tiles: a few rows times a few vectors of keys or values, whose sums stay in registers.
// Tiles of rows share loads, never sums: each sum is one chain of multiply-adds, over head_dim for
// a score, over the positions in ascending order for a value, whatever the tile it is in.
#pragma once

#include "cpu/attention_blocks.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// Rows of a register tile: few rows are kTileVectors wide; more, which only a task without others
/// has, half of it.
constexpr std::size_t kWideRows = kLanes >= 16 ? 6 : 3;
constexpr std::size_t kSingleRows = kLanes >= 16 ? 8 : 6;
constexpr std::size_t vectors_of(std::size_t rows) {
  return rows <= kWideRows ? kTileVectors : kTileVectors / 2;
}
/// Floats from one row's query to the next: constant, and not a multiple of the cache's sets.
constexpr std::size_t kQueryStride = kMaxHeadDim + kBlockPositions;

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

/// The same, not inlined: a few vectors at the end of what rows see, whose loops would take
/// registers from those of whole tiles.
template <class T, bool kAhead, std::size_t kRows, std::size_t kVectors>
HWY_NOINLINE void score_last_vectors(const float* q, std::size_t d, const View<T>& step,
                                     std::size_t first, float* scores) {
  score_vectors<T, kAhead, kRows, kVectors>(q, d, step, first, scores);
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

/// Calls body.template operator()<count>(), for count from 1 to kMost.
template <std::size_t kMost, class Body>
HWY_INLINE void with_count(std::size_t count, const Body& body) {
  if (count == kMost) return body.template operator()<kMost>();
  if constexpr (kMost > 1) with_count<kMost - 1>(count, body);
}

}  // namespace
}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
