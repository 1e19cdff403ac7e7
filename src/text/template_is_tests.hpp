// Jinja's tests: what `value is name` and `value is name(argument)` ask.
#pragma once

#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_arguments.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Errors: `unsupported` for an unknown test; `invalid_argument` for a value or an argument that
/// the test cannot take.
Result<bool> call_test(std::string_view name, const Value& input, const Arguments& arguments);

}  // namespace ciuic::inline CIUIC_ABI
