#include "text/template_value.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr int kMaxDepth = 100;
constexpr std::size_t kMaxWeight = 1'000'000;

Result<void> check_extent(int depth, std::size_t weight) {
  if (depth > kMaxDepth) return Error(ErrorCode::oversize, "lists or mappings nested too deep");
  if (weight > kMaxWeight) return Error(ErrorCode::oversize, "a list or mapping grew too large");
  return {};
}

/// Python's repr of a float: the shortest digits that read back, with an exponent where the number
/// is below 1e-4 or from 1e16 on.
void append_float(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    return;
  }
  char buffer[64];
  const auto scientific =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<std::size_t>(scientific.ptr - buffer));
  const std::size_t e = text.find('e');
  int exponent = 0;
  const std::size_t digits = e + 1 + (text[e + 1] == '+' ? 1 : 0);
  std::from_chars(text.data() + digits, text.data() + text.size(), exponent);
  if (value != 0 && (exponent < -4 || exponent >= 16)) {
    out += text;
    return;
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
  const std::string_view plain(buffer, static_cast<std::size_t>(fixed.ptr - buffer));
  out += plain;
  if (plain.find('.') == std::string_view::npos) out += ".0";
}

void append_hex(std::string& out, unsigned code, int digits) {
  constexpr std::string_view kHex = "0123456789abcdef";
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out += kHex[code >> shift & 15u];
}

void append_string_repr(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  while (!text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    if (c.code == static_cast<char32_t>(quote) || c.code == '\\') {
      out += '\\';
      out += static_cast<char>(c.code);
    } else if (c.code == '\n') {
      out += "\\n";
    } else if (c.code == '\r') {
      out += "\\r";
    } else if (c.code == '\t') {
      out += "\\t";
    } else if (c.code < 0x20 || (c.code >= 0x7F && c.code <= 0xA0) || c.code == 0xAD) {
      out += "\\x";
      append_hex(out, static_cast<unsigned>(c.code), 2);
    } else if (c.code != ' ' && is_white_space(c.code)) {
      out += "\\u";
      append_hex(out, static_cast<unsigned>(c.code), 4);
    } else {
      out += text.substr(0, c.length);
    }
    text.remove_prefix(c.length);
  }
  out += quote;
}

void append_json_text(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  while (!text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    switch (c.code) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c.code < 0x20 ||
            (ensure_ascii && c.code >= 0x7F && c.code < 0x10000 && c.code != 0x7F)) {
          out += "\\u";
          append_hex(out, static_cast<unsigned>(c.code), 4);
        } else if (ensure_ascii && c.code >= 0x10000) {
          const auto offset = static_cast<unsigned>(c.code - 0x10000);
          out += "\\u";
          append_hex(out, 0xD800u + (offset >> 10), 4);
          out += "\\u";
          append_hex(out, 0xDC00u + (offset & 0x3FFu), 4);
        } else {
          out += text.substr(0, c.length);
        }
    }
    text.remove_prefix(c.length);
  }
  out += '"';
}

}  // namespace

