#include "text/template_filters.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/template_builtins.hpp"
#include "text/template_is_tests.hpp"
#include "text/template_operators.hpp"
#include "text/template_strings.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

Result<Value> sort_values(std::vector<Value> values, const std::vector<Value>& keys, bool reverse) {
  bool numbers = true, strings = true;
  for (const Value& key : keys) {
    numbers = numbers && key.is_number();
    strings = strings && key.is_string();
  }
  if (!numbers && !strings) return value_error("sort: the values cannot be compared");
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const bool before = less(keys[a], keys[b]).value_or(false);
    const bool after = less(keys[b], keys[a]).value_or(false);
    if (before != after) return reverse ? after : before;
    return a < b;
  });
  std::vector<Value> sorted;
  for (const std::size_t i : order) sorted.push_back(values[i]);
  return Value::list(std::move(sorted));
}

/// What a path such as "function.name" finds in a value.
Result<Value> follow(const Value& value, std::string_view path) {
  Result<Value> at = value;
  while (true) {
    const std::size_t dot = path.find('.');
    const std::string_view name = path.substr(0, dot);
    const bool number = !name.empty() && name.size() < 10 &&
                        name.find_first_not_of("0123456789") == std::string_view::npos;
    std::int64_t index = 0;
    if (number) std::from_chars(name.data(), name.data() + name.size(), index);
    at = get_item(*at, number ? Value::integer(index) : Value::string(std::string(name)));
    if (!at || dot == std::string_view::npos) return at;
    path.remove_prefix(dot + 1);
  }
}

Value folded(const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  return Value::string(with_case(value.as_string(), "lower"));
}

