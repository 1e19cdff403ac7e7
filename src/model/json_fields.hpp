// Typed, bounded access to the members of a JSON object, with messages that name the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Bounds of a number; `above_least` puts the lower one itself out of bounds.
struct NumberRange {
  double least, most;
  bool above_least = false;
};

/// The members of one object. Absent and null are the same: empty. Every error is `bad_model` and
/// reads "<where><key>: wanted …, got …". Borrows the object.
class JsonFields {
 public:
  /// `where` begins every message, for example "config.json: " or "config.json: rope_scaling.".
  JsonFields(const JsonValue& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  Result<std::optional<std::int32_t>> integer(std::string_view key, std::int32_t least,
                                              std::int32_t most) const;
  Result<std::int32_t> required_integer(std::string_view key, std::int32_t least,
                                        std::int32_t most) const;
  Result<std::optional<double>> number(std::string_view key, NumberRange range) const;
  Result<double> required_number(std::string_view key, NumberRange range) const;
  Result<std::optional<bool>> boolean(std::string_view key) const;
  Result<std::optional<std::string_view>> string(std::string_view key) const;
  /// Of an array of strings; empty when absent.
  Result<std::vector<std::string_view>> strings(std::string_view key) const;
  /// Token ids: one, or an array of them.
  Result<std::vector<std::int32_t>> ids(std::string_view key, std::int32_t vocab_size) const;
  /// Null when absent.
  Result<const JsonValue*> object(std::string_view key) const;

  /// Whether the key is there and not null.
  bool has(std::string_view key) const noexcept { return get(key) != nullptr; }
  /// Whether the key is there, be it as null.
  bool mentions(std::string_view key) const noexcept { return object_.find(key) != nullptr; }
  Error error(std::string_view key, std::string_view wanted, std::string_view got,
              ErrorCode code = ErrorCode::bad_model) const;

 private:
  /// Null for absent and null members.
  const JsonValue* get(std::string_view key) const noexcept;
  Error wrong(std::string_view key, std::string_view wanted, const JsonValue* got) const;

  const JsonValue& object_;
  std::string where_;
};

}  // namespace ciuic::inline CIUIC_ABI
