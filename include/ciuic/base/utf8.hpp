// Whether bytes are UTF-8.
#pragma once

#include <cstddef>
#include <string_view>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// True for well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
/// Source: The Unicode Standard, table 3-7.
constexpr bool is_valid_utf8(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i), second = byte(i + 1);
    if (lead < 0x80u) {
      i += 1;
    } else if (lead >= 0xC2u && lead <= 0xDFu && follows(i + 1)) {
      i += 2;
    } else if ((lead & 0xF0u) == 0xE0u && follows(i + 1) && follows(i + 2) &&
               !(lead == 0xE0u && second < 0xA0u) && !(lead == 0xEDu && second > 0x9Fu)) {
      i += 3;
    } else if (lead >= 0xF0u && lead <= 0xF4u && follows(i + 1) && follows(i + 2) &&
               follows(i + 3) && !(lead == 0xF0u && second < 0x90u) &&
               !(lead == 0xF4u && second > 0x8Fu)) {
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace ciuic::inline CIUIC_ABI
