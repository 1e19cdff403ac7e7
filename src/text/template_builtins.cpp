#include "text/template_builtins.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

Error bad(std::string_view what) { return Error(ErrorCode::invalid_argument, what); }
Error bad(std::initializer_list<std::string_view> what) {
  return Error(ErrorCode::invalid_argument, what);
}
Error is_undefined(const Value& value) {
  return bad({quoted(value.undefined_name()), " is undefined"});
}

/// Finds a call's arguments by place or by name.
class Bound {
 public:
  static Result<Bound> bind(std::string_view function, const Arguments& arguments,
                            std::initializer_list<std::string_view> names) {
    Bound bound;
    if (arguments.positional.size() > names.size()) {
      return bad({function, ": ", std::to_string(arguments.positional.size()),
                  " arguments, wanted at most ", std::to_string(names.size())});
    }
    bound.values_.resize(names.size(), nullptr);
    for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
      bound.values_[i] = &arguments.positional[i];
    }
    for (const auto& [name, value] : arguments.named) {
      const auto at = std::find(names.begin(), names.end(), name);
      if (at == names.end()) return bad({function, ": unknown argument ", quoted(name)});
      const Value*& slot = bound.values_[static_cast<std::size_t>(at - names.begin())];
      if (slot != nullptr) return bad({function, ": argument ", quoted(name), " is given twice"});
      slot = &value;
    }
    bound.function_ = function;
    bound.names_.assign(names.begin(), names.end());
    return bound;
  }
  const Value* get(std::size_t i) const { return values_[i]; }
  bool has(std::size_t i) const { return values_[i] != nullptr && !values_[i]->is_none(); }
  bool truth(std::size_t i, bool fallback = false) const {
    return values_[i] == nullptr ? fallback : values_[i]->truth();
  }
  Result<std::string> string(std::size_t i, std::optional<std::string> fallback = {}) const {
    if (!has(i) && fallback) return *std::move(fallback);
    if (values_[i] == nullptr || !values_[i]->is_string()) return wanted(i, "a string");
    return values_[i]->as_string();
  }
  Result<std::int64_t> integer(std::size_t i, std::optional<std::int64_t> fallback = {}) const {
    if (!has(i) && fallback) return *fallback;
    if (values_[i] == nullptr || !values_[i]->is_integral()) return wanted(i, "an integer");
    return values_[i]->as_integer();
  }
  Error wanted(std::size_t i, std::string_view what) const {
    return bad({function_, ": ", names_[i], ": wanted ", what, ", got ",
                values_[i] == nullptr ? "nothing" : values_[i]->type_name()});
  }

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    out.push_back(text.substr(0, utf8_length(text[0])));
    text.remove_prefix(out.back().size());
  }
  return out;
}

Value pair_value(std::string_view key, const Value& value) {
  return Value::list({Value::string(std::string(key)), value}, true).value_or(Value());
}

/// Python's str.strip family: white space, or any character of `set`.
std::string_view strip(std::string_view text, bool left, bool right, const std::string* set) {
  const auto goes = [&](std::string_view c) {
    return set != nullptr ? set->find(c) != std::string::npos
                          : is_white_space(read_valid_utf8(c).code) ||
                                (c.size() == 1 && c[0] >= 0x1C && c[0] <= 0x1F);
  };
  while (left && !text.empty()) {
    const std::string_view c = text.substr(0, utf8_length(text[0]));
    if (!goes(c)) break;
    text.remove_prefix(c.size());
  }
  while (right && !text.empty()) {
    std::size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0u) == 0x80) --last;
    if (!goes(text.substr(last))) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    std::int64_t count) {
  std::string out;
  if (from.empty()) {  // between all characters, and at both ends
    for (const std::string_view c : characters(text)) {
      if (count != 0) {
        out += to;
        --count;
      }
      out += c;
    }
    if (count != 0) out += to;
    return out;
  }
  std::size_t done = 0;
  for (; count != 0; --count) {
    const std::size_t at = text.find(from, done);
    if (at == std::string_view::npos) break;
    out += text.substr(done, at - done);
    out += to;
    done = at + from.size();
  }
  out += text.substr(done);
  return out;
}

