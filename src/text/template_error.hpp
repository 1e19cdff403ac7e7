// Places in the text of a chat template, and errors that name one.
#pragma once

#include <cstdint>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

struct Position {
  std::uint32_t line = 1, column = 1;
};

/// "chat template line:column: what".
Error template_error(ErrorCode code, Position position, std::string_view what);

}  // namespace ciuic::inline CIUIC_ABI
