// What a run of a chat template may still spend, so that no template runs for ever.
#pragma once

#include <cstddef>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// One step is a node of the template, or 64 bytes of text made or walked over.
/// Thread-safety: thread-compatible.
class TemplateBudget {
 public:
  static constexpr std::size_t kSteps = 5'000'000;
  static constexpr std::size_t kBytesPerStep = 64;
  Result<void> charge(std::size_t steps) noexcept {
    if (steps > left_) return Error(ErrorCode::oversize, "too many steps");
    left_ -= steps;
    return {};
  }
  Result<void> charge_bytes(std::size_t bytes) noexcept { return charge(bytes / kBytesPerStep); }

 private:
  std::size_t left_ = kSteps;
};

}  // namespace ciuic::inline CIUIC_ABI
