// Autotuner: which BatcherOptions would have served a recorded trace best.
//
// It replays the trace through the real BatchCore (simulator.hpp), with a service law measured or
// learned, and searches three options: `max_batch_size`, `min_batch_size`, `max_queue_delay`. The
// search starts at a coarse grid and then climbs from its best points: each option in turn one step
// up or down, with steps that get finer, until nothing gets better.
//
//   CostModel model = …;                                    // learned from batches that ran
//   Result<BatcherOptions> best = tune(trace, options, model_law(model), Objective::goodput);
//
// OnlineTuner does the same while a batcher runs: the host records what comes and asks now and
// then. Nothing is tuned unless asked for.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ciuic/base/error.hpp"
#include "ciuic/batching/batcher_options.hpp"
#include "ciuic/batching/cost_model.hpp"
#include "ciuic/batching/simulator.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What counts as better.
enum class Objective : std::uint8_t {
  goodput,       ///< the share of requests answered before their deadline; then the mean latency
  mean_latency,  ///< of the answers; a request without one counts ten times the longest
  p99_latency,   ///< likewise
};

/// A service law from what a model has learned: its means.
inline auto model_law(const CostModel& model) noexcept {
  return [&model](const BatchShape& shape) { return model.predict(shape).mean; };
}

/// How well a simulation met an objective: larger is better.
inline double score(const Simulation& s, std::span<const TracedRequest> trace,
                    Objective objective) {
  const std::vector<Duration> sorted = s.latencies(trace);
  double sum = 0;
  for (const Duration d : sorted) sum += static_cast<double>(d.count());
  const double missing = static_cast<double>(trace.size() - sorted.size());
  const double longest = sorted.empty() ? 1e15 : static_cast<double>(sorted.back().count());
  const double all = std::max(1.0, static_cast<double>(trace.size()));
  const double mean = (sum + missing * 10 * longest) / all;
  switch (objective) {
    case Objective::goodput:
      // One request more outweighs any latency.
      return s.share_in_time() * all + 1 / (2 + mean / 1e6);
    case Objective::p99_latency:
      if (missing > 0.01 * all) return -10 * longest - missing;
      return -static_cast<double>(
          quantile_of(sorted, 0.99 * all / static_cast<double>(sorted.size())).count());
    case Objective::mean_latency:
      break;
  }
  return -mean;
}