std::string with_case(std::string_view text, std::string_view how) {
  std::string out;
  if (how == "lower") {
    append_lowercase(out, text);
  } else if (how == "upper") {
    append_uppercase(out, text);
  } else {
    // title: a letter after none, as str.title; words: one after white space or an opening bracket,
    // as the filter of that name; capitalize: the first.
    bool start = true;
    for (const std::string_view c : characters(text)) {
      std::string upper, lower;
      append_uppercase(upper, c);
      append_lowercase(lower, c);
      out += start ? upper : lower;
      if (how == "title") {
        start = upper == lower;
      } else {
        start = how == "words" && (is_white_space(read_valid_utf8(c).code) ||
                                   std::string_view("-({[<").find(c) != std::string_view::npos);
      }
    }
  }
  return out;
}

Result<Value> split(std::string_view text, const std::string* separator, std::int64_t limit,
                    bool from_right) {
  std::vector<Value> out;
  const auto push = [&](std::string_view part) { out.push_back(Value::string(std::string(part))); };
  if (separator == nullptr) {
    if (from_right && limit >= 0) return bad("rsplit: a limit needs a separator");
    std::string_view rest = strip(text, true, false, nullptr);
    while (!rest.empty()) {
      if (limit >= 0 && static_cast<std::int64_t>(out.size()) >= limit) {
        push(strip(rest, false, true, nullptr));
        break;
      }
      std::size_t n = 0;
      while (n < rest.size() && !is_white_space(read_valid_utf8(rest.substr(n)).code)) {
        n += utf8_length(rest[n]);
      }
      push(rest.substr(0, n));
      rest = strip(rest.substr(n), true, false, nullptr);
    }
    return Value::list(std::move(out));
  }
  if (separator->empty()) return bad("split: an empty separator");
  if (from_right) {
    while (limit != 0) {
      const std::size_t at = text.rfind(*separator);
      if (at == std::string_view::npos) break;
      push(text.substr(at + separator->size()));
      text = text.substr(0, at);
      --limit;
    }
    push(text);
    std::reverse(out.begin(), out.end());
    return Value::list(std::move(out));
  }
  while (limit != 0) {
    const std::size_t at = text.find(*separator);
    if (at == std::string_view::npos) break;
    push(text.substr(0, at));
    text.remove_prefix(at + separator->size());
    --limit;
  }
  push(text);
  return Value::list(std::move(out));
}

constexpr std::string_view kStringMethods[] = {
    "strip",   "lstrip",  "rstrip",       "split",        "rsplit",     "startswith", "endswith",
    "replace", "upper",   "lower",        "title",        "capitalize", "find",       "count",
    "join",    "isdigit", "removeprefix", "removesuffix", "splitlines"};
constexpr std::string_view kDictMethods[] = {"items", "keys", "values", "get"};
constexpr std::string_view kListMethods[] = {"index", "count"};

