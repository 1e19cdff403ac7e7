#include "text/pattern_translator.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/json.hpp"
#include "base/try.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kMaxGroups = 64;
// PCRE2 counts no step while one character or class repeats: longer repeats than this say
// themselves how far they went.
constexpr unsigned kLongRepeat = 16;

/// A property both dialects know under this name.
struct Property {
  std::string_view name;
  std::string_view pcre2;
  Category first, last;
  Script script = Script::none;
};
constexpr Property kProperties[] = {
    {"L", "\\p{L}", Category::lu, Category::lo},
    {"Lu", "\\p{Lu}", Category::lu, Category::lu},
    {"Ll", "\\p{Ll}", Category::ll, Category::ll},
    {"Lt", "\\p{Lt}", Category::lt, Category::lt},
    {"Lm", "\\p{Lm}", Category::lm, Category::lm},
    {"Lo", "\\p{Lo}", Category::lo, Category::lo},
    {"M", "\\p{M}", Category::m, Category::m},
    {"N", "\\p{N}", Category::nd, Category::no},
    {"Nd", "\\p{Nd}", Category::nd, Category::nd},
    {"Nl", "\\p{Nl}", Category::nl, Category::nl},
    {"No", "\\p{No}", Category::no, Category::no},
    {"P", "\\p{P}", Category::pc, Category::po},
    {"Pc", "\\p{Pc}", Category::pc, Category::pc},
    {"Pd", "\\p{Pd}", Category::pd, Category::pd},
    {"Ps", "\\p{Ps}", Category::ps, Category::ps},
    {"Pe", "\\p{Pe}", Category::pe, Category::pe},
    {"Pi", "\\p{Pi}", Category::pi, Category::pi},
    {"Pf", "\\p{Pf}", Category::pf, Category::pf},
    {"Po", "\\p{Po}", Category::po, Category::po},
    {"S", "\\p{S}", Category::sm, Category::so},
    {"Sm", "\\p{Sm}", Category::sm, Category::sm},
    {"Sc", "\\p{Sc}", Category::sc, Category::sc},
    {"Sk", "\\p{Sk}", Category::sk, Category::sk},
    {"So", "\\p{So}", Category::so, Category::so},
    {"Z", "\\p{Z}", Category::zs, Category::zp},
    {"Zs", "\\p{Zs}", Category::zs, Category::zs},
    {"Zl", "\\p{Zl}", Category::zl, Category::zl},
    {"Zp", "\\p{Zp}", Category::zp, Category::zp},
    {"Cc", "\\p{Cc}", Category::cc, Category::cc},
    {"Cf", "\\p{Cf}", Category::cf, Category::cf},
    {"Han", "\\p{sc:Han}", Category::none, Category::none, Script::han},
    {"Hiragana", "\\p{sc:Hiragana}", Category::none, Category::none, Script::hiragana},
    {"Katakana", "\\p{sc:Katakana}", Category::none, Category::none, Script::katakana},
    {"Hangul", "\\p{sc:Hangul}", Category::none, Category::none, Script::hangul},
    {"Latin", "\\p{sc:Latin}", Category::none, Category::none, Script::latin},
    {"Greek", "\\p{sc:Greek}", Category::none, Category::none, Script::greek},
    {"Cyrillic", "\\p{sc:Cyrillic}", Category::none, Category::none, Script::cyrillic},
    {"Arabic", "\\p{sc:Arabic}", Category::none, Category::none, Script::arabic},
    {"Thai", "\\p{sc:Thai}", Category::none, Category::none, Script::thai},
};
/// What \d and \w mean to Oniguruma.
constexpr Property kDigit{"d", "\\p{Nd}", Category::nd, Category::nd};
constexpr Property kWord{"w",
                         "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}",
                         Category::lu, Category::nl};
constexpr Property kConnector{"", "", Category::pc, Category::pc};
constexpr std::string_view kSpaces =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";

void append_hex(std::string& out, char32_t code) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  out += "\\x{";
  int shift = 20;
  while (shift > 0 && (code >> shift) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) out += kDigits[code >> shift & 15u];
  out += '}';
}

