// ReplicaTeam: who is inside which replica, and what becomes of a batch that fails there.
//
// The policy of the batcher gives each batch a replica before it starts, its own for as long as the
// batch lasts. When the batch fails there, the failure may be the replica's or an item's. What
// tells them apart is another replica:
//
//   the run on its own replica fails
//   ├─ no other replica can be had            the items' fault
//   └─ it is run once more, on another
//      ├─ that passes                         the first replica's fault: it is drained
//      ├─ that passes, but with fewer items   nobody knows: the culprit may be gone
//      └─ that fails too                      the items' fault: no replica is blamed
//
// The other one is the one with the best record, also if it has to be waited for: two broken
// replicas do not bear witness for each other while a good one runs. A replica that is much later
// than foretold may never end: nobody waits for it.
//
// From there on the batcher's usual rules hold (`on_failure`), on the replica of the last run. Two
// kinds of failure speak for themselves. `device_lost` is the replica's fault at once, also when
// there is no other. Out of memory is nobody's: a batch is split where it is, and what fails alone
// is tried on another replica, for that may have more memory.
//
// Nobody waits for a replica from inside another: so no two batches can wait for each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ciuic/base/sync.hpp"
#include "ciuic/engine/replica_router.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: thread-safe. Allocates nothing after construction, but
/// for the texts of errors.
class ReplicaTeam {
 public:
  /// What a run has come to.
  enum class Outcome : std::uint8_t { passed, failed, device_lost, out_of_memory };

  /// `clock` must outlive the team.
  ReplicaTeam(std::size_t replicas, const RoutingOptions& routing, const HealthOptions& health,
              const Clock& clock)
      : clock_(&clock),
        patience_(health.patience),
        router_(replicas, routing, health),
        seats_(replicas) {}

  // --- of the batcher's policy, under the batcher's lock -----------------------------------------

  /// May the next batch start, and if not, when to ask again?
  RouteChoice may_start(TimePoint now, const BatchShape& shape, std::uint64_t backlog) noexcept {
    Lock lock(mutex_);
    // Batches that have failed go first: the idle ones are theirs.
    std::size_t idle = 0;
    RouteChoice wait;
    for (std::uint32_t r = 0; waiting_ > 0 && r < seats_.size(); ++r) {
      if (router_.busy(r)) continue;
      const bool may_serve = router_.health(r).may_serve(now);
      idle += may_serve;
      if (!may_serve) wait.when = std::min(wait.when, router_.health(r).retry_at());
    }
    if (waiting_ > 0 && idle <= waiting_) return wait;
    return router_.choose(now, shape, backlog);
  }
  /// The batch starts: gives it a replica of its own, or the route of one that fails.
  std::uint32_t assign(TimePoint now, const BatchShape& shape) noexcept {
    Lock lock(mutex_);
    RouteChoice choice = router_.choose(now, shape, std::numeric_limits<std::uint64_t>::max());
    if (choice.outage) return kNoReplica;
    // A failed batch may have taken the idle one since may_start(). It is a guest there: the seat
    // is free, and enter() waits for its end, unless the guest could be waiting for this thread.
    if (choice.replica == kNoReplica && is_inside(this_thread_id())) return kNestedRoute;
    for (std::uint32_t r = 0; choice.replica == kNoReplica && r < seats_.size(); ++r) {
      if (!seats_[r].taken && router_.health(r).state() != ReplicaState::drained) {
        choice.replica = r;
      }
    }
    if (choice.replica == kNoReplica) return kNoReplica;
    Seat& seat = seats_[choice.replica];
    seat.taken = true;
    seat.begun = seat.elsewhere = seat.settled = seat.first_out_of_memory = false;
    seat.left = 0;
    seat.current = choice.replica;
    seat.thread = this_thread_id();
    router_.occupy(choice.replica, now, shape);
    return choice.replica;
  }
  /// The batch that was given this replica is over.
  void end(std::uint32_t route) noexcept {
    if (route == kNoReplica || route == kNestedRoute) return;
    Lock lock(mutex_);
    Seat& seat = seats_[route];
    seat.taken = false;
    if (seat.elsewhere) {
      Seat& other = seats_[seat.guest_of];
      --other.guests;
      if (other.inside == route) other.inside = kNoReplica;  // nobody wanted that run any more
      free_if_empty(seat.guest_of);
    }
    free_if_empty(route);
    changed_.notify_all();
  }

