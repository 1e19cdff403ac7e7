// Models with bf16, i8 and i4 weights: held against the same model in f32, and against what is
// read back from a quantized directory.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory_resource>
#include <numeric>
#include <string>

#include "ciuic/base/sync.hpp"
#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/model/language_model.hpp"
#include "ciuic/model/quantize.hpp"
#include "ciuic/model/safetensors.hpp"
#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "support/catch.hpp"
#include "support/fake_backend.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

const fs::path kGoldens = CIUIC_SOURCE_DIR "/tests/golden/llama";
const fs::path kTiny = CIUIC_SOURCE_DIR "/examples/models/ciuic-tiny";
const MatrixFormat kFormats[] = {DType::f32,      DType::bf16,     DType::i8,
                                 {DType::i4, 32}, {DType::i4, 64}, {DType::i4, 128}};

std::string text_of(const MatrixFormat& format) {
  return std::string(to_string(format.dtype)) +
         (format.dtype == DType::i4 ? "/" + std::to_string(format.group) : "");
}

template <class T>
T must(Result<T> result) {
  INFO((result ? std::string() : std::string(result.error().message())));
  REQUIRE(result);
  return *std::move(result);
}

/// Logits of a fixed row of tokens.
std::vector<float> logits_of(LanguageModel model, std::size_t count = 40) {
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  std::vector<TokenId> tokens(count);
  for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<TokenId>(i * 7919 % vocab);
  std::vector<float> logits(tokens.size() * vocab);
  const Result<void> done = model.logits(tokens, logits);
  INFO((done ? std::string() : std::string(done.error().message())));
  REQUIRE(done);
  return logits;
}
/// Keys and values stay f32: what is looked at here is the weights.
std::vector<float> logits_of(const fs::path& directory, ModelOptions options = {}) {
  options.kv = DType::f32;
  return logits_of(must(LanguageModel::load(directory, options)));
}

/// Length of the difference over the length of the logits.
double distance(const std::vector<float>& got, const std::vector<float>& wanted) {
  REQUIRE(got.size() == wanted.size());
  double off = 0.0, all = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = double{got[i]} - double{wanted[i]};
    off += d * d;
    all += double{wanted[i]} * double{wanted[i]};
  }
  return std::sqrt(off / all);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// A model directory whose tensors a test may change before they are written, as f32.
struct EditableModel {
  struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
    float& at(std::int64_t row, std::int64_t col) {
      return values[static_cast<std::size_t>(row * shape[1] + col)];
    }
  };
  std::map<std::string, Tensor> tensors;

  explicit EditableModel(const fs::path& directory) {
    const WeightFiles files = must(WeightFiles::open(directory));
    for (const TensorInfo* info : files.tensors()) {
      Tensor& tensor = tensors[std::string(info->name)];
      tensor.shape.assign(info->shape.begin(), info->shape.end());
      tensor.values.resize(static_cast<std::size_t>(
          std::accumulate(info->shape.begin(), info->shape.end(), std::int64_t{1},
                          std::multiplies<std::int64_t>())));
      REQUIRE(files.read_rows_f32(*info, 0, tensor.values));
    }
  }
  void write(const fs::path& directory, const fs::path& config_from) {
    std::vector<NamedTensor> named;
    for (auto& [name, tensor] : tensors) {
      named.push_back({name,
                       {std::as_bytes(std::span(tensor.values)).data(), DType::f32,
                        Shape(std::span<const std::int64_t>(tensor.shape))}});
    }
    REQUIRE(write_safetensors(directory / "model.safetensors", named));
    fs::copy_file(config_from / "config.json", directory / "config.json");
  }
};

std::vector<std::vector<TokenId>> some_samples(std::int32_t vocab) {
  std::vector<std::vector<TokenId>> samples(4);
  for (std::size_t s = 0; s < samples.size(); ++s) {
    for (std::size_t i = 0; i < 60; ++i)
      samples[s].push_back(
          static_cast<TokenId>((i * i * 31 + i * 17 + s * 101) % static_cast<std::size_t>(vocab)));
  }
  return samples;
}

