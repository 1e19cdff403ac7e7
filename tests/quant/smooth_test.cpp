#include "ciuic/quant/smooth.hpp"

#include <random>
#include <vector>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Smoothing factors by hand") {
  const std::vector<float> x{16.0f, 1.0f, 4.0f, 0.0f, 3.0f, INFINITY};
  const std::vector<float> w{1.0f, 4.0f, 4.0f, 2.0f, 0.0f, 1.0f};
  std::vector<float> s(x.size());
  smoothing_factors(x, w, 0.5f, s);  // sqrt(x / w)
  CHECK(s[0] == Approx(4.0f));
  CHECK(s[1] == Approx(0.5f));
  CHECK(s[2] == Approx(1.0f));
  CHECK(s[3] == 1.0f);  // nothing known of these three
  CHECK(s[4] == 1.0f);
  CHECK(s[5] == 1.0f);
  smoothing_factors(x, w, 1.0f, s);  // the range of x alone
  CHECK(s[0] == Approx(16.0f));
  CHECK(s[1] == Approx(1.0f));
  smoothing_factors(x, w, 0.0f, s);  // 1 / that of w
  CHECK(s[0] == Approx(1.0f));
  CHECK(s[1] == Approx(0.25f));
  smoothing_factors(x, w, 0.75f, s);  // 16^(3/4) / 1, 1 / 4^(1/4)
  CHECK(s[0] == Approx(8.0f));
  CHECK(s[1] == Approx(0.70710678f));
}

TEST_CASE("Both ranges meet at alpha 1/2, and no product changes") {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const std::size_t rows = 5, cols = 7;
  std::vector<float> weights(rows * cols), x(cols), norm(cols);
  for (float& value : weights) value = normal(random);
  for (std::size_t j = 0; j < cols; ++j) {
    norm[j] = normal(random) * (j == 3 ? 100.0f : 1.0f);
    x[j] = normal(random) * norm[j];
  }
  std::vector<float> x_max(cols), w_max(cols), s(cols);
  column_max(x, x_max);
  column_max(weights, w_max);
  for (std::size_t j = 0; j < cols; ++j) {
    float largest = 0.0f;
    for (std::size_t r = 0; r < rows; ++r)
      largest = std::max(largest, std::fabs(weights[r * cols + j]));
    CHECK(w_max[j] == largest);
  }
  smoothing_factors(x_max, w_max, 0.5f, s);
  std::vector<float> scaled = weights, smaller = norm;
  scale_columns(scaled, s);
  unscale_norm(smaller, s);
  std::vector<float> scaled_max(cols);
  column_max(scaled, scaled_max);
  for (std::size_t j = 0; j < cols; ++j) {
    CHECK(scaled_max[j] == Approx(x_max[j] / s[j]));  // as hard to round as the other
    for (std::size_t r = 0; r < rows; ++r) {
      CHECK(smaller[j] * scaled[r * cols + j] == Approx(norm[j] * weights[r * cols + j]));
    }
  }
}
