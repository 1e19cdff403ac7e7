#include "cpu/packed_matrix.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "ciuic/quant/packed_rows.hpp"
#include "ciuic/quant/rounding.hpp"
#include "cpu/huge_pages.hpp"
#include "cpu/kernels.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

constexpr std::size_t kColumns = PackedLayout::kPanelColumns;
static_assert(kPanelColumns == kColumns && kGatedColumns == PackedLayout::kGatedColumns);
/// The longest sum of products of 8-bit integers that i32 holds: 255 * 127 * k < 2^31.
constexpr std::int64_t kMaxIntegerK = 65536;

/// Calls a function of the source, shielding us from one that throws.
template <class Read>
Result<void> guarded(const Read& read) noexcept {
  try {
    return read();
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "pack: the source ran out of memory");
  } catch (...) {
    return Error(ErrorCode::model_failed, "pack: the source threw an exception");
  }
}

Result<PackedLayout> layout_of(std::string_view operation, std::int64_t rows, std::int64_t cols,
                               PackedMatrix::Form form, MatrixFormat format) noexcept {
  const bool gated = form == PackedMatrix::Form::gated;
  if (!format.is_valid()) {
    if (format.dtype == DType::i4) {
      return Error(ErrorCode::invalid_argument,
                   {operation, ": format.group: wanted 32, 64 or 128"});
    }
    return Error(ErrorCode::unsupported,
                 {operation, ": format: the cpu backend packs f32, bf16, i8 and i4, got ",
                  to_string(format.dtype)});
  }
  if (rows <= 0 || cols <= 0 || (gated && rows % 2 != 0)) {
    return Error(ErrorCode::invalid_argument,
                 {operation, ": source: wanted rows (an even number when gated) and columns"});
  }
  if ((format.dtype == DType::i8 || format.dtype == DType::i4) && cols > kMaxIntegerK) {
    return Error(ErrorCode::unsupported,
                 {operation, ": source.cols: wanted at most 65536 for ", to_string(format.dtype)});
  }
  const auto layout = PackedLayout::of(rows, cols, gated, format);
  if (!layout) {
    return Error(ErrorCode::out_of_memory, {operation, ": source: too large to address"});
  }
  return *layout;
}

constexpr std::uint8_t kZeroNibbles = 0x88;
/// Four integers of -8 … 7, a byte each, plus 8: of four bits, that flips the highest.
constexpr std::uint32_t biased_nibbles(std::uint32_t integers) noexcept {
  return (integers & 0x0F0F0F0Fu) ^ 0x08080808u;
}

/// Memory for a packed matrix.
Result<Buffer> allocate_packed(std::pmr::memory_resource& memory, std::size_t bytes) noexcept {
  CIUIC_ASSIGN_OR_RETURN(Buffer buffer, Buffer::allocate(memory, bytes));
  advise_huge_pages(memory, buffer.data(), bytes);
  return buffer;
}

/// Writes rows of W into the columns of one panel.
class PanelWriter {
 public:
  PanelWriter(MatrixFormat format, const PackedLayout& layout, std::byte* data,
              std::span<std::int8_t> integers) noexcept
      : format_(format), layout_(layout), data_(data), integers_(integers) {}

  /// All columns zero: what no row reaches stays so.
  void clear(std::size_t panel) const noexcept {
    std::byte* const begin = data_ + panel * layout_.panel_bytes;
    if (format_.dtype != DType::i4) {
      std::memset(begin, 0, layout_.panel_bytes);
    } else {
      const auto group = static_cast<std::size_t>(format_.group);
      const std::size_t block = kColumns * group / 2, scales = kColumns * sizeof(f16);
      for (std::size_t at = 0; at < layout_.panel_bytes; at += block + scales) {
        std::memset(begin + at, kZeroNibbles, block);
        std::memset(begin + at + block, 0, scales);
      }
    }
    if (format_.dtype == DType::i8) {
      std::memset(data_ + layout_.scales_at + panel * kColumns * 4, 0, kColumns * 4);
      std::memset(data_ + layout_.sums_at + panel * kColumns * 4, 0, kColumns * 4);
    }
  }

