// The directories that transformers wrote (tests/golden/llama) load, all of them.
#include <cmath>
#include <vector>

#include "ciuic/model/generation_config.hpp"
#include "ciuic/model/llama_weight_map.hpp"
#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

TEST_CASE("Every directory that transformers wrote loads") {
  std::size_t directories = 0;
  for (const auto& item : fs::directory_iterator(CIUIC_SOURCE_DIR "/tests/golden/llama")) {
    if (!item.is_directory()) continue;
    ++directories;
    CAPTURE(item.path());
    const Result<ModelConfig> config = ModelConfig::load(item.path());
    REQUIRE(config);
    REQUIRE(GenerationConfig::load(item.path(), config->vocab_size));
    const Result<WeightFiles> weights = WeightFiles::open(item.path());
    REQUIRE(weights);
    REQUIRE(check_llama_weights(*config, *weights));
    std::vector<float> values;
    for (const TensorInfo* tensor : weights->tensors()) {
      values.assign(static_cast<std::size_t>(tensor->bytes / (bits_of(tensor->dtype) / 8)), NAN);
      REQUIRE(weights->read_rows_f32(*tensor, 0, values));
      float largest = 0.0f;
      for (float value : values) {
        REQUIRE(std::isfinite(value));  // every element was written
        largest = std::fmax(largest, std::fabs(value));
      }
      CHECK(largest > 0.05f);
      CHECK(largest < 8.0f);
    }
    const Result<SafetensorsFile> expected =
        SafetensorsFile::open(item.path() / "expected.safetensors");
    REQUIRE(expected);
    REQUIRE(expected->find("logits") != nullptr);
    CHECK(expected->find("logits")->shape[1] == config->vocab_size);
  }
  CHECK(directories >= 12);
}
