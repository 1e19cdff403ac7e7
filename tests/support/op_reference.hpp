// The operations of ciuic/ops/backend.hpp, plainly and in double: the oracle of every backend.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace ciuic::testing {

/// A value and how far a correct f32 computation may be from it.
struct Expected {
  double value = 0.0, tolerance = 0.0;
};

inline constexpr double kEpsilon = std::numeric_limits<float>::epsilon() / 2;  // one rounding

/// By how much a value misses what was expected of it: nothing where it is 0 or less. A NaN that
/// nobody expected misses by infinity.
inline double excess(float got, const Expected& wanted) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (std::isnan(wanted.value)) return std::isnan(got) ? 0.0 : kInfinity;
  if (double{got} == wanted.value) return -wanted.tolerance;  // infinities too
  const double over = std::fabs(double{got} - wanted.value) - wanted.tolerance;
  return std::isnan(over) ? kInfinity : over;
}

/// The element with the largest excess; of nothing, the first.
inline std::size_t worst_of(const std::vector<float>& got, const std::vector<Expected>& wanted) {
  std::size_t worst = 0;
  for (std::size_t i = 1; i < got.size(); ++i) {
    if (excess(got[i], wanted[i]) > excess(got[worst], wanted[worst])) worst = i;
  }
  return worst;
}

/// sum_k a[k] b[k] by any order of k+1 rounded operations: |error| <= k * eps * sum |a b|, to first
/// order (Higham, Accuracy and Stability, section 3.1). Twice that, for the second order and for
/// products rounded on their own.
inline Expected dot(const float* a, const float* b, std::size_t k) {
  double sum = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < k; ++i) {
    const double product = double{a[i]} * double{b[i]};
    sum += product;
    norm += std::fabs(product);
  }
  return {sum, 2.0 * static_cast<double>(k + 1) * kEpsilon * norm};
}

inline double silu(double x) { return x / (1.0 + std::exp(-x)); }

/// silu(gate) * value. silu is 1.1-Lipschitz, and exp, add, divide and multiply round a few times
/// more.
inline Expected gated(const Expected& gate, const Expected& value) {
  const double weight = silu(gate.value);
  return {weight * value.value, 1.1 * gate.tolerance * std::fabs(value.value) +
                                    (std::fabs(weight) + 1.1 * gate.tolerance) * value.tolerance +
                                    10 * kEpsilon * std::fabs(weight * value.value)};
}

}  // namespace ciuic::testing
