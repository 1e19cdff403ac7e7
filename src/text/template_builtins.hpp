// What a chat template may call: attributes and methods of values, filters, tests, functions.
#pragma once

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

/// What a run may still spend. One step is a node of the template, or 64 bytes of text made or
/// walked over.
class TemplateBudget {
 public:
  static constexpr std::size_t kSteps = 5'000'000;
  static constexpr std::size_t kBytesPerStep = 64;
  Result<void> charge(std::size_t steps) noexcept {
    if (steps > left_) return Error(ErrorCode::oversize, "too many steps");
    left_ -= steps;
    return {};
  }
  Result<void> charge_bytes(std::size_t bytes) noexcept { return charge(bytes / kBytesPerStep); }

 private:
  std::size_t left_ = kSteps;
};

// The messages of these errors carry no position; whoever evaluates the expression adds it.

/// `object.name`. Errors: when the object is undefined.
Result<Value> get_attribute(const Value& object, std::string_view name);
/// `object[key]`.
Result<Value> get_item(const Value& object, const Value& key);
/// `object[start:stop:step]`; none where a part is left out.
Result<Value> get_slice(const Value& object, const Value& start, const Value& stop,
                        const Value& step);
/// What a loop over the value visits: items, keys or characters; nothing for undefined.
Result<std::vector<Value>> iterate(const Value& value);
Result<bool> contains(const Value& container, const Value& item);
Result<Value> binary_operator(std::string_view op, const Value& a, const Value& b,
                              TemplateBudget& budget);

Result<Value> call_filter(std::string_view name, const Value& input, const Arguments& arguments,
                          TemplateBudget& budget);
Result<bool> call_test(std::string_view name, const Value& input, const Arguments& arguments);
/// A method, or one of the functions range, dict, raise_exception.
Result<Value> call_builtin(const CallableValue& callable, const Arguments& arguments,
                           TemplateBudget& budget);

}  // namespace ciuic::inline CIUIC_ABI
