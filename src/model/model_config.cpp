#include "ciuic/model/model_config.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "base/json.hpp"
#include "base/try.hpp"
#include "model/json_fields.hpp"
#include "model/model_files.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kFileName = "config.json";

// A few times the largest published decoders, and small enough that every size of a tensor, and the
// sum over 1000 layers, is far below 2^63.
constexpr std::int32_t kMaxHiddenSize = 1 << 18;
constexpr std::int32_t kMaxIntermediateSize = 1 << 20;
constexpr std::int32_t kMaxHeads = 1 << 12;
constexpr std::int32_t kMaxHeadDim = 1 << 10;
constexpr std::int32_t kMaxPositions = 1 << 30;
constexpr std::size_t kMaxJsonValues = 20'000;  // configs have about a hundred

// What a key means that is left out (transformers, LlamaConfig).
constexpr double kDefaultRmsNormEps = 1e-6;
constexpr double kDefaultRopeTheta = 10'000.0;
constexpr std::int32_t kDefaultMaxPositions = 2048;
constexpr std::int32_t kDefaultBos = 1, kDefaultEos = 2;

constexpr NumberRange kThetaRange{.least = 1.0, .most = 1e12};
constexpr NumberRange kFactorRange{.least = 0.0, .most = 1e6, .above_least = true};

Result<void> check_family(const JsonFields& fields) {
  CIUIC_ASSIGN_OR_RETURN(const std::optional<std::string_view> type, fields.string("model_type"));
  if (!type) return fields.error("model_type", "\"llama\"", "nothing");
  if (*type != "llama") {
    return fields.error("model_type", "\"llama\"", quoted_excerpt(*type), ErrorCode::unsupported);
  }
  CIUIC_ASSIGN_OR_RETURN(const std::vector<std::string_view> architectures,
                         fields.strings("architectures"));
  if (!architectures.empty() &&
      std::ranges::find(architectures, "LlamaForCausalLM") == architectures.end()) {
    return fields.error("architectures", "\"LlamaForCausalLM\"",
                        quoted_excerpt(architectures.front()), ErrorCode::unsupported);
  }
  if (fields.has("quantization_config")) {
    return fields.error("quantization_config", "weights in F32, F16 or BF16", "quantized ones",
                        ErrorCode::unsupported);
  }
  CIUIC_ASSIGN_OR_RETURN(const std::optional<std::string_view> act, fields.string("hidden_act"));
  if (act && *act != "silu") {
    return fields.error("hidden_act", "\"silu\"", quoted_excerpt(*act), ErrorCode::unsupported);
  }
  return {};
}

/// A host may allow more than an int32 counts; the number itself is kept in one.
std::int32_t int32_limit(std::uint64_t limit) {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  return static_cast<std::int32_t>(std::min<std::uint64_t>(limit, kMost));
}

Result<void> read_sizes(const JsonFields& fields, const LoadLimits& limits, ModelConfig& config) {
  CIUIC_ASSIGN_OR_RETURN(config.hidden_size,
                         fields.required_integer("hidden_size", 1, kMaxHiddenSize));
  CIUIC_ASSIGN_OR_RETURN(config.intermediate_size,
                         fields.required_integer("intermediate_size", 1, kMaxIntermediateSize));
  CIUIC_ASSIGN_OR_RETURN(
      config.num_hidden_layers,
      fields.required_integer("num_hidden_layers", 1, int32_limit(limits.max_layers)));
  CIUIC_ASSIGN_OR_RETURN(config.vocab_size,
                         fields.required_integer("vocab_size", 1, int32_limit(limits.max_vocab)));
  CIUIC_ASSIGN_OR_RETURN(const auto positions,
                         fields.integer("max_position_embeddings", 1, kMaxPositions));
  config.max_position_embeddings = positions.value_or(kDefaultMaxPositions);
  return {};
}

