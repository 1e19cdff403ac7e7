#include "text/unicode.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

namespace ciuic::inline CIUIC_ABI {
namespace {

struct CodePointRange {
  char32_t first, last;
};
struct LowerRange {
  char32_t first, last;
  std::int32_t delta;
};
#include "text/recent_code_points.inc"

template <class Range, std::size_t n>
const Range* find_range(const Range (&ranges)[n], char32_t code) noexcept {
  const Range* at = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                     [](char32_t c, const Range& r) { return c <= r.last; });
  return at != std::end(ranges) && code >= at->first ? at : nullptr;
}

constexpr char32_t kFirstRecent = kRecent[0].first;
constexpr char32_t kMongolianVowelSeparator = 0x180E;  // PCRE2 holds it for a space

}  // namespace

Utf8Char read_utf8(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char b0 = byte(0);
  if (b0 < 0x80) return {b0, 1, true, false};
  std::uint32_t length = 0;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte: no overlong forms, no surrogates
  if (b0 >= 0xC2 && b0 <= 0xDF) {
    length = 2;
  } else if (b0 >= 0xE0 && b0 <= 0xEF) {
    length = 3;
    if (b0 == 0xE0) low = 0xA0;
    if (b0 == 0xED) high = 0x9F;
  } else if (b0 >= 0xF0 && b0 <= 0xF4) {
    length = 4;
    if (b0 == 0xF0) low = 0x90;
    if (b0 == 0xF4) high = 0x8F;
  } else {
    return {0xFFFD, 1, false, false};
  }
  char32_t code = b0 & (0x7Fu >> length);
  for (std::uint32_t i = 1; i < length; ++i) {
    if (i == text.size()) return {0xFFFD, i, false, true};
    if (byte(i) < low || byte(i) > high) return {0xFFFD, i, false, false};
    code = code << 6 | (byte(i) & 63u);
    low = 0x80;
    high = 0xBF;
  }
  return {code, length, true, false};
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) {
    out += static_cast<char>(static_cast<unsigned char>(byte));
  };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0u | code >> 6);
    put(0x80u | (code & 63u));
  } else if (code < 0x10000) {
    put(0xE0u | code >> 12);
    put(0x80u | (code >> 6 & 63u));
    put(0x80u | (code & 63u));
  } else {
    put(0xF0u | code >> 18);
    put(0x80u | (code >> 12 & 63u));
    put(0x80u | (code >> 6 & 63u));
    put(0x80u | (code & 63u));
  }
}

bool is_valid_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const Utf8Char c = read_utf8(text);
    if (!c.valid) return false;
    text.remove_prefix(c.length);
  }
  return true;
}

void append_repaired_utf8(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const Utf8Char c = read_utf8(text);
    out += c.valid ? text.substr(0, c.length) : kReplacement;
    text.remove_prefix(c.length);
  }
}

std::span<const RecentRange> recent_ranges() noexcept { return kRecent; }

bool has_recent(std::string_view text) noexcept {
  while (!text.empty()) {
    if (static_cast<unsigned char>(text[0]) < 0xE0) {  // below U+0800
      text.remove_prefix(utf8_length(text[0]));
      continue;
    }
    const Utf8Char c = read_valid_utf8(text);
    if (c.code >= kFirstRecent &&
        (c.code == kMongolianVowelSeparator || find_range(kRecent, c.code) != nullptr)) {
      return true;
    }
    text.remove_prefix(c.length);
  }
  return false;
}