/// Counts what is held, and the most that ever was.
class CountedMemory final : public std::pmr::memory_resource {
 public:
  std::size_t held() const { return held_; }
  std::size_t most() const { return most_; }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    const Lock lock(mutex_);
    held_ += bytes;
    most_ = std::max(most_, held_);
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* at, std::size_t bytes, std::size_t alignment) override {
    const Lock lock(mutex_);
    held_ -= bytes;
    std::pmr::new_delete_resource()->deallocate(at, bytes, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
  Mutex mutex_;
  std::size_t held_ = 0, most_ = 0;
};

}  // namespace

TEST_CASE("Every golden directory in every format stays near f32, and speaks") {
  // Measured over all directories, on random weights, where nothing averages out; stated with a
  // margin of a half. bf16 directories lose nothing as bf16.
  const std::map<DType, double> allowed{
      {DType::f32, 1e-6}, {DType::bf16, 0.02}, {DType::i8, 0.06}, {DType::i4, 0.6}};
  std::map<std::string, double> worst;
  for (const auto& entry : fs::directory_iterator(kGoldens)) {
    if (!entry.is_directory()) continue;
    const std::vector<float> exact = logits_of(entry.path());
    for (const MatrixFormat& format : kFormats) {
      INFO(entry.path().filename().string() << " as " << text_of(format));
      const double off = distance(logits_of(entry.path(), {.weights = format}), exact);
      CHECK(off <= allowed.at(format.dtype));
      if (format.dtype == DType::bf16 &&
          entry.path().filename().string().find("bf16") != std::string::npos) {
        CHECK(off <= 1e-5);
      }
      double& most = worst[text_of(format)];
      most = std::max(most, off);

      AsyncInferenceEngine engine(
          must(LanguageModel::load(entry.path(), {.weights = format, .threads = 1})),
          {.host_driven = true});
      TextStream stream = engine.generate(std::vector<TokenId>{1, 5, 9},
                                          {.max_new_tokens = 12, .ignore_end_tokens = true});
      CHECK(engine.drain());
      CHECK(must(stream.finish()).tokens.size() == 12);
    }
  }
  for (const auto& [format, off] : worst)
    std::printf("logits as %-6s at most %.4f of their length away from f32\n", format.c_str(), off);
}

TEST_CASE("A quantized directory gives bit for bit the model that is quantized while loading") {
  for (const char* name : {"attention_bias", "mlp_bias_tied_bf16", "gqa4_sharded"}) {
    const fs::path source = kGoldens / name;
    for (const MatrixFormat& format : kFormats) {
      INFO(name << " as " << text_of(format));
      const TempDirectory scratch;
      const fs::path out = scratch / "out";
      const QuantizeReport report =
          must(quantize_directory(source, out, {.weights = format, .threads = 2}));
      LanguageModel in_process =
          must(LanguageModel::load(source, {.weights = format, .kv = DType::f32}));
      LanguageModel from_disk = must(LanguageModel::load(out, {.kv = DType::f32}));
      CHECK(from_disk.memory().weights_bytes == in_process.memory().weights_bytes);
      CHECK(report.bytes == from_disk.memory().weights_bytes);
      CHECK(from_disk.end_tokens().size() == in_process.end_tokens().size());
      const std::vector<float> wanted = logits_of(std::move(in_process));
      CHECK(same_bits(logits_of(std::move(from_disk)), wanted));
      CHECK(same_bits(logits_of(out, {.map_weights = true}), wanted));
      CHECK(same_bits(logits_of(out, {.map_weights = true, .backend = fake_backend()}),
                      logits_of(source, {.weights = format, .backend = fake_backend()})));

      // What the file promises to whoever maps it: matrices at multiples of 64.
      const std::string image = read_file(out / "model.safetensors");
      std::uint64_t header = 0;
      std::memcpy(&header, image.data(), sizeof header);
      CHECK((header + 8) % 64 == 0);
      const SafetensorsFile file = must(SafetensorsFile::open(out / "model.safetensors"));
      std::size_t matrices = 0;
      for (const TensorInfo& tensor : file.tensors()) {
        if (!tensor.name.ends_with(".packed")) continue;
        CHECK(tensor.offset % 64 == 0);
        ++matrices;
      }
      CHECK(matrices == report.matrices.size());

      // Once more is the same file; on top of it is refused, and so is quantizing it again.
      must(quantize_directory(source, scratch / "again", {.weights = format, .threads = 1}));
      CHECK(read_file(scratch / "again/model.safetensors") == image);
      const auto onto = quantize_directory(source, out, {.weights = format});
      REQUIRE_FALSE(onto);
      CHECK(onto.error().code() == ErrorCode::invalid_argument);
      CHECK(read_file(out / "model.safetensors") == image);
      const auto twice = quantize_directory(out, scratch / "twice", {});
      REQUIRE_FALSE(twice);
      CHECK(twice.error().code() == ErrorCode::unsupported);
      for (const auto& left : fs::directory_iterator(scratch.path())) {
        const std::string left_name = left.path().filename().string();
        CHECK((left_name == "out" || left_name == "again"));
      }
    }
  }
}

