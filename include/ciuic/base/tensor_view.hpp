// Shapes, and views of memory that has one. Views never own.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "ciuic/base/checked.hpp"
#include "ciuic/base/dtype.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The extents of a dense row-major tensor, outermost first; rank 0 is a scalar. Immutable.
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 8;

  constexpr Shape() noexcept = default;
  /// Extents beyond the eighth are a broken precondition.
  constexpr Shape(std::initializer_list<std::int64_t> extents) noexcept {
    for (std::int64_t extent : extents) extents_[rank_++] = extent;
  }
  constexpr explicit Shape(std::span<const std::int64_t> extents) noexcept {
    for (std::int64_t extent : extents) extents_[rank_++] = extent;
  }

  constexpr std::size_t rank() const noexcept { return rank_; }
  constexpr std::int64_t operator[](std::size_t axis) const noexcept { return extents_[axis]; }
  constexpr std::span<const std::int64_t> extents() const noexcept {
    return {extents_.data(), rank_};
  }

  /// The product of the extents; empty when one is negative or the product wraps.
  constexpr std::optional<std::uint64_t> elements() const noexcept {
    std::optional<std::uint64_t> product = 1;
    for (std::int64_t extent : this->extents()) {
      if (extent < 0) return std::nullopt;
      if (product) product = checked_mul(*product, static_cast<std::uint64_t>(extent));
    }
    return product;
  }
  friend constexpr bool operator==(const Shape& a, const Shape& b) noexcept {
    if (a.rank_ != b.rank_) return false;
    for (std::size_t i = 0; i < a.rank_; ++i) {
      if (a.extents_[i] != b.extents_[i]) return false;
    }
    return true;
  }

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  std::size_t rank_ = 0;
};

/// Bytes a dense tensor of `shape` takes; empty when that wraps.
constexpr std::optional<std::uint64_t> bytes_of(DType dtype, const Shape& shape) noexcept {
  const std::optional<std::uint64_t> elements = shape.elements();
  if (!elements) return std::nullopt;
  const auto bits = checked_mul<std::uint64_t>(*elements, bits_of(dtype));
  if (!bits) return std::nullopt;
  return *bits / 8 + (*bits % 8 != 0 ? 1 : 0);
}

/// A dense row-major tensor somewhere: in host memory, or in a device's where the host must not
/// follow the pointer. Thread-safety: thread-compatible.
template <class Byte>
struct BasicTensorView {
  Byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  /// A mutable view converts to a read-only one.
  constexpr operator BasicTensorView<const Byte>() const noexcept { return {data, dtype, shape}; }
};
using TensorView = BasicTensorView<std::byte>;
using ConstTensorView = BasicTensorView<const std::byte>;

}  // namespace ciuic::inline CIUIC_ABI
