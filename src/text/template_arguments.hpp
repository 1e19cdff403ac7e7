// The arguments of a call in a chat template, and the finding of each by place or by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

struct Arguments {
  std::vector<Value> positional = {};
  std::vector<std::pair<std::string, Value>> named = {};
};

/// Arguments in the order of a function's parameters; null where one is not given. Refers to the
/// arguments and the names it was made from. Thread-safety: const calls are thread-safe.
class Bound {
 public:
  /// `names`: the function's parameters. Errors: `invalid_argument` for too many arguments, an
  /// unknown one, and one given twice.
  static Result<Bound> bind(std::string_view function, const Arguments& arguments,
                            std::initializer_list<std::string_view> names);
  const Value* get(std::size_t i) const { return values_[i]; }
  bool has(std::size_t i) const { return values_[i] != nullptr && !values_[i]->is_none(); }
  bool truth(std::size_t i, bool fallback = false) const {
    return values_[i] == nullptr ? fallback : values_[i]->truth();
  }
  Result<std::string> string(std::size_t i, std::optional<std::string> fallback = {}) const;
  Result<std::int64_t> integer(std::size_t i, std::optional<std::int64_t> fallback = {}) const;
  /// The error that argument `i` is not `what`.
  Error wanted(std::size_t i, std::string_view what) const;

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

}  // namespace ciuic::inline CIUIC_ABI
