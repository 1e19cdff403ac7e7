// A parsed chat template: statements and expressions, by index into one pool each.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/base/version.hpp"
#include "text/template_error.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

using ExpressionId = std::uint32_t;
inline constexpr ExpressionId kNoExpression = 0xFFFFFFFFu;

struct Expression {
  enum class Kind : std::uint8_t {
    constant,   ///< value
    name,       ///< text
    list,       ///< children
    tuple,      ///< children
    dict,       ///< children: key, value, key, value …
    attribute,  ///< child 0 . text
    subscript,  ///< child 0 [ child 1 ]
    slice,      ///< child 0 [ child 1 : child 2 : child 3 ], each of them or kNoExpression
    call,       ///< child 0 ( the other children, keywords )
    filter,     ///< child 0 | text ( … )
    test,       ///< child 0 is text ( … )
    negate,     ///< - child 0
    plus,       ///< + child 0
    logical_not,
    logical_and,
    logical_or,
    binary,       ///< child 0 text child 1
    compare,      ///< child 0, then an operator of `operators` before each further child
    conditional,  ///< child 0 if child 1 else child 2 (or kNoExpression)
  };
  Kind kind = Kind::constant;
  Position position;
  std::string text = {};
  Value value = {};
  std::vector<ExpressionId> children = {};
  std::vector<std::pair<std::string, ExpressionId>> keywords = {};
  std::vector<std::string> operators = {};
  int depth = 1;
};

struct Statement {
  enum class Kind : std::uint8_t {
    text,       ///< text
    output,     ///< expression
    condition,  ///< branches in order: expression or kNoExpression, body
    loop,       ///< names in expression if filter: body, else otherwise
    set,        ///< names = expression, or text.names[0] = expression
    set_block,  ///< names[0] = what body prints
    macro,      ///< names[0](parameters): body
    scope,      ///< body, with names of its own
    break_loop,
    continue_loop,
  };
  Kind kind = Kind::text;
  Position position;
  std::string text = {};
  std::vector<std::string> names = {};
  ExpressionId expression = kNoExpression;
  ExpressionId filter = kNoExpression;
  std::vector<std::pair<std::string, ExpressionId>> parameters = {};
  std::vector<std::pair<ExpressionId, std::vector<Statement>>> branches = {};
  std::vector<Statement> body = {};
  std::vector<Statement> otherwise = {};
};

struct TemplateNodes {
  std::vector<Expression> expressions;
  std::vector<Statement> statements;
};

}  // namespace ciuic::inline CIUIC_ABI
