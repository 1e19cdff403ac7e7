#include "ciuic/model/weight_files.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ciuic/model/llama_weight_map.hpp"
#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

constexpr std::uint64_t kTinyElements =
    2 * 32 * 16 + 2 * (2 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16) + 16;

std::string failure(const fs::path& directory, const LoadLimits& limits = {}) {
  const Result<WeightFiles> opened = WeightFiles::open(directory, limits);
  return opened ? "" : std::string(opened.error().message());
}

}  // namespace

TEST_CASE("One file and its shards give the same tensors") {
  const TempDirectory one, two;
  write_tiny_llama(one.path());
  write_sharded_tiny_llama(two.path());
  const Result<WeightFiles> single = WeightFiles::open(one.path());
  const Result<WeightFiles> sharded = WeightFiles::open(two.path());
  REQUIRE(single);
  REQUIRE(sharded);
  CHECK(single->files().size() == 1);
  CHECK(sharded->files().size() == 2);
  CHECK(single->parameter_bytes() == 4 * kTinyElements);
  CHECK(sharded->parameter_bytes() == 4 * kTinyElements);
  REQUIRE(single->tensors().size() == sharded->tensors().size());
  for (const TensorInfo* tensor : single->tensors()) {
    CAPTURE(tensor->name);
    const TensorInfo* twin = sharded->find(tensor->name);
    REQUIRE(twin != nullptr);
    CHECK(Shape(twin->shape) == Shape(tensor->shape));
    std::vector<float> a(tensor->bytes / 4), b(a.size());
    REQUIRE(single->read_rows_f32(*tensor, 0, a));
    REQUIRE(sharded->read_rows_f32(*twin, 0, b));
    CHECK(a == b);
  }
  CHECK(sharded->find("absent") == nullptr);
  CHECK(sharded->file_of(*sharded->find("lm_head.weight")).name() ==
        "model-00002-of-00002.safetensors");
}

TEST_CASE("A directory without weights says which files were looked for") {
  const TempDirectory directory;
  CHECK(failure(directory.path()) ==
        "model.safetensors: not found, and model.safetensors.index.json neither");
  const Result<WeightFiles> absent = WeightFiles::open(directory / "absent");
  REQUIRE_FALSE(absent);
  CHECK(absent.error().code() == ErrorCode::not_found);
  CHECK(absent.error().message().starts_with("model directory \"/"));
}

TEST_CASE("An index may only name files of its own directory") {
  const TempDirectory directory;
  write_sharded_tiny_llama(directory.path());
  const auto with = [&](std::string_view value) {
    write_file(directory / "model.safetensors.index.json",
               std::string("{\"weight_map\":{\"t\":\"").append(value).append("\"}}"));
    return failure(directory.path());
  };
  CHECK(with("../x.safetensors") ==
        "model.safetensors.index.json: weight_map: tensor \"t\": wanted a plain file name, got "
        "\"../x.safetensors\"");
  CHECK(with("/etc/x.safetensors").find("wanted a plain file name") != std::string::npos);
  CHECK(with("sub/x.safetensors").find("wanted a plain file name") != std::string::npos);
  CHECK(with("config.json").find("wanted the name of a .safetensors file") != std::string::npos);
  CHECK(with("absent.safetensors") ==
        "model.safetensors.index.json: weight_map: tensor \"t\": absent.safetensors: cannot be "
        "opened: No such file or directory");
  CHECK(with("model-00001-of-00002.safetensors") ==
        "model.safetensors.index.json: weight_map: tensor \"t\": wanted in "
        "\"model-00001-of-00002.safetensors\", which has no such tensor");
}

