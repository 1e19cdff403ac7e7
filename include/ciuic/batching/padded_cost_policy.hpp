// PaddedCostPolicy: a limit on a batch's cost as the model sees it, when all are padded to the
// longest: requests times the largest cost among them. Everything else is another policy's.
#pragma once

#include "ciuic/base/checked.hpp"
#include "ciuic/batching/wrapped_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Bounds the padded cost by `max_batch_cost`; a request that would break it waits for the next
/// batch. Thread-safety: as BatchPolicy.
class PaddedCostPolicy final : public WrappedPolicy {
 public:
  using WrappedPolicy::WrappedPolicy;

  void bind(const BatchLimits& limits) noexcept override {
    max_cost_ = limits.max_batch_cost;
    WrappedPolicy::bind(limits);
  }
  Fit fits(const BatchShape& shape, TimePoint now, TimePoint first_deadline) noexcept override {
    const auto padded = checked_mul<std::uint64_t>(shape.count, shape.max_cost);
    if (!padded || *padded > max_cost_) return CloseReason::cost;
    return WrappedPolicy::fits(shape, now, first_deadline);
  }

 private:
  std::uint64_t max_cost_ = kUnlimitedCost;
};

}  // namespace ciuic::inline CIUIC_ABI