const Value* DictValue::find(std::string_view key) const noexcept {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

Value Value::callable(CallableValue value) {
  return Value(std::make_shared<const CallableValue>(std::move(value)));
}

Result<Value> Value::list(std::vector<Value> items, bool tuple) {
  int depth = 1;
  std::size_t weight = 1;
  for (const Value& item : items) {
    depth = std::max(depth, item.depth() + 1);
    weight += item.weight();
  }
  CIUIC_TRY(check_extent(depth, weight));
  return Value(
      std::make_shared<const ListValue>(ListValue{std::move(items), tuple, depth, weight}));
}

Result<Value> Value::dict(std::vector<std::pair<std::string, Value>> members) {
  int depth = 1;
  std::size_t weight = 1;
  for (const auto& [name, value] : members) {
    depth = std::max(depth, value.depth() + 1);
    weight += value.weight();
  }
  CIUIC_TRY(check_extent(depth, weight));
  return Value(std::make_shared<const DictValue>(DictValue{std::move(members), depth, weight}));
}

Result<Value> Value::from_json(const JsonValue& json) {
  switch (json.kind()) {
    case JsonValue::Kind::null:
      return Value();
    case JsonValue::Kind::boolean:
      return boolean(json.as_boolean());
    case JsonValue::Kind::integer:
      return integer(json.as_integer());
    case JsonValue::Kind::number:
      return number(json.as_number());
    case JsonValue::Kind::string:
      return string(json.as_string());
    case JsonValue::Kind::array: {
      std::vector<Value> items;
      for (const JsonValue& item : json.items()) {
        CIUIC_ASSIGN_OR_RETURN(Value value, from_json(item));
        items.push_back(std::move(value));
      }
      return list(std::move(items));
    }
    case JsonValue::Kind::object: {
      std::vector<std::pair<std::string, Value>> members;
      for (const auto& [name, member] : json.members()) {
        CIUIC_ASSIGN_OR_RETURN(Value value, from_json(member));
        members.emplace_back(name, std::move(value));
      }
      return dict(std::move(members));
    }
  }
  return Value();
}

int Value::depth() const noexcept {
  if (const auto* l = std::get_if<List>(&data_)) return (*l)->depth;
  if (const auto* d = std::get_if<Dict>(&data_)) return (*d)->depth;
  if (const auto* c = std::get_if<Callable>(&data_)) {
    return (*c)->self ? (*c)->self->depth() + 1 : 1;
  }
  return 0;
}

std::size_t Value::weight() const noexcept {
  constexpr std::size_t kBytesPerStep = 64;
  if (const auto* l = std::get_if<List>(&data_)) return (*l)->weight;
  if (const auto* d = std::get_if<Dict>(&data_)) return (*d)->weight;
  if (const auto* s = std::get_if<String>(&data_)) return 1 + (*s)->size() / kBytesPerStep;
  return 1;
}

bool Value::truth() const noexcept {
  if (is_undefined() || is_none()) return false;
  if (is_boolean()) return std::get<bool>(data_);
  if (is_integer()) return std::get<std::int64_t>(data_) != 0;
  if (is_float()) return std::get<double>(data_) != 0;
  if (is_string()) return !as_string().empty();
  if (is_list()) return !items().empty();
  if (is_dict()) return !as_dict().members.empty();
  return true;
}

std::string_view Value::type_name() const noexcept {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (is_boolean()) return "a boolean";
  if (is_integer()) return "an integer";
  if (is_float()) return "a float";
  if (is_string()) return "a string";
  if (is_list()) return is_tuple() ? "a tuple" : "a list";
  if (is_dict()) return "a mapping";
  if (is_namespace()) return "a namespace";
  return "a function";
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
    return a.as_number() == b.as_number();
  }
  if (a.is_string() && b.is_string()) return a.as_string() == b.as_string();
  if (a.is_list() && b.is_list()) {
    return a.is_tuple() == b.is_tuple() && std::equal(a.items().begin(), a.items().end(),
                                                      b.items().begin(), b.items().end(), equal);
  }
  if (a.is_dict() && b.is_dict()) {
    const auto& left = a.as_dict().members;
    if (left.size() != b.as_dict().members.size()) return false;
    return std::all_of(left.begin(), left.end(), [&](const auto& member) {
      const Value* other = b.as_dict().find(member.first);
      return other != nullptr && equal(member.second, *other);
    });
  }
  if (a.is_namespace() && b.is_namespace()) return &a.as_namespace() == &b.as_namespace();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

std::optional<bool> less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() < b.as_integer();
    return a.as_number() < b.as_number();
  }
  if (a.is_string() && b.is_string()) return a.as_string() < b.as_string();  // UTF-8 keeps order
  if (a.is_list() && b.is_list() && a.is_tuple() == b.is_tuple()) {
    const std::size_t n = std::min(a.items().size(), b.items().size());
    for (std::size_t i = 0; i < n; ++i) {
      if (!equal(a.items()[i], b.items()[i])) return less(a.items()[i], b.items()[i]);
    }
    return a.items().size() < b.items().size();
  }
  return std::nullopt;
}

