// generation_config.json of a model directory: how its makers would have it sampled.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"
#include "ciuic/model/load_limits.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Defaults below those of a request and above those of config.json. What the file does not say, or
/// says as null, is empty.
struct CIUIC_API GenerationConfig {
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;
  std::optional<bool> do_sample;
  std::optional<double> temperature;         ///< 0 or more; 0 is greedy
  std::optional<std::int32_t> top_k;         ///< 0 is off
  std::optional<double> top_p;               ///< 0 to 1
  std::optional<double> repetition_penalty;  ///< above 0; 1 is off
  std::optional<std::int32_t> max_new_tokens;

  /// Reads the text of such a file for a model of `vocab_size` tokens; messages call it
  /// `file_name`. Errors: `bad_model`, naming the key, what was wanted and what was got.
  static Result<GenerationConfig> parse(std::string_view json_text, std::int32_t vocab_size,
                                        std::string_view file_name = "generation_config.json");
  /// Reads it from a model directory; a directory without one has no opinion, which is no error.
  /// Errors: as above, and `io_error`.
  static Result<GenerationConfig> load(const std::filesystem::path& directory,
                                       std::int32_t vocab_size, const LoadLimits& limits = {});
};

}  // namespace ciuic::inline CIUIC_ABI
