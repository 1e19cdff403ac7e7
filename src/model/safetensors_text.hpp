// The text of a safetensors header, entry by entry.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ciuic/model/safetensors.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Appends the entry of one tensor, whose bytes are [begin, end) of the data, to the text of a
/// header that begins with a brace; the caller closes it.
void append_header_entry(std::string& text, std::string_view name, FileDType dtype,
                         const Shape& shape, std::uint64_t begin, std::uint64_t end);

}  // namespace ciuic::inline CIUIC_ABI
