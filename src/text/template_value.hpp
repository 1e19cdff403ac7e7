// The values a chat template computes with: Python's, as far as templates can tell.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.hpp"
#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

class Value;

/// Lists, tuples and dictionaries never change once made, so values share them freely. `depth`
/// bounds their nesting, `weight` (the values in them, shared ones counted each time) every walk
/// over them.
struct ListValue {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
  std::size_t weight = 1;
};
struct DictValue {
  std::vector<std::pair<std::string, Value>> members;  // in order
  int depth = 1;
  std::size_t weight = 1;
  const Value* find(std::string_view key) const noexcept;
};
/// The one thing a template can change. Owned by the run, because it may come to hold itself.
struct NamespaceValue {
  std::vector<std::pair<std::string, Value>> members;
};
/// Something to call: a macro, a function, or a method of `self`.
struct CallableValue;

class Value {
 public:
  struct Undefined {
    std::string name;  // what was looked for
  };
  struct None {};
  using String = std::shared_ptr<const std::string>;
  using List = std::shared_ptr<const ListValue>;
  using Dict = std::shared_ptr<const DictValue>;
  using Callable = std::shared_ptr<const CallableValue>;

  Value() : data_(None{}) {}
  static Value undefined(std::string_view name) { return Value(Undefined{std::string(name)}); }
  static Value boolean(bool value) { return Value(value); }
  static Value integer(std::int64_t value) { return Value(value); }
  static Value number(double value) { return Value(value); }
  static Value string(std::string text) {
    return Value(std::make_shared<const std::string>(std::move(text)));
  }
  static Value callable(CallableValue value);
  static Value name_space(NamespaceValue* value) { return Value(value); }
  /// Errors: `oversize` when nested too deep or too large.
  static Result<Value> list(std::vector<Value> items, bool tuple = false);
  static Result<Value> dict(std::vector<std::pair<std::string, Value>> members);
  static Result<Value> from_json(const JsonValue& json);

  bool is_undefined() const noexcept { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const noexcept { return std::holds_alternative<None>(data_); }
  bool is_boolean() const noexcept { return std::holds_alternative<bool>(data_); }
  bool is_integer() const noexcept { return std::holds_alternative<std::int64_t>(data_); }
  bool is_float() const noexcept { return std::holds_alternative<double>(data_); }
  bool is_string() const noexcept { return std::holds_alternative<String>(data_); }
  bool is_list() const noexcept { return std::holds_alternative<List>(data_); }
  bool is_dict() const noexcept { return std::holds_alternative<Dict>(data_); }
  bool is_callable() const noexcept { return std::holds_alternative<Callable>(data_); }
  bool is_namespace() const noexcept { return std::holds_alternative<NamespaceValue*>(data_); }
  /// Python's bool is an int.
  bool is_integral() const noexcept { return is_boolean() || is_integer(); }
  bool is_number() const noexcept { return is_integral() || is_float(); }

  const std::string& undefined_name() const { return std::get<Undefined>(data_).name; }
  std::int64_t as_integer() const {
    return is_boolean() ? std::int64_t{std::get<bool>(data_)} : std::get<std::int64_t>(data_);
  }
  double as_number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(as_integer());
  }
  const std::string& as_string() const { return *std::get<String>(data_); }
  const std::vector<Value>& items() const { return std::get<List>(data_)->items; }
  bool is_tuple() const { return is_list() && std::get<List>(data_)->tuple; }
  const DictValue& as_dict() const { return *std::get<Dict>(data_); }
  const CallableValue& as_callable() const { return *std::get<Callable>(data_); }
  NamespaceValue& as_namespace() const { return *std::get<NamespaceValue*>(data_); }
  int depth() const noexcept;
  /// What a walk over the value costs.
  std::size_t weight() const noexcept;

  bool truth() const noexcept;
  /// "a string", "a list", … for messages.
  std::string_view type_name() const noexcept;

 private:
  template <class T>
  explicit Value(T data) : data_(std::move(data)) {}
  std::variant<None, Undefined, bool, std::int64_t, double, String, List, Dict, Callable,
               NamespaceValue*>
      data_;
};

struct CallableValue {
  std::string name;
  std::int64_t macro = -1;         ///< index of a macro, or
  std::optional<Value> self = {};  ///< what a method belongs to
};

bool equal(const Value& a, const Value& b);
/// Less-than; empty when Python cannot compare the two.
std::optional<bool> less(const Value& a, const Value& b);

/// Errors of computing with values. They carry no position; whoever evaluates the expression adds
/// it.
Error value_error(std::string_view what);
Error value_error(std::initializer_list<std::string_view> what);
Error undefined_error(const Value& value);

/// A key of a dictionary and its value, as a tuple.
Value pair_value(std::string_view key, const Value& value);
/// What a loop over the value visits: items, keys or characters; nothing for undefined.
Result<std::vector<Value>> iterate(const Value& value);

/// Python's str(), repr() and json.dumps(…, ensure_ascii=False).
void append_str(std::string& out, const Value& value);
std::string to_text(const Value& value);  ///< what append_str appends
void append_repr(std::string& out, const Value& value);
/// `indent` < 0 writes one line. Errors: `invalid_argument` for what JSON cannot hold.
Result<void> append_json(std::string& out, const Value& value, int indent,
                         bool ensure_ascii = false, bool sort_keys = false, int level = 0);

/// Characters of a string, which is valid UTF-8, and their count.
std::vector<std::string_view> characters(std::string_view text);
std::size_t count_characters(std::string_view text) noexcept;
/// The byte offset of character number `index`, which is at most their count.
std::size_t character_offset(std::string_view text, std::size_t index) noexcept;

}  // namespace ciuic::inline CIUIC_ABI
