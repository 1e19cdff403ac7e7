// Patterns of tokenizer.json: literals and regular expressions in Oniguruma's dialect, run by
// PCRE2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace ciuic::inline CIUIC_ABI {

/// Memory for matching, which grows to what the patterns need, and the steps that all work on one
/// text may take together. Thread-safety: thread-compatible.
class MatchScratch {
 public:
  /// `base_steps`, and some for every byte of the text.
  explicit MatchScratch(std::size_t text_bytes, std::uint64_t base_steps = 10'000'000) noexcept
      : steps_left_(base_steps + kStepsPerByte * text_bytes) {}
  ~MatchScratch();
  MatchScratch(const MatchScratch&) = delete;
  MatchScratch& operator=(const MatchScratch&) = delete;

  /// False once more has been spent than there was.
  bool spend(std::uint64_t steps) noexcept {
    const bool enough = steps < steps_left_;
    steps_left_ = enough ? steps_left_ - steps : 0;
    return enough;
  }

 private:
  friend class Pattern;
  // Honest files spend up to some 20 on a byte for each of their few expressions.
  static constexpr std::uint64_t kStepsPerByte = 128;

  std::uint64_t steps_left_;
  std::size_t position_ = 0;  // where the matcher last said that it was
  pcre2_real_match_data_8* data_ = nullptr;
  pcre2_real_match_context_8* context_ = nullptr;
};

/// A compiled pattern. Matching never recurses, and is bounded in memory, and in steps by what the
/// scratch has left.
/// Thread-safety: immutable.
class Pattern {
 public:
  /// `field` is the pattern's place in the file, for messages about a text.
  static Result<Pattern> literal(std::string_view text, std::string field = {});
  /// Errors: `bad_model` for an expression that does not compile, `unsupported` for syntax that the
  /// two dialects read differently and that no translation covers.
  static Result<Pattern> regex(std::string_view expression, std::string field = {});

  struct Match {
    std::size_t begin, end;
  };
  /// The first match at or after `from` in `text` (valid UTF-8), if any. Look-behind sees the text
  /// before `from`. `recent`: the text has characters newer than PCRE2's tables. Errors:
  /// `unsupported` when the expression takes too many steps or too much memory on this text.
  Result<std::optional<Match>> find(std::string_view text, std::size_t from, bool recent,
                                    MatchScratch& scratch) const;

 private:
  friend class MatchIterator;
  using Code = std::shared_ptr<const pcre2_real_code_8>;
  int run(std::string_view text, std::size_t from, bool recent, std::uint32_t options,
          std::uint64_t steps, MatchScratch& scratch) const;

  std::string field_;
  std::string literal_;
  Code plain_;   ///< right for characters PCRE2 knows
  Code recent_;  ///< spells out the newer ones; slower
};

/// Walks over all matches, as the reference does: an empty match at the end of the previous one is
/// passed over.
class MatchIterator {
 public:
  MatchIterator(const Pattern& pattern, std::string_view text, MatchScratch& scratch) noexcept;
  Result<std::optional<Pattern::Match>> next();

 private:
  const Pattern& pattern_;
  std::string_view text_;
  MatchScratch& scratch_;
  const bool recent_;
  std::size_t from_ = 0;
  std::optional<std::size_t> last_end_;
};

}  // namespace ciuic::inline CIUIC_ABI
