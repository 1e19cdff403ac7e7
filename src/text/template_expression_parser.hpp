// The expressions of a chat template, read by recursive descent: one function for each level of
// precedence, the loosest first.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/template_nodes.hpp"
#include "text/template_token_reader.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Reads expressions into `nodes_`. The parser of statements builds on it. Thread-safety:
/// thread-compatible.
class ExpressionParser : public TokenReader {
 public:
  using TokenReader::TokenReader;

  static constexpr int kMaxNesting = 100;  ///< of blocks and expressions: bounds the stack

  /// `with_condition`: whether an `if` behind it belongs to it.
  Result<ExpressionId> expression(bool with_condition = true);
  /// One expression, or several with commas between, which make a tuple.
  Result<ExpressionId> tuple_or_expression(bool with_condition = true);

 protected:
  /// Counts nesting while it lives.
  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    int& depth_;
  };

  int depth_ = 0;
  TemplateNodes nodes_;

 private:
  using Kind = Expression::Kind;
  using Id = ExpressionId;

  Result<Id> make(Expression node);
  Result<Id> make(Kind kind, Position position, std::vector<Id> children, std::string text = {});
  Result<Id> or_expression();
  Result<Id> and_expression();
  Result<Id> not_expression();
  Result<Id> compare();
  /// One level of binary operators: what is between them is read by `next`.
  template <class Next>
  Result<Id> binary(std::initializer_list<std::string_view> symbols, Next next);
  Result<Id> sum();
  Result<Id> concatenation();
  Result<Id> product();
  Result<Id> power();
  Result<Id> unary(bool with_filter);
  Result<Id> constant(Position position, Value value);
  Result<Id> primary();
  Result<Id> postfix(Id node);
  Result<Id> subscript(Id node, Position position);
  /// ( … ), appended to `call`.
  Result<void> arguments(Expression& call);
  Result<Id> filters_and_tests(Id node);
};

}  // namespace ciuic::inline CIUIC_ABI
