// Single elements of a packed matrix (packed_layout.hpp): where they lie, and rows read back as
// f32.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "ciuic/quant/packed_layout.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Positions within a panel, in elements of the format's own type.
struct PackedPosition {
  static constexpr std::size_t f32(std::size_t k, std::size_t column) noexcept {
    return k * PackedLayout::kPanelColumns + column;
  }
  static constexpr std::size_t bf16(std::size_t k, std::size_t column) noexcept {
    return k * PackedLayout::kPanelColumns + column / 32 * 32 + column % 16 * 2 + column % 32 / 16;
  }
  static constexpr std::size_t i8(std::size_t k, std::size_t column) noexcept {
    return (k / 4 * PackedLayout::kPanelColumns + column) * 4 + k % 4;
  }
  /// Within a group: the byte whose low (k % 8 < 4) or high nibble it is.
  static constexpr std::size_t i4(std::size_t k_in_group, std::size_t column) noexcept {
    return (k_in_group / 8 * PackedLayout::kPanelColumns + column) * 4 + k_in_group % 4;
  }
};

/// Writes row `row` of W [rows, cols], as it was packed, to `out` [cols]. `packed` holds
/// `layout.bytes` bytes; a gated matrix has its value rows in the second half of W.
inline void unpack_row(const PackedLayout& layout, const MatrixFormat& format, bool gated,
                       std::span<const std::byte> packed, std::size_t row,
                       std::span<float> out) noexcept {
  constexpr std::size_t kColumns = PackedLayout::kPanelColumns;
  const std::size_t width = layout.features_per_panel(gated);
  const bool is_value = gated && row >= layout.features;
  const std::size_t feature = is_value ? row - layout.features : row;
  const std::size_t panel_number = feature / width;
  const std::size_t column = feature % width + (is_value ? PackedLayout::kGatedColumns : 0);
  const std::byte* panel = packed.data() + panel_number * layout.panel_bytes;
  const std::size_t k = layout.k;
  switch (format.dtype) {
    case DType::f32:
      for (std::size_t i = 0; i < k; ++i)
        std::memcpy(&out[i], panel + PackedPosition::f32(i, column) * sizeof(float), sizeof(float));
      return;
    case DType::bf16:
      for (std::size_t i = 0; i < k; ++i) {
        bf16 value;
        std::memcpy(&value.bits, panel + PackedPosition::bf16(i, column) * sizeof(bf16),
                    sizeof(bf16));
        out[i] = value.to_float();
      }
      return;
    case DType::i8: {
      const auto* values = reinterpret_cast<const std::int8_t*>(panel);
      float scale;
      std::memcpy(
          &scale,
          packed.data() + layout.scales_at + (panel_number * kColumns + column) * sizeof(float),
          sizeof(float));
      for (std::size_t i = 0; i < k; ++i)
        out[i] = static_cast<float>(values[PackedPosition::i8(i, column)]) * scale;
      return;
    }
    default: {
      const auto group = static_cast<std::size_t>(format.group);
      const std::size_t block = kColumns * group / 2;
      for (std::size_t first = 0; first < k; first += group) {
        f16 scale;
        std::memcpy(&scale.bits, panel + block + column * sizeof(f16), sizeof(f16));
        const float factor = scale.to_float();
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(panel);
        for (std::size_t i = 0; i < std::min(group, k - first); ++i) {
          const unsigned byte = bytes[PackedPosition::i4(i, column)];
          const int integer = static_cast<int>(i % 8 < 4 ? byte & 15u : byte >> 4) - 8;
          out[first + i] = static_cast<float>(integer) * factor;
        }
        panel += block + kColumns * sizeof(f16);
      }
    }
  }
}

}  // namespace ciuic::inline CIUIC_ABI
