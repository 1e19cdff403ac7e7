// ReplicaRouter: which replica runs the next batch. Pure state: no clock, no threads, no allocation
// after construction; the engine runs it under a lock, tests and simulator in virtual time.
//
// It learns of each replica how long batches take there (CostModel) and knows when the one that
// runs there began. Of the batches that wait, all taken to be like the next one, each goes in turn
// to where it would end first, busy or not:
//
//   end on r of its j-th batch = when r is free + j · what such a batch takes on r
//
// The next batch starts now if that gives an idle replica anything to do, and then on the fastest
// idle one; otherwise it waits for a busy one that is faster. So one batch that waits goes to the
// least predicted end, and a slow replica helps exactly when the queue is long enough for it.
//
// A batch that takes longer than was foretold is taken to need as long again as it is late. What
// is not known is found out: a replica without enough observations, one that has not run for long
// (its forecast may be out of date), and one whose back-off is over go before the others when
// idle, and are not waited for when busy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "ciuic/batching/cost_model.hpp"
#include "ciuic/engine/replica_health.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::uint32_t kNoReplica = std::numeric_limits<std::uint32_t>::max();

struct RoutingOptions {
  /// Of each replica's time. Its first `min_observations` batches are taken whenever it is idle.
  CostModelOptions model{.min_observations = 4};
  /// An idle replica that was passed over for so many batches gets one, to learn whether it is
  /// still slow. Less than one batch in a hundred, so that no 99th percentile shows it. 0 = never.
  std::uint32_t relearn_every = 256;
};

/// What a replica did so far.
struct ReplicaStats {
  ReplicaState state = ReplicaState::in_service;
  bool busy = false;
  unsigned failures_in_row = 0;       ///< batches, since the last one that passed
  std::uint64_t batches = 0;          ///< runs of the replica, those after a failure included
  std::uint64_t items = 0;            ///< requests in them
  std::uint64_t failures = 0;         ///< runs that did not pass
  std::uint64_t drained = 0;          ///< times it was put out of service
  std::uint64_t taken_over = 0;       ///< runs of batches that had failed elsewhere
  Duration busy_time{0};              ///< sum of the runs' times
  std::uint64_t forecasts = 0;        ///< runs that passed whose time was foretold
  Duration total_forecast{0};         ///< sum of what was foretold
  Duration total_forecast_error{0};   ///< sum of |foretold - actual|
  Duration total_forecast_actual{0};  ///< sum of what they took

  /// How far forecasts are off, as a share of the actual time.
  double forecast_error() const noexcept {
    return total_forecast_actual == Duration{0}
               ? 0.0
               : static_cast<double>(total_forecast_error.count()) /
                     static_cast<double>(total_forecast_actual.count());
  }
};

/// Where the next batch goes.
struct RouteChoice {
  std::uint32_t replica = kNoReplica;  ///< starts there now
  /// None is in service, and none may be tried before `when`.
  bool outage = false;
  TimePoint when = kNever;  ///< otherwise: choose again then, when one is free …
  /// … or when so many batches wait.
  std::uint64_t backlog = std::numeric_limits<std::uint64_t>::max();
};

/// See the top of this file. Thread-safety: thread-compatible.
class ReplicaRouter {
 public:
  ReplicaRouter(std::size_t replicas, const RoutingOptions& routing, const HealthOptions& health)
      : relearn_every_(routing.relearn_every), replicas_(replicas, Replica(routing, health)) {}

  std::size_t size() const noexcept { return replicas_.size(); }

  /// For `backlog` batches like `shape`, at least one, that wait. `when` is after `now`. O(n).
  RouteChoice choose(TimePoint now, const BatchShape& shape, std::uint64_t backlog) const noexcept {
    RouteChoice wait;
    bool hope = false;  // somebody runs, and may be given a batch afterwards
    std::uint32_t fastest = kNoReplica, curious = kNoReplica, due = kNoReplica;
    for (std::uint32_t r = 0; r < replicas_.size(); ++r) {
      const Replica& replica = replicas_[r];
      hope |= replica.busy && replica.health.state() != ReplicaState::drained;
      if (replica.busy) continue;
      if (!replica.health.may_serve(now)) {
        wait.when = std::min(wait.when, replica.health.retry_at());
      } else if (!replica.health.in_service()) {
        if (due == kNoReplica || retry_at(r) < retry_at(due)) due = r;
      } else if (is_curious(replica)) {
        if (curious == kNoReplica || replica.starts < replicas_[curious].starts) curious = r;
      } else if (fastest == kNoReplica || takes(r, shape) < takes(fastest, shape)) {
        fastest = r;
      }
    }
    if (due != kNoReplica) return {.replica = due};
    if (curious != kNoReplica) return {.replica = curious};
    if (fastest == kNoReplica) {
      wait.outage = !hope;
      return wait;
    }
    const double end = takes(fastest, shape);  // from now, as all times here
    std::uint64_t elsewhere = 0;               // batches that would end earlier on busy ones
    for (std::uint32_t r = 0; r < replicas_.size(); ++r) {
      const Replica& replica = replicas_[r];
      if (!replica.busy || !replica.foretold || !replica.health.in_service()) continue;
      const std::uint64_t earlier = ends_before(end - free_in(replica, now), takes(r, shape));
      if (earlier == 0) continue;
      elsewhere += earlier;
      wait.when = std::min(wait.when, doubtful_from(replica, now));
    }
    if (backlog > elsewhere) return {.replica = fastest};
    wait.backlog = elsewhere + 1;
    return wait;
  }