template <std::size_t n>
bool is_one_of(std::string_view name, const std::string_view (&names)[n]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

Value method(const Value& self, std::string_view name) {
  return Value::callable({.name = std::string(name), .self = self});
}

Result<Value> string_method(std::string_view name, const std::string& text,
                            const Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"chars"}));
    std::optional<std::string> set;
    if (bound.has(0)) {
      CIUIC_ASSIGN_OR_RETURN(set, bound.string(0));
    }
    return Value::string(
        std::string(strip(text, name != "rstrip", name != "lstrip", set ? &*set : nullptr)));
  }
  if (name == "split" || name == "rsplit") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"sep", "maxsplit"}));
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t limit, bound.integer(1, -1));
    std::optional<std::string> separator;
    if (bound.has(0)) {
      CIUIC_ASSIGN_OR_RETURN(separator, bound.string(0));
    }
    return split(text, separator ? &*separator : nullptr, limit, name == "rsplit");
  }
  if (name == "startswith" || name == "endswith") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"part"}));
    if (bound.get(0) == nullptr) return bound.wanted(0, "a string");
    const std::vector<Value> one{*bound.get(0)};
    for (const Value& part : bound.get(0)->is_tuple() ? bound.get(0)->items() : one) {
      if (!part.is_string()) return bound.wanted(0, "a string or a tuple of strings");
      if (name == "startswith" ? text.starts_with(part.as_string())
                               : text.ends_with(part.as_string())) {
        return Value::boolean(true);
      }
    }
    return Value::boolean(false);
  }
  if (name == "replace") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                           Bound::bind(name, arguments, {"old", "new", "count"}));
    CIUIC_ASSIGN_OR_RETURN(const std::string from, bound.string(0));
    CIUIC_ASSIGN_OR_RETURN(const std::string to, bound.string(1));
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t count, bound.integer(2, -1));
    return Value::string(replace(text, from, to, count));
  }
  if (name == "find" || name == "count" || name == "removeprefix" || name == "removesuffix") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"part"}));
    CIUIC_ASSIGN_OR_RETURN(const std::string part, bound.string(0));
    if (name == "find") {
      const std::size_t at = text.find(part);
      if (at == std::string::npos) return Value::integer(-1);
      return Value::integer(
          static_cast<std::int64_t>(count_characters(std::string_view(text).substr(0, at))));
    }
    if (name == "count") {
      if (part.empty())
        return Value::integer(static_cast<std::int64_t>(count_characters(text)) + 1);
      std::int64_t n = 0;
      for (std::size_t at = text.find(part); at != std::string::npos;
           at = text.find(part, at + part.size())) {
        ++n;
      }
      return Value::integer(n);
    }
    std::string_view rest = text;
    if (name == "removeprefix" && rest.starts_with(part)) rest.remove_prefix(part.size());
    if (name == "removesuffix" && rest.ends_with(part)) rest.remove_suffix(part.size());
    return Value::string(std::string(rest));
  }
  if (name == "join") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"parts"}));
    if (bound.get(0) == nullptr) return bound.wanted(0, "a list of strings");
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> parts, iterate(*bound.get(0)));
    std::string out;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!parts[i].is_string()) return bound.wanted(0, "a list of strings");
      if (i > 0) out += text;
      out += parts[i].as_string();
    }
    return Value::string(std::move(out));
  }
  CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {}));
  if (name == "isdigit") {
    const auto all = characters(text);
    return Value::boolean(!all.empty() && std::all_of(all.begin(), all.end(), [](auto c) {
      return c.size() == 1 && c[0] >= '0' && c[0] <= '9';
    }));
  }
  if (name == "splitlines") {
    std::vector<Value> lines;
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::size_t at = rest.find_first_of("\r\n");
      lines.push_back(Value::string(std::string(rest.substr(0, at))));
      if (at == std::string_view::npos) break;
      rest.remove_prefix(at + (rest.substr(at).starts_with("\r\n") ? 2 : 1));
    }
    return Value::list(std::move(lines));
  }
  return Value::string(with_case(text, name));
}

