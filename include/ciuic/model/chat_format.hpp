// ChatFormat: how a model directory wants a conversation written.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "ciuic/base/error.hpp"
#include "ciuic/model/load_limits.hpp"
#include "ciuic/text/chat_template.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The chat template of a directory, with the special tokens it writes. The text of `apply` holds
/// those tokens as literals: encode it with `parse_special` and without `add_special_tokens`, and
/// keep such literals out of what users say.
/// Thread-safety: immutable.
class CIUIC_API ChatFormat {
 public:
  /// Reads `chat_template.jinja`, or the `chat_template` of `tokenizer_config.json` (the one called
  /// "default" where there are several). Errors: `not_found` when the directory has none;
  /// `bad_model`, naming file and field; what `ChatTemplate::parse` reports; `io_error`.
  static Result<ChatFormat> load(const std::filesystem::path& directory,
                                 const LoadLimits& limits = {});

  /// The conversation as text, ended with what makes the model answer. Errors: those of
  /// `ChatTemplate::apply`.
  Result<std::string> apply(std::span<const ChatMessage> messages) const {
    return template_.apply(messages, {.bos_token = bos_token_, .eos_token = eos_token_});
  }

 private:
  ChatFormat(ChatTemplate chat, std::string bos_token, std::string eos_token) noexcept
      : template_(std::move(chat)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)) {}
  ChatTemplate template_;
  std::string bos_token_, eos_token_;
};

}  // namespace ciuic::inline CIUIC_ABI
