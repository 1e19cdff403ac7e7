// ChatTemplate: messages to the text a chat model was trained on, by the template its directory
// brings.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct ChatMessage {
  std::string role;     ///< "system", "user", "assistant", "tool"
  std::string content;  ///< what was said
  std::string more_json =
      {};  ///< a JSON object with further members, such as tool_calls; may be ""
};

struct ChatTemplateOptions {
  bool add_generation_prompt = true;  ///< end with what makes the model answer
  std::string_view bos_token = {};
  std::string_view eos_token = {};
  /// A JSON object whose members the template sees as variables, such as tools; may be "".
  std::string_view variables_json = {};
};

struct TemplateNodes;  // a parsed template

/// A chat template: the part of Jinja that such templates use, in a sandbox of its own.
///
/// It reads nothing but what `apply` is given: no files, no clock (`strftime_now` is undefined), no
/// process state. Expressions with filters, tests and methods; for with else, break and continue;
/// if; set; namespace; macro; whitespace control with trim_blocks and lstrip_blocks on, as
/// transformers renders. Steps, nesting, memory and output are bounded.
/// Thread-safety: immutable; `apply` may be called from any number of threads.
class CIUIC_API ChatTemplate {
 public:
  /// Errors: `bad_model` for text that is no template, `unsupported` for Jinja that chat templates
  /// do without; the message starts with "chat template line:column: ".
  static Result<ChatTemplate> parse(std::string_view text);

  /// Errors: `invalid_argument` for messages the template refuses, for JSON that does not parse, or
  /// for what the template cannot do with these messages, with line and column; `oversize` when a
  /// bound is reached.
  Result<std::string> apply(std::span<const ChatMessage> messages,
                            const ChatTemplateOptions& options = {}) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const TemplateNodes> nodes) noexcept
      : nodes_(std::move(nodes)) {}
  std::shared_ptr<const TemplateNodes> nodes_;
};

}  // namespace ciuic::inline CIUIC_ABI
