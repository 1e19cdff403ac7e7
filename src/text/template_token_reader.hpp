// A place in the tokens of a chat template: what stands there, taking it, and the errors that say
// where it was.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/fields.hpp"
#include "text/template_error.hpp"
#include "text/template_lexer.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Both halves of the parser read through this class. Thread-safety: thread-compatible.
class TokenReader {
 public:
  /// `tokens` end in one of kind `end`, which is read again and again.
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

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

 protected:
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
