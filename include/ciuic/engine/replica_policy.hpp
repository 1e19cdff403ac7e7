// ReplicaPolicy: the batcher's policy when batches have replicas to go to. It lets a batch start
// when the team has a replica for it, and closes batches by another policy's rule.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "ciuic/batching/batch_policy.hpp"
#include "ciuic/engine/replica_team.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchPolicy says.
class ReplicaPolicy final : public BatchPolicy {
 public:
  /// A null `policy` is DelayPolicy.
  ReplicaPolicy(std::shared_ptr<ReplicaTeam> team, std::unique_ptr<BatchPolicy> policy)
      : team_(std::move(team)),
        policy_(policy ? std::move(policy) : std::make_unique<DelayPolicy>()) {}

  BatchDecision may_start(const QueueView& view) noexcept override {
    const std::uint64_t by_count = parts(view.waiting, view.max_count);
    const std::uint64_t backlog = std::max(by_count, parts(view.waiting_cost, view.max_cost));
    BatchShape shape;
    shape.count = static_cast<std::size_t>(parts(view.waiting, backlog));
    shape.cost = parts(view.waiting_cost, backlog);
    shape.max_cost = parts(shape.cost, shape.count);
    const RouteChoice choice = team_->may_start(view.now, shape, backlog);
    if (choice.replica != kNoReplica || choice.outage) return policy_->may_start(view);
    BatchDecision wait{.when = choice.when};
    if (choice.backlog < kMostBacklog) {
      wait.wake_count = static_cast<std::size_t>(choice.backlog - 1) * shape.count + 1;
    }
    return wait;
  }
  std::uint32_t route(const BatchShape& shape, TimePoint now) noexcept override {
    return team_->assign(now, shape);
  }
  void on_finish(const BatchReport& report) noexcept override {
    team_->end(report.route);
    policy_->on_finish(report);
  }

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
  void on_start(const BatchShape& shape, TimePoint now) noexcept override {
    policy_->on_start(shape, now);
  }

 private:
  static constexpr std::uint64_t kMostBacklog = 1u << 20;
  static std::uint64_t parts(std::uint64_t whole, std::uint64_t part) noexcept {
    return part == 0 || whole == 0 ? 1 : (whole - 1) / part + 1;
  }

  std::shared_ptr<ReplicaTeam> team_;
  std::unique_ptr<BatchPolicy> policy_;
};

}  // namespace ciuic::inline CIUIC_ABI
