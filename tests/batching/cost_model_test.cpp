// CostModel against laws that the test knows and it does not.
#include "ciuic/batching/cost_model.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

unsigned fresh_seed() {
  static const unsigned seed = std::random_device{}();
  return seed;
}

struct Law {
  double constant, count, cost, padding, quadratic;
  double operator()(const BatchShape& s) const {
    const double n = static_cast<double>(s.count), c = static_cast<double>(s.cost);
    return constant + count * n + cost * c + padding * (n * static_cast<double>(s.max_cost) - c) +
           quadratic * n * c;
  }
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {}
  double uniform(double a, double b) { return std::uniform_real_distribution(a, b)(random_); }
  double noise(double sigma) { return std::lognormal_distribution(0.0, sigma)(random_); }
  Law law() {
    return {uniform(1e4, 1e7), uniform(0, 1e5), uniform(1e2, 1e4), uniform(0, 1e4), uniform(0, 50)};
  }
  BatchShape shape() {
    BatchShape s;
    s.count = static_cast<std::size_t>(std::exp(uniform(0, std::log(64.99))));
    for (std::size_t i = 0; i < s.count; ++i) {
      const auto cost = static_cast<std::uint64_t>(std::exp(uniform(0, 6))) + 1;
      s.cost += cost;
      s.max_cost = std::max(s.max_cost, cost);
    }
    return s;
  }

 private:
  std::mt19937 random_;
};

Duration nanoseconds(double t) { return Duration(static_cast<Duration::rep>(t)); }

/// Mean relative error of the mean against the law, over fresh shapes.
double error_of(const CostModel& model, const Law& law, World& world, double factor = 1) {
  double sum = 0;
  for (int i = 0; i < 200; ++i) {
    const BatchShape s = world.shape();
    sum += std::abs(model.mean(s) / (factor * law(s)) - 1);
  }
  return sum / 200;
}

}  // namespace

TEST_CASE("a law that large batches use better is learned, also beyond what ran") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  World world(seed);
  const auto law = [](std::size_t n) { return 1e6 * std::pow(static_cast<double>(n), 0.6); };
  CostModel model;
  for (int i = 0; i < 300; ++i) {
    const std::size_t n = 1 + static_cast<std::size_t>(world.uniform(0, 32));
    model.observe({n, 100 * n, 100}, nanoseconds(law(n) * world.noise(0.05)));
  }
  for (const std::size_t n : std::initializer_list<std::size_t>{4, 16, 32, 64}) {
    INFO(n);
    REQUIRE(std::abs(model.mean({n, 100 * n, 100}) / law(n) - 1) < (n > 32 ? 0.18 : 0.06));
  }
}

TEST_CASE("a cost model knows nothing at first, and says so") {
  CostModel model;
  REQUIRE_FALSE(model.known());
  REQUIRE_FALSE(model.predict({4, 40, 10}).known);
  REQUIRE(model.predict({4, 40, 10}).memory == 0);
  for (int i = 0; i < 8; ++i) model.observe({4, 40, 10}, 1ms);
  REQUIRE(model.predict({4, 40, 10}).known);
  REQUIRE(model.predict({4, 40, 10}).memory == 0);  // nobody told any bytes
  REQUIRE(std::chrono::abs(model.predict({4, 40, 10}).mean - 1ms) < 1us);
}

TEST_CASE("a cost model learns any law of its family, time and bytes") {
  for (unsigned run = 0; run < 20; ++run) {
    World world(fresh_seed() + run);
    INFO("seed " << fresh_seed() << " run " << run);
    const Law law = world.law(), bytes = world.law();
    CostModel model;
    for (int i = 0; i < 200; ++i) {
      const BatchShape s = world.shape();
      model.observe(s, nanoseconds(law(s) * world.noise(0.05)),
                    static_cast<std::uint64_t>(bytes(s)));
    }
    REQUIRE(error_of(model, law, world) < 0.1);
    double below = 0;
    for (int i = 0; i < 200; ++i) {
      const BatchShape s = world.shape();
      const double ratio = static_cast<double>(model.predict(s).memory) / bytes(s);
      REQUIRE(ratio > 0.8);
      REQUIRE(ratio < 1.6);
      below += ratio < 0.99 ? 1 : 0;
    }
    REQUIRE(below < 40);
  }
}

