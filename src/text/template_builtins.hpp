// What a chat template may call: the methods of strings, dictionaries and lists, and the functions
// range, dict and raise_exception.
#pragma once

#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_arguments.hpp"
#include "text/template_budget.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Whether `self.name` is a method.
bool has_method(const Value& self, std::string_view name);

/// Calls a method, where the callable has a `self`, or else a function.
Result<Value> call_builtin(const CallableValue& callable, const Arguments& arguments,
                           TemplateBudget& budget);

}  // namespace ciuic::inline CIUIC_ABI
