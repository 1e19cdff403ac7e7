// What int8 and int4 weights cost the model that ships: perplexity of held-out text, and sums that
// training never saw. The goals are docs/quantization.md's.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "ciuic/ciuic.hpp"
#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

const fs::path kModel = CIUIC_SOURCE_DIR "/examples/models/ciuic-tiny";
const fs::path kGolden = CIUIC_SOURCE_DIR "/tests/golden/tiny";

double log_probability(std::span<const float> row, TokenId token) {
  double largest = -INFINITY, sum = 0.0;
  for (float logit : row) largest = std::max(largest, static_cast<double>(logit));
  for (float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return static_cast<double>(row[static_cast<std::size_t>(token)]) - largest - std::log(sum);
}

double perplexity(LanguageModel& model) {
  const Result<JsonValue> golden = JsonValue::parse(read_file(kGolden / "expected.json"));
  REQUIRE(golden);
  const std::string text = read_file(kGolden / "heldout_text.txt");
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  double total = 0.0;
  std::size_t count = 0;
  for (const JsonValue& window : golden->find("windows")->items()) {
    const auto first = static_cast<std::size_t>(window.find("first_byte")->as_integer());
    const auto bytes = static_cast<std::size_t>(window.find("bytes")->as_integer());
    const auto tokens = model.encode(std::string_view(text).substr(first, bytes)).value();
    std::vector<float> logits(tokens.size() * vocab);
    REQUIRE(model.logits(tokens, logits));
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i)
      total -= log_probability(std::span(logits).subspan(i * vocab, vocab), tokens[i + 1]);
    count += tokens.size() - 1;
  }
  return std::exp(total / static_cast<double>(count));
}

/// Percent of the sums that training never saw.
double sums_right(LanguageModel model) {
  AsyncInferenceEngine engine(std::move(model));
  std::istringstream lines(read_file(kGolden / "heldout_sums.jsonl"));
  std::vector<TextStream> streams;
  std::vector<std::string> answers;
  for (std::string line; std::getline(lines, line);) {
    const Result<JsonValue> item = JsonValue::parse(line);
    REQUIRE(item);
    streams.push_back(engine.generate(item->find("prompt")->as_string(), {.max_new_tokens = 32}));
    answers.push_back(item->find("answer")->as_string());
  }
  std::size_t right = 0;
  for (std::size_t i = 0; i < streams.size(); ++i)
    right += streams[i].finish().value().text == answers[i] ? 1u : 0u;
  return 100.0 * static_cast<double>(right) / static_cast<double>(answers.size());
}

struct Accuracy {
  double perplexity, right;
};
Accuracy measure(const fs::path& directory, const ModelOptions& options) {
  LanguageModel model = LanguageModel::load(directory, options).value();
  const double p = perplexity(model);
  return {p, sums_right(std::move(model))};
}

}  // namespace

TEST_CASE("int8 and int4 weights keep the shipped model's perplexity and sums") {
  const Accuracy f32 = measure(kModel, {});
  std::printf("| held as | perplexity | worse by | sums right |\n|---|---|---|---|\n");
  std::printf("| f32 | %.5f | | %.1f %% |\n", f32.perplexity, f32.right);
  const struct {
    const char* name;
    MatrixFormat format;
    double worse;  // percent
  } goals[] = {{"bf16", DType::bf16, 0.01},
               {"i8", DType::i8, 0.5},
               {"i4, groups of 32", {DType::i4, 32}, 3.0},
               {"i4, groups of 64", {DType::i4, 64}, 3.0}};
  for (const auto& goal : goals) {
    const Accuracy got = measure(kModel, {.weights = goal.format});
    const double worse = 100.0 * (got.perplexity / f32.perplexity - 1.0);
    std::printf("| %s | %.5f | %.3f %% | %.1f %% |\n", goal.name, got.perplexity, worse, got.right);
    CHECK(worse <= goal.worse);
    CHECK(std::fabs(got.right - f32.right) <= 1.0);
  }
}

TEST_CASE("int8 with fixed input scales and smoothing stays within the goal of int8") {
  const TempDirectory scratch;
  // Calibrated on text of its own: the model's answers, not the held-out file.
  std::vector<std::vector<TokenId>> samples;
  {
    LanguageModel model = LanguageModel::load(kModel).value();
    const Tokenizer tokenizer = *model.tokenizer();
    AsyncInferenceEngine engine(std::move(model));
    for (int seed = 0; seed < 24; ++seed) {
      GenerateOptions options{.max_new_tokens = 200, .ignore_end_tokens = true};
      options.sampling.temperature = 1.0f;
      options.sampling.seed = static_cast<std::uint64_t>(seed);
      const std::string text = engine.generate("", options).finish().value().text;
      samples.push_back(tokenizer.encode(text).value());
    }
  }
  const Accuracy f32 = measure(kModel, {});
  for (const float alpha : {-1.0f, 0.5f}) {
    const fs::path out = scratch / (alpha < 0 ? "fixed" : "smooth");
    REQUIRE(quantize_directory(
        kModel, out,
        {.weights = DType::i8, .samples = samples, .static_inputs = true, .smooth_alpha = alpha}));
    const Accuracy got = measure(out, {});
    const double worse = 100.0 * (got.perplexity / f32.perplexity - 1.0);
    std::printf("| i8, fixed input scales%s | %.5f | %.3f %% | %.1f %% |\n",
                alpha < 0 ? "" : ", smoothed", got.perplexity, worse, got.right);
    CHECK(worse <= 0.5);
    CHECK(std::fabs(got.right - f32.right) <= 1.0);
  }
}
