#include "model/decoder_matrices.hpp"

#include <algorithm>

#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {

std::vector<MatrixSpec> decoder_matrices(const ModelConfig& c) {
  using Form = PackedMatrix::Form;
  const std::int64_t d_model = c.hidden_size, d_ff = c.intermediate_size;
  const std::int64_t attended = std::int64_t{c.num_attention_heads} * c.head_dim;
  const std::int64_t qkv = attended + 2 * std::int64_t{c.num_key_value_heads} * c.head_dim;
  std::vector<MatrixSpec> all;
  all.push_back(
      {"model.embed_tokens", {"model.embed_tokens.weight"}, c.vocab_size, d_model, Form::plain});
  if (!c.tie_word_embeddings) {
    all.push_back(
        {"lm_head", {"lm_head.weight"}, c.vocab_size, d_model, Form::plain, "model.norm.weight"});
  }
  for (std::int32_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    all.push_back(
        {attention + "qkv_proj",
         {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"},
         qkv,
         d_model,
         Form::plain,
         layer + "input_layernorm.weight"});
    all.push_back(
        {attention + "o_proj", {attention + "o_proj.weight"}, d_model, attended, Form::plain});
    all.push_back({mlp + "gate_up_proj",
                   {mlp + "gate_proj.weight", mlp + "up_proj.weight"},
                   2 * d_ff,
                   d_model,
                   Form::gated,
                   layer + "post_attention_layernorm.weight"});
    all.push_back({mlp + "down_proj", {mlp + "down_proj.weight"}, d_model, d_ff, Form::plain});
  }
  return all;
}

std::vector<VectorSpec> decoder_vectors(const ModelConfig& c) {
  const std::int64_t d_model = c.hidden_size, d_ff = c.intermediate_size;
  const std::int64_t q = std::int64_t{c.num_attention_heads} * c.head_dim;
  const std::int64_t kv = std::int64_t{c.num_key_value_heads} * c.head_dim;
  std::vector<VectorSpec> all{{"model.norm.weight", d_model}};
  for (std::int32_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    all.push_back({layer + "input_layernorm.weight", d_model});
    all.push_back({layer + "post_attention_layernorm.weight", d_model});
    if (c.attention_bias) {
      all.push_back({layer + "self_attn.q_proj.bias", q});
      all.push_back({layer + "self_attn.k_proj.bias", kv});
      all.push_back({layer + "self_attn.v_proj.bias", kv});
      all.push_back({layer + "self_attn.o_proj.bias", d_model});
    }
    if (c.mlp_bias) {
      all.push_back({layer + "mlp.gate_proj.bias", d_ff});
      all.push_back({layer + "mlp.up_proj.bias", d_ff});
      all.push_back({layer + "mlp.down_proj.bias", d_model});
    }
  }
  return all;
}

const FormatRule* unused_rule(std::span<const FormatRule> rules,
                              std::span<const MatrixSpec> specs) noexcept {
  for (const FormatRule& rule : rules) {
    const bool used = std::ranges::any_of(
        specs, [&](const MatrixSpec& spec) { return matches(rule.pattern, spec.name); });
    if (!used) return &rule;
  }
  return nullptr;
}

Result<MatrixSource> matrix_source(const WeightFiles& files, const MatrixSpec& spec) {
  std::vector<const TensorInfo*> parts;
  for (const std::string& name : spec.parts) {
    parts.push_back(files.find(name));
    if (parts.back() == nullptr)
      return Error(ErrorCode::internal, {name, ": lost after the check"});
  }
  MatrixSource source;
  source.rows = spec.rows;
  source.cols = spec.cols;
  source.form = spec.form;
  source.read_rows = [&files, parts = std::move(parts), cols = spec.cols](
                         std::int64_t first, std::span<float> out) -> Result<void> {
    for (const TensorInfo* part : parts) {
      if (out.empty()) break;
      if (first >= part->shape[0]) {
        first -= part->shape[0];
        continue;
      }
      const auto rows = std::min<std::int64_t>(part->shape[0] - first,
                                               static_cast<std::int64_t>(out.size()) / cols);
      const auto values = static_cast<std::size_t>(rows * cols);
      CIUIC_TRY(files.read_rows_f32(*part, first, out.first(values)));
      out = out.subspan(values);
      first = 0;
    }
    return {};
  };
  return source;
}

}  // namespace ciuic::inline CIUIC_ABI
