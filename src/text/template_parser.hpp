// Jinja's grammar, as far as chat templates go: the lexer's tokens, read by recursive descent of
// bounded depth.
#pragma once

#include <string_view>

#include "ciuic/base/error.hpp"
#include "text/template_nodes.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Errors, with the place in the template: `bad_model` for what is no template or too large,
/// `unsupported` for what Jinja has and chat templates do without.
Result<TemplateNodes> parse_template(std::string_view text);

}  // namespace ciuic::inline CIUIC_ABI
