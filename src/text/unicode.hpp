// Text as Unicode: reading UTF-8, the character classes tokenizers ask for, normalisation.
//
// The reference tokenizers mix several Unicode versions (their regex engine is newer than the
// PCRE2 and utf8proc of a distribution, their normaliser older). recent_code_points.inc lists where
// that shows, so that the ids do not depend on which versions are installed here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// One decoded character. `valid` is false for a maximal part that no UTF-8 character starts with;
/// `length` bytes are then to be replaced by one U+FFFD.
struct Utf8Char {
  char32_t code = 0;
  std::uint32_t length = 1;
  bool valid = true;
  bool truncated = false;  ///< invalid only because the text ends too early
};

/// Reads the character at the start of `text`, which is not empty.
Utf8Char read_utf8(std::string_view text) noexcept;
/// The same for text known to be valid, without the checks.
inline Utf8Char read_valid_utf8(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const char32_t b0 = byte(0);
  if (b0 < 0x80) return {b0, 1, true, false};
  if (b0 < 0xE0) return {(b0 & 31u) << 6 | (byte(1) & 63u), 2, true, false};
  if (b0 < 0xF0) {
    return {(b0 & 15u) << 12 | (byte(1) & 63u) << 6 | (byte(2) & 63u), 3, true, false};
  }
  return {(b0 & 7u) << 18 | (byte(1) & 63u) << 12 | (byte(2) & 63u) << 6 | (byte(3) & 63u), 4, true,
          false};
}
/// Bytes of the valid character that starts with `lead`.
inline std::size_t utf8_length(char lead) noexcept {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}
void append_utf8(std::string& out, char32_t code);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  ///< U+FFFD

bool is_valid_utf8(std::string_view text) noexcept;
/// Appends `text` with each maximal invalid part replaced by U+FFFD.
void append_repaired_utf8(std::string& out, std::string_view text);

enum class Category : std::uint8_t {
  none,
  lu,
  ll,
  lt,
  lm,
  lo,
  m,
  nd,
  nl,
  no,
  pc,
  pd,
  ps,
  pe,
  pi,
  pf,
  po,
  sm,
  sc,
  sk,
  so,
  zs,
  zl,
  zp,
  cc,
  cf,
  co,
  digits_only,  ///< a number for `is_numeric`, unknown to patterns
};
enum class Script : std::uint8_t {
  none,
  han,
  hiragana,
  katakana,
  hangul,
  latin,
  greek,
  cyrillic,
  arabic,
  thai,
};
struct RecentRange {
  char32_t first, last;
  Category category;
  Script script;
};
/// Code points assigned after Unicode 14, in order.
std::span<const RecentRange> recent_ranges() noexcept;
/// Whether `text` (valid UTF-8) holds a code point for which PCRE2's classes may be out of date.
bool has_recent(std::string_view text) noexcept;

bool is_white_space(char32_t code) noexcept;  ///< the property White_Space
bool is_numeric(char32_t code) noexcept;      ///< general categories Nd, Nl, No
bool is_word(char32_t code) noexcept;  ///< letters, marks, decimal digits, connectors, joiners

enum class NormalForm : std::uint8_t { nfc, nfd, nfkc, nfkd };
/// Appends the normal form of `text` (valid UTF-8).
void append_normalized(std::string& out, std::string_view text, NormalForm form);
void append_lowercase(std::string& out, std::string_view text);
void append_uppercase(std::string& out, std::string_view text);

/// The reversible map of bytes to printable characters that byte-level vocabularies are written in.
char32_t byte_level_char(unsigned char byte) noexcept;
/// The byte whose character is `code`, or -1.
int byte_level_byte(char32_t code) noexcept;
/// Appends the bytes a byte-level token stands for; false, with nothing appended, when some
/// character of it stands for none.
bool append_byte_level_bytes(std::string& out, std::string_view token);

}  // namespace ciuic::inline CIUIC_ABI
