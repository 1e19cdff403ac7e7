// The small components of a tokenizer.json around its model: normaliser, pre-tokenizer,
// post-processor, decoder. Each is a list of steps read once and run many times.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/fields.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {

/// How long rewriting may make a text of so many bytes: no honest step of a file comes near.
constexpr std::size_t longest_rewritten(std::size_t bytes, std::size_t base) noexcept {
  return base + 16 * bytes;
}
inline constexpr std::size_t kRewrittenTextBase = std::size_t{1} << 20;
inline constexpr std::size_t kRewrittenTokenBase = std::size_t{1} << 12;

/// Puts `content` in the place of every match in `text`. Errors: `bad_model` where that makes more
/// than `max_bytes`, with `field` as the culprit; those of `Pattern::find`.
Result<void> replace_matches(std::string& text, const Pattern& pattern, std::string_view content,
                             std::size_t max_bytes, std::string_view field, MatchScratch& scratch);

/// Rewrites text before it is cut. Thread-safety: const calls are thread-safe.
class TextNormalizer {
 public:
  static Result<TextNormalizer> read(const Field& field);
  bool empty() const noexcept { return steps_.empty(); }
  /// Appends nothing, replaces: `text` (valid UTF-8) becomes its normal form. Errors: `bad_model`
  /// where a step makes more than `max_bytes` of it; those of `Pattern::find`.
  Result<void> apply(std::string& text, std::size_t max_bytes, MatchScratch& scratch) const;

 private:
  struct Lowercase {};
  struct Strip {
    bool left, right;
  };
  struct Replace {
    Pattern pattern;
    std::string content;
  };
  struct Prepend {
    std::string text;
  };
  using Step = std::variant<NormalForm, Lowercase, Strip, Replace, Prepend>;
  std::vector<Step> steps_;
  std::vector<std::string> fields_;  // where each step stands in the file
};

enum class SplitBehavior : std::uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous,
};

/// Receives the pieces of a text in order.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual Result<void> piece(std::string_view text) = 0;
};

/// Cuts text into the pieces that the model sees. Thread-safety: const calls are thread-safe.
class PreTokenizer {
 public:
  static Result<PreTokenizer> read(const Field& field);
  /// Whether pieces are raw bytes for a byte-level vocabulary.
  bool byte_level() const noexcept { return byte_level_; }
  /// Hands the pieces of `text` (valid UTF-8, not empty) to `sink`; none is empty.
  Result<void> apply(std::string_view text, MatchScratch& scratch, PieceSink& sink) const {
    return run(0, text, scratch, sink);
  }

 private:
  struct ByteLevel {
    bool add_prefix_space;
    std::optional<Pattern> pattern;
  };
  struct Split {
    Pattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct Digits {
    bool individual;
  };
  using Step = std::variant<ByteLevel, Split, Digits>;
  Result<void> run(std::size_t step, std::string_view text, MatchScratch& scratch,
                   PieceSink& sink) const;
  std::vector<Step> steps_;
  bool byte_level_ = false;
};

/// The ids a template puts around a text.
struct PostProcessor {
  std::vector<std::int32_t> before, after;
  static Result<PostProcessor> read(const Field& field);
};

/// How tokens become text.
struct TokenDecoder {
  enum class Kind : std::uint8_t {
    byte_level,  ///< tokens are bytes; all together are UTF-8
    tokens,      ///< token by token: replace, byte fallback, fuse, strip
    words,       ///< no decoder: tokens with spaces between
  };
  struct Replace {
    Pattern pattern;
    std::string content;
    std::string field;  ///< where the step stands in the file
  };
  Kind kind = Kind::words;
  std::vector<Replace> replacements;
  bool byte_fallback = false;
  bool fuse = false;
  char32_t strip = 0;           ///< the character to cut off
  std::size_t strip_start = 0;  ///< at most so many of it at the start
  std::size_t strip_stop = 0;   ///< and at the end
  static Result<TokenDecoder> read(const Field& field);
};

}  // namespace ciuic::inline CIUIC_ABI