/// Where a slice starts and stops, as Python bounds it.
struct SliceRange {
  std::int64_t start, stop, step;
};
Result<SliceRange> slice_range(const Value& start, const Value& stop, const Value& step,
                               std::int64_t size) {
  for (const Value* part : {&start, &stop, &step}) {
    if (!part->is_none() && !part->is_integral()) {
      return bad({"a slice needs integers, got ", part->type_name()});
    }
  }
  const std::int64_t by = step.is_none() ? 1 : step.as_integer();
  if (by == 0) return bad("a slice with step 0");
  const auto place = [&](const Value& part, std::int64_t fallback) {
    if (part.is_none()) return fallback;
    std::int64_t at = part.as_integer();
    if (at < 0) at = std::max<std::int64_t>(at + size, -1);
    if (by > 0) return std::clamp<std::int64_t>(at, 0, size);
    return std::clamp<std::int64_t>(at, -1, size - 1);
  };
  // A negative index that falls before the start is the start itself when walking forward.
  return SliceRange{place(start, by > 0 ? 0 : size - 1), place(stop, by > 0 ? size : -1), by};
}

Result<Value> sort_values(std::vector<Value> values, const std::vector<Value>& keys, bool reverse) {
  bool numbers = true, strings = true;
  for (const Value& key : keys) {
    numbers = numbers && key.is_number();
    strings = strings && key.is_string();
  }
  if (!numbers && !strings) return bad("sort: the values cannot be compared");
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
  Value at = value;
  while (true) {
    const std::size_t dot = path.find('.');
    const std::string_view name = path.substr(0, dot);
    const bool number = !name.empty() && name.size() < 10 &&
                        name.find_first_not_of("0123456789") == std::string_view::npos;
    std::int64_t index = 0;
    if (number) std::from_chars(name.data(), name.data() + name.size(), index);
    CIUIC_ASSIGN_OR_RETURN(
        at, get_item(at, number ? Value::integer(index) : Value::string(std::string(name))));
    if (dot == std::string_view::npos) return at;
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
    if (!rest.positional.front().is_string()) return bad({name, ": wanted a string"});
    out = rest.positional.front().as_string();
    rest.positional.erase(rest.positional.begin());
    return {};
  };
  if (!arguments.named.empty()) return bad({name, ": named arguments are unsupported"});
  if (by_attribute) {
    CIUIC_TRY(take(path));
    if (path.empty()) return bad({name, ": an attribute is missing"});
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
        return bad({"map: unknown argument ", quoted(key)});
      }
    }
    if (!attribute->is_string()) return bad("map: attribute: wanted a string");
    for (const Value& item : items) {
      CIUIC_TRY(budget.charge(1));
      CIUIC_ASSIGN_OR_RETURN(Value found, follow(item, attribute->as_string()));
      if (found.is_undefined() && named("default") != nullptr) found = *named("default");
      out.push_back(std::move(found));
    }
    return Value::list(std::move(out));
  }
  if (arguments.positional.empty() || !arguments.positional.front().is_string()) {
    return bad("map: wanted a filter's name or attribute=");
  }
  Arguments rest = arguments;
  const std::string filter = rest.positional.front().as_string();
  rest.positional.erase(rest.positional.begin());
  if (filter == "map") return bad("map: of map is unsupported");
  for (const Value& item : items) {
    CIUIC_TRY(budget.charge(1));
    CIUIC_ASSIGN_OR_RETURN(Value mapped, call_filter(filter, item, rest, budget));
    out.push_back(std::move(mapped));
  }
  return Value::list(std::move(out));
}

std::string to_text(const Value& value) {
  std::string out;
  append_str(out, value);
  return out;
}

std::optional<std::int64_t> checked(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  const bool overflow = op == "+"   ? __builtin_add_overflow(a, b, &out)
                        : op == "-" ? __builtin_sub_overflow(a, b, &out)
                                    : __builtin_mul_overflow(a, b, &out);
  if (overflow) return std::nullopt;
  return out;
}

}  // namespace

Result<Value> get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) return is_undefined(object);
  if (object.is_dict()) {
    if (is_one_of(name, kDictMethods)) return method(object, name);
    const Value* found = object.as_dict().find(name);
    return found != nullptr ? *found : Value::undefined(name);
  }
  if (object.is_string() && is_one_of(name, kStringMethods)) return method(object, name);
  if (object.is_list() && is_one_of(name, kListMethods)) return method(object, name);
  if (object.is_namespace()) {
    for (const auto& [key, value] : object.as_namespace().members) {
      if (key == name) return value;
    }
  }
  return Value::undefined(name);
}

