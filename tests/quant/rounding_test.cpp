#include "ciuic/quant/rounding.hpp"

#include <cstdio>
#include <random>
#include <vector>

#include "support/catch.hpp"

using namespace ciuic;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_values(std::mt19937& random, std::size_t count, bool heavy_tails) {
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::student_t_distribution<float> student(4.0f);
  std::vector<float> values(count);
  for (float& value : values) value = heavy_tails ? 0.02f * student(random) : normal(random);
  return values;
}

/// Squared error of the nearest of the integers -8 … 7 times `scale`, by trying all of them.
double nearest_error(const std::vector<float>& values, double scale) {
  double sum = 0.0;
  for (const float value : values) {
    double least = INFINITY;
    for (int q = -8; q <= 7; ++q) {
      const double off = double{value} - q * scale;
      least = std::min(least, off * off);
    }
    sum += least;
  }
  return sum;
}

double held_error(const std::vector<float>& values, const std::vector<std::int8_t>& q,
                  double scale) {
  double sum = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double off = double{values[i]} - q[i] * scale;
    sum += off * off;
  }
  return sum;
}

double sum_of_squares(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += double{value} * double{value};
  return sum;
}

}  // namespace

TEST_CASE("The largest magnitude of values, and NaN of NaN") {
  CHECK(max_magnitude({}) == 0.0f);
  CHECK(max_magnitude(std::vector<float>{1.0f, -3.0f, 2.0f}) == 3.0f);
  CHECK(max_magnitude(std::vector<float>{1.0f, -kInfinity}) == kInfinity);
  CHECK(std::isnan(max_magnitude(std::vector<float>{1.0f, kNan, 9.0f})));
}

TEST_CASE("i8: by hand") {
  const std::vector<float> values{0.0f, 127.0f, -127.0f, 0.5f, 1.5f, 2.5f, -0.5f, 63.2f, 1e-9f};
  std::vector<std::int8_t> q(values.size());
  REQUIRE(i8_scale(values) == 1.0f);
  quantize_i8(values, 1.0f, q);
  CHECK(q == std::vector<std::int8_t>{0, 127, -127, 0, 2, 2, 0, 63, 0});  // ties to even
  quantize_i8(values, 0.5f, q);                                           // beyond: cut off
  CHECK(q == std::vector<std::int8_t>{0, 127, -127, 1, 3, 5, -1, 126, 0});
}

TEST_CASE("i8: no value is further from its integer than half a step, at any size") {
  std::mt19937 random(3);
  for (const float size : {1e-30f, 1e-3f, 1.0f, 1e30f}) {
    std::vector<float> values = random_values(random, 1001, true);
    for (float& value : values) value *= size;
    std::vector<std::int8_t> q(values.size());
    const float scale = i8_scale(values);
    quantize_i8(values, scale, q);
    int largest = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double off = std::fabs(double{values[i]} - static_cast<double>(q[i]) * double{scale});
      CHECK(off <= double{scale} * 0.50001);
      largest = std::max(largest, std::abs(int{q[i]}));
    }
    CHECK(largest == 127);
  }
}

TEST_CASE("i8: zeros, subnormals, infinities and NaN") {
  std::vector<std::int8_t> q(3, 9);
  CHECK(i8_scale(std::vector<float>{0.0f, -0.0f}) == 0.0f);
  CHECK(i8_scale(std::vector<float>{1e-40f}) == 0.0f);
  CHECK(std::isnan(i8_scale(std::vector<float>{1.0f, kNan})));
  CHECK(std::isnan(i8_scale(std::vector<float>{1.0f, -kInfinity})));
  quantize_i8(std::vector<float>{1.0f, kNan, kInfinity}, kNan, q);
  CHECK(q == std::vector<std::int8_t>{0, 0, 0});
  quantize_i8(std::vector<float>{1e-40f, 0.0f, 0.0f}, 0.0f, q);
  CHECK(q == std::vector<std::int8_t>{0, 0, 0});
}

TEST_CASE("i4: values on a grid come back exactly") {
  std::vector<float> values;
  for (int q = -8; q <= 7; ++q) values.push_back(0.25f * static_cast<float>(q));
  std::vector<std::int8_t> q(values.size());
  const float scale = quantize_i4(values, q).to_float();
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(static_cast<float>(q[i]) * scale == values[i]);
  for (float& value : values) value = -value;  // the mirrored grid, too
  const float mirrored = quantize_i4(values, q).to_float();
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(static_cast<float>(q[i]) * mirrored == values[i]);
}

TEST_CASE("i4: as good as the best of 3,000 scales, but for a little, in every group size") {
  std::mt19937 random(11);
  for (const bool heavy_tails : {false, true}) {
    for (const std::size_t group : {32u, 64u, 128u, 37u, 5u}) {
      double held = 0.0, best = 0.0, plain = 0.0, signal = 0.0;
      for (int round = 0; round < 40; ++round) {
        const std::vector<float> values = random_values(random, group, heavy_tails);
        std::vector<std::int8_t> q(group);
        const double scale = quantize_i4(values, q).to_float();
        for (const std::int8_t integer : q) CHECK((integer >= -8 && integer <= 7));
        const double largest = max_magnitude(values);
        double least = INFINITY;
        for (int i = 0; i < 1500; ++i) {
          const double steps = 4.0 + 8.0 * i / 1500.0;
          least = std::min({least, nearest_error(values, largest / steps),
                            nearest_error(values, -largest / steps)});
        }
        const double own = held_error(values, q, scale);
        const double usual = nearest_error(values, largest / 7.0);
        // Its own candidate with 7 steps is refitted, so only binary16's rounding can make it
        // worse.
        CHECK(own <= usual + sum_of_squares(values) * 1e-6);
        held += own;
        best += least;
        plain += usual;
        signal += sum_of_squares(values);
      }
      const auto db = [&](double noise) { return 10.0 * std::log10(signal / noise); };
      std::printf("i4, group %3zu%s: %.2f dB, best of 3,000 scales %.2f, largest at 7 %.2f\n",
                  group, heavy_tails ? ", heavy tails" : "", db(held), db(best), db(plain));
      CHECK(db(held) >= db(best) - (group >= 32 ? 0.35 : 2.5));
      CHECK(db(held) >= db(plain));
    }
  }
}

TEST_CASE("i4: zeros, tiny and huge values, infinities and NaN") {
  std::vector<std::int8_t> q(4, 9);
  const std::vector<std::int8_t> zeros(4, 0);
  CHECK(quantize_i4(std::vector<float>(4, 0.0f), q).to_float() == 0.0f);
  CHECK(q == zeros);
  CHECK(quantize_i4(std::vector<float>(4, 1e-30f), q).to_float() == 0.0f);
  CHECK(q == zeros);
  for (const float bad : {kNan, kInfinity, -kInfinity, 1e6f}) {
    CHECK(std::isnan(quantize_i4(std::vector<float>{1.0f, bad, 2.0f, 3.0f}, q).to_float()));
    CHECK(q == zeros);
  }
  const float scale =
      quantize_i4(std::vector<float>{65504.0f, 0.0f, -65504.0f, 1.0f}, q).to_float();
  CHECK(std::fabs(scale * static_cast<float>(q[0]) - 65504.0f) < 9000.0f);
  CHECK(std::isfinite(scale));
}
