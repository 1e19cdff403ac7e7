#include "model/decoder.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "base/json.hpp"
#include "base/try.hpp"
#include "model/decoder_matrices.hpp"
#include "model/in_parallel.hpp"
#include "model/packed_directory.hpp"
#include "model/rope.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kF32 = sizeof(float);

Result<DeviceBuffer> upload(const Backend& backend, Queue& queue, std::span<const float> values) {
  CIUIC_ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::allocate(backend, values.size_bytes()));
  queue.copy_to_device(buffer.data(), std::as_bytes(values));
  CIUIC_TRY(queue.synchronize());
  return buffer;
}

TensorView view(const DeviceBuffer& buffer, std::int64_t rows, std::int64_t cols) {
  return {buffer.data(), DType::f32, Shape{rows, cols}};
}
ConstTensorView vector_view(const DeviceBuffer& buffer) {
  return {buffer.data(), DType::f32, Shape{static_cast<std::int64_t>(buffer.size() / kF32)}};
}
ConstTensorView bias_view(const DeviceBuffer& buffer) {
  return buffer.size() == 0 ? ConstTensorView{} : vector_view(buffer);
}

}  // namespace

Result<DecoderWeights> DecoderWeights::load(const ModelConfig& config, const WeightFiles& files,
                                            const Backend& backend, const WeightOptions& options) {
  DecoderWeights weights;
  const std::vector<MatrixSpec> specs = decoder_matrices(config);
  std::vector<PackedEntry> packed;
  if (is_packed(files)) {
    CIUIC_ASSIGN_OR_RETURN(packed, read_packed_table(files, specs));
  } else if (const FormatRule* unused = unused_rule(options.rules, specs); unused != nullptr) {
    return Error(ErrorCode::invalid_argument,
                 {"load: options.weight_rules: wanted patterns that match a matrix, got ",
                  quoted_excerpt(unused->pattern)});
  }
  std::vector<std::unique_ptr<PackedMatrix>> matrices(specs.size());
  const auto load_matrix = [&](std::size_t i) -> Result<void> {
    const MatrixSpec& spec = specs[i];
    if (!packed.empty()) {
      CIUIC_ASSIGN_OR_RETURN(PackedSource source,
                             packed_source(files, spec, packed[i], options.map));
      CIUIC_ASSIGN_OR_RETURN(matrices[i], backend.load_packed(std::move(source)));
      return {};
    }
    const MatrixFormat format = format_of(spec.name, options.rules, options.format);
    CIUIC_ASSIGN_OR_RETURN(MatrixSource source, matrix_source(files, spec));
    CIUIC_ASSIGN_OR_RETURN(matrices[i], backend.pack(std::move(source), format));
    return {};
  };
  CIUIC_TRY(in_parallel(specs.size(), options.threads, load_matrix));
  for (const auto& matrix : matrices) weights.bytes_ += matrix->bytes();

  CIUIC_ASSIGN_OR_RETURN(const std::unique_ptr<Queue> queue, backend.make_queue({.threads = 1}));
  // check_llama_weights has seen every name and shape; a miss here is a bug, not a bad file.
  const auto read_vectors = [&](std::vector<std::string> names) -> Result<DeviceBuffer> {
    std::vector<float> values;
    for (const std::string& name : names) {
      const TensorInfo* tensor = files.find(name);
      if (tensor == nullptr) return Error(ErrorCode::internal, {name, ": lost after the check"});
      const std::size_t at = values.size();
      values.resize(at + static_cast<std::size_t>(tensor->shape[0]));
      CIUIC_TRY(files.read_rows_f32(*tensor, 0, std::span(values).subspan(at)));
    }
    weights.bytes_ += values.size() * kF32;
    return upload(backend, *queue, values);
  };
  CIUIC_ASSIGN_OR_RETURN(weights.final_norm_, read_vectors({"model.norm.weight"}));
  CIUIC_ASSIGN_OR_RETURN(weights.rope_frequencies_,
                         upload(backend, *queue, rope_frequencies(config)));

  auto next = matrices.begin();  // in the order of decoder_matrices
  weights.embedding_ = std::move(*next++);
  if (!config.tie_word_embeddings) weights.head_ = std::move(*next++);
  for (std::int32_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    Layer& to = weights.layers_.emplace_back();
    for (auto* matrix : {&to.qkv, &to.out, &to.gate_up, &to.down}) *matrix = std::move(*next++);
    CIUIC_ASSIGN_OR_RETURN(to.attention_norm, read_vectors({layer + "input_layernorm.weight"}));
    CIUIC_ASSIGN_OR_RETURN(to.mlp_norm, read_vectors({layer + "post_attention_layernorm.weight"}));
    if (config.attention_bias) {
      CIUIC_ASSIGN_OR_RETURN(to.qkv_bias,
                             read_vectors({attention + "q_proj.bias", attention + "k_proj.bias",
                                           attention + "v_proj.bias"}));
      CIUIC_ASSIGN_OR_RETURN(to.out_bias, read_vectors({attention + "o_proj.bias"}));
    }
    if (config.mlp_bias) {
      CIUIC_ASSIGN_OR_RETURN(to.gate_up_bias,
                             read_vectors({mlp + "gate_proj.bias", mlp + "up_proj.bias"}));
      CIUIC_ASSIGN_OR_RETURN(to.down_bias, read_vectors({mlp + "down_proj.bias"}));
    }
  }
  return weights;
}

