// ciuic inspect: what a model directory holds and what it would take to run.
#include <cstdio>
#include <memory>

#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "command.hpp"

namespace ciuic::tool {
namespace {

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::uint64_t elements(const TensorInfo& tensor) {
  return Shape(tensor.shape).elements().value_or(0);
}

/// Bytes of the weights when matrices are held as `dtype`; norms and biases stay f32.
std::uint64_t weights_bytes(const WeightFiles& files, DType dtype) {
  std::uint64_t bytes = 0;
  for (const TensorInfo* tensor : files.tensors()) {
    bytes += elements(*tensor) * bits_of(tensor->shape.size() == 2 ? dtype : DType::f32) / 8;
  }
  return bytes;
}

/// Weights of a model of this shape, matrices and vectors; a quantized directory's own tensors do
/// not say.
std::uint64_t parameters_of(const ModelConfig& c) {
  const auto wide = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
  const std::uint64_t d = wide(c.hidden_size), ffn = wide(c.intermediate_size);
  const std::uint64_t q = wide(c.num_attention_heads) * wide(c.head_dim);
  const std::uint64_t kv = wide(c.num_key_value_heads) * wide(c.head_dim);
  const std::uint64_t layer = 2 * d + d * (2 * q + 2 * kv) + 3 * d * ffn +
                              (c.attention_bias ? q + 2 * kv + d : 0) +
                              (c.mlp_bias ? 2 * ffn + d : 0);
  return wide(c.num_hidden_layers) * layer + d +
         wide(c.vocab_size) * d * (c.tie_word_embeddings ? 1 : 2);
}

/// What one token's keys and values take in all layers; 0 where the CPU has no attention for them.
std::uint64_t kv_bytes_per_token(const ModelConfig& config, DType dtype) {
  const auto backend = cpu_backend();
  if (!backend) throw Failure(kRequestFailed, backend.error());
  constexpr std::int32_t kTokens = 16;
  return (*backend)->kv_page_bytes({config.num_hidden_layers, config.num_key_value_heads,
                                    config.head_dim, kTokens, 1, dtype}) /
         kTokens;
}

void run(const ModelFlags& flags) {
  const Result<ModelConfig> config = ModelConfig::load(flags.directory);
  if (!config) throw Failure(flags.directory, config.error());
  const Result<WeightFiles> files = WeightFiles::open(flags.directory);
  if (!files) throw Failure(flags.directory, files.error());
  const auto kv_bytes = [&](DType dtype) { return kv_bytes_per_token(*config, dtype); };
  const bool quantized = !files->files().front().own_metadata().empty();
  std::uint64_t parameters = 0;
  Json tensors = Json::array();
  for (const TensorInfo* tensor : files->tensors()) {
    parameters += elements(*tensor);
    tensors.push_back(
        {{"name", tensor->name},
         {"dtype", to_string(tensor->dtype)},
         {"shape", std::vector<std::int64_t>(tensor->shape.begin(), tensor->shape.end())}});
  }
  if (quantized) parameters = parameters_of(*config);
  if (flags.json) {
    Json memory;
    if (quantized) {
      memory["quantized"] = files->parameter_bytes();
    } else {
      for (DType dtype : {DType::f32, DType::bf16, DType::i8, DType::i4})
        memory[std::string(to_string(dtype))] = weights_bytes(*files, dtype);
    }
    return print_json({{"config",
                        {{"model_type", "llama"},
                         {"layers", config->num_hidden_layers},
                         {"d_model", config->hidden_size},
                         {"heads", config->num_attention_heads},
                         {"kv_heads", config->num_key_value_heads},
                         {"head_dim", config->head_dim},
                         {"d_ff", config->intermediate_size},
                         {"vocab_size", config->vocab_size},
                         {"max_context_tokens", config->max_position_embeddings},
                         {"tied_embeddings", config->tie_word_embeddings}}},
                       {"parameters", parameters},
                       {"quantized", quantized},
                       {"memory",
                        {{"weights_bytes", memory},
                         {"kv_bytes_per_token",
                          {{"f32", kv_bytes(DType::f32)},
                           {"f16", kv_bytes(DType::f16)},
                           {"i8", kv_bytes(DType::i8)}}}}},
                       {"tensors", std::move(tensors)}});
  }
  std::printf(
      "llama: %d layers, d_model %d, %d heads (%d for keys and values) of %d, d_ff %d, vocabulary "
      "%d, context %d\n",
      config->num_hidden_layers, config->hidden_size, config->num_attention_heads,
      config->num_key_value_heads, config->head_dim, config->intermediate_size, config->vocab_size,
      config->max_position_embeddings);
  const auto kv_kib = [&](DType dtype) { return static_cast<double>(kv_bytes(dtype)) / 1024.0; };
  std::printf(
      "%.3f M parameters; a token's keys and values take %.1f KiB as f32, %.1f as f16, %.1f as "
      "i8\n\n",
      static_cast<double>(parameters) * 1e-6, kv_kib(DType::f32), kv_kib(DType::f16),
      kv_kib(DType::i8));
  if (quantized) {
    std::printf("quantized: weights take %8.1f MiB\n\n",
                static_cast<double>(files->parameter_bytes()) / 1048576.0);
  } else {
    std::printf("weights held as ");
    for (DType dtype : {DType::f32, DType::bf16, DType::i8, DType::i4}) {
      std::printf("  %s %8.1f MiB", std::string(to_string(dtype)).c_str(),
                  static_cast<double>(weights_bytes(*files, dtype)) / 1048576.0);
    }
    std::printf("\n\n");
  }
  for (const TensorInfo* tensor : files->tensors()) {
    std::printf("%-8s %-20s %s\n", std::string(to_string(tensor->dtype)).c_str(),
                shape_text(tensor->shape).c_str(), Json(tensor->name).dump().c_str());
  }
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto flags = std::make_shared<ModelFlags>();
  CLI::App* command = app.add_subcommand("inspect", "Show configuration, tensors and memory needs");
  command->add_option("--model", flags->directory, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  command->add_flag("--json", flags->json, "Print one JSON object on stdout");
  command->callback([flags] { run(*flags); });
}

}  // namespace ciuic::tool
