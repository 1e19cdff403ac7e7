#include "text/template_lexer.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

bool is_blank(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    if (!is_white_space(c.code)) return false;
    text.remove_prefix(c.length);
  }
  return true;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    // Line ends become \n; one at the very end is dropped.
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        if (i + 1 < source.size() && source[i + 1] == '\n') continue;
        text_ += '\n';
      } else {
        text_ += source[i];
      }
    }
    if (text_.ends_with('\n')) text_.pop_back();
  }

  Result<std::vector<Token>> run() {
    while (at_ < text_.size()) CIUIC_TRY(text_part());
    push(Token::Kind::end);
    return std::move(tokens_);
  }

 private:
  Position position() const { return {line_, static_cast<std::uint32_t>(at_ - line_start_ + 1)}; }
  void advance(std::size_t n) {
    for (; n > 0 && at_ < text_.size(); --n) {
      if (text_[at_++] == '\n') {
        ++line_;
        line_start_ = at_;
      }
    }
  }
  bool starts(std::string_view what) const {
    return std::string_view(text_).substr(at_).starts_with(what);
  }
  Token& push(Token::Kind kind, std::string text = {}) {
    return tokens_.emplace_back(Token{kind, position(), std::move(text)});
  }
  Error bad(std::string_view what) const {
    return template_error(ErrorCode::bad_model, position(), what);
  }
  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) advance(1);
  }

  /// After a closing delimiter of `length`: what it takes along of the text behind it.
  void close(std::size_t length, char sign, bool trims) {
    advance(length);
    if (sign == '-') {
      while (at_ < text_.size()) {
        const Utf8Char c = read_valid_utf8(std::string_view(text_).substr(at_));
        if (!is_white_space(c.code)) break;
        advance(c.length);
      }
    } else if (trims && sign != '+' && starts("\n")) {
      advance(1);
    }
    line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
  }

  /// Text up to the next delimiter, then what the delimiter opens.
  Result<void> text_part() {
    std::size_t open = at_;
    while (true) {
      open = text_.find('{', open);
      if (open == std::string::npos || open + 1 == text_.size()) {
        open = std::string::npos;
        break;
      }
      const char next = text_[open + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++open;
    }
    if (open == std::string::npos) {
      push(Token::Kind::text, text_.substr(at_));
      advance(text_.size() - at_);
      return {};
    }
    std::string_view before = std::string_view(text_).substr(at_, open - at_);
    const char kind = text_[open + 1];
    const char sign = open + 2 < text_.size() ? text_[open + 2] : '\0';
    if (sign == '-') {
      while (!before.empty()) {
        std::size_t last = before.size() - 1;
        while (last > 0 && (static_cast<unsigned char>(before[last]) & 0xC0u) == 0x80) --last;
        if (!is_white_space(read_valid_utf8(before.substr(last)).code)) break;
        before = before.substr(0, last);
      }
    } else if (sign != '+' && kind != '{') {
      // Nothing but white space between the start of the line and a block: it goes.
      const std::size_t line = before.rfind('\n') + 1;
      if ((line > 0 || line_starting_) && line < before.size() && is_blank(before.substr(line))) {
        before = before.substr(0, line);
      }
    }
    if (!before.empty()) push(Token::Kind::text, std::string(before));
    advance(open - at_);
    if (kind == '#') return comment();
    const bool block = kind == '%';
    const std::size_t opening = 2 + (sign == '-' || (sign == '+' && block) ? 1u : 0u);
    if (block) {
      if (const std::optional<std::size_t> raw = tag_length(at_ + opening, "raw")) {
        return raw_part(opening + *raw);
      }
    }
    push(block ? Token::Kind::begin_block : Token::Kind::begin_output);
    advance(opening);
    return expression_part(block);
  }

  Result<void> comment() {
    const std::size_t end = text_.find("#}", at_ + 2);
    if (end == std::string::npos) return bad("a comment is not closed");
    const char sign = text_[end - 1] == '-' || text_[end - 1] == '+' ? text_[end - 1] : '\0';
    close(end + 2 - at_, sign, true);
    return {};
  }

  /// If `name` and the end of a block stand at `from`, their length without the end.
  std::optional<std::size_t> tag_length(std::size_t from, std::string_view name) const {
    std::size_t at = from;
    while (at < text_.size() && is_space(text_[at])) ++at;
    if (!std::string_view(text_).substr(at).starts_with(name)) return std::nullopt;
    at += name.size();
    while (at < text_.size() && is_space(text_[at])) ++at;
    const std::string_view rest = std::string_view(text_).substr(at);
    if (!rest.starts_with("%}") && !rest.starts_with("-%}") && !rest.starts_with("+%}")) {
      return std::nullopt;
    }
    return at - from;
  }

  Result<void> raw_part(std::size_t length) {
    advance(length);
    const bool stripped = starts("-");
    close(stripped ? 3 : 2, stripped ? '-' : '+', false);
    for (std::size_t end = text_.find("{%", at_); end != std::string::npos;
         end = text_.find("{%", end + 2)) {
      const char sign = end + 2 < text_.size() ? text_[end + 2] : '\0';
      const std::size_t opening = sign == '-' || sign == '+' ? 3 : 2;
      const std::optional<std::size_t> tag = tag_length(end + opening, "endraw");
      if (!tag) continue;
      std::string_view body = std::string_view(text_).substr(at_, end - at_);
      if (sign == '-') {
        while (!body.empty() && is_space(body.back())) body.remove_suffix(1);
      } else if (sign != '+') {
        const std::size_t line = body.rfind('\n') + 1;
        if (line > 0 &&
            std::all_of(body.begin() + static_cast<std::ptrdiff_t>(line), body.end(), is_space)) {
          body = body.substr(0, line);
        }
      }
      push(Token::Kind::text, std::string(body));
      advance(end - at_ + opening + *tag);
      const char closing = text_[at_];
      close(closing == '%' ? 2 : 3, closing, true);
      return {};
    }
    return bad("raw is not closed");
  }

  Result<void> expression_part(bool block) {
    const std::string_view end = block ? "%}" : "}}";
    std::string open;  // brackets, so that a }} in a dictionary does not end the output
    while (true) {
      skip_space();
      if (at_ == text_.size()) return bad(block ? "{% is not closed" : "{{ is not closed");
      if (open.empty()) {
        const bool signed_end = (text_[at_] == '-' || (block && text_[at_] == '+')) &&
                                std::string_view(text_).substr(at_ + 1).starts_with(end);
        if (signed_end || starts(end)) {
          push(block ? Token::Kind::end_block : Token::Kind::end_output);
          close(signed_end ? 3 : 2, signed_end ? text_[at_] : '\0', block);
          return {};
        }
      }
      const char c = text_[at_];
      if (is_name_start(c)) {
        std::size_t n = 1;
        while (at_ + n < text_.size() &&
               (is_name_start(text_[at_ + n]) || is_digit(text_[at_ + n]))) {
          ++n;
        }
        push(Token::Kind::name, text_.substr(at_, n));
        advance(n);
      } else if (is_digit(c)) {
        CIUIC_TRY(number());
      } else if (c == '"' || c == '\'') {
        CIUIC_TRY(string());
      } else {
        CIUIC_TRY(symbol(open));
      }
    }
  }

  Result<void> number() {
    std::size_t n = 0;
    std::string digits;
    bool is_float = false;
    const auto peek = [&](std::size_t i) { return at_ + i < text_.size() ? text_[at_ + i] : '\0'; };
    while (is_digit(peek(n)) || (peek(n) == '_' && is_digit(peek(n + 1)))) {
      if (peek(n) != '_') digits += peek(n);
      ++n;
    }
    if (peek(n) == '.' && is_digit(peek(n + 1))) {
      is_float = true;
      do digits += peek(n++);
      while (is_digit(peek(n)));
    }
    if ((peek(n) == 'e' || peek(n) == 'E') &&
        (is_digit(peek(n + 1)) ||
         ((peek(n + 1) == '-' || peek(n + 1) == '+') && is_digit(peek(n + 2))))) {
      is_float = true;
      digits += peek(n++);
      do {
        if (peek(n) != '+') digits += peek(n);
        ++n;
      } while (is_digit(peek(n)));
    }
    Token& token = push(is_float ? Token::Kind::number : Token::Kind::integer);
    const char* last = digits.data() + digits.size();
    const auto read = is_float ? std::from_chars(digits.data(), last, token.number)
                               : std::from_chars(digits.data(), last, token.integer);
    if (read.ec != std::errc() || read.ptr != last) return bad("a number out of range");
    advance(n);
    return {};
  }

  Result<void> string() {
    const char quote = text_[at_];
    Token& token = push(Token::Kind::string);
    advance(1);
    while (true) {
      if (at_ == text_.size()) return bad("a string is not closed");
      const char c = text_[at_];
      if (c == quote) break;
      if (c != '\\') {
        token.text += c;
        advance(1);
        continue;
      }
      advance(1);
      if (at_ == text_.size()) return bad("a string is not closed");
      const char e = text_[at_];
      const auto digits = [&](std::size_t count) -> Result<void> {
        char32_t code = 0;
        for (std::size_t i = 1; i <= count; ++i) {
          unsigned digit = 0;
          const char* from = text_.data() + at_ + i;
          if (at_ + i >= text_.size() || std::from_chars(from, from + 1, digit, 16).ptr == from) {
            return bad("an escape needs hexadecimal digits");
          }
          code = code << 4 | digit;
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
          return bad("an escape names no character");
        }
        append_utf8(token.text, code);
        advance(count);
        return {};
      };
      constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
      if (const std::size_t i = kFrom.find(e); i != std::string_view::npos) {
        token.text += kTo[i];
      } else if (e == 'x' || e == 'u' || e == 'U') {
        CIUIC_TRY(digits(e == 'x' ? 2 : e == 'u' ? 4 : 8));
      } else if (e == '\n') {
        // a line break that continues the string
      } else if (is_digit(e) || e == 'N') {
        return bad("an escape of this kind is unsupported");
      } else {
        token.text += '\\';
        token.text += e;
      }
      advance(1);
    }
    advance(1);
    return {};
  }

  Result<void> symbol(std::string& open) {
    for (const std::string_view two : {"==", "!=", ">=", "<=", "//", "**"}) {
      if (!starts(two)) continue;
      push(Token::Kind::symbol, std::string(two));
      advance(2);
      return {};
    }
    const char c = text_[at_];
    if (std::string_view("+-*/%~[](){}<>=.:|,").find(c) == std::string_view::npos) {
      return bad("unexpected " + quoted(std::string_view(text_).substr(at_, utf8_length(c))));
    }
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) return bad(std::string("unexpected ") + c);
      open.pop_back();
    }
    push(Token::Kind::symbol, std::string(1, c));
    advance(1);
    return {};
  }

  std::string text_;
  std::size_t at_ = 0;
  std::size_t line_start_ = 0;
  std::uint32_t line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> lex_template(std::string_view text) { return Lexer(text).run(); }

}  // namespace ciuic::inline CIUIC_ABI