TEST_CASE("Links are followed inside the directory and into a cache's blobs, and nowhere else") {
  const TempDirectory root;
  const fs::path snapshot = root / "models--a--b/snapshots/0123";
  const fs::path blobs = root / "models--a--b/blobs";
  fs::create_directories(snapshot);
  fs::create_directories(blobs);
  write_tiny_llama(blobs);
  fs::create_symlink("../../blobs/model.safetensors", snapshot / "model.safetensors");
  CHECK(failure(snapshot).empty());

  // The same link in a directory that is no snapshot leads out of it.
  const fs::path plain = root / "models--a--b/plain/0123";
  fs::create_directories(plain);
  fs::create_symlink("../../blobs/model.safetensors", plain / "model.safetensors");
  CHECK(failure(plain) == "model.safetensors: is a link that leads out of the model directory");

  // A blob that is a link further on leads out of the cache.
  fs::rename(blobs / "model.safetensors", root / "elsewhere");
  fs::create_symlink(root / "elsewhere", blobs / "model.safetensors");
  CHECK(failure(snapshot) == "model.safetensors: is a link that leads out of the model directory");

  // Inside of the directory, and a directory that is itself a link.
  const TempDirectory inside;
  write_tiny_llama(inside.path());
  fs::rename(inside / "model.safetensors", inside / "real");
  fs::create_symlink("real", inside / "model.safetensors");
  fs::create_directory_symlink(inside.path(), root / "link");
  CHECK(failure(inside.path()).empty());
  CHECK(failure(root / "link").empty());
}

TEST_CASE("A tensor has one place") {
  const TempDirectory directory;
  write_sharded_tiny_llama(directory.path());
  std::vector<TestTensor> first = tiny_llama_tensors();
  first.resize(11);  // one more than its share
  write_file(directory / "model-00001-of-00002.safetensors", safetensors_of(first));
  CHECK(failure(directory.path()) ==
        "model-00002-of-00002.safetensors: tensor \"model.layers.1.input_layernorm.weight\": is in "
        "model-00001-of-00002.safetensors as well");
  CHECK(failure(directory.path(), {.max_shards = 1}).find("wanted at most 1 files") !=
        std::string::npos);
}

TEST_CASE("All files of a directory share one limit on tensors") {
  const TempDirectory directory;
  write_sharded_tiny_llama(directory.path());
  const std::size_t all = tiny_llama_tensors().size(), first = 10;
  CHECK(failure(directory.path(), {.max_tensors = all}).empty());
  const std::string too_many = ".safetensors: header: tensors: wanted at most ";
  CHECK(failure(directory.path(), {.max_tensors = all - 1}) ==
        "model-00002-of-00002" + too_many + std::to_string(all - 1 - first) + ", got more");
  CHECK(failure(directory.path(), {.max_tensors = first}) ==
        "model-00002-of-00002" + too_many + "0, got more");
  CHECK(failure(directory.path(), {.max_tensors = first - 1}) ==
        "model-00001-of-00002" + too_many + std::to_string(first - 1) + ", got more");
}

TEST_CASE("The tensors of a Llama are checked against its config") {
  const TempDirectory directory;
  write_tiny_llama(directory.path());
  const ModelConfig config = ModelConfig::load(directory.path()).value();
  const auto check = [&](const ModelConfig& c) {
    const WeightFiles weights = WeightFiles::open(directory.path()).value();
    const Result<void> checked = check_llama_weights(c, weights);
    return checked ? "" : std::string(checked.error().message());
  };
  CHECK(check(config).empty());
  ModelConfig other = config;
  other.vocab_size = 33;
  CHECK(check(other) ==
        "model.safetensors: model.embed_tokens.weight: wanted shape [33, 16] (vocab_size, "
        "hidden_size), got [32, 16]");
  other = config;
  other.num_hidden_layers = 3;
  CHECK(
      check(other) ==
      "model.safetensors: model.layers.2.input_layernorm.weight: wanted shape [16] (hidden_size), "
      "got no tensor");
  other = config;
  other.attention_bias = true;
  CHECK(check(other) ==
        "model.safetensors: model.layers.0.self_attn.q_proj.bias: wanted shape [16] "
        "(num_attention_heads * head_dim), got no tensor");

  std::vector<TestTensor> tensors = tiny_llama_tensors();
  tensors.pop_back();
  write_file(directory / "model.safetensors", safetensors_of(tensors));
  CHECK(check(config).find("lm_head.weight: wanted shape [32, 16]") != std::string::npos);
  other = config;
  other.tie_word_embeddings = true;
  CHECK(check(other).empty());
  tensors[1].dtype = "I32";
  write_file(directory / "model.safetensors", safetensors_of(tensors));
  CHECK(check(other) ==
        "model.safetensors: model.layers.0.input_layernorm.weight: dtype: wanted F32, F16 or BF16, "
        "got I32");
}