TEST_CASE("Memory: what weights take, and the most that loading takes") {
  // 12.4 M parameters, two thirds of them in the embedding and the head, as in a small model.
  const TempDirectory scratch;
  const std::int64_t d = 256, vocab = 16000, ffn = 1024, layers = 4;
  write_file(scratch / "config.json",
             R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":256,)"
             R"("intermediate_size":1024,"num_hidden_layers":4,"num_attention_heads":4,)"
             R"("num_key_value_heads":4,"rms_norm_eps":1e-5,"max_position_embeddings":64,)"
             R"("vocab_size":16000,"tie_word_embeddings":false,"hidden_act":"silu"})");
  std::mt19937 random(1);
  std::vector<std::uint16_t> noise(static_cast<std::size_t>(vocab * d));
  for (std::uint16_t& bits : noise)
    bits = bf16::from_float(static_cast<float>(random() % 2001) * 1e-4f - 0.1f).bits;
  std::vector<std::pair<std::string, Shape>> list{{"model.embed_tokens.weight", {vocab, d}},
                                                  {"lm_head.weight", {vocab, d}},
                                                  {"model.norm.weight", {d}}};
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    list.push_back({layer + "input_layernorm.weight", {d}});
    list.push_back({layer + "post_attention_layernorm.weight", {d}});
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "o_proj"})
      list.push_back({layer + "self_attn." + projection + ".weight", {d, d}});
    list.push_back({layer + "mlp.gate_proj.weight", {ffn, d}});
    list.push_back({layer + "mlp.up_proj.weight", {ffn, d}});
    list.push_back({layer + "mlp.down_proj.weight", {d, ffn}});
  }
  std::vector<NamedTensor> named;
  for (const auto& [name, shape] : list)
    named.push_back({name, {std::as_bytes(std::span(noise)).data(), DType::bf16, shape}});
  REQUIRE(write_safetensors(scratch / "model.safetensors", named));

  // What queues work in has the same size for any model: that of a step and that of loading.
  CountedMemory of_queues;
  {
    CpuBackendOptions options;
    options.host.memory = &of_queues;
    const auto backend = must(cpu_backend(options));
    const auto step = must(backend->make_queue({.threads = 2}));
    const auto loading = must(backend->make_queue({.threads = 1}));
  }
  std::map<std::string, double> bytes;
  for (const MatrixFormat& format : kFormats) {
    for (const bool packed : {false, true}) {
      INFO(text_of(format) << (packed ? ", quantized directory" : ""));
      const fs::path out =
          scratch / ("as_" + text_of(format).substr(0, 2) + std::to_string(format.group));
      if (packed) must(quantize_directory(scratch.path(), out, {.weights = format}));
      CountedMemory memory;
      ModelOptions options{.weights = format, .threads = 2};
      options.host.memory = &memory;
      const LanguageModel model = must(LanguageModel::load(packed ? out : scratch.path(), options));
      bytes[text_of(format)] = static_cast<double>(model.memory().weights_bytes);
      CHECK(static_cast<double>(memory.most()) <=
            static_cast<double>(of_queues.most()) +
                1.15 * static_cast<double>(model.memory().weights_bytes));
    }
  }
  for (const auto& [format, taken] : bytes) {
    std::printf("weights as %-6s take %5.1f %% less than as f32\n", format.c_str(),
                100.0 * (1.0 - taken / bytes["f32"]));
  }
  CHECK(bytes["bf16"] <= 0.502 * bytes["f32"]);
  CHECK(bytes["i8"] <= 0.26 * bytes["f32"]);
  CHECK(bytes["i4/64"] <= 0.15 * bytes["f32"]);
  CHECK(bytes["i4/32"] <= 0.15 * bytes["f32"]);
}

