#include "ciuic/quant/mixed_precision.hpp"

#include <functional>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Patterns match all of a name") {
  CHECK(matches("*", ""));
  CHECK(matches("*.down_proj", "model.layers.3.mlp.down_proj"));
  CHECK_FALSE(matches("*.down_proj", "model.layers.3.mlp.down_proj.packed"));
  CHECK_FALSE(matches("down_proj", "mlp.down_proj"));
  CHECK(matches("model.layers.?.*", "model.layers.3.mlp"));
  CHECK_FALSE(matches("model.layers.?.*", "model.layers.13.mlp"));
  CHECK(matches("*a*b*", "xxaxxbxx"));
  CHECK_FALSE(matches("*a*b*", "xxbxxaxx"));
  CHECK(matches("*ab", "aab"));
  CHECK(matches("", ""));
  CHECK_FALSE(matches("", "x"));
  CHECK(matches("**x**", "x"));
}

TEST_CASE("The first rule that matches decides") {
  const std::vector<FormatRule> rules{{"*.0.*", DType::f32}, {"*.mlp", DType::bf16}};
  CHECK(format_of("layers.0.mlp", rules, DType::i8) == MatrixFormat(DType::f32));
  CHECK(format_of("layers.1.mlp", rules, DType::i8) == MatrixFormat(DType::bf16));
  CHECK(format_of("layers.1.attn", rules, DType::i8) == MatrixFormat(DType::i8));
}

TEST_CASE("Formats by hand: the most error for a byte first, within the budget") {
  const std::vector<std::vector<FormatChoice>> candidates{
      {{DType::i4, 10, 4.0}, {DType::i8, 20, 1.0}, {DType::bf16, 40, 0.0}},
      {{DType::i4, 100, 5.0}, {DType::i8, 200, 0.0}},
      {{DType::bf16, 50, 0.0}},  // its only choice
  };
  using Chosen = std::vector<std::size_t>;
  CHECK(choose_formats(candidates, {.max_bytes = 160}) == Chosen{0, 0, 0});
  CHECK(choose_formats(candidates, {.max_bytes = 100}) == Chosen{0, 0, 0});  // cannot be met
  CHECK(choose_formats(candidates, {.max_bytes = 170}) == Chosen{1, 0, 0});
  CHECK(choose_formats(candidates, {.max_bytes = 289}) == Chosen{2, 0, 0});
  CHECK(choose_formats(candidates, {.max_bytes = 290}) == Chosen{2, 1, 0});
  CHECK(choose_formats(candidates, {.max_error = 9.0}) == Chosen{0, 0, 0});
  CHECK(choose_formats(candidates, {.max_error = 6.0}) == Chosen{1, 0, 0});
  CHECK(choose_formats(candidates, {.max_error = 5.0}) == Chosen{2, 0, 0});
  CHECK(choose_formats(candidates, {.max_error = 0.5}) == Chosen{2, 1, 0});
  CHECK(choose_formats(candidates, {.max_bytes = 190, .max_error = 0.5}) == Chosen{2, 0, 0});
}

TEST_CASE("Formats of random candidates: the budget holds and is near the best of all choices") {
  std::mt19937 random(4);
  double chosen_error = 0.0, best_error = 0.0;
  for (int round = 0; round < 50; ++round) {
    std::vector<std::vector<FormatChoice>> candidates(6);
    std::uint64_t least = 0, most = 0;
    for (auto& of_one : candidates) {
      const std::uint64_t size = 10 + random() % 90;
      const double error = static_cast<double>(1 + random() % 100);
      of_one = {
          {DType::i4, size, error}, {DType::i8, 2 * size, error / 50}, {DType::bf16, 4 * size, 0}};
      least += size;
      most += 4 * size;
    }
    const PrecisionBudget budget{.max_bytes = least + (most - least) / 4};
    const auto cost = [&](const std::vector<std::size_t>& chosen) {
      std::uint64_t bytes = 0;
      double error = 0.0;
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        bytes += candidates[i][chosen[i]].bytes;
        error += candidates[i][chosen[i]].error;
      }
      return std::pair(bytes, error);
    };
    const auto [bytes, error] = cost(choose_formats(candidates, budget));
    CHECK(bytes <= budget.max_bytes);
    double best = INFINITY;
    std::vector<std::size_t> all(6);
    for (int code = 0; code < 729; ++code) {
      for (int i = 0, rest = code; i < 6; ++i, rest /= 3)
        all[static_cast<std::size_t>(i)] = static_cast<std::size_t>(rest % 3);
      const auto [b, e] = cost(all);
      if (b <= budget.max_bytes) best = std::min(best, e);
    }
    CHECK(error >= best);
    chosen_error += error;
    best_error += best;
  }
  CHECK(chosen_error <= 1.5 * best_error);
}
