// Scale migration: what makes activations hard to round moves into the weights.
//
// A few input channels of a matrix are often a hundred times larger than the rest, and the scale of
// a row of activations must reach them. Dividing channel j by s_j and multiplying column j of the
// weights by it changes no product; with s_j between the two ranges both become easy to round.
// Where a norm comes before the matrix, the division goes into the norm's weight and costs nothing.
// Source: Xiao, Lin, Seznec, Wu, Demouth, Han: SmoothQuant (ICML 2023), equation 4.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// out[j] = input_max[j]^alpha / weight_max[j]^(1 - alpha), from the largest magnitudes of each
/// input channel and of each column of the weights; 1 for a channel in which either is zero or not
/// finite. `alpha` in [0, 1]: 0 leaves the burden with the activations, 1 gives it to the weights;
/// the paper takes 0.5.
inline void smoothing_factors(std::span<const float> input_max, std::span<const float> weight_max,
                              float alpha, std::span<float> out) noexcept {
  const auto usable = [](float magnitude) {
    return magnitude > 0.0f && magnitude <= std::numeric_limits<float>::max();
  };
  for (std::size_t j = 0; j < out.size(); ++j) {
    out[j] = 1.0f;
    if (!usable(input_max[j]) || !usable(weight_max[j])) continue;
    const float factor = std::pow(input_max[j], alpha) / std::pow(weight_max[j], 1.0f - alpha);
    if (factor >= 0x1p-60f && factor <= 0x1p60f) out[j] = factor;
  }
}

/// Multiplies column j of `weights` [rows, factors.size()] by factors[j].
inline void scale_columns(std::span<float> weights, std::span<const float> factors) noexcept {
  for (std::size_t first = 0; first + factors.size() <= weights.size() && !factors.empty();
       first += factors.size()) {
    for (std::size_t j = 0; j < factors.size(); ++j) weights[first + j] *= factors[j];
  }
}

/// The other half: divides the weight of the norm before.
inline void unscale_norm(std::span<float> norm, std::span<const float> factors) noexcept {
  for (std::size_t j = 0; j < norm.size(); ++j) norm[j] /= factors[j];
}

/// Raises largest[j] to the largest magnitude in column j of `weights` [rows, largest.size()].
inline void column_max(std::span<const float> weights, std::span<float> largest) noexcept {
  for (std::size_t first = 0; first + largest.size() <= weights.size() && !largest.empty();
       first += largest.size()) {
    for (std::size_t j = 0; j < largest.size(); ++j)
      largest[j] = std::max(largest[j], std::fabs(weights[first + j]));
  }
}

}  // namespace ciuic::inline CIUIC_ABI
