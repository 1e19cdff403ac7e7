#include "ciuic/model/llama_weight_map.hpp"

#include <string>
#include <vector>

#include "base/try.hpp"
#include "ciuic/base/tensor_view.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

std::string to_text(std::span<const std::int64_t> extents) {
  std::string text = "[";
  for (std::int64_t extent : extents) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text += "]";
}

/// Every tensor that a Llama of `config` has, in the order of the computation: calls
/// `visit(name, shape, meaning)`, where `meaning` says in config.json's words what the extents are.
template <class Visit>
class Walk {
 public:
  Walk(const ModelConfig& config, Visit visit) : config_(config), visit_(std::move(visit)) {}

  Result<void> all() {
    const std::int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
    constexpr std::string_view kVocab = "(vocab_size, hidden_size)";
    CIUIC_TRY(visit_("model.embed_tokens.weight", Shape{vocab, hidden}, kVocab));
    for (std::int32_t i = 0; i < config_.num_hidden_layers; ++i) CIUIC_TRY(layer(i));
    CIUIC_TRY(visit_("model.norm.weight", Shape{hidden}, kNorm));
    if (config_.tie_word_embeddings) return {};
    return visit_("lm_head.weight", Shape{vocab, hidden}, kVocab);
  }

 private:
  static constexpr std::string_view kNorm = "(hidden_size)";
  /// An extent, and what config.json calls it.
  struct Extent {
    std::int64_t size;
    std::string_view name;
  };

  /// The weight [out, in] of a linear layer y = x W^T + b, and its bias [out] if it has one.
  Result<void> linear(const std::string& name, Extent out, Extent in, bool bias) {
    const std::string out_name(out.name);
    CIUIC_TRY(visit_(name + ".weight", Shape{out.size, in.size},
                     "(" + out_name + ", " + std::string(in.name) + ")"));
    if (bias) CIUIC_TRY(visit_(name + ".bias", Shape{out.size}, "(" + out_name + ")"));
    return {};
  }

  Result<void> layer(std::int32_t number) {
    const ModelConfig& c = config_;
    const std::string prefix = "model.layers." + std::to_string(number) + ".";
    const Extent hidden{c.hidden_size, "hidden_size"};
    const Extent ffn{c.intermediate_size, "intermediate_size"};
    const Extent q{std::int64_t{c.num_attention_heads} * c.head_dim,
                   "num_attention_heads * head_dim"};
    const Extent kv{std::int64_t{c.num_key_value_heads} * c.head_dim,
                    "num_key_value_heads * head_dim"};
    const bool attention = c.attention_bias, mlp = c.mlp_bias;
    CIUIC_TRY(visit_(prefix + "input_layernorm.weight", Shape{hidden.size}, kNorm));
    CIUIC_TRY(linear(prefix + "self_attn.q_proj", q, hidden, attention));
    CIUIC_TRY(linear(prefix + "self_attn.k_proj", kv, hidden, attention));
    CIUIC_TRY(linear(prefix + "self_attn.v_proj", kv, hidden, attention));
    CIUIC_TRY(linear(prefix + "self_attn.o_proj", hidden, q, attention));
    CIUIC_TRY(visit_(prefix + "post_attention_layernorm.weight", Shape{hidden.size}, kNorm));
    CIUIC_TRY(linear(prefix + "mlp.gate_proj", ffn, hidden, mlp));
    CIUIC_TRY(linear(prefix + "mlp.up_proj", ffn, hidden, mlp));
    return linear(prefix + "mlp.down_proj", hidden, ffn, mlp);
  }

  const ModelConfig& config_;
  Visit visit_;
};

Result<void> check(const WeightFiles& weights, const std::string& name, const Shape& shape,
                   std::string_view meaning) {
  const TensorInfo* tensor = weights.find(name);
  if (tensor == nullptr) {
    const std::string& file = weights.files().front().name();
    return Error(ErrorCode::bad_model,
                 {file, weights.files().size() > 1 ? " and its fellows" : "", ": ", name,
                  ": wanted shape ", to_text(shape.extents()), " ", meaning, ", got no tensor"});
  }
  const std::string& file = weights.file_of(*tensor).name();
  if (Shape(tensor->shape) != shape) {
    return Error(ErrorCode::bad_model,
                 {file, ": ", name, ": wanted shape ", to_text(shape.extents()), " ", meaning,
                  ", got ", to_text(tensor->shape)});
  }
  if (tensor->dtype != FileDType::f32 && tensor->dtype != FileDType::f16 &&
      tensor->dtype != FileDType::bf16) {
    return Error(
        ErrorCode::unsupported,
        {file, ": ", name, ": dtype: wanted F32, F16 or BF16, got ", to_string(tensor->dtype)});
  }
  return {};
}

}  // namespace

Result<void> check_llama_weights(const ModelConfig& config, const WeightFiles& weights) {
  return Walk(config,
              [&](const std::string& name, const Shape& shape, std::string_view meaning) {
                return check(weights, name, shape, meaning);
              })
      .all();
}

Result<WeightFiles> random_llama_weights(const ModelConfig& config, std::uint64_t seed) {
  std::vector<NamedShape> tensors;
  const auto add = [&](const std::string& name, const Shape& shape,
                       std::string_view) -> Result<void> {
    tensors.push_back({name, shape});
    return {};
  };
  CIUIC_TRY(Walk(config, add).all());
  return WeightFiles::random(tensors, seed);
}

Result<void> check_llama_vectors(const ModelConfig& config, const WeightFiles& weights) {
  return Walk(config,
              [&](const std::string& name, const Shape& shape,
                  std::string_view meaning) -> Result<void> {
                if (shape.rank() != 1) return {};
                return check(weights, name, shape, meaning);
              })
      .all();
}

}  // namespace ciuic::inline CIUIC_ABI