/// Rewrites one expression for PCRE2. Reads left to right once, with a stack of open groups.
class Translator {
 public:
  /// `recent`: whether classes spell out the code points newer than PCRE2's tables.
  Translator(std::string_view in, bool recent) : in_(in), recent_(recent) {}

  Result<std::string> run() {
    if (in_.starts_with("(?i)")) {  // anywhere else the two dialects disagree about its reach
      in_.remove_prefix(4);
      out_ = "(?i)";
      ignore_case_ = true;
    }
    while (!in_.empty()) CIUIC_TRY(item());
    if (!groups_.empty()) return malformed("a group is not closed");
    return std::move(out_);
  }

 private:
  struct Group {
    std::size_t start;
    bool ignore_case;  ///< outside of it
  };

  static Error malformed(std::string_view what) { return Error(ErrorCode::bad_model, what); }
  static Error unsupported(std::string_view what) {
    std::string quoted;
    append_json_string(quoted, what);
    return Error(ErrorCode::unsupported, {"unsupported ", quoted});
  }

  bool take(std::string_view text) {
    if (!in_.starts_with(text)) return false;
    in_.remove_prefix(text.size());
    return true;
  }
  void atom() {
    atom_ = out_.size();
    literal_run_.clear();
  }

  Result<void> item() {
    const char c = in_.front();
    switch (c) {
      case '(':
        return open();
      case ')': {
        if (groups_.empty()) return malformed("unmatched )");
        const Group group = groups_.back();
        groups_.pop_back();
        atom();
        out_ += ')';
        atom_ = group.start;
        ignore_case_ = group.ignore_case;
        in_.remove_prefix(1);
        return {};
      }
      case '[':
        return bracket();
      case '\\':
        return escape();
      case '?':
      case '*':
      case '+': {
        if (atom_ == kNoAtom) return malformed("a quantifier has nothing to repeat");
        std::string repeat(1, c);
        in_.remove_prefix(1);
        if (take("+")) {
          repeat += '+';
        } else if (take("?")) {
          repeat += '?';
        }
        append_repeat(repeat, c != '?');
        return quantified();
      }
      case '{':
        return interval();
      case '|':
      case '^':
        atom();
        out_ += c;
        atom_ = kNoAtom;
        in_.remove_prefix(1);
        return {};
      case '$':
      case '.':
        atom();
        out_ += c;
        in_.remove_prefix(1);
        return {};
      default: {
        const Utf8Char character = read_valid_utf8(in_);
        in_.remove_prefix(character.length);
        return literal(character.code);
      }
    }
  }

  Result<void> quantified() {
    if (!in_.empty() && (in_[0] == '?' || in_[0] == '*' || in_[0] == '+')) {
      return unsupported("a quantifier of a quantifier");
    }
    literal_run_.clear();
    return {};
  }

  /// Repeats the last atom. A group's rounds are counted by PCRE2.
  void append_repeat(std::string_view repeat, bool is_long) {
    const bool tell = is_long && out_[atom_] != '(' && out_[atom_] != '$';
    if (tell) out_.insert(atom_, "(?C1)");
    out_ += repeat;
    if (tell) out_ += "(?C2)";
  }