/// The options for `trace` (ordered by arrival) with the best score, all others as in `options`,
/// whose `max_batch_size` and, if it is not 0, `max_queue_delay` are not exceeded. `workers`
/// batches run at once; the law must take the same time for the same batch. Allocates; takes some
/// hundred replays. Errors: `invalid_argument` for an empty trace or options that do not pass
/// validate().
template <ServiceLaw Law>
Result<BatcherOptions> tune(std::span<const TracedRequest> trace, const BatcherOptions& options,
                            Law&& law, Objective objective) {
  if (Result<void> valid = validate(options); !valid) return valid.error();
  if (trace.empty()) return Error(ErrorCode::invalid_argument, "trace: wanted requests, got none");

  // A point of the search: the size, the part of it to wait for, and the delay.
  using Point = std::array<std::size_t, 3>;
  // The longest delay worth trying: what requests are given, or what 64 of them take to come.
  Duration longest = options.max_queue_delay;
  if (longest <= Duration{0}) {
    longest = (trace.back().arrival - trace.front().arrival) /
              static_cast<Duration::rep>(std::max<std::size_t>(trace.size(), 1)) * 64;
    for (const TracedRequest& r : trace) {
      if (r.terms.deadline != kNever) longest = std::min(longest, r.terms.deadline - r.arrival);
    }
  }
  longest = std::max(longest, Duration{0});
  constexpr std::size_t kDelays = 64;
  const auto with = [&](const Point& p) {
    BatcherOptions o = options;
    o.max_batch_size = p[0];
    o.min_batch_size = p[1];
    o.max_queue_delay =
        longest / static_cast<Duration::rep>(kDelays) * static_cast<Duration::rep>(p[2]);
    return o;
  };
  std::vector<std::pair<Point, double>> tried;
  const auto value = [&](const Point& p) {
    for (const auto& [q, v] : tried) {
      if (p == q) return v;
    }
    const SimulationOptions run{.limits = with(p).limits(),
                                .workers = std::max(options.workers, 1u)};
    const double v = score(simulate(trace, run, nullptr, law), trace, objective);
    tried.emplace_back(p, v);
    return v;
  };

  const std::size_t largest = std::min(options.max_batch_size, trace.size());
  // The grid: sizes in powers of two; nobody, half a batch or a whole one to wait for.
  for (std::size_t size = 1;; size = std::min(2 * size, largest)) {
    value({size, 1, 0});
    for (const std::size_t delay : {4u, 16u, 64u}) {
      value({size, std::max<std::size_t>(size / 2, 1), delay});
      value({size, size, delay});
    }
    if (size == largest) break;
  }
  std::sort(tried.begin(), tried.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  constexpr std::size_t kClimbs = 3;
  std::vector<Point> starts;
  for (std::size_t i = 0; i < std::min(kClimbs, tried.size()); ++i)
    starts.push_back(tried[i].first);

  Point best = starts.front();
  for (Point at : starts) {
    for (const double step : {0.5, 0.25, 0.1}) {
      for (bool better = true; better;) {
        better = false;
        for (std::size_t axis = 0; axis < at.size(); ++axis) {
          for (const bool up : {false, true}) {
            Point next = at;
            const auto by = std::max<std::size_t>(
                static_cast<std::size_t>(step * static_cast<double>(next[axis])), 1);
            next[axis] = up ? next[axis] + by : next[axis] - std::min(next[axis], by);
            next[0] = std::clamp<std::size_t>(next[0], 1, largest);
            next[1] = std::clamp<std::size_t>(next[1], 1, next[0]);
            next[2] = std::min(next[2], kDelays);
            if (value(next) > value(at)) at = next, better = true;
          }
        }
      }
    }
    if (value(at) > value(best)) best = at;
  }
  return with(best);
}

struct OnlineTunerOptions {
  Objective objective = Objective::goodput;
  std::size_t window = 4096;  ///< requests of the past that are replayed
  double hysteresis = 0.02;   ///< new options must be better by this part, or the old ones stay
};

/// Records what comes and how long batches take, and says which options would serve it better. It
/// changes nothing itself: the host takes the new options for its next batcher.
/// Thread-safety: thread-compatible. Recording allocates nothing.
class OnlineTuner {
 public:
  explicit OnlineTuner(const BatcherOptions& options, const OnlineTunerOptions& tuning = {})
      : bounds_(options), current_(options), tuning_(tuning) {
    recorded_.reserve(std::max<std::size_t>(tuning_.window, 1));
  }

  void on_request(TimePoint arrival, const RequestTerms& terms) noexcept {
    if (recorded_.size() < recorded_.capacity()) {
      recorded_.push_back({arrival, terms});
    } else {
      recorded_[oldest_] = {arrival, terms};
      oldest_ = (oldest_ + 1) % recorded_.size();
    }
  }
  void on_finish(const BatchReport& report) noexcept {
    if (report.failed || report.out_of_memory) return;
    model_.observe(report.shape, report.execution, report.memory_used);
  }
  /// The options that serve the recorded window best: those in use unless others are clearly
  /// better. Takes some hundred replays of the window.
  Result<BatcherOptions> propose() {
    if (!model_.known() || recorded_.empty()) return current_;
    std::rotate(recorded_.begin(), recorded_.begin() + static_cast<std::ptrdiff_t>(oldest_),
                recorded_.end());
    oldest_ = 0;
    Result<BatcherOptions> best = tune(recorded_, bounds_, model_law(model_), tuning_.objective);
    if (!best) return best;
    const double now = value(current_), then = value(*best);
    if (then - now > tuning_.hysteresis * std::abs(now)) current_ = *best;
    return current_;
  }
  const CostModel& model() const noexcept { return model_; }

 private:
  double value(const BatcherOptions& o) const {
    const SimulationOptions run{.limits = o.limits(), .workers = std::max(o.workers, 1u)};
    return score(simulate(recorded_, run, nullptr, model_law(model_)), recorded_,
                 tuning_.objective);
  }

  BatcherOptions bounds_, current_;
  OnlineTunerOptions tuning_;
  CostModel model_;
  std::vector<TracedRequest> recorded_;
  std::size_t oldest_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
