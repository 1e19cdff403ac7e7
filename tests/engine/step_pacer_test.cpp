#include "ciuic/engine/step_pacer.hpp"

#include <algorithm>
#include <random>

#include "ciuic/engine/prompt_lookup.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace ciuic::detail;
using namespace std::chrono_literals;

namespace {

/// Steps of a machine that reads weights for 40 ms and computes 1.5 ms a token.
Duration step_time(std::int32_t tokens, double scale = 1.0) {
  return Duration(static_cast<std::int64_t>(std::max(40e6, 1.5e6 * tokens) * scale));
}

/// `steps` steps of a long prompt beside 8 streams. Returns the mean piece of the second half.
double run(StepPacer& pacer, int steps, double scale = 1.0) {
  double sum = 0;
  int counted = 0;
  for (int i = 0; i < steps; ++i) {
    const std::int32_t piece = std::min(pacer.piece(8), 2000);
    pacer.observe(8, piece, step_time(8 + piece, scale));
    if (i < steps / 2 || piece == 0) continue;
    sum += piece;
    ++counted;
  }
  return sum / counted;
}

}  // namespace

TEST_CASE("Pieces of prompts come to the size that takes the time that is allowed") {
  StepPacer pacer(2.0);
  for (int i = 0; i < 5; ++i) pacer.observe(8, 0, step_time(8));
  const double fair = 80 / 1.5 - 8;
  CHECK(run(pacer, 200) == Approx(fair).epsilon(0.1));
}

TEST_CASE("Without streams, or without a limit, prompts take all there is") {
  CHECK(StepPacer(2.0).piece(0) > 1'000'000);
  CHECK(StepPacer(0).piece(8) > 1'000'000);
}

TEST_CASE("When all steps become slower, pieces do not starve for the memory of quicker ones") {
  StepPacer pacer(2.0);
  for (int i = 0; i < 5; ++i) pacer.observe(8, 0, step_time(8));
  run(pacer, 100);
  const double fair = 80 / 1.5 - 8;  // the same: everything takes five times as long
  CHECK(run(pacer, 2'000, 5.0) == Approx(fair).epsilon(0.15));
}

TEST_CASE("One slow step without prompts is forgotten, one slow step with the end of one as well") {
  StepPacer pacer(2.0);
  pacer.observe(8, 0, 1s);
  const double fair = 80 / 1.5 - 8;
  CHECK(run(pacer, 1'000) == Approx(fair).epsilon(0.15));
  const std::int32_t before = pacer.piece(8);
  pacer.observe(8, 3, 300ms);
  CHECK(pacer.piece(8) >= before / 2);
}

TEST_CASE("Guesses are what followed the last three tokens the last time") {
  std::vector<TokenId> guesses;
  guesses.reserve(8);
  const auto look_up = [&](std::vector<TokenId> tokens, std::size_t count) {
    look_up_prompt(tokens, count, guesses);
    return guesses;
  };
  using Tokens = std::vector<TokenId>;
  CHECK(look_up({1, 2, 3, 4, 5, 9, 1, 2, 3}, 3) == Tokens{4, 5, 9});
  CHECK(look_up({1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3}, 1) == Tokens{8});  // the latest place
  CHECK(look_up({5, 2, 3, 4, 9, 1, 2, 3}, 2) == Tokens{4, 9});        // two tokens, if not three
  CHECK(look_up({4, 4, 4, 4}, 5) == Tokens{4, 4, 4, 4, 4});           // a period goes on
  CHECK(look_up({1, 2, 1, 2, 1, 2}, 4) == Tokens{1, 2, 1, 2});
  CHECK(look_up({1, 2, 3, 4}, 4).empty());
  CHECK(look_up({1}, 4).empty());
  CHECK(look_up({}, 4).empty());
  CHECK(look_up({1, 2, 1, 2, 1, 2}, 0).empty());
  CHECK(look_up({1, 2, 1, 2, 1, 2}, 100).size() ==
        guesses.capacity());  // no more than there is room
}

TEST_CASE("Guesses become more while all are right and fewer while most are wrong") {
  DraftLength length(16);
  CHECK(length.now() == 4);
  length.observe(4, 4);
  length.observe(8, 8);
  CHECK(length.now() == 16);
  length.observe(16, 16);
  CHECK(length.now() == 16);
  length.observe(16, 10);
  CHECK(length.now() == 16);
  for (int i = 0; i < 9; ++i) length.observe(length.now(), 0);
  CHECK(length.now() == 1);
  length.observe(0, 0);
  CHECK(length.now() == 1);
  CHECK(DraftLength(2).now() == 2);
  CHECK(DraftLength().now() == 0);
}
