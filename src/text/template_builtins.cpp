#include "text/template_builtins.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "base/try.hpp"
#include "text/template_strings.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kListMethods[] = {"index", "count"};

template <std::size_t n>
bool is_one_of(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

bool has_method(const Value& self, std::string_view name) {
  if (self.is_string()) return is_string_method(name);
  if (self.is_dict()) return is_one_of(name, kDictMethods);
  return self.is_list() && is_one_of(name, kListMethods);
}

Result<Value> call_builtin(const CallableValue& callable, const Arguments& arguments,
                           TemplateBudget& budget) {
  const std::string_view name = callable.name;
  if (!callable.self) {
    if (name == "raise_exception") {
      CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"message"}));
      CIUIC_ASSIGN_OR_RETURN(const std::string message, bound.string(0, ""));
      return value_error(message);
    }
    if (name == "dict") {
      if (!arguments.positional.empty()) return value_error("dict: wanted named arguments");
      return Value::dict(arguments.named);
    }
    if (name == "range") {
      CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                             Bound::bind(name, arguments, {"start", "stop", "step"}));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t first, bound.integer(0));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t second, bound.integer(1, 0));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t step, bound.integer(2, 1));
      const bool one = bound.get(1) == nullptr;
      if (step == 0) return value_error("range: step 0");
      constexpr std::size_t kLongest = 100'000;
      std::vector<Value> items;
      const std::int64_t stop = one ? first : second;
      for (std::int64_t i = one ? 0 : first; step > 0 ? i < stop : i > stop;) {
        if (items.size() == kLongest) {
          return Error(ErrorCode::oversize, "range: more than 100000 numbers");
        }
        items.push_back(Value::integer(i));
        if (__builtin_add_overflow(i, step, &i)) break;
      }
      CIUIC_TRY(budget.charge(items.size()));
      return Value::list(std::move(items));
    }
    return Error(ErrorCode::internal, "no such function");
  }
  const Value& self = *callable.self;
  CIUIC_TRY(budget.charge(self.weight()));
  if (name == "cycle") {  // of a loop; self is the loop's index
    if (arguments.positional.empty()) return value_error("cycle: wanted values");
    const auto n = static_cast<std::int64_t>(arguments.positional.size());
    return arguments.positional[static_cast<std::size_t>(self.as_integer() % n)];
  }
  if (self.is_string()) {
    Result<Value> result = string_method(name, self.as_string(), arguments);
    if (result) CIUIC_TRY(budget.charge(result->weight()));
    return result;
  }
  if (self.is_dict()) {
    const DictValue& dict = self.as_dict();
    if (name == "get") {
      CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"key", "default"}));
      CIUIC_ASSIGN_OR_RETURN(const std::string key, bound.string(0));
      if (const Value* found = dict.find(key)) return *found;
      return bound.get(1) != nullptr ? *bound.get(1) : Value();
    }
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {}));
    std::vector<Value> out;
    for (const auto& [key, value] : dict.members) {
      out.push_back(name == "items"  ? pair_value(key, value)
                    : name == "keys" ? Value::string(key)
                                     : value);
    }
    return Value::list(std::move(out));
  }
  CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"value"}));
  if (bound.get(0) == nullptr) return bound.wanted(0, "a value");
  std::int64_t count = 0;
  for (std::size_t i = 0; i < self.items().size(); ++i) {
    if (!equal(self.items()[i], *bound.get(0))) continue;
    if (name == "index") return Value::integer(static_cast<std::int64_t>(i));
    ++count;
  }
  if (name == "index") return value_error("index: the value is not in the list");
  return Value::integer(count);
}

}  // namespace ciuic::inline CIUIC_ABI
