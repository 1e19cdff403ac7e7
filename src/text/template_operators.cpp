#include "text/template_operators.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/try.hpp"
#include "text/template_builtins.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

/// Where a slice starts and stops, as Python bounds it.
struct SliceRange {
  std::int64_t start, stop, step;
};
Result<SliceRange> slice_range(const Value& start, const Value& stop, const Value& step,
                               std::int64_t size) {
  for (const Value* part : {&start, &stop, &step}) {
    if (!part->is_none() && !part->is_integral()) {
      return value_error({"a slice needs integers, got ", part->type_name()});
    }
  }
  const std::int64_t by = step.is_none() ? 1 : step.as_integer();
  if (by == 0) return value_error("a slice with step 0");
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
  if (object.is_undefined()) return undefined_error(object);
  if (has_method(object, name)) {
    return Value::callable({.name = std::string(name), .self = object});
  }
  if (object.is_dict()) {
    const Value* found = object.as_dict().find(name);
    return found != nullptr ? *found : Value::undefined(name);
  }
  if (object.is_namespace()) {
    for (const auto& [key, value] : object.as_namespace().members) {
      if (key == name) return value;
    }
  }
  return Value::undefined(name);
}

Result<Value> get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) return undefined_error(object);
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
  if (object.is_undefined()) return undefined_error(object);
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

Result<bool> contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) return value_error({"in: wanted a string, got ", item.type_name()});
    return container.as_string().find(item.as_string()) != std::string::npos;
  }
  if (container.is_dict()) {
    return item.is_string() && container.as_dict().find(item.as_string()) != nullptr;
  }
  if (container.is_undefined()) return false;
  if (!container.is_list()) return value_error({"in: ", container.type_name(), " has no items"});
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
  if (a.is_undefined()) return undefined_error(a);
  if (b.is_undefined()) return undefined_error(b);
  const auto cannot = [&] { return value_error({a.type_name(), " ", op, " ", b.type_name()}); };
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
  if ((op == "/" || op == "//" || op == "%") && b.as_number() == 0) {
    return value_error("division by zero");
  }
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

}  // namespace ciuic::inline CIUIC_ABI
