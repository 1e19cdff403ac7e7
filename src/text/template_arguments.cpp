#include "text/template_arguments.hpp"

#include <algorithm>

#include "text/fields.hpp"

namespace ciuic::inline CIUIC_ABI {

Result<Bound> Bound::bind(std::string_view function, const Arguments& arguments,
                          std::initializer_list<std::string_view> names) {
  Bound bound;
  if (arguments.positional.size() > names.size()) {
    return value_error({function, ": ", std::to_string(arguments.positional.size()),
                        " arguments, wanted at most ", std::to_string(names.size())});
  }
  bound.values_.resize(names.size(), nullptr);
  for (std::size_t i = 0; i < arguments.positional.size(); ++i) {
    bound.values_[i] = &arguments.positional[i];
  }
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) return value_error({function, ": unknown argument ", quoted(name)});
    const Value*& slot = bound.values_[static_cast<std::size_t>(at - names.begin())];
    if (slot != nullptr) {
      return value_error({function, ": argument ", quoted(name), " is given twice"});
    }
    slot = &value;
  }
  bound.function_ = function;
  bound.names_.assign(names.begin(), names.end());
  return bound;
}

Result<std::string> Bound::string(std::size_t i, std::optional<std::string> fallback) const {
  if (!has(i) && fallback) return *std::move(fallback);
  if (values_[i] == nullptr || !values_[i]->is_string()) return wanted(i, "a string");
  return values_[i]->as_string();
}

Result<std::int64_t> Bound::integer(std::size_t i, std::optional<std::int64_t> fallback) const {
  if (!has(i) && fallback) return *fallback;
  if (values_[i] == nullptr || !values_[i]->is_integral()) return wanted(i, "an integer");
  return values_[i]->as_integer();
}

Error Bound::wanted(std::size_t i, std::string_view what) const {
  return value_error({function_, ": ", names_[i], ": wanted ", what, ", got ",
                      values_[i] == nullptr ? "nothing" : values_[i]->type_name()});
}

}  // namespace ciuic::inline CIUIC_ABI
