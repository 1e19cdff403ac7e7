// Tokenizer: text to token ids and back, as a Hugging Face tokenizer.json says. StreamDecoder turns
// ids into text while they arrive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct TokenizerState;  // the tables behind a Tokenizer

struct TokenizerLimits {
  std::size_t max_file_bytes = std::size_t{1} << 28;
};

struct EncodeOptions {
  bool add_special_tokens = true;  ///< what the file's template puts around a text, such as <s>
  bool parse_special = false;      ///< literals of special tokens in the text become those tokens
};

struct DecodeOptions {
  bool skip_special_tokens = true;
};

/// The tokenizer of a model: byte-pair encoding with the file's normaliser, pre-tokenizer, added
/// tokens, post-processor and decoder, giving the ids that the reference implementation gives.
///
/// A part of the file that nothing here implements is an error that names it, never an
/// approximation. The file's `truncation` and `padding` are the caller's business and not applied.
/// Text that is not valid UTF-8 is read with each maximal invalid part replaced by U+FFFD, as
/// Python decodes with errors="replace". Copies are cheap and share the tables.
/// Thread-safety: immutable; every function may be called from any number of threads.
class CIUIC_API Tokenizer {
 public:
  /// Reads a tokenizer.json.
  /// Errors: `not_found`, `io_error`; `bad_model` for what is no regular file, breaks its format,
  /// contradicts itself or passes a limit; `unsupported`. The message starts with `path` and names
  /// the field.
  static Result<Tokenizer> load(const std::string& path, const TokenizerLimits& limits = {});
  /// The same from memory; `file_name` is for messages.
  static Result<Tokenizer> parse(std::string_view json_text,
                                 std::string_view file_name = "tokenizer.json",
                                 const TokenizerLimits& limits = {});

  /// Literals of special tokens in `text` are plain text unless `options.parse_special`; added
  /// tokens that are not special are always found.
  /// Errors: `unsupported` when the file's expressions need too many steps for this text;
  /// `oversize` for 2 GiB and more; `bad_model` for an unknown character where the file names an
  /// unknown token that does not exist, and where its normalizer makes a text absurdly longer.
  Result<std::vector<std::int32_t>> encode(std::string_view text,
                                           const EncodeOptions& options = {}) const;
  /// The text of `ids`; always valid UTF-8. An id that names no token adds nothing (models pad
  /// their vocabularies). Errors: `invalid_argument` for a negative id; `unsupported` and
  /// `bad_model` where the file's decoder takes too many steps, or makes a token absurdly longer.
  Result<std::string> decode(std::span<const std::int32_t> ids,
                             const DecodeOptions& options = {}) const;

  /// One more than the largest id of a token.
  std::int32_t vocab_size() const noexcept;
  /// The id of a token as the file spells it.
  std::optional<std::int32_t> id_of(std::string_view token) const;
  /// The token as the file spells it.
  std::optional<std::string> token_of(std::int32_t id) const;
  /// Whether `id` is an added token marked special.
  bool is_special(std::int32_t id) const noexcept;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::shared_ptr<const TokenizerState> state) noexcept
      : state_(std::move(state)) {}
  std::shared_ptr<const TokenizerState> state_;
};

/// Turns ids into text as they arrive, never half a character: what `push` and `finish` return, put
/// together, is `decode` of all ids. Shares the tokenizer's tables; may outlive it.
/// Thread-safety: thread-compatible.
class CIUIC_API StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});

  /// The text that `id` completed, possibly none. Valid until the next call.
  std::string_view push(std::int32_t id);
  /// What is left at the end: incomplete bytes become U+FFFD. Valid until the next call. The
  /// decoder is then as new.
  std::string_view finish();
  /// The error that `decode` would end with, if a token so far meets one: from there on `push`
  /// gives no text. To be asked before `finish`, which forgets it.
  Result<void> status() const;

 private:
  friend class Tokenizer;
  void append(std::int32_t id);
  void end();
  void append_token(std::string_view text);
  void flush_bytes();
  void emit(std::string_view text);

  std::shared_ptr<const TokenizerState> state_;
  DecodeOptions options_;
  std::string ready_;    // text to hand out
  std::string pending_;  // bytes that are not yet text
  std::string work_;
  std::optional<Error> error_;
  std::size_t to_strip_ = 0;  // characters the decoder may still cut from the start
  bool first_ = true;
};

}  // namespace ciuic::inline CIUIC_ABI