TEST_CASE("a cost model recovers within 50 batches when everything takes twice as long, or half") {
  for (unsigned run = 0; run < 20; ++run) {
    World world(fresh_seed() + 100 + run);
    INFO("seed " << fresh_seed() << " run " << run);
    const Law law = world.law();
    const double factor = run % 2 == 0 ? 2 : 0.5;
    CostModel model;
    for (int i = 0; i < 500; ++i) {
      const BatchShape s = world.shape();
      model.observe(s, nanoseconds(law(s) * world.noise(0.1)));
    }
    for (int i = 0; i < 50; ++i) {
      const BatchShape s = world.shape();
      model.observe(s, nanoseconds(factor * law(s) * world.noise(0.1)));
    }
    REQUIRE(error_of(model, law, world, factor) < 0.2);
    REQUIRE(model.upper_ratio() < 1.6);  // the change is no noise
  }
}

TEST_CASE("upper is exceeded about as often as the quantile says") {
  for (const double quantile : {0.8, 0.95}) {
    World world(fresh_seed() + 200);
    INFO("seed " << fresh_seed() << " quantile " << quantile);
    int exceeded = 0, asked = 0;
    for (int run = 0; run < 20; ++run) {
      const Law law = world.law();
      CostModel model({.quantile = quantile});
      for (int i = 0; i < 500; ++i) {
        const BatchShape s = world.shape();
        const Duration took = nanoseconds(law(s) * world.noise(0.2));
        if (i >= 100) {
          ++asked;
          exceeded += took > model.predict(s).upper ? 1 : 0;
        }
        model.observe(s, took);
      }
    }
    const double share = static_cast<double>(exceeded) / asked;
    REQUIRE(share < (1 - quantile) + 0.03);
    REQUIRE(share > (1 - quantile) - 0.03);
  }
}

TEST_CASE("batches of one kind only teach that kind, and grow no wild forecast") {
  for (unsigned run = 0; run < 20; ++run) {
    World world(fresh_seed() + 300 + run);
    INFO("seed " << fresh_seed() << " run " << run);
    CostModel model;
    const BatchShape only{static_cast<std::size_t>(world.uniform(1, 32)), 320, 32};
    for (int i = 0; i < 1000; ++i) model.observe(only, nanoseconds(1e6 * world.noise(0.1)));
    REQUIRE(std::abs(model.mean(only) / 1e6 - 1) < 0.1);
    // Twice the batch takes more, but not more than a quadratic law would.
    const BatchShape twice{2 * only.count, 640, 32};
    REQUIRE(model.mean(twice) >= model.mean(only));
    REQUIRE(model.mean(twice) <= 4.01 * model.mean(only));
  }
}

TEST_CASE("a forecast never falls when a batch grows") {
  World world(fresh_seed() + 400);
  INFO("seed " << fresh_seed());
  CostModel model;
  for (int i = 0; i < 300; ++i) {
    model.observe(world.shape(), nanoseconds(world.uniform(1, 1e9)));  // no law at all
    const BatchShape s = world.shape();
    const std::uint64_t cost = static_cast<std::uint64_t>(world.uniform(1, 500));
    const BatchShape more{s.count + 1, s.cost + cost, std::max(s.max_cost, cost)};
    REQUIRE(model.mean(more) >= model.mean(s) * (1 - 1e-9));
  }
}

TEST_CASE("outliers and garbage do little harm") {
  for (unsigned run = 0; run < 20; ++run) {
    World world(fresh_seed() + 500 + run);
    INFO("seed " << fresh_seed() << " run " << run);
    const Law law = world.law();
    CostModel model;
    model.observe({1, 1, 1}, Duration::max());  // even as the first there is
    for (int i = 0; i < 300; ++i) {
      const BatchShape s = world.shape();
      model.observe(s, nanoseconds(law(s) * world.noise(0.05)));
      switch (i % 40) {
        case 5:
          model.observe(s, 0ns);
          break;
        case 10:
          model.observe(s, -5ms);
          break;
        case 15:
          model.observe(s, Duration::max(), ~std::uint64_t{0});
          break;
        case 20:
          model.observe(s, 1ns, 1);
          break;
        case 25:
          model.observe({}, 1ms);
          break;
        case 30:
          model.observe({kMaxSlots, kUnlimitedCost, kUnlimitedCost}, 1ms);
          break;
        default:
          break;
      }
    }
    REQUIRE(error_of(model, law, world) < 0.3);
    const BatchForecast huge = model.predict({kMaxSlots, kUnlimitedCost, kUnlimitedCost});
    REQUIRE(huge.mean >= Duration{0});
    REQUIRE(huge.upper >= huge.mean);
  }
}