  // --- of the thread that runs the batch ---------------------------------------------------------

  /// Waits until the batch's replica is empty, and enters it: whose turn it is. Errors: that of
  /// the last replica in an outage; `would_deadlock`.
  Result<std::uint32_t> enter(std::uint32_t route, const BatchShape& shape) noexcept {
    Lock lock(mutex_);
    if (route == kNoReplica) return outage(clock_->now());
    if (route == kNestedRoute) {
      return Error(ErrorCode::would_deadlock,
                   "run_one: called from a model, and every other replica is busy");
    }
    Seat& seat = seats_[route];
    if (seat.current == kNoReplica) return *seat.error;
    Seat& room = seats_[seat.current];
    if (room.inside != route) {  // find_other() has let it in already
      while (room.inside != kNoReplica) changed_.wait(lock);
      room.inside = route;
    }
    seat.begun = true;
    router_.start(seat.current, clock_->now(), shape, seat.elsewhere);
    return seat.current;
  }
  /// The run is over, and did not answer `left` of its items, be it that nobody wanted them any
  /// more. True when the batch shall be run again: its replica is another one now.
  bool leave(std::uint32_t route, const BatchShape& shape, std::size_t left, Duration time,
             Outcome outcome, const Error& error) noexcept {
    Lock lock(mutex_);
    const TimePoint now = clock_->now();
    Seat& seat = seats_[route];
    const std::uint32_t replica = seat.current;
    seats_[replica].inside = kNoReplica;
    changed_.notify_all();
    if (outcome == Outcome::passed) {
      router_.passed(replica, shape, time);
      const bool all = shape.count - left == seat.left;  // none of them left in between
      if (seat.elsewhere && !seat.settled && !seat.first_out_of_memory && all) {
        router_.blame(route, now);
      }
      seat.settled = seat.elsewhere;
      return false;
    }
    const bool out_of_memory = outcome == Outcome::out_of_memory;
    router_.failed(replica, time, !out_of_memory && !seat.settled);
    if (outcome == Outcome::device_lost) router_.blame(replica, now);
    last_error_ = error;
    if (out_of_memory && shape.count > 1) {
      seat.settled |= seat.elsewhere;  // a part of a batch says nothing about the whole
      return false;
    }
    if (!seat.settled && !seat.elsewhere) {
      const std::uint32_t other = find_other(route, shape, lock);
      if (other != kNoReplica) {
        seat.elsewhere = true;
        seat.left = left;
        seat.first_out_of_memory = out_of_memory;
        seat.current = seat.guest_of = other;
        return true;
      }
    }
    seat.settled = true;
    if (outcome == Outcome::device_lost) {
      seat.current = kNoReplica;
      seat.error = error;
    }
    return false;
  }

  std::vector<ReplicaStats> stats() const {
    std::vector<ReplicaStats> stats;
    Lock lock(mutex_);
    for (std::uint32_t r = 0; r < seats_.size(); ++r) stats.push_back(router_.stats(r));
    return stats;
  }

 private:
  /// A replica, and the batch it was given, if any.
  struct Seat {
    bool taken = false;      // by a batch that is not over
    bool begun = false;      // and has been inside
    bool elsewhere = false;  // it has gone on to `guest_of`
    bool settled = false;    // whose fault its failure is, is known
    bool first_out_of_memory = false;
    std::size_t left = 0;                // of its items, when it failed here
    std::uint32_t current = kNoReplica;  // where the batch runs
    std::uint32_t guest_of = kNoReplica;
    ThreadId thread{};                  // of the batch
    std::optional<Error> error{};       // of a batch that runs nowhere any more
    std::uint32_t inside = kNoReplica;  // of this replica: the route of the batch in it
    unsigned guests = 0;                // of this replica: batches that failed elsewhere
  };