TEST_CASE("Rules decide by name, in a directory as while loading") {
  const fs::path source = kGoldens / "attention_bias";
  const std::vector<FormatRule> rules{{"*.0.mlp.*", DType::f32}, {"lm_head", DType::bf16}};
  const TempDirectory scratch;
  const QuantizeReport report =
      must(quantize_directory(source, scratch / "out", {.weights = DType::i4, .rules = rules}));
  for (const MatrixReport& matrix : report.matrices) {
    const bool f32 = matrix.name == "model.layers.0.mlp.gate_up_proj" ||
                     matrix.name == "model.layers.0.mlp.down_proj";
    CHECK(matrix.format.dtype == (f32                        ? DType::f32
                                  : matrix.name == "lm_head" ? DType::bf16
                                                             : DType::i4));
    if (f32) CHECK(std::isinf(matrix.error.signal_to_noise_db()));
  }
  CHECK(same_bits(logits_of(scratch / "out"),
                  logits_of(source, {.weights = DType::i4, .weight_rules = rules})));
  const auto unused =
      quantize_directory(source, scratch / "unused", {.rules = {{"*.nothing", DType::f32}}});
  REQUIRE_FALSE(unused);
  CHECK(unused.error().message().find("*.nothing") != std::string_view::npos);
  CHECK_FALSE(fs::exists(scratch / "unused"));
  const auto loaded = LanguageModel::load(
      source, {.weight_rules = {{"lm_head", DType::bf16}, {"*.down_projx", DType::i8}}});
  REQUIRE_FALSE(loaded);
  CHECK(loaded.error().code() == ErrorCode::invalid_argument);
  CHECK(loaded.error().message().find("*.down_projx") != std::string_view::npos);
}

TEST_CASE("quantize_directory says which option is wrong, and how") {
  const TempDirectory scratch;
  const fs::path source = kGoldens / "gqa2_tied";
  const auto message = [&](QuantizeOptions options) {
    const auto refused = quantize_directory(source, scratch / "out", std::move(options));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == ErrorCode::invalid_argument);
    return std::string(refused.error().message());
  };
  QuantizeOptions options;
  options.weights = {DType::i4, 48};
  CHECK(message(std::move(options)) ==
        "quantize_directory: options.weights: wanted an i4 group of 32, 64 or 128, got 48");
  options = {};
  options.rules = {{"*", {DType::i4, 0}}};
  CHECK(message(std::move(options)).find("rules: wanted an i4 group") != std::string::npos);
  options = {};
  options.weights = DType::f16;
  CHECK(message(std::move(options)) ==
        "quantize_directory: options.weights: wanted f32, bf16, i8 or i4, got f16");
  CHECK(fs::is_empty(scratch.path()));
}

TEST_CASE("Quantizing takes a host's memory, and can be given up anywhere") {
  class Counted final : public std::pmr::memory_resource {
   public:
    std::size_t live = 0, peak = 0;

   private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override {
      live += bytes;
      peak = std::max(peak, live);
      return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    }
    void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
      live -= bytes;
      std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
    }
    bool do_is_equal(const memory_resource& other) const noexcept override {
      return this == &other;
    }
  } memory;  // not made for several threads: one may use it
  const TempDirectory scratch;
  std::uint64_t largest = 0;
  const auto options = [&] {
    QuantizeOptions some;
    some.samples = some_samples(must(ModelConfig::load(kTiny)).vocab_size);
    some.static_inputs = true;
    some.host.memory = &memory;
    some.threads = 4;
    return some;
  };
  for (const MatrixReport& matrix :
       must(quantize_directory(kTiny, scratch / "out", options())).matrices)
    largest = std::max(largest, std::uint64_t{matrix.bytes});
  CHECK(memory.live == 0);
  CHECK(memory.peak >= 2 * largest);  // a packed matrix, and its bytes
  CHECK(logits_of(scratch / "out").size() > 0);

  std::size_t asked = 0;
  for (std::size_t until = 1;; until += 7) {  // until nobody asks so often
    QuantizeOptions some = options();
    asked = 0;
    some.cancelled = [&] { return ++asked == until; };
    const auto given_up = quantize_directory(kTiny, scratch / "again", std::move(some));
    if (given_up) break;
    CHECK(given_up.error().code() == ErrorCode::cancelled);
    CHECK(memory.live == 0);
    CHECK(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()) == 1);
  }
  CHECK(asked > 17);  // a piece of samples, and each of 17 matrices
}

