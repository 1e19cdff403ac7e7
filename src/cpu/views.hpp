// What tensors of the CPU backend hold, as plain pointers: device memory is the host's here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/tensor_view.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

inline const float* floats(const ConstTensorView& view) noexcept {
  return reinterpret_cast<const float*>(view.data);
}
inline float* floats(const TensorView& view) noexcept {
  return reinterpret_cast<float*>(view.data);
}
inline const std::int32_t* integers(const ConstTensorView& view) noexcept {
  return reinterpret_cast<const std::int32_t*>(view.data);
}
constexpr std::size_t unsigned_of(std::int64_t value) noexcept {
  return static_cast<std::size_t>(value);
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