  /// How long such a batch takes there, in ticks of Duration; 0 if nothing is known.
  double takes(std::uint32_t r, const BatchShape& shape) const noexcept {
    return replicas_[r].model.mean(shape);
  }
  const ReplicaHealth& health(std::uint32_t r) const noexcept { return replicas_[r].health; }
  bool busy(std::uint32_t r) const noexcept { return replicas_[r].busy; }
  /// Of a busy one, as foretold; when it began if nothing is known.
  TimePoint expected_end(std::uint32_t r) const noexcept { return end_of(replicas_[r]); }

  /// A batch will run there; nobody else is to be sent.
  void occupy(std::uint32_t r, TimePoint now, const BatchShape& shape) noexcept {
    Replica& replica = replicas_[r];
    replica.busy = true;
    replica.health.begin();
    replica.last_turn = ++turns_;
    ++replica.starts;
    expect(replica, now, shape);
  }
  /// It now runs a batch of `shape`, from `now`.
  void start(std::uint32_t r, TimePoint now, const BatchShape& shape, bool taken_over) noexcept {
    Replica& replica = replicas_[r];
    ++replica.stats.batches;
    replica.stats.items += shape.count;
    replica.stats.taken_over += taken_over;
    expect(replica, now, shape);
  }
  /// That run has passed.
  void passed(std::uint32_t r, const BatchShape& shape, Duration time) noexcept {
    Replica& replica = replicas_[r];
    ran(replica, time);
    replica.health.passed();
    if (replica.foretold) {
      ++replica.stats.forecasts;
      replica.stats.total_forecast += replica.forecast;
      replica.stats.total_forecast_error +=
          replica.forecast > time ? replica.forecast - time : time - replica.forecast;
      replica.stats.total_forecast_actual += time;
    }
    replica.forecast = time;  // it is busy for a moment yet, and worth waiting for
    replica.model.observe(shape, time);
  }
  /// That run has failed; `counts`: in the row of failures.
  void failed(std::uint32_t r, Duration time, bool counts) noexcept {
    Replica& replica = replicas_[r];
    ran(replica, time);
    ++replica.stats.failures;
    replica.foretold = false;
    if (counts) replica.health.failed();
  }
  /// It is known to be the replica's fault.
  void blame(std::uint32_t r, TimePoint now) noexcept {
    if (replicas_[r].health.in_backoff()) return;  // once for each failure
    replicas_[r].health.blame(now);
    ++replicas_[r].stats.drained;
  }
  /// The next batch may be sent there, as far as its health allows.
  void free(std::uint32_t r) noexcept {
    replicas_[r].busy = false;
    replicas_[r].health.end();
  }

  ReplicaStats stats(std::uint32_t r) const noexcept {
    ReplicaStats stats = replicas_[r].stats;
    stats.state = replicas_[r].health.state();
    stats.busy = replicas_[r].busy;
    stats.failures_in_row = replicas_[r].health.failures_in_row();
    return stats;
  }

 private:
  struct Replica {
    Replica(const RoutingOptions& routing, const HealthOptions& options)
        : model(routing.model), health(options) {}
    CostModel model;
    ReplicaHealth health;
    bool busy = false;
    bool foretold = false;  // and `forecast` says how long it will run from `since`
    TimePoint since{};
    Duration forecast{0};
    std::uint64_t starts = 0;
    std::uint64_t last_turn = 0;
    ReplicaStats stats{};
  };
  static constexpr double kMostBatches = 1e9;
  static constexpr Duration kSoon{std::chrono::microseconds(20)};

  static double ticks(Duration d) noexcept { return static_cast<double>(d.count()); }
  static TimePoint end_of(const Replica& replica) noexcept {
    return add_saturating(replica.since, replica.forecast);
  }
  /// When a busy replica will be free, from `now`.
  static double free_in(const Replica& replica, TimePoint now) noexcept {
    return std::abs(ticks(end_of(replica) - now));  // late by d: another d
  }
  /// Until when free_in() will say nothing worse than now.
  static TimePoint doubtful_from(const Replica& replica, TimePoint now) noexcept {
    const TimePoint end = end_of(replica);
    return now < end ? end : now + std::max((now - end) / 2, kSoon);
  }
  /// How many batches of `each` end before `time`, one after the other.
  static std::uint64_t ends_before(double time, double each) noexcept {
    if (!(time > 0)) return 0;
    if (!(each > 0)) return static_cast<std::uint64_t>(kMostBatches);
    return static_cast<std::uint64_t>(std::clamp(std::ceil(time / each) - 1, 0.0, kMostBatches));
  }
  TimePoint retry_at(std::uint32_t r) const noexcept { return replicas_[r].health.retry_at(); }
  bool is_curious(const Replica& replica) const noexcept {
    return !replica.model.known() ||
           (relearn_every_ > 0 && turns_ - replica.last_turn >= relearn_every_);
  }
  static void expect(Replica& replica, TimePoint now, const BatchShape& shape) noexcept {
    const BatchForecast forecast = replica.model.predict(shape);
    replica.since = now;
    replica.forecast = forecast.mean;
    replica.foretold = forecast.known;
  }
  static void ran(Replica& replica, Duration time) noexcept { replica.stats.busy_time += time; }

  const std::uint32_t relearn_every_;
  std::vector<Replica> replicas_;
  std::uint64_t turns_ = 0;  // batches sent to anybody
};

}  // namespace ciuic::inline CIUIC_ABI