bool is_white_space(char32_t c) noexcept {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(char32_t code) noexcept {
  if (code < 0x80) return code >= '0' && code <= '9';
  if (const RecentRange* recent = find_range(kRecent, code)) {
    return recent->category == Category::nd || recent->category == Category::nl ||
           recent->category == Category::no || recent->category == Category::digits_only;
  }
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool is_word(char32_t code) noexcept {
  if (code == 0x200C || code == 0x200D) return true;
  if (const RecentRange* recent = find_range(kRecent, code)) {
    return recent->category >= Category::lu && recent->category <= Category::nl;
  }
  if (code >= 0x24B6 && code <= 0x24E9) return true;  // circled letters are alphabetic symbols
  if ((code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
      (code >= 0x1F170 && code <= 0x1F189)) {
    return true;
  }
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC;
}

namespace {

/// Left alone by the reference normaliser: neither ordered, nor decomposed, nor composed.
bool is_inert(char32_t code) noexcept {
  return find_range(kInert, code) != nullptr || find_range(kRecent, code) != nullptr;
}

void normalize_part(std::string& out, std::string_view part, utf8proc_option_t options,
                    std::vector<utf8proc_int32_t>& codes) {
  codes.clear();
  int last_boundary_class = 0;
  while (!part.empty()) {
    const Utf8Char c = read_valid_utf8(part);
    part.remove_prefix(c.length);
    constexpr std::size_t kLongest = 18;  // code points of the longest decomposition
    const std::size_t size = codes.size();
    codes.resize(size + kLongest);
    const utf8proc_ssize_t n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.code), codes.data() + size,
                                kLongest, options, &last_boundary_class);
    codes.resize(size + (n > 0 ? static_cast<std::size_t>(n) : 0));
  }
  // Canonical ordering: every run of marks by class, else as it was, so that long runs stay cheap.
  const auto rank = [](utf8proc_int32_t code) {
    return static_cast<int>(utf8proc_get_property(code)->combining_class);
  };
  std::vector<std::tuple<int, std::size_t, utf8proc_int32_t>> marks;
  for (std::size_t i = 0; i < codes.size();) {
    if (rank(codes[i]) == 0) {
      ++i;
      continue;
    }
    std::size_t end = i + 1;
    while (end < codes.size() && rank(codes[end]) != 0) ++end;
    if (end - i == 1) {
      i = end;
      continue;
    }
    marks.clear();
    for (std::size_t k = i; k < end; ++k) {
      marks.push_back({rank(codes[k]), k, codes[k]});
    }
    std::sort(marks.begin(), marks.end());
    for (std::size_t k = i; k < end; ++k) codes[k] = std::get<2>(marks[k - i]);
    i = end;
  }
  utf8proc_ssize_t n = static_cast<utf8proc_ssize_t>(codes.size());
  if ((options & UTF8PROC_COMPOSE) != 0 && n > 0) {
    n = utf8proc_normalize_utf32(codes.data(), n, options);
  }
  for (utf8proc_ssize_t i = 0; i < n; ++i) {
    append_utf8(out, static_cast<char32_t>(codes[static_cast<std::size_t>(i)]));
  }
}

}  // namespace

void append_normalized(std::string& out, std::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  // Below U+00A0, and for NFC below U+0300, every character is its own normal form and a boundary
  // (for what follows a composed letter, only when nothing above comes next).
  const char32_t plain_below = form == NormalForm::nfc ? 0x300 : 0xA0;
  std::vector<utf8proc_int32_t> codes;
  while (!text.empty()) {
    // A stretch of plain characters is copied, except its last when something else follows: that
    // one may take part in a composition.
    std::size_t plain = 0, last = 0;
    while (plain < text.size()) {
      const Utf8Char c = read_valid_utf8(text.substr(plain));
      if (c.code >= plain_below) break;
      last = plain;
      plain += c.length;
    }
    const std::size_t copied = plain == text.size() ? plain : last;
    out += text.substr(0, copied);
    text.remove_prefix(copied);
    if (text.empty()) break;
    // From here to the next pair of plain characters, or to an inert one, the full algorithm.
    std::size_t end = 0;
    bool was_plain = false;
    std::size_t inert = 0;
    while (end < text.size()) {
      const Utf8Char c = read_valid_utf8(text.substr(end));
      const bool is_plain = c.code < plain_below;
      if (is_plain && was_plain) break;
      if (!is_plain && is_inert(c.code)) {
        inert = c.length;
        break;
      }
      was_plain = is_plain;
      end += c.length;
    }
    normalize_part(out, text.substr(0, end), static_cast<utf8proc_option_t>(options), codes);
    out += text.substr(end, inert);
    text.remove_prefix(end + inert);
  }
}

void append_lowercase(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    if (c.code < 0x80) {
      const char letter = text[0];
      out += letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + ('a' - 'A')) : letter;
    } else if (c.code == 0x130) {
      out += "i\xCC\x87";  // the one letter whose small form is two characters
    } else if (const LowerRange* recent = find_range(kRecentLower, c.code)) {
      append_utf8(out, static_cast<char32_t>(static_cast<std::int32_t>(c.code) + recent->delta));
    } else {
      append_utf8(out,
                  static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))));
    }
    text.remove_prefix(c.length);
  }
}

void append_uppercase(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    if (c.code == 0xDF) {
      out += "SS";  // by far the most common of the letters that grow
    } else {
      append_utf8(out,
                  static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c.code))));
    }
    text.remove_prefix(c.length);
  }
}

namespace {

// Printable Latin-1 stands for itself; the 68 other bytes, in order, are U+0100 and up.
constexpr bool stands_for_itself(unsigned byte) noexcept {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}
struct ByteMap {
  std::array<char16_t, 256> chars{};
  std::array<std::int16_t, 0x144> bytes{};
};
constexpr ByteMap kByteMap = [] {
  ByteMap map;
  map.bytes.fill(-1);
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const unsigned code = stands_for_itself(byte) ? byte : next++;
    map.chars[byte] = static_cast<char16_t>(code);
    map.bytes[code] = static_cast<std::int16_t>(byte);
  }
  return map;
}();

}  // namespace

char32_t byte_level_char(unsigned char byte) noexcept { return kByteMap.chars[byte]; }

int byte_level_byte(char32_t code) noexcept {
  return code < kByteMap.bytes.size() ? kByteMap.bytes[code] : -1;
}

bool append_byte_level_bytes(std::string& out, std::string_view token) {
  const std::size_t before = out.size();
  while (!token.empty()) {
    const Utf8Char c = read_valid_utf8(token);
    const int byte = byte_level_byte(c.code);
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(static_cast<unsigned char>(byte));
    token.remove_prefix(c.length);
  }
  return true;
}

}  // namespace ciuic::inline CIUIC_ABI
