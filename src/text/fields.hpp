// Reading a component's fields from its JSON, with errors that name the field.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/json.hpp"
#include "base/try.hpp"
#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// `text` quoted for a message, on one line and not too long.
inline std::string quoted(std::string_view text) { return quoted_excerpt(text); }

/// The path of a member: "model.vocab", or, for a name that is no word, "model["a b"]".
inline std::string member_path(std::string_view path, std::string_view name) {
  std::string out(path);
  bool word = !name.empty() && name.size() <= 40;
  for (const char c : name) {
    word = word &&
           ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_');
  }
  if (word) {
    out += '.';
    out += name;
  } else {
    out += '[';
    out += quoted(name);
    out += ']';
  }
  return out;
}

/// A JSON value and where it stands, for example "pre_tokenizer.pretokenizers[1]".
class Field {
 public:
  Field(const JsonValue& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const JsonValue& value() const noexcept { return *value_; }
  const std::string& path() const noexcept { return path_; }
  bool is_null() const noexcept { return value_->is_null(); }

  Error bad(std::string_view what) const {
    return Error(ErrorCode::bad_model, {path_, ": ", what});
  }
  Error unsupported(std::string_view what) const {
    return Error(ErrorCode::unsupported, {path_, ": unsupported ", quoted(what)});
  }
  Error wanted(std::string_view what) const {
    return Error(ErrorCode::bad_model,
                 {path_, ": wanted ", what, ", got ", describe(value_->kind())});
  }

  bool has(std::string_view name) const noexcept { return value_->find(name) != nullptr; }
  /// The member of that name. Errors: when this is no object or has no such member.
  Result<Field> at(std::string_view name) const {
    if (!value_->is_object()) return wanted("an object");
    const JsonValue* found = value_->find(name);
    if (found == nullptr)
      return Error(ErrorCode::bad_model, {member_path(path_, name), ": missing"});
    return Field(*found, member_path(path_, name));
  }
  Field item(std::size_t index) const {
    return Field(value_->items()[index], path_ + "[" + std::to_string(index) + "]");
  }
  Result<std::string_view> string() const {
    if (!value_->is_string()) return wanted("a string");
    return std::string_view(value_->as_string());
  }
  Result<std::string_view> string(std::string_view name) const {
    CIUIC_ASSIGN_OR_RETURN(const Field field, at(name));
    return field.string();
  }
  Result<bool> boolean(std::string_view name, bool fallback) const {
    if (!value_->is_object()) return wanted("an object");
    if (!has(name)) return fallback;
    CIUIC_ASSIGN_OR_RETURN(const Field field, at(name));
    if (!field.value().is_boolean()) return field.wanted("a boolean");
    return field.value().as_boolean();
  }
  Result<std::int64_t> integer(std::string_view name) const {
    CIUIC_ASSIGN_OR_RETURN(const Field field, at(name));
    if (!field.value().is_integer()) return field.wanted("an integer");
    return field.value().as_integer();
  }
  /// The member of that name, which must be an array.
  Result<Field> array(std::string_view name) const {
    CIUIC_ASSIGN_OR_RETURN(Field field, at(name));
    if (!field.value().is_array()) return field.wanted("an array");
    return field;
  }

 private:
  const JsonValue* value_;
  std::string path_;
};

}  // namespace ciuic::inline CIUIC_ABI
