#include "text/template_parser.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/template_error.hpp"
#include "text/template_expression_parser.hpp"
#include "text/template_lexer.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {

namespace {

constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 18;

/// The statements; the class it builds on reads the expressions in them.
class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<TemplateNodes> run() {
    CIUIC_ASSIGN_OR_RETURN(nodes_.statements, statements({}));
    return std::move(nodes_);
  }

 private:
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
    ExpressionId test = kNoExpression;
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
      ExpressionId fallback = kNoExpression;
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

  int loops_ = 0;  ///< around the statement being read
};

}  // namespace

Result<TemplateNodes> parse_template(std::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return template_error(
        ErrorCode::bad_model, {},
        std::to_string(text.size()) + " bytes, limit " + std::to_string(kMaxTemplateBytes));
  }
  if (!is_valid_utf8(text)) return template_error(ErrorCode::bad_model, {}, "not valid UTF-8");
  CIUIC_ASSIGN_OR_RETURN(std::vector<Token> tokens, lex_template(text));
  return Parser(std::move(tokens)).run();
}

}  // namespace ciuic::inline CIUIC_ABI
