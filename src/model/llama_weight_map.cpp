#include "ciuic/model/llama_weight_map.hpp"

#include <string>

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

constexpr std::string_view kNorm = "(hidden_size)";

class Checker {
 public:
  explicit Checker(const WeightFiles& weights) noexcept : weights_(weights) {}

  /// `meaning` says in config.json's words what the extents are, for the message.
  Result<void> check(const std::string& name, const Shape& shape, std::string_view meaning) const {
    const TensorInfo* tensor = weights_.find(name);
    if (tensor == nullptr) {
      const std::string& file = weights_.files().front().name();
      return Error(ErrorCode::bad_model,
                   {file, weights_.files().size() > 1 ? " and its fellows" : "", ": ", name,
                    ": wanted shape ", to_text(shape.extents()), " ", meaning, ", got no tensor"});
    }
    const std::string& file = weights_.file_of(*tensor).name();
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
  /// An extent, and what config.json calls it.
  struct Extent {
    std::int64_t size;
    std::string_view name;
  };
  /// The weight [out, in] of a linear layer y = x W^T + b, and its bias [out] if it has one.
  Result<void> check_linear(const std::string& name, Extent out, Extent in, bool bias) const {
    const std::string out_name(out.name);
    CIUIC_TRY(check(name + ".weight", {out.size, in.size},
                    "(" + out_name + ", " + std::string(in.name) + ")"));
    if (bias) CIUIC_TRY(check(name + ".bias", {out.size}, "(" + out_name + ")"));
    return {};
  }

 private:
  const WeightFiles& weights_;
};

Result<void> check_layer(const ModelConfig& c, std::int32_t layer, const Checker& checker) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const Checker::Extent hidden{c.hidden_size, "hidden_size"};
  const Checker::Extent ffn{c.intermediate_size, "intermediate_size"};
  const Checker::Extent q{std::int64_t{c.num_attention_heads} * c.head_dim,
                          "num_attention_heads * head_dim"};
  const Checker::Extent kv{std::int64_t{c.num_key_value_heads} * c.head_dim,
                           "num_key_value_heads * head_dim"};
  const bool attention = c.attention_bias, mlp = c.mlp_bias;
  CIUIC_TRY(checker.check(prefix + "input_layernorm.weight", {hidden.size}, kNorm));
  CIUIC_TRY(checker.check_linear(prefix + "self_attn.q_proj", q, hidden, attention));
  CIUIC_TRY(checker.check_linear(prefix + "self_attn.k_proj", kv, hidden, attention));
  CIUIC_TRY(checker.check_linear(prefix + "self_attn.v_proj", kv, hidden, attention));
  CIUIC_TRY(checker.check_linear(prefix + "self_attn.o_proj", hidden, q, attention));
  CIUIC_TRY(checker.check(prefix + "post_attention_layernorm.weight", {hidden.size}, kNorm));
  CIUIC_TRY(checker.check_linear(prefix + "mlp.gate_proj", ffn, hidden, mlp));
  CIUIC_TRY(checker.check_linear(prefix + "mlp.up_proj", ffn, hidden, mlp));
  CIUIC_TRY(checker.check_linear(prefix + "mlp.down_proj", hidden, ffn, mlp));
  return {};
}

}  // namespace

Result<void> check_llama_weights(const ModelConfig& config, const WeightFiles& weights) {
  const Checker checker(weights);
  const std::int64_t hidden = config.hidden_size, vocab = config.vocab_size;
  constexpr std::string_view kVocab = "(vocab_size, hidden_size)";
  CIUIC_TRY(checker.check("model.embed_tokens.weight", {vocab, hidden}, kVocab));
  for (std::int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    CIUIC_TRY(check_layer(config, layer, checker));
  }
  CIUIC_TRY(checker.check("model.norm.weight", {hidden}, kNorm));
  if (!config.tie_word_embeddings) {
    CIUIC_TRY(checker.check("lm_head.weight", {vocab, hidden}, kVocab));
  }
  return {};
}

}  // namespace ciuic::inline CIUIC_ABI