Result<void> DecoderWeights::reserve(Queue& queue, std::int32_t max_tokens,
                                     std::int32_t max_logits) const {
  for (const Layer& layer : layers_) {
    for (const auto* normed : {&layer.qkv, &layer.gate_up})
      CIUIC_TRY(queue.reserve_matmul(**normed, max_tokens, true));
    for (const auto* plain : {&layer.out, &layer.down})
      CIUIC_TRY(queue.reserve_matmul(**plain, max_tokens, false));
  }
  return queue.reserve_matmul(head_ ? *head_ : *embedding_, max_logits, true);
}

Result<DecoderWorkspace> DecoderWorkspace::create(const ModelConfig& config, const Backend& backend,
                                                  std::int32_t max_tokens,
                                                  std::int32_t max_sequences,
                                                  std::int32_t max_choices,
                                                  std::int32_t max_pages_per_sequence) {
  DecoderWorkspace work;
  work.config_ = config;
  work.max_tokens_ = max_tokens;
  work.max_sequences_ = max_sequences;
  work.max_choices_ = max_choices;
  work.max_pages_ = max_pages_per_sequence;
  const auto tokens = static_cast<std::size_t>(max_tokens),
             choices = static_cast<std::size_t>(max_choices);
  const auto allocate = [&](DeviceBuffer& buffer, std::size_t rows,
                            std::int64_t cols) -> Result<void> {
    CIUIC_ASSIGN_OR_RETURN(
        buffer, DeviceBuffer::allocate(backend, rows * static_cast<std::size_t>(cols) * kF32));
    work.bytes_ += buffer.size();
    return {};
  };
  const std::int64_t d_model = config.hidden_size, head_dim = config.head_dim;
  const std::int64_t attended = config.num_attention_heads * head_dim;
  CIUIC_TRY(allocate(work.indices_, 1,
                     2 * std::int64_t{max_tokens} +
                         std::int64_t{max_sequences} * (2 + max_pages_per_sequence) + 1 +
                         std::int64_t{max_choices}));
  CIUIC_TRY(allocate(work.x_, tokens, d_model));
  CIUIC_TRY(allocate(work.qkv_, tokens, attended + 2 * config.num_key_value_heads * head_dim));
  CIUIC_TRY(allocate(work.attended_, tokens, attended));
  CIUIC_TRY(allocate(work.ffn_, tokens, config.intermediate_size));
  CIUIC_TRY(allocate(work.rope_, tokens, head_dim));
  CIUIC_TRY(allocate(work.picked_, choices, d_model));
  CIUIC_TRY(allocate(work.logits_, choices, config.vocab_size));
  work.staging_.reserve(work.indices_.size() / sizeof(std::int32_t));
  return work;
}

