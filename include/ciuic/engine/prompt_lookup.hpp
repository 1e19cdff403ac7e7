// Prompt look-up: guesses the next tokens of a sequence from its own past. Text repeats itself
// (names, code, a document that is summed up), so what followed the last few tokens the last time
// often follows them again. Source of the method: prompt lookup decoding (Saxena 2023), a form of
// speculative decoding (Leviathan et al., ICML 2023) that needs no second model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ciuic/base/generation.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Replaces `guesses` by up to `count` tokens that followed the latest earlier place where the last
/// three (if nowhere: two) tokens of `tokens` stand; by none if there is no such place. Stays
/// within the capacity of `guesses`. O(tokens).
inline void look_up_prompt(std::span<const TokenId> tokens, std::size_t count,
                           std::vector<TokenId>& guesses) {
  guesses.clear();
  count = std::min(count, guesses.capacity());
  if (count == 0) return;
  for (const std::size_t width : {std::size_t{3}, std::size_t{2}}) {
    if (tokens.size() < width + 1) continue;
    const std::span<const TokenId> last = tokens.last(width);
    for (std::size_t at = tokens.size() - width; at-- > 0;) {
      if (tokens[at] != last[0] ||
          !std::equal(last.begin(), last.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at))) {
        continue;
      }
      // What followed may run into the present: then the text repeats with that period.
      const std::size_t period = tokens.size() - width - at;
      for (std::size_t i = 0; i < count; ++i) {
        guesses.push_back(tokens[at + width + i % period]);
      }
      return;
    }
  }
}

/// How many guesses are worth making: twice as many after a step that took all, half as many after
/// one that took fewer than half. Thread-safety: thread-compatible.
class DraftLength {
 public:
  explicit DraftLength(std::int32_t most = 0) noexcept : most_(most), now_(std::min(most, 4)) {}
  std::int32_t now() const noexcept { return now_; }
  void observe(std::int32_t guessed, std::int32_t accepted) noexcept {
    if (guessed == 0) return;
    if (accepted == guessed) now_ = std::min(2 * now_, most_);
    if (2 * accepted < guessed) now_ = std::max(now_ / 2, 1);
  }

 private:
  std::int32_t most_, now_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