  void write(std::size_t panel, std::size_t first_column, std::span<const float> rows) const {
    const std::size_t k = layout_.k, count = rows.size() / k;
    std::byte* const begin = data_ + panel * layout_.panel_bytes;
    switch (format_.dtype) {
      case DType::f32:
        return scatter(rows, reinterpret_cast<float*>(begin),
                       [first_column](auto i, auto r) { return i * kColumns + first_column + r; });
      case DType::bf16: {
        auto* out = reinterpret_cast<std::uint16_t*>(begin);
        for (std::size_t r = 0; r < count; ++r) {
          for (std::size_t i = 0; i < k; ++i)
            out[PackedPosition::bf16(i, first_column + r)] = bf16::from_float(rows[r * k + i]).bits;
        }
        return;
      }
      case DType::i8:
        for (std::size_t r = 0; r < count; ++r)
          write_i8(panel, first_column + r, rows.subspan(r * k, k));
        return;
      default:
        for (std::size_t r = 0; r < count; ++r)
          write_i4(begin, first_column + r, rows.subspan(r * k, k));
    }
  }

 private:
  /// One cache line of each row at a time, so that a panel's lines are written while they are near.
  template <class At>
  void scatter(std::span<const float> rows, float* out, const At& at) const {
    constexpr std::size_t kStep = 16;
    const std::size_t k = layout_.k, count = rows.size() / k;
    for (std::size_t k0 = 0; k0 < k; k0 += kStep) {
      const std::size_t end = std::min(k, k0 + kStep);
      for (std::size_t r = 0; r < count; ++r) {
        for (std::size_t i = k0; i < end; ++i) out[at(i, r)] = rows[r * k + i];
      }
    }
  }
  void write_i8(std::size_t panel, std::size_t column, std::span<const float> row) const {
    const float scale = i8_scale(row);
    quantize_i8(row, scale, integers_);
    auto* const out = reinterpret_cast<std::int8_t*>(data_ + panel * layout_.panel_bytes);
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < row.size(); ++i) sum += integers_[i];
    std::size_t i = 0;
    for (; i + 4 <= row.size(); i += 4)
      std::memcpy(out + PackedPosition::i8(i, column), integers_.data() + i, 4);
    for (; i < row.size(); ++i) out[PackedPosition::i8(i, column)] = integers_[i];
    const std::size_t at = (panel * kColumns + column) * 4;
    std::memcpy(data_ + layout_.scales_at + at, &scale, 4);
    std::memcpy(data_ + layout_.sums_at + at, &sum, 4);
  }
  void write_i4(std::byte* panel, std::size_t column, std::span<const float> row) const {
    const auto group = static_cast<std::size_t>(format_.group);
    for (std::size_t first = 0; first < row.size(); first += group) {
      const std::span<const float> values = row.subspan(first, std::min(group, row.size() - first));
      std::int8_t* const q = integers_.data();
      const f16 scale = quantize_i4(values, integers_.first(values.size()));
      for (std::size_t i = values.size(); i % 8 != 0; ++i) q[i] = 0;
      for (std::size_t i = 0; i < values.size(); i += 8) {
        std::uint32_t low, high;  // four integers at a time
        std::memcpy(&low, q + i, 4);
        std::memcpy(&high, q + i + 4, 4);
        const std::uint32_t word = biased_nibbles(low) | biased_nibbles(high) << 4;
        std::memcpy(panel + PackedPosition::i4(i, column), &word, 4);
      }
      const std::size_t block = kColumns * group / 2;
      std::memcpy(panel + block + column * sizeof(f16), &scale.bits, sizeof(f16));
      panel += block + kColumns * sizeof(f16);
    }
  }

  MatrixFormat format_;
  const PackedLayout& layout_;
  std::byte* data_;
  std::span<std::int8_t> integers_;  // [k and 8 more], working memory
};

