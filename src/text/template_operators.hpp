// What Python's operators do with the values of a chat template: attributes, subscripts, slices,
// `in` and arithmetic.
#pragma once

#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_budget.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

/// `object.name`. Errors: when the object is undefined.
Result<Value> get_attribute(const Value& object, std::string_view name);
/// `object[key]`.
Result<Value> get_item(const Value& object, const Value& key);
/// `object[start:stop:step]`; none where a part is left out.
Result<Value> get_slice(const Value& object, const Value& start, const Value& stop,
                        const Value& step);
/// `item in container`.
Result<bool> contains(const Value& container, const Value& item);
/// `a op b`, for an operator that makes a value of two.
Result<Value> binary_operator(std::string_view op, const Value& a, const Value& b,
                              TemplateBudget& budget);

}  // namespace ciuic::inline CIUIC_ABI
