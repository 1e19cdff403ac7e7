// Regular expressions in Oniguruma's dialect, rewritten so that PCRE2 reads them the same way. What
// the two read differently and no rewriting covers is refused.
#pragma once

#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// PCRE2 counts no step while one character or class repeats, so a long repeat is written between
/// two callouts, (?C1) before it and (?C2) behind it, which tell the matcher how far it went.
inline constexpr unsigned kCalloutBeforeRepeat = 1;

/// `expression`, which is valid UTF-8, for PCRE2 with UTF, UCP and MULTILINE. `recent`: classes
/// spell out the code points newer than PCRE2's tables. Errors: `bad_model` for malformed syntax,
/// `unsupported` for syntax that no translation covers.
Result<std::string> translate_to_pcre2(std::string_view expression, bool recent);

}  // namespace ciuic::inline CIUIC_ABI
