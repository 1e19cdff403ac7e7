// How far quantized weights are from the original ones: per matrix, as a table and as a picture.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "ciuic/ops/matrix_format.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Ten times the decimal logarithm of signal / noise: 6 dB are one bit. Infinity without noise.
inline double decibels(double signal, double noise) noexcept {
  if (noise == 0.0) return std::numeric_limits<double>::infinity();
  return 10.0 * std::log10(signal / noise);
}

/// Sums over the rows of one matrix; every figure follows from them. Thread-safety: compatible.
class MatrixError {
 public:
  /// Adds the next row: as it was, and as it is held. `channel_energy`: the mean square of each
  /// input channel, where known; a channel's errors then count by it, as they do in the output.
  /// All spans of the same size, or `channel_energy` empty.
  void add_row(std::span<const float> original, std::span<const float> held,
               std::span<const double> channel_energy = {}) noexcept {
    double signal = 0.0, noise = 0.0, dot = 0.0, energy = 0.0, output = 0.0, output_noise = 0.0;
    for (std::size_t j = 0; j < original.size(); ++j) {
      const auto a = static_cast<double>(original[j]), b = static_cast<double>(held[j]);
      const double off = a - b;
      signal += a * a;
      energy += b * b;
      dot += a * b;
      noise += off * off;
      if (!channel_energy.empty()) {
        output += a * a * channel_energy[j];
        output_noise += off * off * channel_energy[j];
      }
    }
    signal_ += signal;
    noise_ += noise;
    dot_ += dot;
    energy_ += energy;
    output_ += output;
    output_noise_ += output_noise;
    const double own = decibels(signal, noise);
    if (!(own >= worst_)) {  // a NaN is the worst
      worst_ = own;
      worst_row_ = rows_;
    }
    ++rows_;
  }

  double signal_to_noise_db() const noexcept { return decibels(signal_, noise_); }
  /// Of the output, if channels of the input were independent; the weights' own without energies.
  double output_signal_to_noise_db() const noexcept {
    return output_ > 0.0 ? decibels(output_, output_noise_) : signal_to_noise_db();
  }
  /// Noise over signal of the output: 0 is perfect. Adds up over matrices, roughly.
  double relative_output_noise() const noexcept {
    if (output_ > 0.0) return output_noise_ / output_;
    return signal_ > 0.0 ? noise_ / signal_ : 0.0;
  }
  double cosine() const noexcept {
    return signal_ > 0.0 && energy_ > 0.0 ? dot_ / std::sqrt(signal_ * energy_) : 1.0;
  }
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t worst_row() const noexcept { return worst_row_; }  ///< -1 without rows
  double worst_row_db() const noexcept { return worst_; }

 private:
  double signal_ = 0.0, noise_ = 0.0, dot_ = 0.0, energy_ = 0.0, output_ = 0.0, output_noise_ = 0.0;
  double worst_ = std::numeric_limits<double>::infinity();
  std::int64_t rows_ = 0, worst_row_ = -1;
};

/// One matrix in a report.
struct MatrixReport {
  std::string name{};
  MatrixFormat format{};
  std::int64_t rows = 0, cols = 0;
  std::uint64_t bytes = 0;  ///< as it is held
  float input_scale = 0.0f;
  MatrixError error{};
};

/// A table: one line for each matrix, in plain text of fixed columns.
CIUIC_API std::string error_table(std::span<const MatrixReport> matrices);
/// A picture of the same: a bar for each matrix's signal-to-noise ratio, a mark for its worst row.
/// An SVG document.
CIUIC_API std::string error_picture(std::span<const MatrixReport> matrices);

}  // namespace ciuic::inline CIUIC_ABI