  void free_if_empty(std::uint32_t r) noexcept CIUIC_REQUIRES(mutex_) {
    if (!seats_[r].taken && seats_[r].guests == 0) router_.free(r);
  }
  /// Does this thread run a batch, but for that of `but`?
  bool is_inside(ThreadId thread, std::uint32_t but = kNoReplica) const noexcept
      CIUIC_REQUIRES(mutex_) {
    for (std::uint32_t r = 0; r < seats_.size(); ++r) {
      if (r != but && seats_[r].taken && seats_[r].thread == thread) return true;
    }
    return false;
  }
  /// Enters another replica for a batch that failed on its own: the one with the best record, of
  /// equals the fastest. Waits for a busy one if none is free, or none with a clean record; none
  /// when there is no hope.
  std::uint32_t find_other(std::uint32_t route, const BatchShape& shape, Lock& lock) noexcept
      CIUIC_REQUIRES(mutex_) {
    // A batch whose own thread runs another one further out must not wait for anybody.
    const bool nested = is_inside(seats_[route].thread, route);
    for (;;) {
      const TimePoint now = clock_->now();
      std::uint32_t best = kNoReplica;
      bool hope = false, clean_hope = false;
      TimePoint look_again = kNever;
      for (std::uint32_t r = 0; r < seats_.size(); ++r) {
        const Seat& seat = seats_[r];
        if (r == route) continue;
        const bool may_serve = router_.health(r).may_serve(now);
        if (!may_serve && router_.health(r).state() != ReplicaState::probing) {
          look_again = std::min(look_again, router_.health(r).retry_at());
          continue;
        }
        if (seat.inside != kNoReplica || (seat.taken && !seat.begun)) {
          const TimePoint hopeless = add_saturating(router_.expected_end(r), patience_);
          if (now >= hopeless) continue;
          hope = true;
          clean_hope |= is_clean(r);
          look_again = std::min(look_again, hopeless);
        } else if (!may_serve) {
          continue;  // its probe has told nothing, and is not over
        } else if (best == kNoReplica || is_better(r, best, shape)) {
          best = r;
        }
      }
      if (best != kNoReplica && (nested || !clean_hope || is_clean(best))) {
        if (!router_.busy(best)) router_.occupy(best, now, shape);
        seats_[best].inside = route;
        ++seats_[best].guests;
        return best;
      }
      if (!hope || nested) return kNoReplica;
      ++waiting_;
      clock_->wait_until(changed_, lock, look_again);
      --waiting_;
    }
  }
  bool is_clean(std::uint32_t r) const noexcept CIUIC_REQUIRES(mutex_) {
    return router_.health(r).in_service() && router_.health(r).failures_in_row() == 0;
  }
  bool is_better(std::uint32_t r, std::uint32_t than, const BatchShape& shape) const noexcept
      CIUIC_REQUIRES(mutex_) {
    const ReplicaHealth& a = router_.health(r);
    const ReplicaHealth& b = router_.health(than);
    if (a.in_service() != b.in_service()) return a.in_service();
    if (a.failures_in_row() != b.failures_in_row()) {
      return a.failures_in_row() < b.failures_in_row();
    }
    return router_.takes(r, shape) < router_.takes(than, shape);
  }
  Error outage(TimePoint now) const noexcept CIUIC_REQUIRES(mutex_) {
    TimePoint retry = kNever;
    for (std::uint32_t r = 0; r < seats_.size(); ++r) {
      retry = std::min(retry, router_.health(r).retry_at());
    }
    char wait[24] = "soon";
    if (retry > now && retry != kNever) {
      const auto ms = std::chrono::ceil<std::chrono::milliseconds>(retry - now).count();
      std::snprintf(wait, sizeof wait, "in %lld ms", static_cast<long long>(ms));
    }
    return Error(last_error_.code(), {"no replica is in service, try again ", wait,
                                      "; the last one failed with: ", last_error_.message()});
  }

  /// Of a batch that may not wait, and found no replica to start in.
  static constexpr std::uint32_t kNestedRoute = kNoReplica - 1;

  const Clock* clock_;
  const Duration patience_;
  mutable Mutex mutex_;
  CondVar changed_;
  ReplicaRouter router_ CIUIC_GUARDED_BY(mutex_);
  std::vector<Seat> seats_ CIUIC_GUARDED_BY(mutex_);
  std::size_t waiting_ CIUIC_GUARDED_BY(mutex_) = 0;  // batches in find_other()
  Error last_error_ CIUIC_GUARDED_BY(mutex_){ErrorCode::device_lost};
};

/// Lets a batch start when the team has a replica for it; closes batches by another policy's rule.
/// Thread-safety: as BatchPolicy says.
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