Result<void> read_heads(const JsonFields& fields, ModelConfig& config) {
  CIUIC_ASSIGN_OR_RETURN(config.num_attention_heads,
                         fields.required_integer("num_attention_heads", 1, kMaxHeads));
  const std::int32_t heads = config.num_attention_heads;
  if (config.hidden_size % heads != 0) {
    return fields.error("num_attention_heads",
                        "a divisor of hidden_size " + std::to_string(config.hidden_size),
                        std::to_string(heads));
  }
  CIUIC_ASSIGN_OR_RETURN(const auto kv_heads, fields.integer("num_key_value_heads", 1, kMaxHeads));
  config.num_key_value_heads = kv_heads.value_or(heads);
  if (heads % config.num_key_value_heads != 0) {
    return fields.error("num_key_value_heads",
                        "a divisor of num_attention_heads " + std::to_string(heads),
                        std::to_string(config.num_key_value_heads));
  }
  CIUIC_ASSIGN_OR_RETURN(const auto head_dim, fields.integer("head_dim", 2, kMaxHeadDim));
  config.head_dim = head_dim.value_or(config.hidden_size / heads);
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    return fields.error(
        "head_dim", "an even number up to " + std::to_string(kMaxHeadDim),
        std::to_string(config.head_dim) + (head_dim ? "" : " (hidden_size / num_attention_heads)"));
  }
  return {};
}

Result<void> read_biases_and_norm(const JsonFields& fields, ModelConfig& config) {
  CIUIC_ASSIGN_OR_RETURN(const auto tied, fields.boolean("tie_word_embeddings"));
  CIUIC_ASSIGN_OR_RETURN(const auto attention_bias, fields.boolean("attention_bias"));
  CIUIC_ASSIGN_OR_RETURN(const auto mlp_bias, fields.boolean("mlp_bias"));
  CIUIC_ASSIGN_OR_RETURN(
      const auto eps,
      fields.number("rms_norm_eps", {.least = 0.0, .most = 1.0, .above_least = true}));
  config.tie_word_embeddings = tied.value_or(false);
  config.attention_bias = attention_bias.value_or(false);
  config.mlp_bias = mlp_bias.value_or(false);
  config.rms_norm_eps = eps.value_or(kDefaultRmsNormEps);
  return {};
}

Result<RopeScaling> read_scaling(const JsonFields& top, const JsonFields& rope,
                                 std::int32_t max_positions) {
  RopeScaling scaling;
  CIUIC_ASSIGN_OR_RETURN(const auto new_name, rope.string("rope_type"));
  CIUIC_ASSIGN_OR_RETURN(const auto old_name, rope.string("type"));
  const std::string_view type = new_name ? *new_name : old_name.value_or("default");
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3") {
    return rope.error("rope_type", "\"default\", \"linear\" or \"llama3\"", quoted_excerpt(type),
                      ErrorCode::unsupported);
  }
  CIUIC_ASSIGN_OR_RETURN(scaling.factor, rope.required_number("factor", kFactorRange));
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::linear;
    return scaling;
  }
  scaling.kind = RopeScaling::Kind::llama3;
  CIUIC_ASSIGN_OR_RETURN(scaling.low_frequency_factor,
                         rope.required_number("low_freq_factor", kFactorRange));
  CIUIC_ASSIGN_OR_RETURN(scaling.high_frequency_factor,
                         rope.required_number("high_freq_factor", kFactorRange));
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    return rope.error("high_freq_factor", "more than low_freq_factor", "no more");
  }
  constexpr std::string_view kOriginal = "original_max_position_embeddings";
  CIUIC_ASSIGN_OR_RETURN(const auto outer, top.integer(kOriginal, 1, kMaxPositions));
  CIUIC_ASSIGN_OR_RETURN(const auto inner, rope.integer(kOriginal, 1, kMaxPositions));
  scaling.original_max_position_embeddings = outer ? *outer : inner.value_or(max_positions);
  return scaling;
}

