// Reading JSON that may be hostile. nlohmann-json's event parser behind a wall: depth, sizes and
// duplicate keys are checked here, and no document tree of an untrusted file is ever built unless a
// caller keeps one (JsonValue) with a node limit of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct JsonLimits {
  std::size_t max_depth = 64;
  std::size_t max_string_bytes = std::size_t{1} << 20;  ///< as written, with its escapes
  std::size_t max_keys_per_object = std::size_t{1} << 22;
  /// Off: repeated keys of the outermost object do arrive, for a caller that finds them itself
  /// while it files them. Saves that object's key set.
  bool check_root_keys = true;
};

/// Receives a document's events in order. Returning an error stops the parse with it. Object keys
/// arrive through `key` before their value; duplicate keys never arrive, they fail the parse.
/// Strings are valid UTF-8, and valid only during the call.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual Result<void> null() = 0;
  virtual Result<void> boolean(bool value) = 0;
  virtual Result<void> integer(std::int64_t value) = 0;
  virtual Result<void> unsigned_integer(
      std::uint64_t value) = 0;                   ///< also every non-negative literal
  virtual Result<void> number(double value) = 0;  ///< has a point or an exponent; finite
  virtual Result<void> string(std::string_view value) = 0;
  virtual Result<void> key(std::string_view name) = 0;
  virtual Result<void> begin_object() = 0;
  virtual Result<void> end_object() = 0;
  virtual Result<void> begin_array() = 0;
  virtual Result<void> end_array() = 0;
};

/// Parses one whole document. Errors: `bad_model` with the byte offset for malformed text, invalid
/// UTF-8, a duplicate key or a broken limit; whatever `events` returned.
Result<void> parse_json(std::string_view text, JsonEvents& events, const JsonLimits& limits = {});

/// A small document as a tree: for configuration files only. Members keep their order.
class JsonValue {
 public:
  enum class Kind : std::uint8_t { null, boolean, integer, number, string, array, object };

  /// Errors: those of `parse_json`; `bad_model` for more than `max_nodes` values.
  static Result<JsonValue> parse(std::string_view text, const JsonLimits& limits = {},
                                 std::size_t max_nodes = 100'000);

  Kind kind() const noexcept { return kind_; }
  bool is_null() const noexcept { return kind_ == Kind::null; }
  bool is_object() const noexcept { return kind_ == Kind::object; }
  bool is_array() const noexcept { return kind_ == Kind::array; }
  bool is_string() const noexcept { return kind_ == Kind::string; }
  bool is_integer() const noexcept { return kind_ == Kind::integer; }
  bool is_number() const noexcept { return kind_ == Kind::integer || kind_ == Kind::number; }
  bool is_boolean() const noexcept { return kind_ == Kind::boolean; }

  bool as_boolean() const noexcept { return integer_ != 0; }
  std::int64_t as_integer() const noexcept { return integer_; }
  double as_number() const noexcept {
    return kind_ == Kind::integer ? static_cast<double>(integer_) : number_;
  }
  const std::string& as_string() const noexcept { return string_; }
  const std::vector<JsonValue>& items() const noexcept { return items_; }  ///< of an array
  const std::vector<std::pair<std::string, JsonValue>>& members()
      const noexcept {  ///< of an object
    return members_;
  }
  /// The member of that name, or null when absent (or when this is no object).
  const JsonValue* find(std::string_view name) const noexcept;

 private:
  friend class JsonTreeBuilder;
  Kind kind_ = Kind::null;
  std::int64_t integer_ = 0;
  double number_ = 0.0;
  std::string string_;
  std::vector<JsonValue> items_;
  std::vector<std::pair<std::string, JsonValue>> members_;
};

/// Collects events into a tree: for the small sections of a large document that is otherwise read
/// event by event. One tree per builder.
class JsonTreeBuilder final : public JsonEvents {
 public:
  explicit JsonTreeBuilder(std::size_t max_nodes) : nodes_left_(max_nodes) {}

  Result<void> null() override;
  Result<void> boolean(bool value) override;
  Result<void> integer(std::int64_t value) override;
  Result<void> unsigned_integer(std::uint64_t value) override;
  Result<void> number(double value) override;
  Result<void> string(std::string_view value) override;
  Result<void> key(std::string_view name) override;
  Result<void> begin_object() override { return open(JsonValue::Kind::object); }
  Result<void> end_object() override { return close(); }
  Result<void> begin_array() override { return open(JsonValue::Kind::array); }
  Result<void> end_array() override { return close(); }

  /// The whole tree, once its last event has come.
  JsonValue take() { return std::move(root_); }

 private:
  static JsonValue make(JsonValue::Kind kind, std::int64_t integer);
  Result<JsonValue*> place(JsonValue node);
  Result<void> scalar(JsonValue node);
  Result<void> open(JsonValue::Kind kind);
  Result<void> close();

  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::string key_;
  std::size_t nodes_left_;
};

/// The kind in words, for messages: "a string", "an array", …
std::string_view describe(JsonValue::Kind kind) noexcept;

/// Quotes and escapes `text` as a JSON string and appends it to `out`.
void append_json_string(std::string& out, std::string_view text);

/// `text` from a file as a message may show it: quoted, escaped, on one line, at most 60 bytes of
/// it.
std::string quoted_excerpt(std::string_view text);

}  // namespace ciuic::inline CIUIC_ABI
