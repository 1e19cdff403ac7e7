// Jinja's filters: what `value | name(arguments)` makes of a value.
#pragma once

#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_arguments.hpp"
#include "text/template_budget.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Errors: `unsupported` for an unknown filter; `invalid_argument` for a value or an argument that
/// the filter cannot take.
Result<Value> call_filter(std::string_view name, const Value& input, const Arguments& arguments,
                          TemplateBudget& budget);

}  // namespace ciuic::inline CIUIC_ABI