Result<Value> select(std::string_view name, const Value& input, const Arguments& arguments,
                     TemplateBudget& budget) {
  const bool by_attribute = name.ends_with("attr");
  const bool wanted = name.starts_with("select");
  Arguments rest;
  rest.positional = arguments.positional;
  std::string path, test;
  const auto take = [&](std::string& out) -> Result<void> {
    if (rest.positional.empty()) return {};
    if (!rest.positional.front().is_string()) return value_error({name, ": wanted a string"});
    out = rest.positional.front().as_string();
    rest.positional.erase(rest.positional.begin());
    return {};
  };
  if (!arguments.named.empty()) return value_error({name, ": named arguments are unsupported"});
  if (by_attribute) {
    CIUIC_TRY(take(path));
    if (path.empty()) return value_error({name, ": an attribute is missing"});
  }
  CIUIC_TRY(take(test));
  if (!input.truth()) return Value::list({});  // of none as well
  CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
  std::vector<Value> out;
  for (const Value& item : items) {
    CIUIC_TRY(budget.charge(1));
    Value subject = item;
    if (by_attribute) {
      CIUIC_ASSIGN_OR_RETURN(subject, follow(item, path));
    }
    bool passes = subject.truth();
    if (!test.empty()) {
      CIUIC_ASSIGN_OR_RETURN(passes, call_test(test, subject, rest));
    }
    if (passes == wanted) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Result<Value> map(const Value& input, const Arguments& arguments, TemplateBudget& budget) {
  if (!input.truth()) return Value::list({});
  CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
  std::vector<Value> out;
  const auto named = [&](std::string_view name) -> const Value* {
    for (const auto& [key, value] : arguments.named) {
      if (key == name) return &value;
    }
    return nullptr;
  };
  const Value* attribute = arguments.positional.empty() ? named("attribute") : nullptr;
  if (attribute != nullptr) {
    for (const auto& [key, value] : arguments.named) {
      if (key != "attribute" && key != "default") {
        return value_error({"map: unknown argument ", quoted(key)});
      }
    }
    if (!attribute->is_string()) return value_error("map: attribute: wanted a string");
    for (const Value& item : items) {
      CIUIC_TRY(budget.charge(1));
      CIUIC_ASSIGN_OR_RETURN(Value found, follow(item, attribute->as_string()));
      if (found.is_undefined() && named("default") != nullptr) found = *named("default");
      out.push_back(std::move(found));
    }
    return Value::list(std::move(out));
  }
  if (arguments.positional.empty() || !arguments.positional.front().is_string()) {
    return value_error("map: wanted a filter's name or attribute=");
  }
  Arguments rest = arguments;
  const std::string filter = rest.positional.front().as_string();
  rest.positional.erase(rest.positional.begin());
  if (filter == "map") return value_error("map: of map is unsupported");
  for (const Value& item : items) {
    CIUIC_TRY(budget.charge(1));
    CIUIC_ASSIGN_OR_RETURN(Value mapped, call_filter(filter, item, rest, budget));
    out.push_back(std::move(mapped));
  }
  return Value::list(std::move(out));
}

}  // namespace

Result<Value> call_filter(std::string_view name, const Value& input, const Arguments& arguments,
                          TemplateBudget& budget) {
  CIUIC_TRY(budget.charge(input.weight()));
  if (name == "selectattr" || name == "rejectattr" || name == "select" || name == "reject") {
    return select(name, input, arguments, budget);
  }
  if (name == "map") return map(input, arguments, budget);
  const auto as_text = [&](std::string_view what) -> Result<Value> {
    // Jinja's string filters read anything as text.
    return string_method(what, to_text(input), arguments);
  };
  if (name == "upper" || name == "lower" || name == "capitalize") return as_text(name);
  if (name == "title") {
    CIUIC_TRY(Bound::bind(name, arguments, {}));
    return Value::string(with_case(to_text(input), "words"));
  }
  if (name == "trim") return as_text("strip");
  if (name == "replace") {
    Result<Value> replaced = as_text("replace");
    if (replaced) CIUIC_TRY(budget.charge_bytes(replaced->as_string().size()));
    return replaced;
  }
  if (name == "default" || name == "d") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                           Bound::bind(name, arguments, {"default_value", "boolean"}));
    const bool absent = input.is_undefined() || (bound.truth(1) && !input.truth());
    if (!absent) return input;
    return bound.get(0) != nullptr ? *bound.get(0) : Value::string("");
  }
  if (name == "tojson") {
    CIUIC_ASSIGN_OR_RETURN(
        const Bound bound,
        Bound::bind(name, arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}));
    if (bound.has(2)) return value_error("tojson: separators are unsupported");
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t indent, bound.integer(1, -1));
    if (indent > 40) return value_error("tojson: indent: wanted at most 40");
    if (input.is_undefined()) return undefined_error(input);
    std::string out;
    CIUIC_TRY(append_json(out, input, static_cast<int>(std::max<std::int64_t>(indent, -1)),
                          bound.truth(0), bound.truth(3)));
    CIUIC_TRY(budget.charge_bytes(out.size()));
    return Value::string(std::move(out));
  }
  if (name == "join") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"d", "attribute"}));
    CIUIC_ASSIGN_OR_RETURN(const std::string separator, bound.string(0, ""));
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
    std::string out;
    for (std::size_t i = 0; i < items.size(); ++i) {
      Value item = items[i];
      if (bound.has(1)) {
        CIUIC_ASSIGN_OR_RETURN(const std::string path, bound.string(1));
        CIUIC_ASSIGN_OR_RETURN(item, follow(items[i], path));
      }
      if (i > 0) out += separator;
      const std::size_t before = out.size();
      append_str(out, item);
      CIUIC_TRY(budget.charge_bytes(out.size() - before + separator.size()));
    }
    return Value::string(std::move(out));
  }
  if (name == "int" || name == "float") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"default"}));
    const bool to_int = name == "int";
    const Value fallback = bound.get(0) != nullptr ? *bound.get(0)
                           : to_int                ? Value::integer(0)
                                                   : Value::number(0);
    double number = 0;
    if (input.is_integral()) {
      return to_int ? Value::integer(input.as_integer()) : Value::number(input.as_number());
    }
    if (input.is_float()) {
      number = input.as_number();
    } else if (input.is_string()) {
      const std::string_view text = strip(input.as_string(), true, true, nullptr);
      const char* last = text.data() + text.size();
      std::int64_t integer = 0;
      if (to_int) {
        const auto read = std::from_chars(text.data(), last, integer);
        if (read.ec == std::errc() && read.ptr == last) return Value::integer(integer);
      }
      const auto read = std::from_chars(text.data(), last, number);
      if (read.ec != std::errc() || read.ptr != last) return fallback;
    } else {
      return fallback;
    }
    if (!to_int) return Value::number(number);
    if (!(std::abs(number) < 9e18)) return fallback;
    return Value::integer(static_cast<std::int64_t>(number));
  }
  if (name == "indent") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                           Bound::bind(name, arguments, {"width", "first", "blank"}));
    std::string space(4, ' ');
    if (bound.get(0) != nullptr && bound.get(0)->is_string()) {
      space = bound.get(0)->as_string();
    } else if (bound.has(0)) {
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t width, bound.integer(0));
      if (width < 0 || width > 1000) return value_error("indent: width: wanted 0 to 1000");
      space.assign(static_cast<std::size_t>(width), ' ');
    }
    const std::string text = to_text(input);
    std::string out;
    std::size_t done = 0;
    for (bool first = true; done <= text.size(); first = false) {
      const std::size_t end = std::min(text.find('\n', done), text.size());
      const bool blank = end == done;
      if (first ? bound.truth(1) : (!blank || bound.truth(2))) out += space;
      out.append(text, done, end - done);
      if (end < text.size()) out += '\n';
      done = end + 1;
    }
    CIUIC_TRY(budget.charge_bytes(out.size()));
    return Value::string(std::move(out));
  }
  if (name == "sort" || name == "unique") {
    const bool sorts = name == "sort";
    CIUIC_ASSIGN_OR_RETURN(
        const Bound bound,
        sorts ? Bound::bind(name, arguments, {"case_sensitive", "attribute", "reverse"})
              : Bound::bind(name, arguments, {"case_sensitive", "attribute"}));
    if (sorts && !arguments.positional.empty()) return value_error("sort: wanted named arguments");
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
    std::vector<Value> keys;
    for (const Value& item : items) {
      Value key = item;
      if (bound.has(1)) {
        CIUIC_ASSIGN_OR_RETURN(const std::string path, bound.string(1));
        CIUIC_ASSIGN_OR_RETURN(key, follow(item, path));
      }
      keys.push_back(folded(key, bound.truth(0)));
    }
    CIUIC_TRY(budget.charge(20 * input.weight()));
    if (sorts) return sort_values(items, keys, bound.truth(2));
    std::vector<Value> seen, out;
    for (std::size_t i = 0; i < items.size(); ++i) {
      CIUIC_TRY(budget.charge(seen.size()));
      if (std::any_of(seen.begin(), seen.end(),
                      [&](const Value& v) { return equal(v, keys[i]); })) {
        continue;
      }
      seen.push_back(keys[i]);
      out.push_back(items[i]);
    }
    return Value::list(std::move(out));
  }
  // Without arguments from here on.
  CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {}));
  if (name == "length" || name == "count") {
    if (input.is_string()) {
      return Value::integer(static_cast<std::int64_t>(count_characters(input.as_string())));
    }
    if (input.is_dict()) {
      return Value::integer(static_cast<std::int64_t>(input.as_dict().members.size()));
    }
    if (input.is_list()) return Value::integer(static_cast<std::int64_t>(input.items().size()));
    if (input.is_undefined()) return Value::integer(0);
    return value_error({name, ": ", input.type_name(), " has no length"});
  }
  if (name == "string") return Value::string(to_text(input));
  if (name == "list") {
    CIUIC_ASSIGN_OR_RETURN(std::vector<Value> items, iterate(input));
    return Value::list(std::move(items));
  }
  if (name == "items") {
    if (input.is_undefined()) return Value::list({});
    if (!input.is_dict()) return value_error({"items: wanted a mapping, got ", input.type_name()});
    return call_builtin({.name = "items", .self = input}, {}, budget);
  }
  if (name == "dictsort") {
    if (!input.is_dict()) {
      return value_error({"dictsort: wanted a mapping, got ", input.type_name()});
    }
    std::vector<Value> items, keys;
    for (const auto& [key, value] : input.as_dict().members) {
      items.push_back(pair_value(key, value));
      keys.push_back(folded(Value::string(key), false));
    }
    return sort_values(std::move(items), keys, false);
  }
  if (name == "first" || name == "last") {
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
    if (items.empty()) return Value::undefined(std::string(name) + " item of nothing");
    return name == "first" ? items.front() : items.back();
  }
  if (name == "reverse") {
    if (input.is_string()) {
      return get_slice(input, Value(), Value(), Value::integer(-1));
    }
    CIUIC_ASSIGN_OR_RETURN(std::vector<Value> items, iterate(input));
    std::reverse(items.begin(), items.end());
    return Value::list(std::move(items));
  }
  if (name == "abs") {
    if (input.is_integral()) {
      if (input.as_integer() >= 0) return Value::integer(input.as_integer());
      return binary_operator("-", Value::integer(0), input, budget);
    }
    if (input.is_float()) return Value::number(std::abs(input.as_number()));
    return value_error({"abs: wanted a number, got ", input.type_name()});
  }
  if (name == "min" || name == "max" || name == "sum") {
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> items, iterate(input));
    if (name == "sum") {
      Value total = Value::integer(0);
      for (const Value& item : items) {
        CIUIC_ASSIGN_OR_RETURN(total, binary_operator("+", total, item, budget));
      }
      return total;
    }
    if (items.empty()) return Value::undefined(std::string(name) + " of nothing");
    std::vector<Value> keys;
    for (const Value& item : items) keys.push_back(folded(item, false));
    CIUIC_ASSIGN_OR_RETURN(const Value sorted, sort_values(items, keys, name == "max"));
    return sorted.items().front();
  }
  return Error(ErrorCode::unsupported, {"unsupported filter ", quoted(name)});
}

}  // namespace ciuic::inline CIUIC_ABI
