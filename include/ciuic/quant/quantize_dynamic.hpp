// Dynamic quantization: int8 weights with a scale for each output feature, and activations rounded
// to int8 as they come, with a scale for each row. The default of `DType::i8`, here over plain
// spans: for a host's own layers, and as the reference that the kernels are held against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ciuic/quant/rounding.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A weight matrix [rows, cols] (row = output feature): value = integers * scales[row].
struct Int8Matrix {
  std::size_t rows = 0, cols = 0;
  std::vector<std::int8_t> integers{};  ///< [rows, cols]
  std::vector<float> scales{};          ///< [rows]; NaN for a row that was not finite
};

/// Rounds `weights` [rows, cols] row by row (`i8_scale`). `weights` holds rows * cols values.
inline Int8Matrix quantize_dynamic(std::span<const float> weights, std::size_t rows,
                                   std::size_t cols) {
  Int8Matrix matrix{rows, cols, std::vector<std::int8_t>(rows * cols), std::vector<float>(rows)};
  for (std::size_t r = 0; r < rows; ++r) {
    const std::span<const float> row = weights.subspan(r * cols, cols);
    matrix.scales[r] = i8_scale(row);
    quantize_i8(row, matrix.scales[r], std::span(matrix.integers).subspan(r * cols, cols));
  }
  return matrix;
}

/// out [tokens, rows] = x [tokens, cols] W^T: x is rounded to integers, a token at a time or with
/// `input_scale` unless that is 0, and the products are summed exactly. cols <= 65536 keeps the
/// sums within 32 bits.
inline void dynamic_matmul(std::span<const float> x, const Int8Matrix& weights,
                           std::span<float> out, float input_scale = 0.0f) {
  const std::size_t cols = weights.cols, tokens = cols == 0 ? 0 : x.size() / cols;
  std::vector<std::int8_t> integers(cols);
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::span<const float> row = x.subspan(t * cols, cols);
    const float own_scale = i8_scale(row);  // NaN where the row is not finite
    const float scale = input_scale == 0.0f || own_scale != own_scale ? own_scale : input_scale;
    quantize_i8(row, scale, integers);
    for (std::size_t r = 0; r < weights.rows; ++r) {
      const std::int8_t* w = weights.integers.data() + r * cols;
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < cols; ++i) sum += std::int32_t{integers[i]} * w[i];
      out[t * weights.rows + r] = static_cast<float>(sum) * (scale * weights.scales[r]);
    }
  }
}

}  // namespace ciuic::inline CIUIC_ABI
