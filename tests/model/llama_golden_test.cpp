// Logits and greedy text of random Llama directories against Hugging Face transformers, which made
// the expectations (tests/golden/llama/make_llama_golden.py): on every instruction set, and on a
// device whose memory the host cannot touch.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/model/language_model.hpp"
#include "ciuic/model/safetensors.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "support/catch.hpp"
#include "support/fake_backend.hpp"

using namespace ciuic;

namespace {

struct Golden {
  std::filesystem::path directory;
  std::vector<TokenId> prompt, greedy, long_prompt;
  std::vector<float> logits, long_logits;
};

std::vector<TokenId> ids(const JsonValue* array) {
  std::vector<TokenId> values;
  if (array == nullptr) return values;
  for (const JsonValue& item : array->items())
    values.push_back(static_cast<TokenId>(item.as_integer()));
  return values;
}

std::vector<float> tensor(const SafetensorsFile& file, std::string_view name) {
  const TensorInfo* info = file.find(name);
  if (info == nullptr) return {};
  std::vector<float> values(info->bytes / sizeof(float));
  REQUIRE(file.read_rows_f32(*info, 0, values));
  return values;
}

std::vector<Golden> all_goldens() {
  std::vector<Golden> goldens;
  for (const auto& entry :
       std::filesystem::directory_iterator(CIUIC_SOURCE_DIR "/tests/golden/llama")) {
    if (!entry.is_directory()) continue;
    std::ifstream file(entry.path() / "expected.json");
    const Result<JsonValue> json =
        JsonValue::parse(std::string{std::istreambuf_iterator<char>(file), {}});
    REQUIRE(json);
    const Result<SafetensorsFile> expected =
        SafetensorsFile::open(entry.path() / "expected.safetensors");
    REQUIRE(expected);
    goldens.push_back({entry.path(), ids(json->find("prompt")), ids(json->find("greedy")),
                       ids(json->find("long_prompt")), tensor(*expected, "logits"),
                       tensor(*expected, "long_logits")});
  }
  std::sort(goldens.begin(), goldens.end(),
            [](const Golden& a, const Golden& b) { return a.directory < b.directory; });
  return goldens;
}

/// The largest difference, relative to the largest logit.
double relative_error(std::span<const float> got, std::span<const float> expected) {
  double largest = 0.0, error = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(expected[i])));
    const double difference =
        std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!(difference <= error)) error = std::isnan(difference) ? INFINITY : difference;
  }
  return error / largest;
}

std::vector<std::shared_ptr<const Backend>> backends() {
  std::vector<std::shared_ptr<const Backend>> all;
  for (const CpuIsa isa : {CpuIsa::scalar, CpuIsa::avx2, CpuIsa::avx512}) {
    if (auto backend = cpu_backend({.isa = isa})) all.push_back(*backend);
  }
  all.push_back(testing::fake_backend());
  return all;
}

}  // namespace

TEST_CASE("Logits and 64 greedy tokens of every golden directory are those of transformers") {
  const std::vector<Golden> goldens = all_goldens();
  REQUIRE(goldens.size() >= 12);
  for (const auto& backend : backends()) {
    double worst = 0.0;
    for (const Golden& golden : goldens) {
      INFO(golden.directory.filename().string()
           << " on " << backend->name() << " " << backend->isa());
      Result<LanguageModel> model =
          LanguageModel::load(golden.directory, {.backend = backend, .threads = 2});
      INFO((model ? std::string() : std::string(model.error().message())));
      REQUIRE(model);
      const auto vocab = static_cast<std::size_t>(model->config().vocab_size);

      std::vector<float> logits(golden.prompt.size() * vocab);
      REQUIRE(model->logits(golden.prompt, logits));
      REQUIRE(logits.size() == golden.logits.size());
      const double error = relative_error(logits, golden.logits);
      CHECK(error <= 1e-5);
      worst = std::max(worst, error);
      if (!golden.long_prompt.empty()) {
        logits.resize(golden.long_prompt.size() * vocab);
        REQUIRE(model->logits(golden.long_prompt, logits));
        const double long_error = relative_error(std::span(logits).last(vocab), golden.long_logits);
        CHECK(long_error <= 1e-5);
        worst = std::max(worst, long_error);
      }

      AsyncInferenceEngine engine(*std::move(model), {.max_batch_tokens = 16, .host_driven = true});
      TextStream stream = engine.generate(
          golden.prompt, {.max_new_tokens = static_cast<std::int32_t>(golden.greedy.size()),
                          .ignore_end_tokens = true});
      CHECK(engine.drain());
      const Result<Generation> answer = stream.finish();
      INFO((answer ? std::string() : std::string(answer.error().message())));
      REQUIRE(answer);
      CHECK(answer->tokens == golden.greedy);
    }
    std::printf(
        "%zu directories on %s %s: worst relative error of a logit %.1e, greedy identical\n",
        goldens.size(), std::string(backend->name()).c_str(), std::string(backend->isa()).c_str(),
        worst);
  }
}