  /// {n}, {n,}, {n,m}, {,m}; anything else after a brace is a literal brace.
  Result<void> interval() {
    std::size_t at = 1;
    const auto number = [&]() -> std::optional<unsigned> {
      unsigned value = 0;
      const std::size_t start = at;
      while (at < in_.size() && in_[at] >= '0' && in_[at] <= '9' && value < 100'000) {
        value = value * 10 + static_cast<unsigned>(in_[at++] - '0');
      }
      if (at == start) return std::nullopt;
      return value;
    };
    const std::optional<unsigned> low = number();
    const bool comma = at < in_.size() && in_[at] == ',';
    if (comma) ++at;
    const std::optional<unsigned> high = comma ? number() : low;
    if ((!low && !high) || at >= in_.size() || in_[at] != '}') {
      in_.remove_prefix(1);
      return literal('{');
    }
    if (atom_ == kNoAtom) return malformed("a quantifier has nothing to repeat");
    if (low.value_or(0) > 1000 || high.value_or(0) > 1000) {
      return unsupported("a repeat count above 1000");
    }
    if (high && low.value_or(0) > *high) return unsupported("a repeat range that runs backwards");
    in_.remove_prefix(at + 1);
    std::string repeat = "{";
    repeat += std::to_string(low.value_or(0));
    if (comma) repeat += ",";
    if (comma && high) repeat += std::to_string(*high);
    repeat += "}";
    const bool is_long = !high || *high > kLongRepeat;
    if (take("+")) {  // to Oniguruma not possessive, but a repeat of the repeat
      append_repeat(repeat, is_long);
      out_.insert(atom_, "(?:");
      out_ += ")+";
    } else {
      if (!in_.empty() && in_[0] == '?') {
        if (!comma) return unsupported("{n}?");
        in_.remove_prefix(1);
        repeat += '?';
      }
      append_repeat(repeat, is_long);
    }
    return quantified();
  }

  Result<void> open() {
    if (groups_.size() >= kMaxGroups) return unsupported("groups nested deeper than 64");
    atom();
    const Group group{out_.size(), ignore_case_};
    if (take("(?:")) {
      out_ += "(?:";
    } else if (take("(?i:")) {
      out_ += "(?i:";
      ignore_case_ = true;
    } else if (take("(?-i:")) {
      out_ += "(?-i:";
      ignore_case_ = false;
    } else if (take("(?=")) {
      out_ += "(?=";
    } else if (take("(?!")) {
      out_ += "(?!";
    } else if (take("(?<=")) {
      out_ += "(?<=";
    } else if (take("(?<!")) {
      out_ += "(?<!";
    } else if (take("(?>")) {
      out_ += "(?>";
    } else if (in_.starts_with("(?") || in_.starts_with("(*")) {
      return unsupported(in_.substr(0, std::min<std::size_t>(in_.size(), 3)));
    } else {
      in_.remove_prefix(1);
      out_ += "(?:";
    }
    groups_.push_back(group);
    atom_ = kNoAtom;
    return {};
  }

