// ReplicaPolicy: the batcher's policy when batches have replicas to go to. It lets a batch start
// when the team has a replica for it, and closes batches by another policy's rule.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "ciuic/batching/wrapped_policy.hpp"
#include "ciuic/engine/replica_team.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchPolicy says.
class ReplicaPolicy final : public WrappedPolicy {
 public:
  /// A null `policy` is DelayPolicy.
  ReplicaPolicy(std::shared_ptr<ReplicaTeam> team, std::unique_ptr<BatchPolicy> policy)
      : WrappedPolicy(std::move(policy)), team_(std::move(team)) {}

  BatchDecision may_start(const QueueView& view) noexcept override {
    const std::uint64_t by_count = parts(view.waiting, view.max_count);
    const std::uint64_t backlog = std::max(by_count, parts(view.waiting_cost, view.max_cost));
    BatchShape shape;
    shape.count = static_cast<std::size_t>(parts(view.waiting, backlog));
    shape.cost = parts(view.waiting_cost, backlog);
    shape.max_cost = parts(shape.cost, shape.count);
    const RouteChoice choice = team_->may_start(view.now, shape, backlog);
    if (choice.replica != kNoReplica || choice.outage) return WrappedPolicy::may_start(view);
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
    WrappedPolicy::on_finish(report);
  }

 private:
  static constexpr std::uint64_t kMostBacklog = 1u << 20;
  static std::uint64_t parts(std::uint64_t whole, std::uint64_t part) noexcept {
    return part == 0 || whole == 0 ? 1 : (whole - 1) / part + 1;
  }

  std::shared_ptr<ReplicaTeam> team_;
};

}  // namespace ciuic::inline CIUIC_ABI
