#include "text/template_is_tests.hpp"

#include <optional>
#include <string>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/template_operators.hpp"
#include "text/template_strings.hpp"

namespace ciuic::inline CIUIC_ABI {

Result<bool> call_test(std::string_view name, const Value& input, const Arguments& arguments) {
  const auto argument = [&]() -> Result<Value> {
    if (arguments.positional.size() != 1 || !arguments.named.empty()) {
      return value_error({"is ", name, ": wanted one argument"});
    }
    return arguments.positional.front();
  };
  if (name == "eq" || name == "equalto" || name == "sameas" || name == "ne") {
    CIUIC_ASSIGN_OR_RETURN(const Value other, argument());
    if (name == "sameas" && input.type_name() != other.type_name()) return false;
    return equal(input, other) != (name == "ne");
  }
  if (name == "lt" || name == "lessthan" || name == "gt" || name == "greaterthan" || name == "le" ||
      name == "ge") {
    CIUIC_ASSIGN_OR_RETURN(const Value other, argument());
    const bool greater = name == "gt" || name == "greaterthan" || name == "le";
    const std::optional<bool> before = greater ? less(other, input) : less(input, other);
    if (!before) {
      return value_error({"is ", name, ": ", input.type_name(), " and ", other.type_name(),
                          " cannot be compared"});
    }
    return *before != (name == "le" || name == "ge");
  }
  if (name == "in") {
    CIUIC_ASSIGN_OR_RETURN(const Value other, argument());
    return contains(other, input);
  }
  if (name == "divisibleby") {
    CIUIC_ASSIGN_OR_RETURN(const Value other, argument());
    if (!input.is_integral() || !other.is_integral() || other.as_integer() == 0) {
      return value_error("is divisibleby: wanted integers");
    }
    return other.as_integer() == -1 || input.as_integer() % other.as_integer() == 0;
  }
  if (!arguments.positional.empty() || !arguments.named.empty()) {
    return value_error({"is ", name, ": takes no argument"});
  }
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.is_string();
  if (name == "mapping") return input.is_dict();
  if (name == "iterable" || name == "sequence") {
    return input.is_list() || input.is_string() || input.is_dict() || input.is_undefined();
  }
  if (name == "number") return input.is_number();
  if (name == "integer") return input.is_integer();
  if (name == "float") return input.is_float();
  if (name == "boolean") return input.is_boolean();
  if (name == "true") return input.is_boolean() && input.truth();
  if (name == "false") return input.is_boolean() && !input.truth();
  if (name == "callable") return input.is_callable();
  if (name == "odd" || name == "even") {
    if (!input.is_integral()) return value_error({"is ", name, ": wanted an integer"});
    return (input.as_integer() % 2 != 0) == (name == "odd");
  }
  if (name == "lower" || name == "upper") {
    const std::string text = to_text(input);
    return with_case(text, name) == text &&
           with_case(text, name == "lower" ? "upper" : "lower") != text;
  }
  return Error(ErrorCode::unsupported, {"unsupported test ", quoted(name)});
}

}  // namespace ciuic::inline CIUIC_ABI
