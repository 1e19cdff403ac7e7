#include "text/template_error.hpp"

#include <string>

namespace ciuic::inline CIUIC_ABI {

Error template_error(ErrorCode code, Position position, std::string_view what) {
  std::string line;  // a template may put line breaks into its messages
  for (const char c : what.substr(0, 300)) {
    line += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return Error(code, {"chat template ", std::to_string(position.line), ":",
                      std::to_string(position.column), ": ", line});
}

}  // namespace ciuic::inline CIUIC_ABI
