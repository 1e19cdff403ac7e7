#include "ciuic/model/sampler.hpp"

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

std::vector<float> floats(const JsonValue& array) {
  std::vector<float> values;
  for (const JsonValue& item : array.items())
    values.push_back(static_cast<float>(item.as_number()));
  return values;
}

}  // namespace

TEST_CASE("Draws follow the distribution of transformers' logits processors") {
  std::ifstream file(CIUIC_SOURCE_DIR "/tests/golden/sampling/sampling.json");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const Result<JsonValue> golden = JsonValue::parse(text);
  REQUIRE(golden);
  std::size_t number = 0;
  for (const JsonValue& item : golden->find("cases")->items()) {
    INFO("case " << number++);
    const std::vector<float> logits = floats(*item.find("logits"));
    const std::vector<float> expected = floats(*item.find("probabilities"));
    std::vector<TokenId> history;
    for (const JsonValue& token : item.find("history")->items())
      history.push_back(static_cast<TokenId>(token.as_integer()));
    SamplingOptions options{
        .temperature = static_cast<float>(item.find("temperature")->as_number()),
        .top_k = static_cast<std::int32_t>(item.find("top_k")->as_integer()),
        .top_p = static_cast<float>(item.find("top_p")->as_number()),
        .repetition_penalty = static_cast<float>(item.find("repetition_penalty")->as_number()),
        .seed = number};
    constexpr int kDraws = 20'000;
    std::vector<int> counts(logits.size());
    for (int position = 0; position < kDraws; ++position) {
      std::vector<float> scratch = logits;
      const Result<TokenId> token = sample(scratch, options, history, position);
      REQUIRE(token);
      ++counts[static_cast<std::size_t>(*token)];
    }
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double p = static_cast<double>(expected[i]);
      if (p == 0.0) {
        CHECK(counts[i] == 0);  // cut off exactly where transformers cuts
      } else {                  // five standard deviations of a binomial: false alarm below 1e-6
        CHECK(std::fabs(counts[i] - kDraws * p) <= 5.0 * std::sqrt(kDraws * p * (1.0 - p)) + 1.0);
      }
    }
  }
  CHECK(number == 60);
}

TEST_CASE("Greedy takes the largest logit, the lowest id among equals") {
  std::vector<float> logits = {1.0f, 3.0f, 3.0f, -2.0f};
  CHECK(sample(logits, {}, {}, 0).value() == 1);
  CHECK(sample(logits, {.temperature = 5.0f, .top_k = 1}, {}, 0).value() == 1);
  const std::vector<TokenId> history = {1, 1, -4, 99};  // ids outside are no reason to crash
  CHECK(sample(logits, {.repetition_penalty = 2.0f}, history, 0).value() == 2);
}

TEST_CASE("The same seed and position give the same draw, others another") {
  const std::vector<float> flat(1000, 0.5f);
  const auto draw = [&](std::uint64_t seed, std::int64_t position) {
    std::vector<float> scratch = flat;
    return sample(scratch, {.temperature = 1.0f, .seed = seed}, {}, position).value();
  };
  CHECK(draw(7, 3) == draw(7, 3));
  int same = 0;
  for (std::int64_t p = 0; p < 200; ++p)
    same += draw(7, p) == draw(8, p) || draw(7, p) == draw(7, p + 1);
  CHECK(same < 8);
}

TEST_CASE("A NaN is an error, infinities are not a crash") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> with_nan = {1.0f, std::nanf(""), 2.0f};
  CHECK(sample(with_nan, {}, {}, 0).error().code() == ErrorCode::model_failed);
  std::vector<float> all_masked = {-kInf, -kInf};
  CHECK(sample(all_masked, {.temperature = 1.0f}, {}, 0).error().code() == ErrorCode::model_failed);
  std::vector<float> infinite = {0.0f, kInf};
  CHECK_FALSE(sample(infinite, {}, {}, 0));
  std::vector<float> masked = {-kInf, 1.0f, -kInf};
  CHECK(sample(masked, {.temperature = 1.0f}, {}, 0).value() == 1);
  std::vector<float> cold = {1.0f, 3e38f, 2.0f};
  CHECK(sample(cold, {.temperature = 1e-3f}, {}, 0).value() == 1);
}
