// StatsBoard: the counters behind BatcherStats, written by whoever does the work, read without a
// lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "ciuic/batching/batcher_stats.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Thread-safety: thread-safe.
class StatsBoard {
 public:
  enum Counter : std::size_t {
    completed,
    failed,
    cancelled,
    expired,
    late,
    shed,
    shut_down,
    batched_requests,
    batched_cost,
    padded_cost,
    wait_ns,
    runs,
    execution_ns,
    extra_runs,
    out_of_memory,
    forecasts,
    forecast_error_ns,
    forecast_actual_ns,
    rejected_cancelled,
    rejected_invalid,
    rejected,                       // by Refusal
    closed = rejected + kRefusals,  // by CloseReason
    kCounters = closed + kCloseReasons,
  };
  void add(std::size_t counter, std::uint64_t n = 1) noexcept {
    counters_[counter].fetch_add(n, std::memory_order_release);  // pairs with read()
  }
  void add(std::size_t counter, Duration d) noexcept {
    add(counter, static_cast<std::uint64_t>(std::max(d, Duration{0}).count()));
  }
  /// add() to a counter that is only written under one lock: cheaper.
  void add_locked(std::size_t counter, std::uint64_t n = 1) noexcept {
    counters_[counter].store(get(counter) + n, std::memory_order_relaxed);
  }
  LogHistogram wait, execution, batch_sizes;

  /// All but `submitted`, which the inbox counts. Outcomes are read before the reader looks at what
  /// was accepted, so that a reading never shows more ends than beginnings.
  BatcherStats read() const noexcept {
    BatcherStats stats = read_counters();
    stats.wait_ns = wait.read();
    stats.execution_ns = execution.read();
    stats.batch_sizes = batch_sizes.read();
    return stats;
  }
  /// read() without the histograms: cheaper.
  BatcherStats read_counters() const noexcept {
    BatcherStats stats;
    stats.completed = get(completed);
    stats.failed = get(failed);
    stats.cancelled = get(cancelled);
    stats.expired = get(expired);
    stats.late = get(late);
    stats.shed = get(shed);
    stats.shut_down = get(shut_down);
    stats.runs = get(runs);
    stats.total_execution = Duration(get(execution_ns));
    stats.extra_runs = get(extra_runs);
    stats.out_of_memory = get(out_of_memory);
    stats.forecasts = get(forecasts);
    stats.total_forecast_error = Duration(get(forecast_error_ns));
    stats.total_forecast_actual = Duration(get(forecast_actual_ns));
    stats.batched_requests = get(batched_requests);
    stats.batched_cost = get(batched_cost);
    stats.padded_cost = get(padded_cost);
    stats.total_wait = Duration(get(wait_ns));
    for (std::size_t i = 0; i < kCloseReasons; ++i) stats.closed[i] = get(closed + i);
    for (std::size_t i = 0; i < kRefusals; ++i) stats.rejected.by[i] = get(rejected + i);
    stats.rejected.cancelled = get(rejected_cancelled);
    stats.rejected.invalid = get(rejected_invalid);
    return stats;
  }

 private:
  std::uint64_t get(std::size_t counter) const noexcept {
    return counters_[counter].load(std::memory_order_acquire);
  }
  std::array<Atomic<std::uint64_t>, kCounters> counters_{};
};

}  // namespace ciuic::inline CIUIC_ABI
