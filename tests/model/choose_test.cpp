#include "model/choose.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>

#include "ciuic/model/sampler.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

std::vector<float> random_logits(std::mt19937& random, std::size_t count) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

}  // namespace

TEST_CASE("Log-probabilities are those of a plain softmax in double, the likeliest in order") {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const std::size_t vocab = 1 + random() % 300;
    std::vector<float> logits = random_logits(random, vocab);
    if (vocab > 3) logits[2] = logits[0];  // a tie
    long double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
    std::vector<TokenId> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
      const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    });
    const auto expected = [&](TokenId token) {
      return static_cast<double>(logits[static_cast<std::size_t>(token)]) -
             static_cast<double>(std::log(sum));
    };
    std::vector<TokenLogprob> top(random() % 21);
    const auto chosen = static_cast<TokenId>(random() % vocab);
    const TokenLogprob of_chosen = log_probabilities(logits, chosen, top);
    CHECK(of_chosen.token == chosen);
    CHECK(std::abs(static_cast<double>(of_chosen.logprob) - expected(chosen)) < 1e-5);
    for (std::size_t i = 0; i < top.size(); ++i) {
      if (i >= vocab) {
        CHECK(top[i].token == -1);
        continue;
      }
      CHECK(top[i].token == order[i]);
      CHECK(std::abs(static_cast<double>(top[i].logprob) - expected(order[i])) < 1e-5);
    }
  }
}

TEST_CASE("Logits far apart and without end give finite log-probabilities or minus infinity") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits{1e30f, -1e30f, -kInfinity, 1e30f};
  std::vector<TokenLogprob> top(4);
  CHECK(log_probabilities(logits, 0, top).logprob == Approx(std::log(0.5)));
  CHECK(top[0].token == 0);
  CHECK(top[1].token == 3);
  CHECK(top[2].token == 1);
  CHECK(top[3].logprob == -kInfinity);
}

TEST_CASE("Guesses are accepted exactly as far as single choices would have made them") {
  std::mt19937 random(6);
  constexpr std::size_t kVocab = 40;
  int accepted_some = 0;
  for (int round = 0; round < 500; ++round) {
    const std::size_t drafts = random() % 6, known = 3;
    const std::vector<float> logits = random_logits(random, (drafts + 1) * kVocab);
    SamplingOptions sampling;
    if (round % 2 == 0) sampling = {.temperature = 0.8f, .top_k = 3, .seed = random()};
    if (round % 3 == 0) sampling.repetition_penalty = 1.5f;
    // The choices one by one, each with the guesses before it as its history. A guess is right two
    // times in three.
    std::vector<TokenId> history{1, 2, 3}, singly;
    for (std::size_t i = 0; i <= drafts; ++i) {
      std::vector<float> row(logits.begin() + static_cast<std::ptrdiff_t>(i * kVocab),
                             logits.begin() + static_cast<std::ptrdiff_t>((i + 1) * kVocab));
      singly.push_back(
          sample(row, sampling, history, static_cast<std::int64_t>(known + i)).value());
      if (i < drafts) {
        history.push_back(random() % 3 != 0 ? singly.back()
                                            : static_cast<TokenId>(random() % kVocab));
      }
    }
    std::size_t right = 0;
    while (right < drafts && history[known + right] == singly[right]) ++right;

    std::vector<TokenLogprob> logprobs((drafts + 1) * 3);
    const SequenceStep step{.tokens = std::span(history).subspan(known - 1),
                            .first_position = static_cast<std::int32_t>(known - 1),
                            .drafts = static_cast<std::int32_t>(drafts),
                            .history = history,
                            .sampling = &sampling,
                            .logprobs = logprobs,
                            .top_logprobs = 2};
    std::vector<float> scratch_logits = logits, scratch;
    StepResult result;
    choose(step, scratch_logits, scratch, result);
    REQUIRE_FALSE(result.error);
    CHECK(result.accepted_drafts == static_cast<std::int32_t>(right));
    CHECK(result.token == singly[right]);
    for (std::size_t i = 0; i <= right; ++i) CHECK(logprobs[3 * i].token == singly[i]);
    accepted_some += right > 0;
  }
  CHECK(accepted_some > 100);
}

TEST_CASE("A hook decides by the context it is shown; what it throws fails its request alone") {
  std::vector<float> logits{5, 4, 3, 2}, scratch;
  const std::vector<TokenId> history{3, 1};
  std::vector<TokenId> seen;
  LogitsHook hook = [&](std::span<const TokenId> context, std::span<float> row) {
    seen.assign(context.begin(), context.end());
    row[0] = -100;
  };
  SequenceStep step{.tokens = std::span(history).last(1),
                    .first_position = 1,
                    .history = history,
                    .logits_hook = &hook};
  std::vector<TokenLogprob> logprobs(1);
  step.logprobs = logprobs;
  StepResult result;
  choose(step, logits, scratch, result);
  CHECK(result.token == 1);
  CHECK(seen == history);
  // Log-probabilities are the model's own, whatever the hook did.
  CHECK(static_cast<double>(logprobs[0].logprob) ==
        Approx(4 - std::log(std::exp(5) + std::exp(4) + std::exp(3) + std::exp(2))));

  hook = [](auto, auto) { throw std::runtime_error("no such grammar"); };
  result = StepResult();
  choose(step, logits, scratch, result);
  REQUIRE(result.error);
  CHECK(result.error->message() == "logits_hook threw: no such grammar");
}

TEST_CASE("The likeliest token is the first of the largest, in vocabularies of every size") {
  std::mt19937 random(8);
  for (int round = 0; round < 400; ++round) {
    std::vector<float> logits = random_logits(random, 1 + random() % 5000);
    const std::size_t at = random() % logits.size();
    if (round % 2 == 0) logits[at] = *std::max_element(logits.begin(), logits.end());
    const auto expected = std::max_element(logits.begin(), logits.end()) - logits.begin();
    CHECK(sample(logits, {}, {}, 0).value() == expected);
    logits[at] = std::numeric_limits<float>::quiet_NaN();
    CHECK(sample(logits, {}, {}, 0).error().code() == ErrorCode::model_failed);
  }
}
