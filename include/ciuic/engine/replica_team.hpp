// ReplicaTeam: who is inside which replica, and what becomes of a batch that fails there.
//
// The policy of the batcher gives each batch a replica before it starts, its own for as long as the
// batch lasts. When the batch fails there, the failure may be the replica's or an item's. What
// tells them apart are other replicas, asked one after the other, at most `opinions` of them:
//
//   the run on its own replica fails
//   ├─ no other replica can be had            the items' fault
//   └─ it is run again, on another
//      ├─ that passes                         the fault of those on which it failed: drained
//      ├─ that passes, but with fewer items   nobody knows: the culprit may be gone
//      └─ that fails too                      on to the next; after the last, the items' fault: no
//                                             replica is blamed
//
// The next one is the one with the best record, also if it has to be waited for: two broken
// replicas do not bear witness for each other while a good one runs. A replica that is much later
// than foretold may never end: nobody waits for it.
//
// From there on the batcher's usual rules hold (`on_failure`), on the replica of the last run. Two
// kinds of failure speak for themselves. `device_lost` is the replica's fault at once, also when
// there is no other. Out of memory is nobody's: a batch is split where it is, and what fails alone
// is tried on another replica, for that may have more memory.
//
// A batch may find a guest where it belongs: one that failed elsewhere and came in the moment
// before it started, or between its halves. It goes in when the guest leaves, or where there is a
// place before that.
//
// Nobody waits for a replica from inside another: so no two batches can wait for each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
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
        opinions_(health.opinions),
        router_(replicas, routing, health),
        seats_(replicas) {
    for (Seat& seat : seats_) seat.failures.reserve(opinions_ + 1);
  }

  // --- of the batcher's policy, under the batcher's lock -----------------------------------------

  /// May the next batch start, and if not, when to ask again?
  RouteChoice may_start(TimePoint now, const BatchShape& shape, std::uint64_t backlog) noexcept {
    Lock lock(mutex_);
    // Batches that wait for a place go first: the idle ones are theirs.
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
    // is free, and enter() looks for a place, unless the guest could be waiting for this thread.
    if (choice.replica == kNoReplica && is_inside(this_thread_id())) return kNestedRoute;
    for (std::uint32_t r = 0; choice.replica == kNoReplica && r < seats_.size(); ++r) {
      if (!seats_[r].taken && router_.health(r).state() != ReplicaState::drained) {
        choice.replica = r;
      }
    }
    if (choice.replica == kNoReplica) return kNoReplica;
    Seat& seat = seats_[choice.replica];
    seat.taken = true;
    seat.begun = seat.settled = false;
    seat.left = 0;
    seat.failures.clear();
    seat.current = choice.replica;
    seat.thread = this_thread_id();
    if (!router_.busy(choice.replica)) router_.occupy(choice.replica, now, shape);
    return choice.replica;
  }
  /// The batch that was given this replica is over.
  void end(std::uint32_t route) noexcept {
    if (route == kNoReplica || route == kNestedRoute) return;
    Lock lock(mutex_);
    const std::uint32_t current = seats_[route].current;
    if (current != kNoReplica && seats_[current].inside == route) {
      seats_[current].inside = kNoReplica;  // nobody wanted that run any more
    }
    leave_host(route);
    seats_[route].taken = false;
    free_if_empty(route);
    changed_.notify_all();
  }

  // --- of the thread that runs the batch ---------------------------------------------------------

  /// Enters the batch's replica: whose turn it is. Waits while a guest is there, at most until the
  /// batch's last deadline, `until`. Errors: that of the last replica in an outage; `expired`;
  /// `would_deadlock`.
  Result<std::uint32_t> enter(std::uint32_t route, const BatchShape& shape,
                              TimePoint until) noexcept {
    Lock lock(mutex_);
    if (route == kNoReplica) return outage(clock_->now());
    if (route == kNestedRoute) return nested();
    Seat& seat = seats_[route];
    if (seat.current == kNoReplica) return *seat.error;
    // move_on() may have let it in already.
    if (seats_[seat.current].inside != route && !find_room(route, shape, until, lock)) {
      if (is_inside(seat.thread, route)) return nested();
      return Error(ErrorCode::expired, "deadline: passed before a replica was free");
    }
    seat.begun = true;
    router_.start(seat.current, clock_->now(), shape, !seat.failures.empty());
    return seat.current;
  }
  /// The run is over, and did not answer `left` of its items, of which `wanted` are still waited
  /// for. True when the batch shall be run again: its replica is another one now.
  bool leave(std::uint32_t route, const BatchShape& shape, std::size_t left, std::size_t wanted,
             Duration time, Outcome outcome, const Error& error) noexcept {
    Lock lock(mutex_);
    const TimePoint now = clock_->now();
    Seat& seat = seats_[route];
    const std::uint32_t replica = seat.current;
    seats_[replica].inside = kNoReplica;
    changed_.notify_all();
    if (outcome == Outcome::passed) {
      router_.passed(replica, shape, time);
      if (shape.count - left == seat.left) blame_suspects(seat, now);  // none has left in between
      seat.settled |= !seat.failures.empty();
      return false;
    }
    const bool out_of_memory = outcome == Outcome::out_of_memory;
    router_.failed(replica, time, !out_of_memory && !seat.settled);
    if (outcome == Outcome::device_lost) router_.blame(replica, now);
    last_error_ = error;
    if (out_of_memory && shape.count > 1) {
      seat.settled |= !seat.failures.empty();  // a part of a batch says nothing about the whole
      return false;
    }
    if (!seat.settled) {
      if (wanted == 0) return false;  // nothing to run again; another half of the batch may follow
      if (shape.count != seat.left) clear_suspects(seat);
      seat.failures.push_back({replica, outcome == Outcome::failed});
      seat.left = left;
      if (seat.failures.size() <= opinions_ && move_on(route, shape, lock)) return true;
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
  /// A whole batch failed there, perhaps by the replica's fault.
  struct Failure {
    std::uint32_t replica;
    bool suspect;
  };
  /// A replica, and the batch it was given, if any.
  struct Seat {
    bool taken = false;                  // by a batch that is not over
    bool begun = false;                  // and has been inside
    bool settled = false;                // whose fault its failure is, is known
    std::vector<Failure> failures{};     // of the batch, at most one for each replica
    std::size_t left = 0;                // of its items, after the last of these
    std::uint32_t current = kNoReplica;  // where the batch runs
    std::uint32_t host = kNoReplica;     // whose guest it is
    ThreadId thread{};                   // of the batch
    std::optional<Error> error{};        // of a batch that runs nowhere any more
    std::uint32_t inside = kNoReplica;   // of this replica: the route of the batch in it
    unsigned guests = 0;                 // of this replica: batches that were given another
  };
  /// The best of the replicas that a batch might go to.
  struct Search {
    std::uint32_t best = kNoReplica;  // of those that are empty
    bool hope = false;                // a busy one may become empty …
    bool clean_hope = false;          // … that has a clean record
    TimePoint look_again = kNever;
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
  void blame_suspects(Seat& seat, TimePoint now) noexcept CIUIC_REQUIRES(mutex_) {
    if (seat.settled) return;
    for (const Failure& failure : seat.failures) {
      if (failure.suspect) router_.blame(failure.replica, now);
    }
  }
  static void clear_suspects(Seat& seat) noexcept {
    for (Failure& failure : seat.failures) failure.suspect = false;
  }

  void leave_host(std::uint32_t route) noexcept CIUIC_REQUIRES(mutex_) {
    const std::uint32_t host = std::exchange(seats_[route].host, kNoReplica);
    if (host == kNoReplica) return;
    --seats_[host].guests;
    free_if_empty(host);
  }
  /// Lets a batch into an empty replica.
  void let_in(std::uint32_t route, std::uint32_t replica, const BatchShape& shape) noexcept
      CIUIC_REQUIRES(mutex_) {
    Seat& seat = seats_[route];
    if (replica != seat.current) {
      leave_host(route);
      if (!router_.busy(replica)) router_.occupy(replica, clock_->now(), shape);
      if (replica != route) {
        seat.host = replica;
        ++seats_[replica].guests;
      }
      seat.current = replica;
      changed_.notify_all();  // the place that was left may be free now
    }
    seats_[replica].inside = route;
  }
  /// Where a batch that has failed may be run again, or that finds a guest where it belongs.
  Search search(std::uint32_t route, const BatchShape& shape, bool has_failed) const noexcept
      CIUIC_REQUIRES(mutex_) {
    const Seat& seat = seats_[route];
    const TimePoint now = clock_->now();
    Search found;
    for (std::uint32_t r = 0; r < seats_.size(); ++r) {
      const ReplicaHealth& health = router_.health(r);
      const bool failed_there =
          std::any_of(seat.failures.begin(), seat.failures.end(),
                      [r](const Failure& failure) { return failure.replica == r; });
      if (r == seat.current ? has_failed : failed_there) continue;
      const bool may_serve = health.may_serve(now);
      if (!may_serve && health.state() != ReplicaState::probing) {
        found.look_again = std::min(found.look_again, health.retry_at());
      } else if (seats_[r].inside != kNoReplica ||
                 (seats_[r].taken && !seats_[r].begun && r != route)) {
        const TimePoint hopeless = add_saturating(router_.expected_end(r), patience_);
        if (now >= hopeless) continue;
        found.hope = true;
        found.clean_hope |= is_clean(r);
        found.look_again = std::min(found.look_again, hopeless);
      } else if (!may_serve) {
        continue;  // its probe has told nothing, and is not over
      } else if (found.best == kNoReplica || is_better(r, found.best, shape)) {
        found.best = r;
      }
    }
    return found;
  }
  /// Lets a batch that has failed into another replica: the one with the best record, of equals
  /// the fastest. Waits for a busy one if none is empty, or none with a clean record; false when
  /// there is no hope.
  bool move_on(std::uint32_t route, const BatchShape& shape, Lock& lock) noexcept
      CIUIC_REQUIRES(mutex_) {
    // A batch whose own thread runs another one further out must not wait for anybody.
    const bool nested = is_inside(seats_[route].thread, route);
    for (;;) {
      const Search found = search(route, shape, /*has_failed=*/true);
      if (found.best != kNoReplica && (nested || !found.clean_hope || is_clean(found.best))) {
        let_in(route, found.best, shape);
        return true;
      }
      if (!found.hope || nested) return false;
      wait(found.look_again, lock);
    }
  }
  /// Lets a batch in where it belongs as soon as that is empty, or wherever it would go if it had
  /// failed there. Waits as if it were in the queue still; false after `until`.
  bool find_room(std::uint32_t route, const BatchShape& shape, TimePoint until, Lock& lock) noexcept
      CIUIC_REQUIRES(mutex_) {
    const Seat& seat = seats_[route];
    const bool nested = is_inside(seat.thread, route);
    for (;;) {
      Search found;
      if (seats_[seat.current].inside == kNoReplica) {
        found.best = seat.current;
      } else {
        found = search(route, shape, /*has_failed=*/false);
      }
      if (found.best != kNoReplica && (nested || !found.clean_hope || is_clean(found.best))) {
        let_in(route, found.best, shape);
        return true;
      }
      if (nested || clock_->now() >= until) return false;
      wait(std::min(found.look_again, until), lock);
    }
  }
  void wait(TimePoint until, Lock& lock) noexcept CIUIC_REQUIRES(mutex_) {
    ++waiting_;
    clock_->wait_until(changed_, lock, until);
    --waiting_;
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

  static Error nested() noexcept {
    return Error(ErrorCode::would_deadlock,
                 "run_one: called from a model, and every other replica is busy");
  }

  /// Of a batch that may not wait, and found no replica to start in.
  static constexpr std::uint32_t kNestedRoute = kNoReplica - 1;

  const Clock* clock_;
  const Duration patience_;
  const std::size_t opinions_;
  mutable Mutex mutex_;
  CondVar changed_;
  ReplicaRouter router_ CIUIC_GUARDED_BY(mutex_);
  std::vector<Seat> seats_ CIUIC_GUARDED_BY(mutex_);
  std::size_t waiting_ CIUIC_GUARDED_BY(mutex_) = 0;  // batches in wait()
  Error last_error_ CIUIC_GUARDED_BY(mutex_){ErrorCode::device_lost};
};

}  // namespace ciuic::inline CIUIC_ABI
