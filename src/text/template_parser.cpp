// Jinja's grammar, as far as chat templates go. First the text is cut into tokens with the white
// space rules applied, then read by recursive descent of bounded depth.
#include <algorithm>
#include <charconv>
#include <optional>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/template_nodes.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {

Error template_error(ErrorCode code, Position position, std::string_view what) {
  std::string line;  // a template may put line breaks into its messages
  for (const char c : what.substr(0, 300)) {
    line += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return Error(code, {"chat template ", std::to_string(position.line), ":",
                      std::to_string(position.column), ": ", line});
}

namespace {

constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 18;
constexpr int kMaxNesting = 100;

struct Token {
  enum class Kind : std::uint8_t {
    text,
    begin_output,
    end_output,
    begin_block,
    end_block,
    name,
    string,
    integer,
    number,
    symbol,
    end,
  };
  Kind kind = Kind::end;
  Position position;
  std::string text;
  std::int64_t integer = 0;
  double number = 0;
};

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

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<TemplateNodes> run() {
    CIUIC_ASSIGN_OR_RETURN(nodes_.statements, statements({}));
    return std::move(nodes_);
  }

 private:
  using Kind = Expression::Kind;
  using Id = ExpressionId;

  const Token& token(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Error bad(std::string_view what) const {
    return template_error(ErrorCode::bad_model, token().position, what);
  }
  Error unsupported(std::string_view what) const {
    return template_error(ErrorCode::unsupported, token().position, "unsupported " + quoted(what));
  }
  Error expected(std::string_view what) const {
    return bad("expected " + std::string(what) + ", got " + describe_token());
  }
  std::string describe_token() const {
    switch (token().kind) {
      case Token::Kind::end:
        return "the end of the template";
      case Token::Kind::end_block:
        return "the end of the block";
      case Token::Kind::end_output:
        return "the end of the output";
      case Token::Kind::name:
      case Token::Kind::symbol:
      case Token::Kind::string:
        return quoted(token().text);
      default:
        return "something else";
    }
  }
  bool is(Token::Kind kind, std::string_view text) const {
    return token().kind == kind && token().text == text;
  }
  bool is_symbol(std::string_view text) const { return is(Token::Kind::symbol, text); }
  bool is_word(std::string_view text) const { return is(Token::Kind::name, text); }
  bool take_symbol(std::string_view text) {
    if (!is_symbol(text)) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view text) {
    if (!is_word(text)) return false;
    ++at_;
    return true;
  }
  Result<void> need_symbol(std::string_view text) {
    if (!take_symbol(text)) return expected(quoted(text));
    return {};
  }
  Result<void> need_end_of_block() {
    if (token().kind != Token::Kind::end_block) return expected("the end of the block");
    ++at_;
    return {};
  }
  Result<std::string> need_name() {
    if (token().kind != Token::Kind::name) return expected("a name");
    return tokens_[at_++].text;
  }

  /// Counts nesting while it lives.
  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    int& depth_;
  };

  // ---- Statements

  /// Statements up to a block that starts with one of `ends`, which is left to be read.
  Result<std::vector<Statement>> statements(std::vector<std::string_view> ends) {
    const Nested nested(depth_);
    if (depth_ > kMaxNesting) return bad("blocks nested too deep");
    std::vector<Statement> out;
    while (true) {
      switch (token().kind) {
        case Token::Kind::end:
          if (!ends.empty()) return expected("{% " + std::string(ends.back()) + " %}");
          return out;
        case Token::Kind::text: {
          Statement statement{.kind = Statement::Kind::text, .position = token().position};
          statement.text = token().text;
          out.push_back(std::move(statement));
          ++at_;
          break;
        }
        case Token::Kind::begin_output: {
          Statement statement{.kind = Statement::Kind::output, .position = token().position};
          ++at_;
          CIUIC_ASSIGN_OR_RETURN(statement.expression, tuple_or_expression());
          if (token().kind != Token::Kind::end_output) return expected("the end of the output");
          ++at_;
          out.push_back(std::move(statement));
          break;
        }
        case Token::Kind::begin_block: {
          const Token& word = token(1);
          if (word.kind == Token::Kind::name &&
              std::find(ends.begin(), ends.end(), word.text) != ends.end()) {
            ++at_;
            return out;
          }
          ++at_;
          CIUIC_ASSIGN_OR_RETURN(Statement statement, block());
          out.push_back(std::move(statement));
          break;
        }
        default:
          return bad("unexpected " + describe_token());
      }
    }
  }

  Result<Statement> block() {
    const Position position = token().position;
    CIUIC_ASSIGN_OR_RETURN(const std::string word, need_name());
    if (word == "if") return condition(position);
    if (word == "for") return loop(position);
    if (word == "set") return set(position);
    if (word == "macro") return macro(position);
    if (word == "generation") {
      Statement statement{.kind = Statement::Kind::scope, .position = position};
      CIUIC_TRY(need_end_of_block());
      CIUIC_ASSIGN_OR_RETURN(statement.body, statements({"endgeneration"}));
      ++at_;
      CIUIC_TRY(need_end_of_block());
      return statement;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) return bad(word + " outside of a loop");
      CIUIC_TRY(need_end_of_block());
      return Statement{
          .kind = word == "break" ? Statement::Kind::break_loop : Statement::Kind::continue_loop,
          .position = position};
    }
    --at_;
    for (const std::string_view known : {"include", "import", "from", "extends", "block", "call",
                                         "filter", "with", "do", "autoescape", "trans", "debug"}) {
      if (word == known) return unsupported(word);
    }
    return bad("unknown block " + quoted(word));
  }

  Result<Statement> condition(Position position) {
    Statement statement{.kind = Statement::Kind::condition, .position = position};
    Id test = kNoExpression;
    CIUIC_ASSIGN_OR_RETURN(test, tuple_or_expression());
    while (true) {
      CIUIC_TRY(need_end_of_block());
      const bool last = test == kNoExpression;
      CIUIC_ASSIGN_OR_RETURN(
          std::vector<Statement> body,
          statements(last ? std::vector<std::string_view>{"endif"}
                          : std::vector<std::string_view>{"elif", "else", "endif"}));
      statement.branches.emplace_back(test, std::move(body));
      if (take_word("endif")) break;
      if (take_word("elif")) {
        CIUIC_ASSIGN_OR_RETURN(test, tuple_or_expression());
      } else {
        ++at_;
        test = kNoExpression;
      }
    }
    CIUIC_TRY(need_end_of_block());
    return statement;
  }

  /// a or a, b or (a, b)
  Result<std::vector<std::string>> targets() {
    const bool bracket = take_symbol("(");
    std::vector<std::string> names;
    do {
      CIUIC_ASSIGN_OR_RETURN(std::string name, need_name());
      names.push_back(std::move(name));
    } while (take_symbol(","));
    if (bracket) CIUIC_TRY(need_symbol(")"));
    return names;
  }

  Result<Statement> loop(Position position) {
    Statement statement{.kind = Statement::Kind::loop, .position = position};
    CIUIC_ASSIGN_OR_RETURN(statement.names, targets());
    if (!take_word("in")) return expected("\"in\"");
    CIUIC_ASSIGN_OR_RETURN(statement.expression, tuple_or_expression(false));
    if (take_word("if")) {
      CIUIC_ASSIGN_OR_RETURN(statement.filter, expression());
    }
    if (is_word("recursive")) return unsupported("recursive");
    CIUIC_TRY(need_end_of_block());
    ++loops_;
    Result<std::vector<Statement>> body = statements({"else", "endfor"});
    --loops_;
    if (!body) return body.error();
    statement.body = *std::move(body);
    if (take_word("else")) {
      CIUIC_TRY(need_end_of_block());
      CIUIC_ASSIGN_OR_RETURN(statement.otherwise, statements({"endfor"}));
    }
    ++at_;
    CIUIC_TRY(need_end_of_block());
    return statement;
  }

  Result<Statement> set(Position position) {
    Statement statement{.kind = Statement::Kind::set, .position = position};
    if (token(1).kind == Token::Kind::symbol && token(1).text == ".") {
      CIUIC_ASSIGN_OR_RETURN(statement.text, need_name());
      ++at_;
      CIUIC_ASSIGN_OR_RETURN(std::string name, need_name());
      statement.names.push_back(std::move(name));
    } else {
      CIUIC_ASSIGN_OR_RETURN(statement.names, targets());
    }
    if (take_symbol("=")) {
      CIUIC_ASSIGN_OR_RETURN(statement.expression, tuple_or_expression());
      CIUIC_TRY(need_end_of_block());
      return statement;
    }
    if (is_symbol("|")) return unsupported("set with a filter");
    if (statement.names.size() != 1 || !statement.text.empty()) return expected("\"=\"");
    CIUIC_TRY(need_end_of_block());
    statement.kind = Statement::Kind::set_block;
    CIUIC_ASSIGN_OR_RETURN(statement.body, statements({"endset"}));
    ++at_;
    CIUIC_TRY(need_end_of_block());
    return statement;
  }

  Result<Statement> macro(Position position) {
    Statement statement{.kind = Statement::Kind::macro, .position = position};
    CIUIC_ASSIGN_OR_RETURN(std::string name, need_name());
    statement.names.push_back(std::move(name));
    CIUIC_TRY(need_symbol("("));
    while (!take_symbol(")")) {
      if (!statement.parameters.empty()) CIUIC_TRY(need_symbol(","));
      CIUIC_ASSIGN_OR_RETURN(std::string parameter, need_name());
      Id fallback = kNoExpression;
      if (take_symbol("=")) {
        CIUIC_ASSIGN_OR_RETURN(fallback, expression());
      } else if (!statement.parameters.empty() &&
                 statement.parameters.back().second != kNoExpression) {
        return bad("a parameter without a default follows one with a default");
      }
      statement.parameters.emplace_back(std::move(parameter), fallback);
    }
    CIUIC_TRY(need_end_of_block());
    const int loops = std::exchange(loops_, 0);
    Result<std::vector<Statement>> body = statements({"endmacro"});
    loops_ = loops;
    if (!body) return body.error();
    statement.body = *std::move(body);
    ++at_;
    CIUIC_TRY(need_end_of_block());
    return statement;
  }

  // ---- Expressions

  Result<Id> make(Expression node) {
    for (const Id child : node.children) {
      if (child != kNoExpression) {
        node.depth = std::max(node.depth, nodes_.expressions[child].depth + 1);
      }
    }
    for (const auto& [name, child] : node.keywords) {
      node.depth = std::max(node.depth, nodes_.expressions[child].depth + 1);
    }
    if (node.depth > 2 * kMaxNesting) {
      return template_error(ErrorCode::bad_model, node.position, "an expression nested too deep");
    }
    nodes_.expressions.push_back(std::move(node));
    return static_cast<Id>(nodes_.expressions.size() - 1);
  }
  Result<Id> make(Kind kind, Position position, std::vector<Id> children, std::string text = {}) {
    return make(Expression{.kind = kind,
                           .position = position,
                           .text = std::move(text),
                           .children = std::move(children)});
  }

  /// One expression, or several with commas between, which make a tuple.
  Result<Id> tuple_or_expression(bool with_condition = true) {
    const Position position = token().position;
    CIUIC_ASSIGN_OR_RETURN(const Id first, expression(with_condition));
    if (!is_symbol(",")) return first;
    std::vector<Id> items{first};
    while (take_symbol(",")) {
      if (token().kind == Token::Kind::end_block || token().kind == Token::Kind::end_output) break;
      CIUIC_ASSIGN_OR_RETURN(const Id item, expression(with_condition));
      items.push_back(item);
    }
    return make(Kind::tuple, position, std::move(items));
  }

  Result<Id> expression(bool with_condition = true) {
    const Nested nested(depth_);
    if (depth_ > kMaxNesting) return bad("an expression nested too deep");
    CIUIC_ASSIGN_OR_RETURN(Id left, or_expression());
    while (with_condition && is_word("if")) {
      const Position position = token().position;
      ++at_;
      CIUIC_ASSIGN_OR_RETURN(const Id test, or_expression());
      Id otherwise = kNoExpression;
      if (take_word("else")) {
        CIUIC_ASSIGN_OR_RETURN(otherwise, expression());
      }
      CIUIC_ASSIGN_OR_RETURN(left, make(Kind::conditional, position, {left, test, otherwise}));
    }
    return left;
  }

  Result<Id> or_expression() {
    CIUIC_ASSIGN_OR_RETURN(Id left, and_expression());
    while (is_word("or")) {
      const Position position = token().position;
      ++at_;
      CIUIC_ASSIGN_OR_RETURN(const Id right, and_expression());
      CIUIC_ASSIGN_OR_RETURN(left, make(Kind::logical_or, position, {left, right}));
    }
    return left;
  }
  Result<Id> and_expression() {
    CIUIC_ASSIGN_OR_RETURN(Id left, not_expression());
    while (is_word("and")) {
      const Position position = token().position;
      ++at_;
      CIUIC_ASSIGN_OR_RETURN(const Id right, not_expression());
      CIUIC_ASSIGN_OR_RETURN(left, make(Kind::logical_and, position, {left, right}));
    }
    return left;
  }
  Result<Id> not_expression() {
    if (!is_word("not")) return compare();
    const Nested nested(depth_);
    if (depth_ > kMaxNesting) return bad("an expression nested too deep");
    const Position position = token().position;
    ++at_;
    CIUIC_ASSIGN_OR_RETURN(const Id operand, not_expression());
    return make(Kind::logical_not, position, {operand});
  }
  Result<Id> compare() {
    const Position position = token().position;
    CIUIC_ASSIGN_OR_RETURN(const Id first, sum());
    Expression node{.kind = Kind::compare, .position = position};
    node.children.push_back(first);
    while (true) {
      std::string op;
      for (const std::string_view symbol : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (is_symbol(symbol)) op = symbol;
      }
      if (!op.empty()) {
        ++at_;
      } else if (take_word("in")) {
        op = "in";
      } else if (is_word("not") && token(1).kind == Token::Kind::name && token(1).text == "in") {
        at_ += 2;
        op = "not in";
      } else {
        break;
      }
      CIUIC_ASSIGN_OR_RETURN(const Id next, sum());
      node.children.push_back(next);
      node.operators.push_back(std::move(op));
    }
    if (node.operators.empty()) return first;
    return make(std::move(node));
  }
  /// One level of binary operators: what is between them is read by `next`.
  template <class Next>
  Result<Id> binary(std::initializer_list<std::string_view> symbols, Next next) {
    CIUIC_ASSIGN_OR_RETURN(Id left, next());
    while (true) {
      std::string op;
      for (const std::string_view symbol : symbols) {
        if (is_symbol(symbol)) op = symbol;
      }
      if (op.empty()) return left;
      const Position position = token().position;
      ++at_;
      CIUIC_ASSIGN_OR_RETURN(const Id right, next());
      CIUIC_ASSIGN_OR_RETURN(left, make(Kind::binary, position, {left, right}, std::move(op)));
    }
  }
  Result<Id> sum() {
    return binary({"+", "-"}, [&] { return concatenation(); });
  }
  Result<Id> concatenation() {
    return binary({"~"}, [&] { return product(); });
  }
  Result<Id> product() {
    return binary({"*", "/", "//", "%"}, [&] { return power(); });
  }
  Result<Id> power() {
    return binary({"**"}, [&] { return unary(true); });
  }

  Result<Id> unary(bool with_filter) {
    const Nested nested(depth_);
    if (depth_ > kMaxNesting) return bad("an expression nested too deep");
    const Position position = token().position;
    Id node = kNoExpression;
    if (take_symbol("-")) {
      CIUIC_ASSIGN_OR_RETURN(const Id operand, unary(false));
      CIUIC_ASSIGN_OR_RETURN(node, make(Kind::negate, position, {operand}));
    } else if (take_symbol("+")) {
      CIUIC_ASSIGN_OR_RETURN(const Id operand, unary(false));
      CIUIC_ASSIGN_OR_RETURN(node, make(Kind::plus, position, {operand}));
    } else {
      CIUIC_ASSIGN_OR_RETURN(node, primary());
    }
    CIUIC_ASSIGN_OR_RETURN(node, postfix(node));
    if (with_filter) {
      CIUIC_ASSIGN_OR_RETURN(node, filters_and_tests(node));
    }
    return node;
  }

  Result<Id> constant(Position position, Value value) {
    return make(
        Expression{.kind = Kind::constant, .position = position, .value = std::move(value)});
  }

  Result<Id> primary() {
    const Token here = token();
    switch (here.kind) {
      case Token::Kind::name: {
        ++at_;
        if (here.text == "true" || here.text == "True") {
          return constant(here.position, Value::boolean(true));
        }
        if (here.text == "false" || here.text == "False") {
          return constant(here.position, Value::boolean(false));
        }
        if (here.text == "none" || here.text == "None") return constant(here.position, Value());
        return make(Kind::name, here.position, {}, here.text);
      }
      case Token::Kind::string: {
        std::string text;
        while (token().kind == Token::Kind::string) text += tokens_[at_++].text;
        return constant(here.position, Value::string(std::move(text)));
      }
      case Token::Kind::integer:
        ++at_;
        return constant(here.position, Value::integer(here.integer));
      case Token::Kind::number:
        ++at_;
        return constant(here.position, Value::number(here.number));
      default:
        break;
    }
    if (take_symbol("(")) {
      if (take_symbol(")")) return make(Kind::tuple, here.position, {});
      CIUIC_ASSIGN_OR_RETURN(const Id first, expression());
      if (take_symbol(")")) return first;
      std::vector<Id> items{first};
      while (take_symbol(",")) {
        if (is_symbol(")")) break;
        CIUIC_ASSIGN_OR_RETURN(const Id item, expression());
        items.push_back(item);
      }
      CIUIC_TRY(need_symbol(")"));
      return make(Kind::tuple, here.position, std::move(items));
    }
    if (take_symbol("[")) {
      std::vector<Id> items;
      while (!take_symbol("]")) {
        if (!items.empty()) {
          CIUIC_TRY(need_symbol(","));
          if (take_symbol("]")) break;
        }
        CIUIC_ASSIGN_OR_RETURN(const Id item, expression());
        items.push_back(item);
      }
      return make(Kind::list, here.position, std::move(items));
    }
    if (take_symbol("{")) {
      std::vector<Id> items;
      while (!take_symbol("}")) {
        if (!items.empty()) {
          CIUIC_TRY(need_symbol(","));
          if (take_symbol("}")) break;
        }
        CIUIC_ASSIGN_OR_RETURN(const Id key, expression());
        CIUIC_TRY(need_symbol(":"));
        CIUIC_ASSIGN_OR_RETURN(const Id value, expression());
        items.push_back(key);
        items.push_back(value);
      }
      return make(Kind::dict, here.position, std::move(items));
    }
    return expected("an expression");
  }

  Result<Id> postfix(Id node) {
    while (true) {
      const Position position = token().position;
      if (take_symbol(".")) {
        if (token().kind == Token::Kind::integer) {
          CIUIC_ASSIGN_OR_RETURN(const Id index,
                                 constant(position, Value::integer(token().integer)));
          ++at_;
          CIUIC_ASSIGN_OR_RETURN(node, make(Kind::subscript, position, {node, index}));
          continue;
        }
        CIUIC_ASSIGN_OR_RETURN(std::string name, need_name());
        CIUIC_ASSIGN_OR_RETURN(node, make(Kind::attribute, position, {node}, std::move(name)));
      } else if (take_symbol("[")) {
        CIUIC_ASSIGN_OR_RETURN(node, subscript(node, position));
      } else if (is_symbol("(")) {
        Expression call{.kind = Kind::call, .position = position};
        call.children.push_back(node);
        CIUIC_TRY(arguments(call));
        CIUIC_ASSIGN_OR_RETURN(node, make(std::move(call)));
      } else {
        return node;
      }
    }
  }

  Result<Id> subscript(Id node, Position position) {
    Id parts[3] = {kNoExpression, kNoExpression, kNoExpression};
    std::size_t part = 0;
    bool slice = false;
    while (!take_symbol("]")) {
      if (take_symbol(":")) {
        slice = true;
        if (++part > 2) return bad("a slice has at most three parts");
        continue;
      }
      if (parts[part] != kNoExpression) return expected("\"]\"");
      CIUIC_ASSIGN_OR_RETURN(parts[part], expression());
    }
    if (slice) return make(Kind::slice, position, {node, parts[0], parts[1], parts[2]});
    if (parts[0] == kNoExpression) return expected("an index");
    return make(Kind::subscript, position, {node, parts[0]});
  }

  /// ( … ), appended to `call`.
  Result<void> arguments(Expression& call) {
    CIUIC_TRY(need_symbol("("));
    bool first = true;
    while (!take_symbol(")")) {
      if (!std::exchange(first, false)) {
        CIUIC_TRY(need_symbol(","));
        if (take_symbol(")")) break;
      }
      if (is_symbol("*") || is_symbol("**")) return unsupported("unpacked arguments");
      if (token().kind == Token::Kind::name && token(1).kind == Token::Kind::symbol &&
          token(1).text == "=") {
        std::string name = token().text;
        at_ += 2;
        CIUIC_ASSIGN_OR_RETURN(const Id value, expression());
        call.keywords.emplace_back(std::move(name), value);
        continue;
      }
      if (!call.keywords.empty()) return bad("a positional argument follows a named one");
      CIUIC_ASSIGN_OR_RETURN(const Id value, expression());
      call.children.push_back(value);
    }
    return {};
  }

  Result<Id> filters_and_tests(Id node) {
    while (true) {
      const Position position = token().position;
      if (take_symbol("|")) {
        Expression filter{.kind = Kind::filter, .position = position};
        CIUIC_ASSIGN_OR_RETURN(filter.text, need_name());
        filter.children.push_back(node);
        if (is_symbol("(")) CIUIC_TRY(arguments(filter));
        CIUIC_ASSIGN_OR_RETURN(node, make(std::move(filter)));
      } else if (take_word("is")) {
        const bool negated = take_word("not");
        Expression test{.kind = Kind::test, .position = position};
        CIUIC_ASSIGN_OR_RETURN(test.text, need_name());
        test.children.push_back(node);
        if (is_symbol("(")) {
          CIUIC_TRY(arguments(test));
        } else if (token().kind == Token::Kind::string || token().kind == Token::Kind::integer ||
                   token().kind == Token::Kind::number || is_symbol("[") || is_symbol("{") ||
                   (token().kind == Token::Kind::name && !is_word("else") && !is_word("or") &&
                    !is_word("and") && !is_word("is") && !is_word("if") && !is_word("in") &&
                    !is_word("not"))) {
          CIUIC_ASSIGN_OR_RETURN(Id argument, primary());
          CIUIC_ASSIGN_OR_RETURN(argument, postfix(argument));
          test.children.push_back(argument);
        }
        CIUIC_ASSIGN_OR_RETURN(node, make(std::move(test)));
        if (negated) {
          CIUIC_ASSIGN_OR_RETURN(node, make(Kind::logical_not, position, {node}));
        }
      } else if (is_symbol("(")) {
        Expression call{.kind = Kind::call, .position = position};
        call.children.push_back(node);
        CIUIC_TRY(arguments(call));
        CIUIC_ASSIGN_OR_RETURN(node, make(std::move(call)));
      } else {
        return node;
      }
    }
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  TemplateNodes nodes_;
};

}  // namespace

Result<TemplateNodes> parse_template(std::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return template_error(
        ErrorCode::bad_model, {},
        std::to_string(text.size()) + " bytes, limit " + std::to_string(kMaxTemplateBytes));
  }
  if (!is_valid_utf8(text)) return template_error(ErrorCode::bad_model, {}, "not valid UTF-8");
  CIUIC_ASSIGN_OR_RETURN(std::vector<Token> tokens, Lexer(text).run());
  return Parser(std::move(tokens)).run();
}

}  // namespace ciuic::inline CIUIC_ABI
