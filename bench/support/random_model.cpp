#include "support/random_model.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "ciuic/base/dtype.hpp"
#include "ciuic/model/safetensors.hpp"

namespace ciuic::bench {
namespace {
constexpr int kModel = 768, kFfn = 2048;
}

void fail(const Error& error) {
  std::fprintf(stderr, "benchmark: %s\n", std::string(error.message()).c_str());
  std::exit(1);
}

void ensure_random_model(const std::filesystem::path& directory, int layers) {
  if (std::filesystem::exists(directory / "model.safetensors")) return;
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": )"
      << layers << R"(, "num_attention_heads": 12,
"num_key_value_heads": 12, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32000,
"max_position_embeddings": 1024, "tie_word_embeddings": false, "hidden_act": "silu", "bos_token_id": 1,
"eos_token_id": 2})";
  std::mt19937 random(42);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<std::uint16_t> noise(1 << 20);  // tiled: weights need to be varied, not all distinct
  for (std::uint16_t& x : noise) x = bf16::from_float(normal(random)).bits;

  struct Tensor {
    std::string name;
    Shape shape;
    std::vector<std::uint16_t> values;
  };
  std::vector<Tensor> tensors;
  const auto matrix = [&](std::string name, std::int64_t rows, std::int64_t cols) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(rows * cols));
    std::size_t at = random() % noise.size();
    for (std::uint16_t& value : values) {
      value = noise[at];
      at = (at + 1) % noise.size();
    }
    tensors.push_back({std::move(name), Shape{rows, cols}, std::move(values)});
  };
  const auto norm = [&](std::string name) {
    tensors.push_back({std::move(name), Shape{kModel},
                       std::vector<std::uint16_t>(kModel, bf16::from_float(1.0f).bits)});
  };
  matrix("model.embed_tokens.weight", kRandomModelVocab, kModel);
  for (int i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    norm(layer + "input_layernorm.weight");
    norm(layer + "post_attention_layernorm.weight");
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      matrix(layer + "self_attn." + name + ".weight", kModel, kModel);
    }
    matrix(layer + "mlp.gate_proj.weight", kFfn, kModel);
    matrix(layer + "mlp.up_proj.weight", kFfn, kModel);
    matrix(layer + "mlp.down_proj.weight", kModel, kFfn);
  }
  norm("model.norm.weight");
  matrix("lm_head.weight", kRandomModelVocab, kModel);

  std::vector<NamedTensor> named;
  for (const Tensor& tensor : tensors) {
    named.push_back(
        {tensor.name, {std::as_bytes(std::span(tensor.values)).data(), DType::bf16, tensor.shape}});
  }
  const Result<void> written = write_safetensors(directory / "model.safetensors", named);
  if (!written) fail(written.error());
}

}  // namespace ciuic::bench
