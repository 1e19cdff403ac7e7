#include "ciuic/model/generation_config.hpp"

#include <limits>
#include <string>

#include "base/json.hpp"
#include "base/try.hpp"
#include "model/json_fields.hpp"
#include "model/model_files.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kFileName = "generation_config.json";
constexpr std::size_t kMaxJsonValues = 20'000;
constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();

}  // namespace

Result<GenerationConfig> GenerationConfig::parse(std::string_view json_text,
                                                 std::int32_t vocab_size,
                                                 std::string_view file_name) {
  const std::string where = std::string(file_name) + ": ";
  const Result<JsonValue> root = JsonValue::parse(json_text, {}, kMaxJsonValues);
  if (!root) return root.error().with_prefix(where);
  if (!root->is_object()) {
    return Error(ErrorCode::bad_model, {where, "wanted an object, got ", describe(root->kind())});
  }
  const JsonFields fields(*root, where);
  GenerationConfig config;
  CIUIC_ASSIGN_OR_RETURN(config.bos_token_id, fields.integer("bos_token_id", 0, vocab_size - 1));
  CIUIC_ASSIGN_OR_RETURN(config.eos_token_ids, fields.ids("eos_token_id", vocab_size));
  CIUIC_ASSIGN_OR_RETURN(config.do_sample, fields.boolean("do_sample"));
  CIUIC_ASSIGN_OR_RETURN(config.temperature,
                         fields.number("temperature", {.least = 0.0, .most = 1e6}));
  CIUIC_ASSIGN_OR_RETURN(config.top_k, fields.integer("top_k", 0, kMaxInt));
  CIUIC_ASSIGN_OR_RETURN(config.top_p, fields.number("top_p", {.least = 0.0, .most = 1.0}));
  CIUIC_ASSIGN_OR_RETURN(
      config.repetition_penalty,
      fields.number("repetition_penalty", {.least = 0.0, .most = 1e6, .above_least = true}));
  CIUIC_ASSIGN_OR_RETURN(config.max_new_tokens, fields.integer("max_new_tokens", 1, kMaxInt));
  return config;
}

Result<GenerationConfig> GenerationConfig::load(const std::filesystem::path& directory,
                                                std::int32_t vocab_size, const LoadLimits& limits) {
  const Result<std::string> text = read_model_text(directory, kFileName, limits.max_config_bytes);
  if (!text && text.error().code() == ErrorCode::not_found) return GenerationConfig();
  if (!text) return text.error();
  return parse(*text, vocab_size, kFileName);
}

}  // namespace ciuic::inline CIUIC_ABI
