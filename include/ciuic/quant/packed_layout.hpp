// Where each byte of a packed weight matrix lies: the layout that kernels stream and that quantized
// directories hold, the same on every processor, so that loading is a read and not a conversion.
//
// Output features (rows of W) stand in panels of 64 columns; a gated matrix has 32 features of gate
// and the same 32 of value in a panel. A panel runs along k, so it is one sequential stream:
//
//   f32    [k][64] floats
//   bf16   [k][2][16] pairs: the low half of word j of vector v is column 32 v + j, the high half
//          column 32 v + 16 + j, so that a shift and a mask widen both
//   i8     [k/4][64][4]: four consecutive k of a column side by side, k zero padded;
//          after all panels one f32 scale for each column, then one i32 sum of its integers
//   i4     per group of k: [group/8][64][4] bytes, the low nibble of byte b being k = 8 q + b and
//          the high one k = 8 q + 4 + b, each the integer + 8; then 64 binary16 scales
//
// Columns and k beyond the matrix are zeros (i4: nibbles of 8, scales of 0).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "ciuic/base/checked.hpp"
#include "ciuic/ops/matrix_format.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Sizes and offsets of a packed matrix, in bytes. A value.
struct PackedLayout {
  static constexpr std::size_t kPanelColumns = 64;
  static constexpr std::size_t kGatedColumns = kPanelColumns / 2;

  std::size_t k = 0;         ///< columns of W
  std::size_t features = 0;  ///< of one kind: rows of W, or half of them when gated
  std::size_t panels = 0;
  std::size_t panel_bytes = 0;
  std::size_t scales_at = 0;  ///< i8: f32 [panels][64]
  std::size_t sums_at = 0;    ///< i8: i32 [panels][64]
  std::size_t bytes = 0;      ///< of the whole, a multiple of 64

  std::size_t features_per_panel(bool gated) const noexcept {
    return gated ? kGatedColumns : kPanelColumns;
  }

  /// Empty when the format has no packed form, a number is not positive (or odd rows are gated), or
  /// the bytes cannot be counted.
  static std::optional<PackedLayout> of(std::int64_t rows, std::int64_t cols, bool gated,
                                        const MatrixFormat& format) noexcept {
    if (rows <= 0 || cols <= 0 || (gated && rows % 2 != 0)) return std::nullopt;
    PackedLayout layout;
    layout.k = static_cast<std::size_t>(cols);
    layout.features = static_cast<std::size_t>(gated ? rows / 2 : rows);
    layout.panels = ceil_div(layout.features, layout.features_per_panel(gated));
    std::optional<std::size_t> panel_bytes;
    switch (format.dtype) {
      case DType::f32:
        panel_bytes = checked_mul(layout.k, kPanelColumns * sizeof(float));
        break;
      case DType::bf16:
        panel_bytes = checked_mul(layout.k, kPanelColumns * sizeof(bf16));
        break;
      case DType::i8:
        panel_bytes = checked_mul(ceil_div<std::size_t>(layout.k, 4), kPanelColumns * 4);
        break;
      case DType::i4: {
        if (!format.is_valid()) return std::nullopt;
        const auto group = static_cast<std::size_t>(format.group);
        panel_bytes =
            checked_mul(ceil_div(layout.k, group), kPanelColumns * (group / 2 + sizeof(f16)));
        break;
      }
      default:
        return std::nullopt;
    }
    if (!panel_bytes) return std::nullopt;
    layout.panel_bytes = *panel_bytes;
    const auto all = checked_mul(layout.panels, *panel_bytes);
    if (!all) return std::nullopt;
    layout.bytes = *all;
    if (format.dtype == DType::i8) {
      const std::size_t column_bytes = layout.panels * kPanelColumns * sizeof(float);
      layout.scales_at = *all;
      const auto sums_at = checked_add(*all, column_bytes);
      if (!sums_at) return std::nullopt;
      layout.sums_at = *sums_at;
      const auto end = checked_add(*sums_at, column_bytes);
      if (!end) return std::nullopt;
      layout.bytes = *end;
    }
    return layout;
  }
};

}  // namespace ciuic::inline CIUIC_ABI