TEST_CASE("Smoothing changes nothing that f32 can see") {
  for (const char* name : {"attention_bias", "gqa2_tied"}) {
    INFO(name);
    const fs::path source = kGoldens / name;
    const TempDirectory scratch;
    const std::int32_t vocab = must(ModelConfig::load(source)).vocab_size;
    must(quantize_directory(
        source, scratch / "out",
        {.weights = DType::f32, .samples = some_samples(vocab), .smooth_alpha = 0.6f}));
    const std::vector<float> smoothed = logits_of(scratch / "out"), exact = logits_of(source);
    CHECK_FALSE(same_bits(smoothed, exact));  // or nothing was done
    CHECK(distance(smoothed, exact) <= 1e-5);
  }
}

TEST_CASE("Fixed scales of inputs are what the samples showed") {
  const fs::path source = kGoldens / "attention_bias";
  const TempDirectory scratch;
  const std::int32_t vocab = must(ModelConfig::load(source)).vocab_size;
  const QuantizeReport report = must(quantize_directory(source, scratch / "out",
                                                        {.weights = DType::i8,
                                                         .rules = {{"lm_head", DType::bf16}},
                                                         .samples = some_samples(vocab),
                                                         .static_inputs = true}));
  std::size_t fixed = 0;
  for (const MatrixReport& matrix : report.matrices) fixed += matrix.input_scale > 0.0f ? 1u : 0u;
  CHECK(fixed == report.matrices.size() - 2);  // a table that is looked up, a matrix that is bf16
  // A norm's output reaches at most sqrt(d) times its weight.
  const ModelConfig config = must(ModelConfig::load(source));
  EditableModel tensors(source);
  float largest = 0.0f;
  for (const float w : tensors.tensors["model.layers.0.input_layernorm.weight"].values)
    largest = std::max(largest, std::fabs(w));
  const auto qkv =
      std::ranges::find(report.matrices, "model.layers.0.self_attn.qkv_proj", &MatrixReport::name);
  CHECK(qkv->input_scale * 127.0f <=
        largest * std::sqrt(static_cast<float>(config.hidden_size)) * 1.0001f);
  const std::vector<float> exact = logits_of(source);
  const double fixed_off = distance(logits_of(scratch / "out"), exact);
  const double own_off = distance(
      logits_of(source, {.weights = DType::i8, .weight_rules = {{"lm_head", DType::bf16}}}), exact);
  std::printf("i8 with fixed input scales %.4f, with each row's own %.4f away from f32\n",
              fixed_off, own_off);
  CHECK(fixed_off <= 0.1);
}

TEST_CASE("Calibration over inputs that are never finite is refused") {
  EditableModel model(kTiny);
  model.tensors.at("model.layers.0.input_layernorm.weight").values[3] =
      std::numeric_limits<float>::quiet_NaN();
  const TempDirectory spoiled, scratch;
  model.write(spoiled.path(), kTiny);
  const std::int32_t vocab = must(ModelConfig::load(kTiny)).vocab_size;
  const auto refused = quantize_directory(
      spoiled.path(), scratch / "out",
      {.weights = DType::i8, .samples = some_samples(vocab), .smooth_alpha = 0.5f});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == ErrorCode::bad_model);
  CHECK(refused.error().message().find("wanted finite ones") != std::string_view::npos);
  CHECK_FALSE(fs::exists(scratch / "out"));
}

