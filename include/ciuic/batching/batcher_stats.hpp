// BatcherStats: what a batcher did so far, and the counters behind it.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <string>

#include "ciuic/batching/batch_core.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Counts since the batcher was made. Every accepted request ends in exactly one of `completed`,
/// `failed`, `cancelled`, `expired` and `shut_down`; it is counted before its future is ready.
struct BatcherStats {
  std::uint64_t submitted = 0;  ///< accepted
  std::uint64_t completed = 0;  ///< answered with a value
  std::uint64_t failed = 0;     ///< answered with the model's error, or for want of an answer
  std::uint64_t cancelled = 0;  ///< given up by the caller
  std::uint64_t expired = 0;    ///< deadline passed, waiting or running
  std::uint64_t shut_down = 0;  ///< still waiting at stop()

  struct Rejected {
    std::uint64_t queue_full = 0, outstanding_full = 0, oversize = 0, expired = 0, cancelled = 0,
                  shutting_down = 0, invalid = 0;
    std::uint64_t total() const noexcept {
      return queue_full + outstanding_full + oversize + expired + cancelled + shutting_down +
             invalid;
    }
  } rejected;  ///< never accepted, by reason

  std::array<std::uint64_t, kCloseReasons> closed{};  ///< batches by CloseReason
  std::uint64_t batched_requests = 0;                 ///< requests in those batches
  Duration total_wait{0};                             ///< arrival to dispatch, over all of them
  std::uint64_t runs = 0;                             ///< calls of the model that have ended
  Duration total_execution{0};                        ///< their time
  std::uint64_t callbacks_failed = 0;                 ///< on_ready callbacks that threw

  std::uint64_t batches() const noexcept {
    return std::accumulate(closed.begin(), closed.end(), std::uint64_t{0});
  }
  std::uint64_t closed_by(CloseReason reason) const noexcept {
    return closed[static_cast<std::size_t>(reason)];
  }
  /// Accepted and not resolved yet.
  std::uint64_t pending() const noexcept {
    return submitted - completed - failed - cancelled - expired - shut_down;
  }
  double mean_batch() const noexcept {
    return batches() == 0 ? 0.0
                          : static_cast<double>(batched_requests) / static_cast<double>(batches());
  }
  Duration mean_wait() const noexcept {
    return total_wait / static_cast<std::int64_t>(batched_requests == 0 ? 1 : batched_requests);
  }
  Duration mean_execution() const noexcept {
    return total_execution / static_cast<std::int64_t>(runs == 0 ? 1 : runs);
  }
};

/// A table for people: requests, rejections, batches by close reason, means.
inline std::string to_string(const BatcherStats& stats) {
  std::string out;
  const auto row = [&](const char* name, std::uint64_t value, const char* indent = "  ") {
    char line[80];
    std::snprintf(line, sizeof line, "%s%-18s %12llu\n", indent, name,
                  static_cast<unsigned long long>(value));
    out += line;
  };
  const auto mean = [&](const char* name, double value, const char* unit) {
    char line[80];
    std::snprintf(line, sizeof line, "  %-18s %12.3f %s\n", name, value, unit);
    out += line;
  };
  const auto milliseconds = [](Duration d) {
    return std::chrono::duration<double, std::milli>(d).count();
  };
  out += "requests\n";
  row("submitted", stats.submitted);
  row("completed", stats.completed);
  row("failed", stats.failed);
  row("cancelled", stats.cancelled);
  row("expired", stats.expired);
  row("shut down", stats.shut_down);
  row("rejected", stats.rejected.total());
  const std::pair<const char*, std::uint64_t> rejections[] = {
      {"queue full", stats.rejected.queue_full},
      {"outstanding full", stats.rejected.outstanding_full},
      {"oversize", stats.rejected.oversize},
      {"expired", stats.rejected.expired},
      {"cancelled", stats.rejected.cancelled},
      {"shutting down", stats.rejected.shutting_down},
      {"invalid", stats.rejected.invalid}};
  for (const auto& [name, value] : rejections) {
    if (value > 0) row(name, value, "    ");
  }
  out += "batches\n";
  row("closed", stats.batches());
  for (std::size_t i = 0; i < kCloseReasons; ++i) {
    const std::string name = "by " + std::string(to_string(static_cast<CloseReason>(i)));
    if (stats.closed[i] > 0) row(name.c_str(), stats.closed[i], "    ");
  }
  mean("mean size", stats.mean_batch(), "requests");
  mean("mean wait", milliseconds(stats.mean_wait()), "ms");
  mean("mean execution", milliseconds(stats.mean_execution()), "ms");
  if (stats.callbacks_failed > 0) row("callbacks failed", stats.callbacks_failed);
  return out;
}

/// The counters: written by whoever does the work, read by anybody, without a lock.
class StatsBoard {
 public:
  enum Counter : std::size_t {
    submitted,
    completed,
    failed,
    cancelled,
    expired,
    shut_down,
    batched_requests,
    wait_ns,
    runs,
    execution_ns,
    rejected_cancelled,
    rejected_invalid,
    rejected,               // by Refusal
    closed = rejected + 6,  // by CloseReason
    kCounters = closed + kCloseReasons,
  };
  void add(std::size_t counter, std::uint64_t n = 1) noexcept {
    counters_[counter].fetch_add(n, std::memory_order_relaxed);
  }
  std::uint64_t get(std::size_t counter) const noexcept {
    return counters_[counter].load(std::memory_order_relaxed);
  }
  BatcherStats read() const noexcept {
    // Outcomes before acceptances, so that a reading never shows more ends than beginnings.
    BatcherStats stats;
    stats.completed = get(completed);
    stats.failed = get(failed);
    stats.cancelled = get(cancelled);
    stats.expired = get(expired);
    stats.shut_down = get(shut_down);
    stats.runs = get(runs);
    stats.total_execution = Duration(get(execution_ns));
    stats.batched_requests = get(batched_requests);
    stats.total_wait = Duration(get(wait_ns));
    for (std::size_t i = 0; i < kCloseReasons; ++i) stats.closed[i] = get(closed + i);
    const auto refused = [&](Refusal why) { return get(rejected + static_cast<std::size_t>(why)); };
    stats.rejected = {.queue_full = refused(Refusal::queue_full),
                      .outstanding_full = refused(Refusal::outstanding_full),
                      .oversize = refused(Refusal::oversize),
                      .expired = refused(Refusal::expired),
                      .cancelled = get(rejected_cancelled),
                      .shutting_down = refused(Refusal::shutting_down),
                      .invalid = get(rejected_invalid)};
    stats.submitted = get(submitted);
    return stats;
  }

 private:
  std::array<Atomic<std::uint64_t>, kCounters> counters_{};
};

}  // namespace ciuic::inline CIUIC_ABI
