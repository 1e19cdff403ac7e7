// Patterns of tokenizer.json: literals and regular expressions in Oniguruma's dialect, run by
// PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace ciuic::inline CIUIC_ABI {

/// Memory for matching, one per call of encode; grows to what the patterns need.
/// Thread-safety: thread-compatible.
class MatchScratch {
 public:
  MatchScratch() noexcept = default;
  ~MatchScratch();
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

  /// Set for a text with characters newer than PCRE2's tables: patterns then use their longer form.
  bool recent_characters = false;

 private:
  friend class Pattern;
  pcre2_real_match_data_8* data_ = nullptr;
  pcre2_real_match_context_8* context_ = nullptr;
};

/// A compiled pattern. Matching never recurses, and is bounded in steps and memory.
/// Thread-safety: immutable.
class Pattern {
 public:
  static Result<Pattern> literal(std::string_view text);
  /// Errors: `bad_model` for an expression that does not compile, `unsupported` for syntax that the
  /// two dialects read differently and that no translation covers.
  static Result<Pattern> regex(std::string_view expression);

  struct Match {
    std::size_t begin, end;
  };
  /// The first match at or after `from` in `text` (valid UTF-8), if any. Look-behind sees the text
  /// before `from`. Errors: `unsupported` when the expression takes too many steps or too much
  /// memory on this text.
  Result<std::optional<Match>> find(std::string_view text, std::size_t from,
                                    MatchScratch& scratch) const;

 private:
  using Code = std::shared_ptr<const pcre2_real_code_8>;
  std::string literal_;
  Code plain_;   ///< right for characters PCRE2 knows
  Code recent_;  ///< spells out the newer ones; slower
};

/// Walks over all matches, as the reference does: an empty match at the end of the previous one is
/// passed over.
class MatchIterator {
 public:
  MatchIterator(const Pattern& pattern, std::string_view text, MatchScratch& scratch) noexcept
      : pattern_(pattern), text_(text), scratch_(scratch) {}
  Result<std::optional<Pattern::Match>> next();

 private:
  const Pattern& pattern_;
  std::string_view text_;
  MatchScratch& scratch_;
  std::size_t from_ = 0;
  std::optional<std::size_t> last_end_;
};

}  // namespace ciuic::inline CIUIC_ABI
