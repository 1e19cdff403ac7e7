// libFuzzer target: config.json, and the same text as generation_config.json. Whatever is accepted
// must be a config with which no size can wrap.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ciuic/model/generation_config.hpp"
#include "ciuic/model/model_config.hpp"

using namespace ciuic;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

bool is_positive(double value) { return std::isfinite(value) && value > 0.0; }

void check_promises(const ModelConfig& c) {
  require(c.hidden_size > 0 && c.intermediate_size > 0 && c.vocab_size > 0);
  require(c.num_hidden_layers > 0 && c.num_hidden_layers <= 1000);
  require(c.num_attention_heads > 0 && c.num_key_value_heads > 0);
  require(c.num_attention_heads % c.num_key_value_heads == 0);
  require(c.head_dim > 0 && c.head_dim % 2 == 0);
  require(c.max_position_embeddings > 0);
  require(is_positive(c.rms_norm_eps) && is_positive(c.rope_theta));
  require(is_positive(c.rope_scaling.factor));
  require(is_positive(c.rope_scaling.low_frequency_factor));
  require(c.rope_scaling.high_frequency_factor > c.rope_scaling.low_frequency_factor);
  const double widest = std::fmax(
      c.vocab_size, std::fmax(c.intermediate_size, double{1} * c.num_attention_heads * c.head_dim));
  require(widest * c.hidden_size * c.num_hidden_layers * 10.0 * 8.0 < 9.2e18);
  for (std::int32_t id : c.eos_token_ids) require(id >= 0 && id < c.vocab_size);
  if (c.bos_token_id) require(*c.bos_token_id >= 0 && *c.bos_token_id < c.vocab_size);
  if (c.pad_token_id) require(*c.pad_token_id >= 0 && *c.pad_token_id < c.vocab_size);
}

void check_refusal(const Error& error) {
  require(error.code() == ErrorCode::bad_model || error.code() == ErrorCode::unsupported);
  require(error.message().size() < 500);
  for (char c : error.message()) require(static_cast<unsigned char>(c) >= 0x20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Result<ModelConfig> config = ModelConfig::parse(text);
  config ? check_promises(*config) : check_refusal(config.error());
  const Result<GenerationConfig> generation = GenerationConfig::parse(text, 1000);
  if (!generation) check_refusal(generation.error());
  return 0;
}
