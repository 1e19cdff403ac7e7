// Magnitude pruning: the weights that say least become zero. A mask says which stay, so that it can
// be applied again after an update. Over plain spans; ciuic's kernels do not skip zeros.
//
// Sources: Han, Pool, Tran, Dally: Learning both weights and connections (NIPS 2015) for single
// weights; Li, Kadav, Durdanovic, Samet, Graf: Pruning filters (ICLR 2017) for rows; Mishra and
// others: Accelerating sparse deep neural networks (arXiv 2104.08378) for N:M.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What is pruned together, and how much of it.
struct PrunePattern {
  enum class Kind : std::uint8_t { unstructured, rows, n_of_m };
  Kind kind = Kind::unstructured;
  double sparsity = 0.5;  ///< share that goes, rounded down: of all weights, or of all rows
  std::size_t keep = 2;   ///< n_of_m: so many of …
  std::size_t group = 4;  ///< … so many consecutive inputs stay; a shorter rest likewise
};

namespace detail {

/// Marks the `drop` least of `scores` with 0; among equals the earliest go. NaN counts as largest.
inline void mask_least(std::span<const double> scores, std::size_t drop,
                       std::span<std::uint8_t> mask) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto less = [&](std::size_t a, std::size_t b) {
    const bool nan_a = scores[a] != scores[a], nan_b = scores[b] != scores[b];
    if (nan_a != nan_b) return nan_b;
    if (!nan_a && scores[a] != scores[b]) return scores[a] < scores[b];
    return a < b;
  };
  drop = std::min(drop, order.size());
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(drop), order.end(),
                   less);
  for (std::size_t i = 0; i < order.size(); ++i) mask[order[i]] = i < drop ? 0 : 1;
}

}  // namespace detail

/// Writes 1 into `mask` [rows, cols] where a weight of `weights` [rows, cols] stays, 0 where it
/// goes. Rows go whole by their Euclidean norm. Errors: `invalid_argument` for sizes that do not
/// fit, a sparsity outside [0, 1], or more to keep than a group has.
inline Result<void> prune_magnitude(std::span<const float> weights, std::size_t rows,
                                    std::size_t cols, const PrunePattern& pattern,
                                    std::span<std::uint8_t> mask) {
  if (weights.size() != rows * cols || mask.size() != weights.size()) {
    return Error(ErrorCode::invalid_argument,
                 "prune_magnitude: weights and mask: wanted rows * cols values each");
  }
  if (!(pattern.sparsity >= 0.0 && pattern.sparsity <= 1.0)) {
    return Error(ErrorCode::invalid_argument,
                 "prune_magnitude: pattern.sparsity: wanted a share from 0 to 1");
  }
  if (pattern.group == 0 || pattern.keep > pattern.group) {
    return Error(ErrorCode::invalid_argument,
                 "prune_magnitude: pattern.keep: wanted at most pattern.group, which is 1 or more");
  }
  const auto share = [&](std::size_t count) {
    return static_cast<std::size_t>(pattern.sparsity * static_cast<double>(count));
  };
  std::vector<double> scores;
  switch (pattern.kind) {
    case PrunePattern::Kind::unstructured:
      scores.reserve(weights.size());
      for (const float w : weights) scores.push_back(std::fabs(static_cast<double>(w)));
      detail::mask_least(scores, share(weights.size()), mask);
      break;
    case PrunePattern::Kind::rows: {
      for (std::size_t r = 0; r < rows; ++r) {
        double sum = 0.0;
        for (const float w : weights.subspan(r * cols, cols))
          sum += static_cast<double>(w) * static_cast<double>(w);
        scores.push_back(sum);
      }
      std::vector<std::uint8_t> kept(rows);
      detail::mask_least(scores, share(rows), kept);
      for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = kept[i / cols];
      break;
    }
    case PrunePattern::Kind::n_of_m:
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t first = 0; first < cols; first += pattern.group) {
          const std::size_t count = std::min(pattern.group, cols - first), at = r * cols + first;
          scores.clear();
          for (const float w : weights.subspan(at, count))
            scores.push_back(std::fabs(static_cast<double>(w)));
          detail::mask_least(scores, count - std::min(count, pattern.keep),
                             mask.subspan(at, count));
        }
      }
  }
  return {};
}

/// Zeroes what the mask drops. Both have the same size.
inline void apply_mask(std::span<float> weights, std::span<const std::uint8_t> mask) noexcept {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (mask[i] == 0) weights[i] = 0.0f;
  }
}

/// The share of zeros in a mask; 0 of an empty one.
inline double sparsity_of(std::span<const std::uint8_t> mask) noexcept {
  if (mask.empty()) return 0.0;
  const auto zeros = std::count(mask.begin(), mask.end(), std::uint8_t{0});
  return static_cast<double>(zeros) / static_cast<double>(mask.size());
}

}  // namespace ciuic::inline CIUIC_ABI
