// From floats to small integers: the arithmetic that every quantized weight goes through, in plain
// loops over spans. Symmetric: zero is exact, value = integer * scale. The same bits on every
// processor, where the compiler does not fuse multiplications with additions (as in the library):
// sums run over a fixed number of lanes.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "ciuic/base/dtype.hpp"

namespace ciuic::inline CIUIC_ABI {

namespace detail {

/// Four floats that the compiler keeps in one register, where there are registers of four.
using Lanes = float __attribute__((vector_size(16)));
inline constexpr std::size_t kLaneCount = 4;

inline Lanes lanes_at(const float* values) noexcept {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

/// What is added and taken away again rounds to an integer, ties to even: 1.5 * 2^23. Holds for
/// magnitudes below 2^22; larger ones stay larger than any limit.
inline constexpr float kRoundingMagic = 12582912.0f;

/// Integers of -limit - 1 … limit, as floats.
inline Lanes rounded_within(Lanes steps, float low, float high) noexcept {
  const Lanes magic = Lanes{} + kRoundingMagic, least = Lanes{} + low, most = Lanes{} + high;
  Lanes q = (steps + magic) - magic;
  q = q > most ? most : q;
  return q < least ? least : q;
}

inline std::int8_t rounded_within(float steps, float low, float high) noexcept {
  float q = (steps + kRoundingMagic) - kRoundingMagic;
  q = q > high ? high : q;
  return static_cast<std::int8_t>(q < low ? low : q);
}

/// out[i] = values[i] * inverse, rounded and bounded. The values are finite.
inline void round_all(std::span<const float> values, float inverse, float low, float high,
                      std::int8_t* out) noexcept {
  std::size_t i = 0;
  for (; i + kLaneCount <= values.size(); i += kLaneCount) {
    const Lanes q = rounded_within(lanes_at(values.data() + i) * inverse, low, high);
    for (std::size_t j = 0; j < kLaneCount; ++j) out[i + j] = static_cast<std::int8_t>(q[j]);
  }
  for (; i < values.size(); ++i) out[i] = rounded_within(values[i] * inverse, low, high);
}

}  // namespace detail

/// The largest magnitude in `values`; NaN when one of them is NaN; 0 of nothing.
inline float max_magnitude(std::span<const float> values) noexcept {
  float largest = 0.0f;
  for (const float value : values) {
    const float magnitude = std::fabs(value);
    if (!(magnitude <= largest)) largest = magnitude;  // a NaN is taken …
    if (largest != largest) return largest;            // … and kept
  }
  return largest;
}

/// The scale that puts the largest of `values` at 127; 0 when its reciprocal would not be finite,
/// as for zeros; NaN when a value is not finite.
inline float i8_scale(std::span<const float> values) noexcept {
  const float largest = max_magnitude(values);
  if (!(largest <= std::numeric_limits<float>::max())) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float scale = largest / 127.0f;
  return scale < 0x1p-126f ? 0.0f : scale;
}

/// out[i] = values[i] / scale, rounded to even, in [-127, 127]; all 0 for a scale of 0 or NaN.
inline void quantize_i8(std::span<const float> values, float scale,
                        std::span<std::int8_t> out) noexcept {
  if (!(scale > 0.0f)) {
    for (std::size_t i = 0; i < values.size(); ++i) out[i] = 0;
    return;
  }
  detail::round_all(values, 1.0f / scale, -127.0f, 127.0f, out.data());
}

/// One group of int4 weights: out = integers of -8 … 7; returns their scale.
///
/// Five grids are tried, which put the value of largest magnitude at 5.5 to 8.4 steps on the side
/// that goes to -8. Each grid's integers get the scale that fits them best in the least-squares
/// sense, sum(v q) / sum(q^2); the grid with the least error, that is the largest
/// sum(v q)^2 / sum(q^2), is taken and its scale rounded to binary16. A value that is not finite,
/// or that binary16 cannot hold, makes the scale NaN and the integers 0.
/// Source: own; the refit is that of llama.cpp's k-quants.
inline f16 quantize_i4(std::span<const float> values, std::span<std::int8_t> out) noexcept {
  constexpr float kSteps[] = {5.5f, 6.25f, 7.0f, 7.75f, 8.4f};
  constexpr float kLow = -8.0f, kHigh = 7.0f;
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = 0;
  float largest = 0.0f, side = 1.0f;
  for (const float value : values) {
    const float magnitude = std::fabs(value);
    if (!(magnitude <= 65504.0f)) return f16{0x7E00};
    if (magnitude > largest) {
      largest = magnitude;
      side = value < 0.0f ? 1.0f : -1.0f;
    }
  }
  if (largest < 0x1p-24f) return f16{};  // below every scale that binary16 holds

  const std::size_t whole = values.size() / detail::kLaneCount * detail::kLaneCount;
  float best_gain = -1.0f, best_scale = 0.0f;
  for (const float steps : kSteps) {
    const float inverse = side * steps / largest;
    detail::Lanes fit{}, square{};
    for (std::size_t i = 0; i < whole; i += detail::kLaneCount) {
      const detail::Lanes v = detail::lanes_at(values.data() + i);
      const detail::Lanes q = detail::rounded_within(v * inverse, kLow, kHigh);
      fit += v * q;
      square += q * q;
    }
    float fits = (fit[0] + fit[1]) + (fit[2] + fit[3]);
    float squares = (square[0] + square[1]) + (square[2] + square[3]);
    for (std::size_t i = whole; i < values.size(); ++i) {
      const auto q = static_cast<float>(detail::rounded_within(values[i] * inverse, kLow, kHigh));
      fits += values[i] * q;
      squares += q * q;
    }
    const float scale = fits / squares;  // the largest value is 5 steps or more away from zero
    const float gain = fits * scale;
    if (gain > best_gain) {
      best_gain = gain;
      best_scale = scale;
    }
  }
  const f16 scale = f16::from_float(best_scale);
  if (scale.to_float() != 0.0f) {
    detail::round_all(values, 1.0f / scale.to_float(), kLow, kHigh, out.data());
  }
  return scale;
}

}  // namespace ciuic::inline CIUIC_ABI