TEST_CASE("Random weights fit every shape, are the same each time and depend on the seed") {
  const TempDirectory directory;
  write_tiny_llama(directory.path());
  ModelConfig config = ModelConfig::load(directory.path()).value();
  config.attention_bias = config.mlp_bias = true;
  const WeightFiles weights = random_llama_weights(config).value();
  const WeightFiles again = random_llama_weights(config).value();
  const WeightFiles other = random_llama_weights(config, 1).value();
  CHECK(check_llama_weights(config, weights));
  const auto all = [](const WeightFiles& files, const TensorInfo& tensor) {
    std::vector<float> values(tensor.bytes / sizeof(float));
    REQUIRE(files.read_rows_f32(tensor, 0, values));
    return values;
  };
  std::vector<float> before;
  for (const TensorInfo* tensor : weights.tensors()) {
    CAPTURE(tensor->name);
    const std::vector<float> values = all(weights, *tensor);
    CHECK(values == all(again, *again.find(tensor->name)));
    if (tensor->shape.size() == 1) {
      CHECK(values == std::vector<float>(values.size(), 1.0f));
      continue;
    }
    CHECK(values != all(other, *other.find(tensor->name)));
    CHECK(values != before);
    before = values;
    const auto cols = static_cast<std::size_t>(tensor->shape[1]);
    std::vector<float> row(cols);
    REQUIRE(weights.read_rows_f32(*tensor, 3, row));
    CHECK(std::equal(row.begin(), row.end(), values.begin() + 3 * tensor->shape[1]));
  }
}

TEST_CASE("Random weights have the spread that they should") {
  const NamedShape shape{"w", {400, 500}};
  const WeightFiles weights = WeightFiles::random({&shape, 1}).value();
  std::vector<float> values(400 * 500);
  REQUIRE(weights.read_rows_f32(*weights.find("w"), 0, values));
  double sum = 0.0, squares = 0.0;
  std::size_t far = 0;
  for (float x : values) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
    far += std::abs(x) > 0.04f ? 1u : 0u;
  }
  const double n = static_cast<double>(values.size());
  CHECK(sum / n == Approx(0.0).margin(2e-4));  // 4.5 standard errors
  CHECK(std::sqrt(squares / n) == Approx(0.02).epsilon(0.01));
  // Beyond two standard deviations: a sum of four draws from [0, 1] lies 2 sqrt(1/3) or more from
  // its mean with probability 2 (2 - 2 sqrt(1/3))^4 / 4! = 0.0425 (normal distribution: 0.0455).
  CHECK(static_cast<double>(far) / n == Approx(0.0425).margin(0.003));
}

TEST_CASE("Random tensors with one name or a size that wraps are refused") {
  const std::vector<NamedShape> twins = {{"w", {2, 2}}, {"w", {2, 2}}};
  CHECK(WeightFiles::random(twins).error().code() == ErrorCode::bad_model);
  const std::int64_t huge = std::int64_t{1} << 40;
  const NamedShape wide{"w", {huge, huge}};
  CHECK(WeightFiles::random({&wide, 1}).error().code() == ErrorCode::bad_model);
}
