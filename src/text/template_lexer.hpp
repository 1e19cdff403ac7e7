// The words of a chat template: its text cut into tokens, with Jinja's white space rules applied
// (trim_blocks and lstrip_blocks on), so that the parser need not know them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/template_error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct Token {
  enum class Kind : std::uint8_t {
    text,
    begin_output,
    end_output,
    begin_block,
    end_block,
    name,
    string,
    integer,
    number,
    symbol,
    end,
  };
  Kind kind = Kind::end;
  Position position;
  std::string text;
  std::int64_t integer = 0;
  double number = 0;
};

/// The tokens of `text`, which is valid UTF-8; the last one is `end`. Errors: `bad_model`, with the
/// place, for what no token starts with and what is never closed.
Result<std::vector<Token>> lex_template(std::string_view text);

}  // namespace ciuic::inline CIUIC_ABI
