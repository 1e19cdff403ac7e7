// PaddedCostPolicy: a limit on a batch's cost as the model sees it, when all are padded to the
// longest: requests times the largest cost among them. Everything else is another policy's.
#pragma once

#include <memory>
#include <utility>

#include "ciuic/base/checked.hpp"
#include "ciuic/batching/batch_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Bounds the padded cost by `max_batch_cost`; a request that would break it waits for the next
/// batch. Thread-safety: as BatchPolicy.
class PaddedCostPolicy final : public BatchPolicy {
 public:
  /// Null = DelayPolicy.
  explicit PaddedCostPolicy(std::unique_ptr<BatchPolicy> policy)
      : policy_(policy ? std::move(policy) : std::make_unique<DelayPolicy>()) {}

  void bind(const BatchLimits& limits) noexcept override {
    max_cost_ = limits.max_batch_cost;
    policy_->bind(limits);
  }
  Fit fits(const BatchShape& shape, TimePoint now, TimePoint first_deadline) noexcept override {
    const auto padded = checked_mul<std::uint64_t>(shape.count, shape.max_cost);
    if (!padded || *padded > max_cost_) return CloseReason::cost;
    return policy_->fits(shape, now, first_deadline);
  }
  BatchDecision decide(const QueueView& view) noexcept override { return policy_->decide(view); }
  TimePoint hopeless_before(TimePoint now) noexcept override {
    return policy_->hopeless_before(now);
  }
  TimePoint expected_finish(const QueueView& view, std::uint64_t cost) noexcept override {
    return policy_->expected_finish(view, cost);
  }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return policy_->forecast(shape);
  }
  BatchDecision may_start(const QueueView& view) noexcept override {
    return policy_->may_start(view);
  }
  std::uint32_t route(const BatchShape& shape, TimePoint now) noexcept override {
    return policy_->route(shape, now);
  }
  void on_start(const BatchShape& shape, TimePoint now) noexcept override {
    policy_->on_start(shape, now);
  }
  void on_finish(const BatchReport& report) noexcept override { policy_->on_finish(report); }

 private:
  std::unique_ptr<BatchPolicy> policy_;
  std::uint64_t max_cost_ = kUnlimitedCost;
};

}  // namespace ciuic::inline CIUIC_ABI
