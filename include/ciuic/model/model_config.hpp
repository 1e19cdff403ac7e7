// config.json of a model directory, validated.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "ciuic/base/dtype.hpp"
#include "ciuic/base/error.hpp"
#include "ciuic/model/load_limits.hpp"

namespace ciuic::inline CIUIC_ABI {

/// How rotary frequencies are stretched beyond the context that a model was first trained on. With
/// f_i = theta^(-2i/head_dim) and the wavelength w_i = 2 pi / f_i:
///   none     f_i
///   linear   f_i / factor
///   llama3   f_i / factor where w_i > original / low, f_i where w_i < original / high, and between
///            (1 - t) f_i / factor + t f_i with t = (original / w_i - low) / (high - low)
struct RopeScaling {
  enum class Kind : std::uint8_t { none, linear, llama3 };

  Kind kind = Kind::none;
  double factor = 1.0;
  double low_frequency_factor = 1.0;                  ///< "low"; llama3 only
  double high_frequency_factor = 4.0;                 ///< "high"; llama3 only
  std::int32_t original_max_position_embeddings = 0;  ///< "original", in tokens; llama3 only
};

/// What a decoder of the Llama family computes. Every number is in a range in which no size of its
/// tensors can wrap, and they agree with each other. Keys that say nothing about the computation
/// are ignored, `auto_map` among them: no code is ever loaded.
struct CIUIC_API ModelConfig {
  std::int32_t hidden_size = 0;
  std::int32_t intermediate_size = 0;
  std::int32_t num_hidden_layers = 0;
  std::int32_t num_attention_heads = 0;
  std::int32_t num_key_value_heads = 0;  ///< divides num_attention_heads
  std::int32_t head_dim = 0;             ///< even
  std::int32_t vocab_size = 0;
  std::int32_t max_position_embeddings = 0;
  double rms_norm_eps = 0.0;
  double rope_theta = 0.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  ///< on the q, k, v and o projections
  bool mlp_bias = false;        ///< on the gate, up and down projections
  std::optional<std::int32_t> bos_token_id;
  std::optional<std::int32_t> pad_token_id;
  std::vector<std::int32_t> eos_token_ids;
  std::optional<DType> dtype;  ///< as stated; each tensor's own is what counts

  /// Reads the text of a config.json; messages call it `file_name`.
  /// Errors: `bad_model`, naming the key, what was wanted and what was got; `unsupported` for a
  /// well-formed config of something that ciuic does not compute.
  static Result<ModelConfig> parse(std::string_view json_text,
                                   std::string_view file_name = "config.json",
                                   const LoadLimits& limits = {});
  /// Reads `config.json` in a model directory. Errors: as above, and `not_found`, `io_error`.
  static Result<ModelConfig> load(const std::filesystem::path& directory,
                                  const LoadLimits& limits = {});
};

}  // namespace ciuic::inline CIUIC_ABI