Result<std::unique_ptr<PackedMatrix>> own(std::int64_t rows, std::int64_t cols,
                                          PackedMatrix::Form form, MatrixFormat format,
                                          float input_scale, const PackedLayout& layout,
                                          const std::byte* data, Buffer memory,
                                          std::shared_ptr<const void> owner) noexcept {
  std::unique_ptr<PackedMatrix> matrix(new (std::nothrow) CpuPackedMatrix(
      rows, cols, form, format, input_scale, layout, data, std::move(memory), std::move(owner)));
  if (matrix == nullptr) return Error(ErrorCode::out_of_memory, "pack: no memory for the matrix");
  return matrix;
}

}  // namespace

void CpuPackedMatrix::read_row(std::size_t row, float* out) const noexcept {
  unpack_row(layout_, format(), form() == Form::gated, {data_, layout_.bytes}, row,
             {out, layout_.k});
}

Result<std::unique_ptr<PackedMatrix>> pack_matrix(std::pmr::memory_resource& memory,
                                                  MatrixSource source,
                                                  MatrixFormat format) noexcept {
  CIUIC_ASSIGN_OR_RETURN(const PackedLayout layout,
                         layout_of("pack", source.rows, source.cols, source.form, format));
  if (!source.read_rows) {
    return Error(ErrorCode::invalid_argument, "pack: source: wanted read_rows, got none");
  }
  const bool gated = source.form == PackedMatrix::Form::gated;
  const std::size_t k = layout.k, width = layout.features_per_panel(gated);
  CIUIC_ASSIGN_OR_RETURN(Buffer packed, allocate_packed(memory, layout.bytes));
  CIUIC_ASSIGN_OR_RETURN(Buffer staging, Buffer::allocate(memory, width * k * sizeof(float)));
  const bool rounds = format.dtype == DType::i8 || format.dtype == DType::i4;
  CIUIC_ASSIGN_OR_RETURN(Buffer integers, Buffer::allocate(memory, rounds ? k + 8 : 0));

  const PanelWriter writer(format, layout, packed.data(), integers.as<std::int8_t>());
  for (std::size_t panel = 0; panel < layout.panels; ++panel) {
    const std::size_t first = panel * width, count = std::min(width, layout.features - first);
    writer.clear(panel);
    for (std::size_t kind = 0; kind < (gated ? 2u : 1u); ++kind) {
      const std::span<float> rows = staging.as<float>().first(count * k);
      CIUIC_TRY(guarded([&] {
        return source.read_rows(static_cast<std::int64_t>(first + kind * layout.features), rows);
      }));
      writer.write(panel, kind * PackedLayout::kGatedColumns, rows);
    }
  }
  const std::byte* const data = packed.data();
  return own(source.rows, source.cols, source.form, format, source.input_scale, layout, data,
             std::move(packed), nullptr);
}

Result<std::unique_ptr<PackedMatrix>> load_packed_matrix(std::pmr::memory_resource& memory,
                                                         PackedSource source) noexcept {
  CIUIC_ASSIGN_OR_RETURN(
      const PackedLayout layout,
      layout_of("load_packed", source.rows, source.cols, source.form, source.format));
  if (source.mapped.data() != nullptr) {
    const auto address = reinterpret_cast<std::uintptr_t>(source.mapped.data());
    if (source.mapped.size() != layout.bytes || address % Buffer::kAlignment != 0) {
      return Error(
          ErrorCode::invalid_argument,
          "load_packed: source.mapped: wanted the layout's number of bytes, aligned to 64");
    }
    return own(source.rows, source.cols, source.form, source.format, source.input_scale, layout,
               source.mapped.data(), Buffer(), std::move(source.owner));
  }
  if (!source.read) {
    return Error(ErrorCode::invalid_argument, "load_packed: source: wanted read or mapped");
  }
  CIUIC_ASSIGN_OR_RETURN(Buffer packed, allocate_packed(memory, layout.bytes));
  CIUIC_TRY(guarded([&] { return source.read(0, std::span(packed.data(), layout.bytes)); }));
  const std::byte* const data = packed.data();
  return own(source.rows, source.cols, source.form, source.format, source.input_scale, layout, data,
             std::move(packed), nullptr);
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
