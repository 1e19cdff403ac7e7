#include "text/template_expression_parser.hpp"

#include <algorithm>
#include <utility>

#include "base/try.hpp"
#include "text/template_error.hpp"

namespace ciuic::inline CIUIC_ABI {

Result<ExpressionId> ExpressionParser::make(Expression node) {
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

Result<ExpressionId> ExpressionParser::make(Kind kind, Position position, std::vector<Id> children,
                                            std::string text) {
  return make(Expression{.kind = kind,
                         .position = position,
                         .text = std::move(text),
                         .children = std::move(children)});
}

Result<ExpressionId> ExpressionParser::tuple_or_expression(bool with_condition) {
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

Result<ExpressionId> ExpressionParser::expression(bool with_condition) {
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

Result<ExpressionId> ExpressionParser::or_expression() {
  CIUIC_ASSIGN_OR_RETURN(Id left, and_expression());
  while (is_word("or")) {
    const Position position = token().position;
    ++at_;
    CIUIC_ASSIGN_OR_RETURN(const Id right, and_expression());
    CIUIC_ASSIGN_OR_RETURN(left, make(Kind::logical_or, position, {left, right}));
  }
  return left;
}

Result<ExpressionId> ExpressionParser::and_expression() {
  CIUIC_ASSIGN_OR_RETURN(Id left, not_expression());
  while (is_word("and")) {
    const Position position = token().position;
    ++at_;
    CIUIC_ASSIGN_OR_RETURN(const Id right, not_expression());
    CIUIC_ASSIGN_OR_RETURN(left, make(Kind::logical_and, position, {left, right}));
  }
  return left;
}

Result<ExpressionId> ExpressionParser::not_expression() {
  if (!is_word("not")) return compare();
  const Nested nested(depth_);
  if (depth_ > kMaxNesting) return bad("an expression nested too deep");
  const Position position = token().position;
  ++at_;
  CIUIC_ASSIGN_OR_RETURN(const Id operand, not_expression());
  return make(Kind::logical_not, position, {operand});
}

Result<ExpressionId> ExpressionParser::compare() {
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

template <class Next>
Result<ExpressionId> ExpressionParser::binary(std::initializer_list<std::string_view> symbols,
                                              Next next) {
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

Result<ExpressionId> ExpressionParser::sum() {
  return binary({"+", "-"}, [&] { return concatenation(); });
}

Result<ExpressionId> ExpressionParser::concatenation() {
  return binary({"~"}, [&] { return product(); });
}

Result<ExpressionId> ExpressionParser::product() {
  return binary({"*", "/", "//", "%"}, [&] { return power(); });
}

Result<ExpressionId> ExpressionParser::power() {
  return binary({"**"}, [&] { return unary(true); });
}

Result<ExpressionId> ExpressionParser::unary(bool with_filter) {
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

Result<ExpressionId> ExpressionParser::constant(Position position, Value value) {
  return make(Expression{.kind = Kind::constant, .position = position, .value = std::move(value)});
}

Result<ExpressionId> ExpressionParser::primary() {
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

Result<ExpressionId> ExpressionParser::postfix(Id node) {
  while (true) {
    const Position position = token().position;
    if (take_symbol(".")) {
      if (token().kind == Token::Kind::integer) {
        CIUIC_ASSIGN_OR_RETURN(const Id index, constant(position, Value::integer(token().integer)));
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

Result<ExpressionId> ExpressionParser::subscript(Id node, Position position) {
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

Result<void> ExpressionParser::arguments(Expression& call) {
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

Result<ExpressionId> ExpressionParser::filters_and_tests(Id node) {
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

}  // namespace ciuic::inline CIUIC_ABI
