// WrappedPolicy: a policy that is another one but for what a derived class adds.
#pragma once

#include <memory>
#include <utility>

#include "ciuic/batching/batch_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Asks the inner policy everything. Thread-safety: as BatchPolicy.
class WrappedPolicy : public BatchPolicy {
 public:
  /// Null = DelayPolicy.
  explicit WrappedPolicy(std::unique_ptr<BatchPolicy> policy)
      : policy_(policy ? std::move(policy) : std::make_unique<DelayPolicy>()) {}

  void bind(const BatchLimits& limits) noexcept override { policy_->bind(limits); }
  BatchDecision decide(const QueueView& view) noexcept override { return policy_->decide(view); }
  Fit fits(const BatchShape& shape, TimePoint now, TimePoint first_deadline) noexcept override {
    return policy_->fits(shape, now, first_deadline);
  }
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
};

}  // namespace ciuic::inline CIUIC_ABI
