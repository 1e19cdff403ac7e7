// Tokens found in the text as they are written, before any model cuts it.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct AddedToken {
  std::string content;  ///< what to look for, normalised already where `normalized`
  std::int32_t id = -1;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< and after it
  bool normalized = false;   ///< looked for in the normalised text
  bool special = false;
};

/// A set of added tokens to look for together: leftmost first, then longest.
/// Thread-safety: const calls are thread-safe.
class AddedTokenFinder {
 public:
  void build(std::vector<AddedToken> tokens);
  bool empty() const noexcept { return tokens_.empty(); }

  /// A stretch of the text: plain text when `id` is -1, else the token found there.
  struct Part {
    std::string_view text;
    std::int32_t id = -1;
  };
  /// Appends the parts of `text` in order. Special tokens are passed over, as text, unless
  /// `parse_special`.
  void split(std::string_view text, bool parse_special, std::vector<Part>& parts) const;

 private:
  /// The longest token that `text` starts with, or null.
  const AddedToken* longest_at(std::string_view text) const noexcept;

  std::vector<AddedToken> tokens_;  // sorted by content
  std::bitset<256> first_bytes_;
};

}  // namespace ciuic::inline CIUIC_ABI
