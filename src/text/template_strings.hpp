// What Python's str can do, for the templates that call it: the methods, and the two pieces of them
// that filters and tests need as well.
#pragma once

#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_arguments.hpp"
#include "text/template_value.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Python's str.strip family: white space, or any character of `set` if that is not null.
std::string_view strip(std::string_view text, bool left, bool right, const std::string* set);

/// `how`: lower; upper; title: capitals after what is no letter, as str.title; words: after white
/// space or an opening bracket, as the filter `title`; capitalize: the first letter only.
std::string with_case(std::string_view text, std::string_view how);

/// Whether str has this method, as far as templates can call it.
bool is_string_method(std::string_view name);
/// `text.name(arguments)`, for a name of which that is true.
Result<Value> string_method(std::string_view name, const std::string& text,
                            const Arguments& arguments);

}  // namespace ciuic::inline CIUIC_ABI
