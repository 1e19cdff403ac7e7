// What the inputs of a matrix look like: enough to choose a fixed scale for them, to find channels
// that stand out, and to weigh errors of the weights by what they do to the output.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Ranges over the rows seen so far. Rows with a value that is not finite are counted apart and
/// leave no other trace. Thread-safety: thread-compatible.
class InputStatistics {
 public:
  explicit InputStatistics(std::size_t channels = 0)
      : channel_max_(channels), channel_squares_(channels) {}

  /// One row of the input, a value for each channel.
  void add_row(std::span<const float> row) {
    for (const float value : row) {
      if (!std::isfinite(value)) {
        ++rejected_;
        return;
      }
    }
    ++rows_;
    for (std::size_t j = 0; j < row.size(); ++j) {
      const float magnitude = std::fabs(row[j]);
      if (magnitude > channel_max_[j]) channel_max_[j] = magnitude;
      channel_squares_[j] += static_cast<double>(magnitude) * static_cast<double>(magnitude);
      ++histogram_[std::bit_cast<std::uint32_t>(magnitude) >> kBinShift];
    }
  }

  std::size_t channels() const noexcept { return channel_max_.size(); }
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t rejected_rows() const noexcept { return rejected_; }
  /// The largest magnitude of each channel.
  std::span<const float> channel_max() const noexcept { return channel_max_; }
  /// The mean square of each channel; empty before the first row.
  std::vector<double> channel_energy() const {
    if (rows_ == 0) return {};
    std::vector<double> energy = channel_squares_;
    for (double& e : energy) e /= static_cast<double>(rows_);
    return energy;
  }

  /// A magnitude that `percent` of all values do not exceed; their largest for 100. Between it and
  /// the least such magnitude lies at most an eighth: values are counted in bins of that width.
  float percentile(double percent) const noexcept {
    float largest = 0.0f;
    for (const float magnitude : channel_max_) largest = magnitude > largest ? magnitude : largest;
    const double total = static_cast<double>(rows_) * static_cast<double>(channels());
    const double wanted = total * percent / 100.0;
    double seen = 0.0;
    for (std::size_t bin = 0; bin < kBins; ++bin) {
      seen += static_cast<double>(histogram_[bin]);
      if (seen < wanted || seen == 0.0) continue;
      const float upper = std::bit_cast<float>(static_cast<std::uint32_t>((bin + 1) << kBinShift));
      return upper < largest ? upper : largest;
    }
    return largest;
  }
  /// The scale that puts that magnitude at 127; values beyond it are cut off. 0, which means "each
  /// row its own", before the first row and for inputs that are all zero.
  float input_scale(double percent = 100.0) const noexcept {
    const float scale = percentile(percent) / 127.0f;
    return scale < 0x1p-126f ? 0.0f : scale;
  }

 private:
  static constexpr int kBinShift = 20;  // exponent and three bits: eight bins for each octave
  static constexpr std::size_t kBins = std::size_t{0x7F800000} >> kBinShift;

  std::vector<float> channel_max_;
  std::vector<double> channel_squares_;
  std::array<std::uint64_t, kBins> histogram_{};
  std::int64_t rows_ = 0, rejected_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