Result<void> DecoderWorkspace::forward(const DecoderWeights& weights, KvCache& cache, Queue& queue,
                                       const ForwardBatch& batch, std::span<float> logits) {
  // Lay the step's indices out in one block: one copy to the device, whatever the batch.
  PackedBatch packed;
  packed.sequences = static_cast<std::int32_t>(batch.sequences.size());
  std::int32_t max_pages = 1;
  for (const SequenceStep& sequence : batch.sequences) {
    const auto tokens = static_cast<std::int32_t>(sequence.tokens.size());
    packed.tokens += tokens;
    packed.max_query_tokens = std::max(packed.max_query_tokens, tokens);
    packed.max_context_tokens =
        std::max(packed.max_context_tokens, sequence.first_position + tokens);
    max_pages = std::max(max_pages, static_cast<std::int32_t>(sequence.pages.size()));
  }
  staging_.clear();
  const auto block = [&](Shape shape, auto fill) {
    const std::size_t offset = staging_.size() * sizeof(std::int32_t);
    fill();
    return ConstTensorView{indices_.data() + offset, DType::i32, shape};
  };
  const ConstTensorView ids = block({packed.tokens}, [&] {
    for (const SequenceStep& s : batch.sequences)
      staging_.insert(staging_.end(), s.tokens.begin(), s.tokens.end());
  });
  packed.positions = block({packed.tokens}, [&] {
    for (const SequenceStep& s : batch.sequences) {
      for (std::size_t i = 0; i < s.tokens.size(); ++i)
        staging_.push_back(s.first_position + static_cast<std::int32_t>(i));
    }
  });
  packed.sequence_starts = block({packed.sequences + 1}, [&] {
    std::int32_t start = 0;
    for (const SequenceStep& s : batch.sequences) {
      staging_.push_back(start);
      start += static_cast<std::int32_t>(s.tokens.size());
    }
    staging_.push_back(start);
  });
  packed.context_lengths = block({packed.sequences}, [&] {
    for (const SequenceStep& s : batch.sequences)
      staging_.push_back(s.first_position + static_cast<std::int32_t>(s.tokens.size()));
  });
  packed.page_tables = block({packed.sequences, max_pages}, [&] {
    for (const SequenceStep& s : batch.sequences) {
      staging_.insert(staging_.end(), s.pages.begin(), s.pages.end());
      staging_.resize(staging_.size() + static_cast<std::size_t>(max_pages) - s.pages.size(), 0);
    }
  });
  const auto picks = static_cast<std::int64_t>(batch.logit_rows.size());
  const ConstTensorView rows = block({picks}, [&] {
    staging_.insert(staging_.end(), batch.logit_rows.begin(), batch.logit_rows.end());
  });
  queue.copy_to_device(indices_.data(), std::as_bytes(std::span(staging_)));

  const std::int64_t n = packed.tokens, d_model = config_.hidden_size, head_dim = config_.head_dim;
  const std::int64_t attended_cols = config_.num_attention_heads * head_dim;
  const AttentionShape attention{config_.num_attention_heads, config_.num_key_value_heads,
                                 config_.head_dim,
                                 1.0f / std::sqrt(static_cast<float>(config_.head_dim))};
  const auto epsilon = static_cast<float>(config_.rms_norm_eps);
  const TensorView x = view(x_, n, d_model);
  const TensorView qkv = view(qkv_, n, attended_cols + 2 * config_.num_key_value_heads * head_dim);
  const TensorView attended = view(attended_, n, attended_cols);
  const TensorView ffn = view(ffn_, n, config_.intermediate_size);
  const TensorView rope{rope_.data(), DType::f32, Shape{n, 2, head_dim / 2}};

  queue.embed(*weights.embedding_, ids, x);
  queue.rope_table(packed.positions, vector_view(weights.rope_frequencies_), 1.0f, rope);
  for (std::size_t i = 0; i < weights.layers_.size(); ++i) {
    const DecoderWeights::Layer& layer = weights.layers_[i];
    const auto index = static_cast<std::int32_t>(i);
    queue.matmul(x, *layer.qkv, qkv,
                 {.norm = vector_view(layer.attention_norm),
                  .norm_epsilon = epsilon,
                  .bias = bias_view(layer.qkv_bias)});
    queue.rotate_and_store(qkv, rope, packed, attention, cache, index);
    queue.attention(qkv, packed, attention, cache, index, attended);
    queue.matmul(attended, *layer.out, x, {.bias = bias_view(layer.out_bias), .accumulate = true});
    queue.matmul(x, *layer.gate_up, ffn,
                 {.norm = vector_view(layer.mlp_norm),
                  .norm_epsilon = epsilon,
                  .bias = bias_view(layer.gate_up_bias)});
    queue.matmul(ffn, *layer.down, x, {.bias = bias_view(layer.down_bias), .accumulate = true});
  }
  if (picks > 0) {  // only the rows that someone will read go through the final norm and the head
    const TensorView picked = view(picked_, picks, d_model),
                     out = view(logits_, picks, config_.vocab_size);
    queue.gather_rows(x, rows, picked);
    queue.matmul(picked, weights.head_ ? *weights.head_ : *weights.embedding_, out,
                 {.norm = vector_view(weights.final_norm_), .norm_epsilon = epsilon});
    queue.copy_to_host(std::as_writable_bytes(logits), out.data);
  }
  return queue.synchronize();
}

}  // namespace ciuic::inline CIUIC_ABI