Result<Value> get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) return is_undefined(object);
  if (object.is_dict() && key.is_string()) {
    const Value* found = object.as_dict().find(key.as_string());
    if (found != nullptr) return *found;
  }
  if (key.is_string()) return get_attribute(object, key.as_string());
  if (key.is_integral() && (object.is_list() || object.is_string())) {
    const std::size_t count =
        object.is_list() ? object.items().size() : count_characters(object.as_string());
    const auto size = static_cast<std::int64_t>(count);
    std::int64_t index = key.as_integer();
    if (index < 0) index += size;
    if (index < 0 || index >= size) return Value::undefined(std::to_string(key.as_integer()));
    if (object.is_list()) return object.items()[static_cast<std::size_t>(index)];
    const std::string_view text = object.as_string();
    const std::size_t at = character_offset(text, static_cast<std::size_t>(index));
    return Value::string(std::string(text.substr(at, utf8_length(text[at]))));
  }
  return Value::undefined(to_text(key));
}

Result<Value> get_slice(const Value& object, const Value& start, const Value& stop,
                        const Value& step) {
  if (object.is_undefined()) return is_undefined(object);
  if (!object.is_list() && !object.is_string()) {
    return Value::undefined("a slice of " + std::string(object.type_name()));
  }
  const std::vector<std::string_view> text =
      object.is_string() ? characters(object.as_string()) : std::vector<std::string_view>();
  const std::size_t count = object.is_list() ? object.items().size() : text.size();
  CIUIC_ASSIGN_OR_RETURN(const SliceRange range,
                         slice_range(start, stop, step, static_cast<std::int64_t>(count)));
  std::vector<Value> items;
  std::string cut;
  for (std::int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop;) {
    const auto at = static_cast<std::size_t>(i);
    if (object.is_list()) {
      items.push_back(object.items()[at]);
    } else {
      cut += text[at];
    }
    if (__builtin_add_overflow(i, range.step, &i)) break;
  }
  if (object.is_string()) return Value::string(std::move(cut));
  return Value::list(std::move(items), object.is_tuple());
}

Result<std::vector<Value>> iterate(const Value& value) {
  std::vector<Value> out;
  if (value.is_undefined()) return out;
  if (value.is_list()) return value.items();
  if (value.is_dict()) {
    for (const auto& [name, member] : value.as_dict().members) out.push_back(Value::string(name));
    return out;
  }
  if (value.is_string()) {
    for (const std::string_view c : characters(value.as_string())) {
      out.push_back(Value::string(std::string(c)));
    }
    return out;
  }
  return bad({value.type_name(), " has no items"});
}

Result<bool> contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) return bad({"in: wanted a string, got ", item.type_name()});
    return container.as_string().find(item.as_string()) != std::string::npos;
  }
  if (container.is_dict()) {
    return item.is_string() && container.as_dict().find(item.as_string()) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (!container.is_list()) return bad({"in: ", container.type_name(), " has no items"});
  const auto& items = container.items();
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); });
}

