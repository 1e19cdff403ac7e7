// A weight matrix in the layout of quant/packed_layout.hpp, in the host's memory: how it comes to
// be and how single rows are read back. What multiplies by it is in the kernels.
#pragma once

#include <memory>
#include <memory_resource>
#include <utility>

#include "ciuic/base/buffer.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/packed_layout.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

class CpuPackedMatrix final : public PackedMatrix {
 public:
  /// `data` lies in `memory`, or in what `owner` keeps alive.
  CpuPackedMatrix(std::int64_t rows, std::int64_t cols, Form form, MatrixFormat format,
                  float input_scale, const PackedLayout& layout, const std::byte* data,
                  Buffer memory, std::shared_ptr<const void> owner) noexcept
      : PackedMatrix(rows, cols, form, format, layout.bytes, input_scale),
        layout_(layout),
        data_(data),
        memory_(std::move(memory)),
        owner_(std::move(owner)) {}

  const PackedLayout& layout() const noexcept { return layout_; }
  const std::byte* data() const noexcept { return data_; }
  /// i8 only: [panels][64], see PackedLayout.
  const float* scales() const noexcept {
    return reinterpret_cast<const float*>(data_ + layout_.scales_at);
  }
  const std::int32_t* sums() const noexcept {
    return reinterpret_cast<const std::int32_t*>(data_ + layout_.sums_at);
  }

  /// out [cols] = row `row` of a plain matrix.
  void read_row(std::size_t row, float* out) const noexcept;

 private:
  PackedLayout layout_;
  const std::byte* data_;
  Buffer memory_;
  std::shared_ptr<const void> owner_;
};

/// Backend::pack and Backend::load_packed.
Result<std::unique_ptr<PackedMatrix>> pack_matrix(std::pmr::memory_resource& memory,
                                                  MatrixSource source,
                                                  MatrixFormat format) noexcept;
Result<std::unique_ptr<PackedMatrix>> load_packed_matrix(std::pmr::memory_resource& memory,
                                                         PackedSource source) noexcept;

}  // namespace ciuic::inline CIUIC_ABI::cpu