TEST_CASE("Planted outliers: smoothing and mixed precision each undo most of the harm") {
  // The function stays the same: what a channel gains in the norm it loses in the weights. But
  // rounding a row of inputs now has to reach values a hundred times the others.
  const fs::path plain_source = kTiny;
  const std::vector<float> exact = logits_of(plain_source);
  const double before = distance(logits_of(plain_source, {.weights = DType::i8}), exact);

  EditableModel model(plain_source);
  const ModelConfig config = must(ModelConfig::load(plain_source));
  const std::int32_t planted_layer = 1;
  for (std::int32_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const std::int64_t channel : {7, 50, 131}) {
      const float factor = 300.0f;
      const auto plant = [&](const char* norm, std::initializer_list<const char*> matrices) {
        model.tensors.at(layer + norm).values[static_cast<std::size_t>(channel)] *= factor;
        for (const char* name : matrices) {
          EditableModel::Tensor& matrix = model.tensors.at(layer + name);
          for (std::int64_t row = 0; row < matrix.shape[0]; ++row)
            matrix.at(row, channel) /= factor;
        }
      };
      plant("input_layernorm.weight",
            {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"});
      if (i == planted_layer)
        plant("post_attention_layernorm.weight", {"mlp.gate_proj.weight", "mlp.up_proj.weight"});
    }
  }
  const TempDirectory planted, scratch;
  model.write(planted.path(), plain_source);
  CHECK(distance(logits_of(planted.path()), exact) <= 1e-4);  // the same function

  const double harmed = distance(logits_of(planted.path(), {.weights = DType::i8}), exact);
  must(quantize_directory(
      planted.path(), scratch / "smooth",
      {.weights = DType::i8, .samples = some_samples(config.vocab_size), .smooth_alpha = 0.5f}));
  const double smoothed = distance(logits_of(scratch / "smooth"), exact);
  const double mixed =
      distance(logits_of(planted.path(), {.weights = DType::i8,
                                          .weight_rules = {{"*.qkv_proj", DType::bf16},
                                                           {"*.1.mlp.gate_up_proj", DType::bf16}}}),
               exact);
  std::printf("outliers: i8 without %.4f, with %.4f, smoothed %.4f, mixed %.4f away from f32\n",
              before, harmed, smoothed, mixed);
  CHECK(harmed >= 3.0 * before);
  CHECK(smoothed <= harmed / 2.5);
  CHECK(mixed <= harmed / 2.5);
}

TEST_CASE("A budget goes to the matrix that needs it: outliers in the weights of one layer") {
  const std::vector<float> exact = logits_of(kTiny);
  EditableModel model(kTiny);
  const ModelConfig config = must(ModelConfig::load(kTiny));
  // down(up(x) * gate): what up gains, down loses; groups of down's weights get one giant each.
  EditableModel::Tensor& up = model.tensors.at("model.layers.2.mlp.up_proj.weight");
  EditableModel::Tensor& down = model.tensors.at("model.layers.2.mlp.down_proj.weight");
  for (std::int64_t channel = 3; channel < config.intermediate_size; channel += 32) {
    for (std::int64_t j = 0; j < up.shape[1]; ++j) up.at(channel, j) /= 64.0f;
    for (std::int64_t row = 0; row < down.shape[0]; ++row) down.at(row, channel) *= 64.0f;
  }
  const TempDirectory planted, scratch;
  model.write(planted.path(), kTiny);
  CHECK(distance(logits_of(planted.path()), exact) <= 1e-4);

  const QuantizeReport small =
      must(quantize_directory(planted.path(), scratch / "i4", {.weights = DType::i4}));
  std::uint64_t down_bytes = 0, matrices = 0;
  for (const MatrixReport& matrix : small.matrices) {
    matrices += matrix.bytes;
    if (matrix.name == "model.layers.2.mlp.down_proj") down_bytes = matrix.bytes;
  }
  const std::uint64_t budget = matrices + 3 * down_bytes;  // that one as bf16, or a few as i8
  const QuantizeReport mixed = must(quantize_directory(planted.path(), scratch / "mixed",
                                                       {.weights = DType::i4,
                                                        .samples = some_samples(config.vocab_size),
                                                        .budget = {.max_bytes = budget}}));
  std::uint64_t taken = 0;
  for (const MatrixReport& matrix : mixed.matrices) taken += matrix.bytes;
  CHECK(taken <= budget);
  const auto down_proj =
      std::ranges::find(mixed.matrices, "model.layers.2.mlp.down_proj", &MatrixReport::name);
  CHECK(down_proj->format.dtype != DType::i4);
  const double i4 = distance(logits_of(scratch / "i4"), exact);
  const double with_budget = distance(logits_of(scratch / "mixed"), exact);
  std::printf("outliers in weights: i4 %.4f, with a budget for one matrix %.4f away from f32\n", i4,
              with_budget);
  CHECK(with_budget <= 0.8 * i4);
}
