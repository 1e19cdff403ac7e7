#include "ciuic/model/chat_format.hpp"

#include <string_view>

#include "base/json.hpp"
#include "base/try.hpp"
#include "model/model_files.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kConfig = "tokenizer_config.json";

Error wrong(std::string_view field, std::string_view wanted, const JsonValue& got) {
  return Error(ErrorCode::bad_model,
               {kConfig, ": ", field, ": wanted ", wanted, ", got ", describe(got.kind())});
}

/// A special token: its text, or an object that holds it as `content`; absent and null are none.
Result<std::string> token_text(const JsonValue& config, std::string_view name) {
  const JsonValue* token = config.find(name);
  if (token == nullptr || token->is_null()) return std::string();
  if (token->is_object()) token = token->find("content");
  if (token == nullptr || !token->is_string()) {
    return wrong(name, "a string or an object with content", *config.find(name));
  }
  return token->as_string();
}

/// The template in the configuration; empty when there is none.
Result<std::string> template_text(const JsonValue& config) {
  const JsonValue* chat = config.find("chat_template");
  if (chat == nullptr || chat->is_null()) return std::string();
  if (chat->is_string()) return chat->as_string();
  if (!chat->is_array()) return wrong("chat_template", "a string or a list of templates", *chat);
  for (const JsonValue& named : chat->items()) {
    const JsonValue* name = named.find("name");
    const JsonValue* text = named.find("template");
    if (name == nullptr || !name->is_string() || text == nullptr || !text->is_string()) {
      return wrong("chat_template", "a name and a template in each entry", named);
    }
    if (name->as_string() == "default") return text->as_string();
  }
  return Error(ErrorCode::bad_model, {kConfig, ": chat_template: none is called default"});
}

}  // namespace

Result<ChatFormat> ChatFormat::load(const std::filesystem::path& directory,
                                    const LoadLimits& limits) {
  JsonValue config;
  Result<std::string> config_text = read_model_text(directory, kConfig, limits.max_config_bytes);
  if (config_text) {
    Result<JsonValue> parsed = JsonValue::parse(*config_text);
    if (!parsed) return parsed.error().with_prefix(std::string(kConfig) + ": ");
    config = *std::move(parsed);
  } else if (config_text.error().code() != ErrorCode::not_found) {
    return std::move(config_text).error();
  }
  std::string_view file = "chat_template.jinja";
  Result<std::string> text = read_model_text(directory, file, limits.max_config_bytes);
  if (!text && text.error().code() == ErrorCode::not_found) {
    file = kConfig;
    text = template_text(config);
  }
  if (!text) return std::move(text).error();
  if (text->empty()) {
    return Error(ErrorCode::not_found,
                 {kConfig, ": chat_template: the model directory has no chat template"});
  }
  Result<ChatTemplate> chat = ChatTemplate::parse(*text);
  if (!chat) return chat.error().with_prefix(std::string(file) + ": ");
  CIUIC_ASSIGN_OR_RETURN(std::string bos, token_text(config, "bos_token"));
  CIUIC_ASSIGN_OR_RETURN(std::string eos, token_text(config, "eos_token"));
  return ChatFormat(*std::move(chat), std::move(bos), std::move(eos));
}

}  // namespace ciuic::inline CIUIC_ABI