  Result<void> literal(char32_t code) {
    if (ignore_case_) {
      if (code >= 0x80) return unsupported("a non-ASCII letter where case is ignored");
      // One character can fold to several letters; PCRE2 knows no such match.
      const char letter = code >= 'A' && code <= 'Z' ? static_cast<char>(code - 'A' + 'a')
                                                     : static_cast<char>(code);
      std::string run = literal_run_ + letter;
      for (std::string_view folded : {"ss", "st", "ff", "fi", "fl"}) {
        if (run.ends_with(folded)) return unsupported(folded);
      }
      atom();
      literal_run_ = letter;
    } else {
      atom();
    }
    append_literal(code);
    return {};
  }
  void append_literal(char32_t code) {
    const bool plain = (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
                       (code >= 'a' && code <= 'z') || code == ' ';
    if (plain) {
      out_ += static_cast<char>(code);
    } else {
      append_hex(out_, code);
    }
  }

  /// After the backslash: a single character, if the escape means one.
  Result<std::optional<char32_t>> character_escape() {
    const char c = in_.front();
    const auto simple = [&](char32_t code) {
      in_.remove_prefix(1);
      return std::optional<char32_t>(code);
    };
    switch (c) {
      case 'n':
        return simple('\n');
      case 'r':
        return simple('\r');
      case 't':
        return simple('\t');
      case 'f':
        return simple('\f');
      case 'v':
        return simple('\v');
      case 'a':
        return simple('\a');
      case 'e':
        return simple(0x1B);
      case 'u': {
        in_.remove_prefix(1);
        return hex(4, 4);
      }
      case 'x': {
        in_.remove_prefix(1);
        if (!take("{")) {
          CIUIC_ASSIGN_OR_RETURN(const std::optional<char32_t> code, hex(1, 2));
          if (*code >= 0x80) return unsupported("a byte escape above 7F");
          return code;
        }
        CIUIC_ASSIGN_OR_RETURN(const std::optional<char32_t> code, hex(1, 8));
        if (!take("}")) return malformed("\\x{ is not closed");
        return code;
      }
      default:
        break;
    }
    const Utf8Char character = read_valid_utf8(in_);
    if (character.code < 0x80 &&
        ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) {
      return std::optional<char32_t>();
    }
    in_.remove_prefix(character.length);
    return std::optional<char32_t>(character.code);
  }
  Result<std::optional<char32_t>> hex(std::size_t min, std::size_t max) {
    char32_t code = 0;
    std::size_t n = 0;
    for (; n < max && n < in_.size(); ++n) {
      const char c = in_[n];
      const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
      if (lower >= '0' && lower <= '9') {
        code = code << 4 | static_cast<char32_t>(lower - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        code = code << 4 | static_cast<char32_t>(lower - 'a' + 10);
      } else {
        break;
      }
    }
    if (n < min || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      return malformed("a hexadecimal escape names no character");
    }
    in_.remove_prefix(n);
    return std::optional<char32_t>(code);
  }

  /// Appends what `property` holds, for use inside brackets.
  void append_members(const Property& property) {
    out_ += property.pcre2;
    if (!recent_) return;
    for (const RecentRange& range : recent_ranges()) {
      const bool in_class = property.script != Script::none ? range.script == property.script
                                                            : range.category >= property.first &&
                                                                  range.category <= property.last;
      if (!in_class || range.category == Category::digits_only) continue;
      append_hex(out_, range.first);
      out_ += '-';
      append_hex(out_, range.last);
    }
  }
  void append_word_members() {
    append_members(kWord);
    append_members(kConnector);
  }
  void append_space_members() { out_ += recent_ ? kSpaces : std::string_view("\\s"); }
  std::string word_class(bool negated) {
    std::string before = std::exchange(out_, negated ? "[^" : "[");
    append_word_members();
    return std::exchange(out_, std::move(before)) + "]";
  }

  /// After \p or \P: the property, and whether it is negated.
  Result<std::pair<const Property*, bool>> property(bool negated) {
    if (!take("{")) return malformed("\\p without a name in braces");
    if (take("^")) negated = !negated;
    const std::size_t end = in_.find('}');
    if (end == std::string_view::npos) return malformed("\\p{ is not closed");
    const std::string_view name = in_.substr(0, end);
    in_.remove_prefix(end + 1);
    for (const Property& known : kProperties) {
      if (known.name != name) continue;
      if (ignore_case_ && known.first == known.last && known.first <= Category::lt &&
          known.script == Script::none) {
        return unsupported("a property of case where case is ignored");
      }
      return std::pair(&known, negated);
    }
    return unsupported("\\p{" + std::string(name.substr(0, 40)) + "}");
  }

  Result<void> escape() {
    in_.remove_prefix(1);
    if (in_.empty()) return malformed("it ends in a backslash");
    const char c = in_.front();
    if (c == 'p' || c == 'P') {
      in_.remove_prefix(1);
      CIUIC_ASSIGN_OR_RETURN(const auto found, property(c == 'P'));
      atom();
      out_ += found.second ? "[^" : "[";
      append_members(*found.first);
      out_ += ']';
      return {};
    }
    if (std::string_view("sSdDwW").find(c) != std::string_view::npos) {
      in_.remove_prefix(1);
      atom();
      out_ += c == 'S' || c == 'D' || c == 'W' ? "[^" : "[";
      if (c == 's' || c == 'S') append_space_members();
      if (c == 'd' || c == 'D') append_members(kDigit);
      if (c == 'w' || c == 'W') append_word_members();
      out_ += ']';
      return {};
    }
    if (c == 'b' || c == 'B') {
      in_.remove_prefix(1);
      atom();
      const std::string word = word_class(false);
      const std::string ahead = "(?=" + word + ")", no_ahead = "(?!" + word + ")";
      const std::string behind = "(?<=" + word + ")", no_behind = "(?<!" + word + ")";
      out_ += c == 'b' ? "(?:" + behind + no_ahead + "|" + no_behind + ahead + ")"
                       : "(?:" + behind + ahead + "|" + no_behind + no_ahead + ")";
      atom_ = kNoAtom;
      return {};
    }
    if (c == 'A' || c == 'z' || c == 'Z') {
      in_.remove_prefix(1);
      atom();
      out_ += '\\';
      out_ += c;
      atom_ = kNoAtom;
      return {};
    }
    CIUIC_ASSIGN_OR_RETURN(const std::optional<char32_t> code, character_escape());
    if (!code) return unsupported(std::string("\\") + c);
    return literal(*code);
  }

  Result<void> bracket() {
    atom();
    in_.remove_prefix(1);
    out_ += '[';
    if (take("^")) out_ += '^';
    if (in_.starts_with("]")) return unsupported("[]");
    char32_t first = 0;            // a character that may start a range …
    bool may_start_range = false;  // … if there is one
    while (true) {
      if (in_.empty()) return malformed("a character class is not closed");
      if (take("]")) break;
      if (in_[0] == '[') return unsupported("[ inside a character class");
      if (in_.starts_with("&&")) return unsupported("&& inside a character class");
      if (in_[0] == '-' && may_start_range && in_.size() > 1 && in_[1] != ']') {
        in_.remove_prefix(1);
        std::optional<char32_t> last;
        if (take("\\")) {
          if (in_.empty()) return malformed("it ends in a backslash");
          CIUIC_ASSIGN_OR_RETURN(last, character_escape());
          if (!last) return unsupported("a range that ends in a class");
        } else if (in_[0] == '[') {
          return unsupported("[ inside a character class");
        } else {
          const Utf8Char character = read_valid_utf8(in_);
          in_.remove_prefix(character.length);
          last = character.code;
        }
        if (ignore_case_ && (first >= 0x80 || *last >= 0x80)) {
          return unsupported("a non-ASCII letter where case is ignored");
        }
        if (*last < first) return malformed("a character range runs backwards");
        out_ += '-';
        append_hex(out_, *last);
        may_start_range = false;
        continue;
      }
      if (in_[0] == '-' && !may_start_range && in_.size() > 1 && in_[1] != ']' &&
          out_.back() != '[' && out_.back() != '^') {
        return unsupported("- after a class or a range");
      }
      may_start_range = false;
      if (take("\\")) {
        if (in_.empty()) return malformed("it ends in a backslash");
        const char c = in_.front();
        if (c == 'p' || c == 'P') {
          in_.remove_prefix(1);
          CIUIC_ASSIGN_OR_RETURN(const auto found, property(c == 'P'));
          if (found.second) return unsupported("a negated property inside a character class");
          append_members(*found.first);
          continue;
        }
        if (c == 's' || c == 'd' || c == 'w') {
          in_.remove_prefix(1);
          if (c == 's') append_space_members();
          if (c == 'd') append_members(kDigit);
          if (c == 'w') append_word_members();
          continue;
        }
        if (c == 'b') {
          in_.remove_prefix(1);
          first = 8;
        } else {
          CIUIC_ASSIGN_OR_RETURN(const std::optional<char32_t> code, character_escape());
          if (!code) return unsupported(std::string("\\") + c + " inside a character class");
          first = *code;
        }
      } else {
        const Utf8Char character = read_valid_utf8(in_);
        in_.remove_prefix(character.length);
        first = character.code;
      }
      if (ignore_case_ && first >= 0x80) {
        return unsupported("a non-ASCII letter where case is ignored");
      }
      append_hex(out_, first);
      may_start_range = true;
    }
    out_ += ']';
    return {};
  }

  static constexpr std::size_t kNoAtom = static_cast<std::size_t>(-1);
  std::string_view in_;
  bool recent_;
  bool ignore_case_ = false;
  std::string out_;
  std::string literal_run_;  ///< the letter just before, where case is ignored
  std::vector<Group> groups_;
  std::size_t atom_ = kNoAtom;  ///< where in out_ the last repeatable thing starts
};

}  // namespace

Result<std::string> translate_to_pcre2(std::string_view expression, bool recent) {
  return Translator(expression, recent).run();
}

}  // namespace ciuic::inline CIUIC_ABI