/// RoPE's parameters lie in `rope_parameters` since transformers 5, in `rope_scaling` and beside it
/// before. Where several are given, the order is that of transformers.
Result<void> read_rope(const JsonFields& fields, const std::string& where, ModelConfig& config) {
  CIUIC_ASSIGN_OR_RETURN(const auto theta, fields.number("rope_theta", kThetaRange));
  CIUIC_ASSIGN_OR_RETURN(const JsonValue* old_style, fields.object("rope_scaling"));
  CIUIC_ASSIGN_OR_RETURN(const JsonValue* new_style, fields.object("rope_parameters"));
  const bool use_old = old_style != nullptr && !old_style->members().empty();
  static const JsonValue kNone;
  const JsonValue* chosen = use_old ? old_style : new_style;
  const JsonFields rope(chosen != nullptr ? *chosen : kNone,
                        where + (use_old ? "rope_scaling." : "rope_parameters."));
  CIUIC_ASSIGN_OR_RETURN(const auto inner_theta, rope.number("rope_theta", kThetaRange));
  config.rope_theta = inner_theta ? *inner_theta : theta.value_or(kDefaultRopeTheta);
  for (const JsonFields* place : {&fields, &rope}) {
    constexpr std::string_view kPartial = "partial_rotary_factor";
    CIUIC_ASSIGN_OR_RETURN(const auto partial,
                           place->number(kPartial, {.least = 0.0, .most = 1.0}));
    if (partial.value_or(1.0) != 1.0) {
      return place->error(kPartial, "1", "less", ErrorCode::unsupported);
    }
  }
  CIUIC_ASSIGN_OR_RETURN(config.rope_scaling,
                         read_scaling(fields, rope, config.max_position_embeddings));
  return {};
}

Result<void> read_ids(const JsonFields& fields, ModelConfig& config) {
  const std::int32_t vocab = config.vocab_size;
  CIUIC_ASSIGN_OR_RETURN(config.bos_token_id, fields.integer("bos_token_id", 0, vocab - 1));
  if (!fields.mentions("bos_token_id") && kDefaultBos < vocab) config.bos_token_id = kDefaultBos;
  CIUIC_ASSIGN_OR_RETURN(config.eos_token_ids, fields.ids("eos_token_id", vocab));
  if (!fields.mentions("eos_token_id") && kDefaultEos < vocab) {
    config.eos_token_ids = {kDefaultEos};
  }
  // Early Llama conversions say -1 for "none".
  CIUIC_ASSIGN_OR_RETURN(config.pad_token_id, fields.integer("pad_token_id", -1, vocab - 1));
  if (config.pad_token_id == -1) config.pad_token_id.reset();
  return {};
}

Result<void> read_dtype(const JsonFields& fields, ModelConfig& config) {
  for (std::string_view key : {"dtype", "torch_dtype"}) {
    CIUIC_ASSIGN_OR_RETURN(const auto name, fields.string(key));
    if (!name) continue;
    if (*name == "float32") {
      config.dtype = DType::f32;
    } else if (*name == "float16") {
      config.dtype = DType::f16;
    } else if (*name == "bfloat16") {
      config.dtype = DType::bf16;
    } else {
      return fields.error(key, "\"float32\", \"float16\" or \"bfloat16\"", quoted_excerpt(*name),
                          ErrorCode::unsupported);
    }
    return {};
  }
  return {};
}

}  // namespace

Result<ModelConfig> ModelConfig::parse(std::string_view json_text, std::string_view file_name,
                                       const LoadLimits& limits) {
  const std::string where = std::string(file_name) + ": ";
  const Result<JsonValue> root = JsonValue::parse(json_text, {}, kMaxJsonValues);
  if (!root) return root.error().with_prefix(where);
  if (!root->is_object()) {
    return Error(ErrorCode::bad_model, {where, "wanted an object, got ", describe(root->kind())});
  }
  const JsonFields fields(*root, where);
  ModelConfig config;
  CIUIC_TRY(check_family(fields));
  CIUIC_TRY(read_sizes(fields, limits, config));
  CIUIC_TRY(read_heads(fields, config));
  CIUIC_TRY(read_biases_and_norm(fields, config));
  CIUIC_TRY(read_rope(fields, where, config));
  CIUIC_TRY(read_ids(fields, config));
  CIUIC_TRY(read_dtype(fields, config));
  return config;
}

Result<ModelConfig> ModelConfig::load(const std::filesystem::path& directory,
                                      const LoadLimits& limits) {
  CIUIC_ASSIGN_OR_RETURN(const std::string text,
                         read_model_text(directory, kFileName, limits.max_config_bytes));
  return parse(text, kFileName, limits);
}

}  // namespace ciuic::inline CIUIC_ABI