Result<Value> binary_operator(std::string_view op, const Value& a, const Value& b,
                              TemplateBudget& budget) {
  if (op == "~") {
    std::string out = to_text(a);
    append_str(out, b);
    CIUIC_TRY(budget.charge_bytes(out.size()));
    return Value::string(std::move(out));
  }
  if (a.is_undefined()) return is_undefined(a);
  if (b.is_undefined()) return is_undefined(b);
  const auto cannot = [&] { return bad({a.type_name(), " ", op, " ", b.type_name()}); };
  if (op == "+" && a.is_string() && b.is_string()) {
    CIUIC_TRY(budget.charge_bytes(a.as_string().size() + b.as_string().size()));
    return Value::string(a.as_string() + b.as_string());
  }
  if (op == "+" && a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    CIUIC_TRY(budget.charge(a.items().size() + b.items().size()));
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return Value::list(std::move(items), a.is_tuple());
  }
  if (op == "*" && (a.is_integral() != b.is_integral())) {
    const Value& times = a.is_integral() ? a : b;
    const Value& what = a.is_integral() ? b : a;
    const std::int64_t n = std::max<std::int64_t>(times.as_integer(), 0);
    const auto count = static_cast<std::size_t>(n);
    if (what.is_string() || what.is_list()) {
      const std::size_t size = what.is_string() ? what.as_string().size() : what.items().size();
      if (size > 0 && count > TemplateBudget::kSteps * TemplateBudget::kBytesPerStep / size) {
        return Error(ErrorCode::oversize, "too many steps");
      }
      CIUIC_TRY(what.is_string() ? budget.charge_bytes(size * count) : budget.charge(size * count));
      if (what.is_string()) {
        std::string out;
        if (size > 0) {
          for (std::size_t i = 0; i < count; ++i) out += what.as_string();
        }
        return Value::string(std::move(out));
      }
      std::vector<Value> items;
      if (size > 0) {
        for (std::size_t i = 0; i < count; ++i) {
          items.insert(items.end(), what.items().begin(), what.items().end());
        }
      }
      return Value::list(std::move(items), what.is_tuple());
    }
  }
  if (!a.is_number() || !b.is_number()) return cannot();
  const bool integers = a.is_integral() && b.is_integral();
  if (integers && (op == "+" || op == "-" || op == "*")) {
    const std::optional<std::int64_t> out = checked(op, a.as_integer(), b.as_integer());
    if (!out) return Error(ErrorCode::oversize, "an integer beyond 64 bits");
    return Value::integer(*out);
  }
  if ((op == "/" || op == "//" || op == "%") && b.as_number() == 0) return bad("division by zero");
  if (integers && (op == "//" || op == "%")) {
    const std::int64_t x = a.as_integer(), y = b.as_integer();
    if (y == -1) {  // the one quotient that can overflow
      if (op == "%") return Value::integer(0);
      const std::optional<std::int64_t> out = checked("-", 0, x);
      if (!out) return Error(ErrorCode::oversize, "an integer beyond 64 bits");
      return Value::integer(*out);
    }
    const bool floor_down = x % y != 0 && (x < 0) != (y < 0);
    if (op == "//") return Value::integer(x / y - (floor_down ? 1 : 0));
    return Value::integer(x % y + (floor_down ? y : 0));
  }
  if (op == "**") {
    if (integers && b.as_integer() >= 0) {
      std::int64_t out = 1;
      const std::int64_t base = a.as_integer();
      for (std::int64_t i = 0; i < b.as_integer(); ++i) {
        const std::optional<std::int64_t> next = checked("*", out, base);
        if (!next) return Error(ErrorCode::oversize, "an integer beyond 64 bits");
        if (*next == out && i > 0) break;  // 0 or 1
        out = *next;
        if (base == -1) {
          out = b.as_integer() % 2 == 0 ? 1 : -1;
          break;
        }
      }
      return Value::integer(out);
    }
    return Value::number(std::pow(a.as_number(), b.as_number()));
  }
  const double x = a.as_number(), y = b.as_number();
  if (op == "+") return Value::number(x + y);
  if (op == "-") return Value::number(x - y);
  if (op == "*") return Value::number(x * y);
  if (op == "/") return Value::number(x / y);
  if (op == "//") return Value::number(std::floor(x / y));
  if (op == "%") return Value::number(x - y * std::floor(x / y));
  return cannot();
}

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
    if (bound.has(2)) return bad("tojson: separators are unsupported");
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t indent, bound.integer(1, -1));
    if (indent > 40) return bad("tojson: indent: wanted at most 40");
    if (input.is_undefined()) return is_undefined(input);
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
      if (width < 0 || width > 1000) return bad("indent: width: wanted 0 to 1000");
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
    if (sorts && !arguments.positional.empty()) return bad("sort: wanted named arguments");
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
    if (input.is_dict())
      return Value::integer(static_cast<std::int64_t>(input.as_dict().members.size()));
    if (input.is_list()) return Value::integer(static_cast<std::int64_t>(input.items().size()));
    if (input.is_undefined()) return Value::integer(0);
    return bad({name, ": ", input.type_name(), " has no length"});
  }
  if (name == "string") return Value::string(to_text(input));
  if (name == "list") {
    CIUIC_ASSIGN_OR_RETURN(std::vector<Value> items, iterate(input));
    return Value::list(std::move(items));
  }
  if (name == "items") {
    if (input.is_undefined()) return Value::list({});
    if (!input.is_dict()) return bad({"items: wanted a mapping, got ", input.type_name()});
    return call_builtin({.name = "items", .self = input}, {}, budget);
  }
  if (name == "dictsort") {
    if (!input.is_dict()) return bad({"dictsort: wanted a mapping, got ", input.type_name()});
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
      const std::optional<std::int64_t> negated = checked("-", 0, input.as_integer());
      if (input.as_integer() >= 0) return Value::integer(input.as_integer());
      if (!negated) return Error(ErrorCode::oversize, "an integer beyond 64 bits");
      return Value::integer(*negated);
    }
    if (input.is_float()) return Value::number(std::abs(input.as_number()));
    return bad({"abs: wanted a number, got ", input.type_name()});
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

