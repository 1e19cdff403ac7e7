#include "ops/op_cases.hpp"
#include "support/op_reference.hpp"

using namespace ciuic;
using namespace ciuic::testing;

TEST_CASE("Every operation agrees with its reference, on each instruction set and thread count") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  for (const auto& backend : cpu_backends()) {
    for (int threads : {1, 2, 3}) {
      const OpTarget target{
          std::string(backend->isa()) + ", " + std::to_string(threads) + " threads", backend,
          threads};
      check_all_operations(target, seed + static_cast<unsigned>(threads), threads == 2 ? 4 : 1);
    }
  }
}

TEST_CASE("The comparison finds the worst element, and a NaN wherever it stands") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<Expected> ones(4, {1.0, 0.1});
  CHECK(excess(1.05f, ones[0]) <= 0.0);
  CHECK(worst_of({1.0f, 1.3f, 1.2f, 1.0f}, ones) == 1);
  for (std::size_t i = 0; i < ones.size(); ++i) {
    for (float bad : {kNan, kInfinity, -kInfinity}) {
      std::vector<float> got(ones.size(), 1.3f);
      got[i] = bad;
      CAPTURE(i, bad);
      CHECK(worst_of(got, ones) == i);
      CHECK(excess(got[i], ones[i]) > 0.0);
    }
  }
  CHECK(excess(kNan, {kNan, 0.0}) <= 0.0);
  CHECK(excess(1.0f, {kNan, 0.0}) > 0.0);
  CHECK(excess(kInfinity, {kInfinity, 0.0}) <= 0.0);
  CHECK(excess(-kInfinity, {kInfinity, 0.0}) > 0.0);
}
