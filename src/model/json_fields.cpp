#include "model/json_fields.hpp"

#include <array>
#include <charconv>

#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

// A model has a handful of end-of-text tokens; a list of a million is no such list.
constexpr std::size_t kMaxIds = 4096;

std::string to_text(double value) {
  std::array<char, 64> buffer;
  const auto [end, failed] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return failed == std::errc() ? std::string(buffer.data(), end) : "a number";
}

std::string to_text(const JsonValue* value) {
  if (value == nullptr) return "nothing";
  switch (value->kind()) {
    case JsonValue::Kind::boolean:
      return value->as_boolean() ? "true" : "false";
    case JsonValue::Kind::integer:
      return std::to_string(value->as_integer());
    case JsonValue::Kind::number:
      return to_text(value->as_number());
    case JsonValue::Kind::string:
      return quoted_excerpt(value->as_string());
    default:
      return std::string(describe(value->kind()));
  }
}

std::string integer_range(std::int64_t least, std::int64_t most) {
  return "an integer from " + std::to_string(least) + " to " + std::to_string(most);
}

bool is_integer_in(const JsonValue& value, std::int64_t least, std::int64_t most) {
  return value.is_integer() && value.as_integer() >= least && value.as_integer() <= most;
}

}  // namespace

const JsonValue* JsonFields::get(std::string_view key) const noexcept {
  const JsonValue* value = object_.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Error JsonFields::error(std::string_view key, std::string_view wanted, std::string_view got,
                        ErrorCode code) const {
  return Error(code, {where_, key, ": wanted ", wanted, ", got ", got});
}
Error JsonFields::wrong(std::string_view key, std::string_view wanted, const JsonValue* got) const {
  return error(key, wanted, to_text(got));
}

Result<std::optional<std::int32_t>> JsonFields::integer(std::string_view key, std::int32_t least,
                                                        std::int32_t most) const {
  const JsonValue* value = get(key);
  if (value == nullptr) return std::optional<std::int32_t>();
  if (!is_integer_in(*value, least, most)) return wrong(key, integer_range(least, most), value);
  return std::optional(static_cast<std::int32_t>(value->as_integer()));
}

Result<std::int32_t> JsonFields::required_integer(std::string_view key, std::int32_t least,
                                                  std::int32_t most) const {
  CIUIC_ASSIGN_OR_RETURN(const std::optional<std::int32_t> value, integer(key, least, most));
  if (!value) return wrong(key, integer_range(least, most), nullptr);
  return *value;
}

Result<std::optional<double>> JsonFields::number(std::string_view key, NumberRange range) const {
  const JsonValue* value = get(key);
  if (value == nullptr) return std::optional<double>();
  const bool fits =
      value->is_number() && value->as_number() <= range.most &&
      (range.above_least ? value->as_number() > range.least : value->as_number() >= range.least);
  if (!fits) {
    return wrong(key,
                 std::string("a number ") + (range.above_least ? "above " : "from ") +
                     to_text(range.least) + (range.above_least ? " up to " : " to ") +
                     to_text(range.most),
                 value);
  }
  return std::optional(value->as_number());
}

Result<double> JsonFields::required_number(std::string_view key, NumberRange range) const {
  CIUIC_ASSIGN_OR_RETURN(const std::optional<double> value, number(key, range));
  if (!value) return wrong(key, "a number", nullptr);
  return *value;
}

Result<std::optional<bool>> JsonFields::boolean(std::string_view key) const {
  const JsonValue* value = get(key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) return wrong(key, "true or false", value);
  return std::optional(value->as_boolean());
}

Result<std::optional<std::string_view>> JsonFields::string(std::string_view key) const {
  const JsonValue* value = get(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (!value->is_string()) return wrong(key, "a string", value);
  return std::optional<std::string_view>(value->as_string());
}

Result<std::vector<std::string_view>> JsonFields::strings(std::string_view key) const {
  const JsonValue* value = get(key);
  std::vector<std::string_view> all;
  if (value == nullptr) return all;
  if (!value->is_array()) return wrong(key, "an array of strings", value);
  for (const JsonValue& item : value->items()) {
    if (!item.is_string()) return wrong(key, "an array of strings", &item);
    all.push_back(item.as_string());
  }
  return all;
}

Result<std::vector<std::int32_t>> JsonFields::ids(std::string_view key,
                                                  std::int32_t vocab_size) const {
  const JsonValue* value = get(key);
  std::vector<std::int32_t> all;
  if (value == nullptr) return all;
  const std::string wanted = integer_range(0, vocab_size - 1);
  const auto take = [&](const JsonValue& item) -> Result<void> {
    if (!is_integer_in(item, 0, vocab_size - 1)) return wrong(key, wanted, &item);
    all.push_back(static_cast<std::int32_t>(item.as_integer()));
    return {};
  };
  if (!value->is_array()) {
    CIUIC_TRY(take(*value));
    return all;
  }
  if (value->items().size() > kMaxIds) {
    return error(key, "at most " + std::to_string(kMaxIds) + " ids",
                 std::to_string(value->items().size()));
  }
  for (const JsonValue& item : value->items()) CIUIC_TRY(take(item));
  return all;
}

Result<const JsonValue*> JsonFields::object(std::string_view key) const {
  const JsonValue* value = get(key);
  if (value != nullptr && !value->is_object()) return wrong(key, "an object", value);
  return value;
}

}  // namespace ciuic::inline CIUIC_ABI