Result<bool> call_test(std::string_view name, const Value& input, const Arguments& arguments) {
  const auto argument = [&]() -> Result<Value> {
    if (arguments.positional.size() != 1 || !arguments.named.empty()) {
      return bad({"is ", name, ": wanted one argument"});
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
      return bad({"is ", name, ": ", input.type_name(), " and ", other.type_name(),
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
      return bad("is divisibleby: wanted integers");
    }
    return other.as_integer() == -1 || input.as_integer() % other.as_integer() == 0;
  }
  if (!arguments.positional.empty() || !arguments.named.empty()) {
    return bad({"is ", name, ": takes no argument"});
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
    if (!input.is_integral()) return bad({"is ", name, ": wanted an integer"});
    return (input.as_integer() % 2 != 0) == (name == "odd");
  }
  if (name == "lower" || name == "upper") {
    const std::string text = to_text(input);
    return with_case(text, name) == text &&
           with_case(text, name == "lower" ? "upper" : "lower") != text;
  }
  return Error(ErrorCode::unsupported, {"unsupported test ", quoted(name)});
}

Result<Value> call_builtin(const CallableValue& callable, const Arguments& arguments,
                           TemplateBudget& budget) {
  const std::string_view name = callable.name;
  if (!callable.self) {
    if (name == "raise_exception") {
      CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"message"}));
      CIUIC_ASSIGN_OR_RETURN(const std::string message, bound.string(0, ""));
      return bad(message);
    }
    if (name == "dict") {
      if (!arguments.positional.empty()) return bad("dict: wanted named arguments");
      return Value::dict(arguments.named);
    }
    if (name == "range") {
      CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                             Bound::bind(name, arguments, {"start", "stop", "step"}));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t first, bound.integer(0));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t second, bound.integer(1, 0));
      CIUIC_ASSIGN_OR_RETURN(const std::int64_t step, bound.integer(2, 1));
      const bool one = bound.get(1) == nullptr;
      if (step == 0) return bad("range: step 0");
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
    if (arguments.positional.empty()) return bad("cycle: wanted values");
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
  if (name == "index") return bad("index: the value is not in the list");
  return Value::integer(count);
}

}  // namespace ciuic::inline CIUIC_ABI