void append_str(std::string& out, const Value& value) {
  if (value.is_undefined()) return;
  if (value.is_string()) {
    out += value.as_string();
  } else {
    append_repr(out, value);
  }
}

void append_repr(std::string& out, const Value& value) {
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_boolean()) {
    out += value.truth() ? "True" : "False";
  } else if (value.is_integer()) {
    out += std::to_string(value.as_integer());
  } else if (value.is_float()) {
    append_float(out, value.as_number());
  } else if (value.is_string()) {
    append_string_repr(out, value.as_string());
  } else if (value.is_list()) {
    out += value.is_tuple() ? '(' : '[';
    bool first = true;
    for (const Value& item : value.items()) {
      if (!std::exchange(first, false)) out += ", ";
      append_repr(out, item);
    }
    if (value.is_tuple() && value.items().size() == 1) out += ',';
    out += value.is_tuple() ? ')' : ']';
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [name, member] : value.as_dict().members) {
      if (!std::exchange(first, false)) out += ", ";
      append_string_repr(out, name);
      out += ": ";
      append_repr(out, member);
    }
    out += '}';
  } else {
    out += value.is_namespace() ? "<namespace>" : "<function>";
  }
}

Result<void> append_json(std::string& out, const Value& value, int indent, bool ensure_ascii,
                         bool sort_keys, int level) {
  const auto line = [&](int at) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * at), ' ');
  };
  if (value.is_none()) {
    out += "null";
  } else if (value.is_boolean()) {
    out += value.truth() ? "true" : "false";
  } else if (value.is_integer()) {
    out += std::to_string(value.as_integer());
  } else if (value.is_float()) {
    append_float(out, value.as_number());
  } else if (value.is_string()) {
    append_json_text(out, value.as_string(), ensure_ascii);
  } else if (value.is_list()) {
    out += '[';
    bool first = true;
    for (const Value& item : value.items()) {
      if (!std::exchange(first, false)) out += indent < 0 ? ", " : ",";
      line(level + 1);
      CIUIC_TRY(append_json(out, item, indent, ensure_ascii, sort_keys, level + 1));
    }
    if (!first) line(level);
    out += ']';
  } else if (value.is_dict()) {
    std::vector<const std::pair<std::string, Value>*> members;
    for (const auto& member : value.as_dict().members) members.push_back(&member);
    if (sort_keys) {
      std::sort(members.begin(), members.end(),
                [](const auto* a, const auto* b) { return a->first < b->first; });
    }
    out += '{';
    bool first = true;
    for (const auto* member : members) {
      if (!std::exchange(first, false)) out += indent < 0 ? ", " : ",";
      line(level + 1);
      append_json_text(out, member->first, ensure_ascii);
      out += ": ";
      CIUIC_TRY(append_json(out, member->second, indent, ensure_ascii, sort_keys, level + 1));
    }
    if (!first) line(level);
    out += '}';
  } else {
    return Error(ErrorCode::invalid_argument,
                 {"tojson: ", value.type_name(), " cannot be written as JSON"});
  }
  return {};
}

Error value_error(std::string_view what) { return Error(ErrorCode::invalid_argument, what); }
Error value_error(std::initializer_list<std::string_view> what) {
  return Error(ErrorCode::invalid_argument, what);
}
Error undefined_error(const Value& value) {
  return value_error({quoted(value.undefined_name()), " is undefined"});
}

Value pair_value(std::string_view key, const Value& value) {
  return Value::list({Value::string(std::string(key)), value}, true).value_or(Value());
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
  return value_error({value.type_name(), " has no items"});
}

std::string to_text(const Value& value) {
  std::string out;
  append_str(out, value);
  return out;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    out.push_back(text.substr(0, utf8_length(text[0])));
    text.remove_prefix(out.back().size());
  }
  return out;
}

std::size_t count_characters(std::string_view text) noexcept {
  std::size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0u) != 0x80;
  return n;
}

std::size_t character_offset(std::string_view text, std::size_t index) noexcept {
  std::size_t at = 0;
  for (; index > 0; --index) at += utf8_length(text[at]);
  return at;
}

}  // namespace ciuic::inline CIUIC_ABI
