// BatcherStats: what a batcher did so far, as numbers and as a table.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <string>
#include <utility>

#include "ciuic/batching/batch_policy.hpp"
#include "ciuic/batching/log_histogram.hpp"
#include "ciuic/batching/request_terms.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Counts since the batcher was made. Every accepted request ends in exactly one of `completed`,
/// `failed`, `cancelled`, `expired`, `shed` and `shut_down`; it is counted before its future is
/// ready.
struct BatcherStats {
  std::uint64_t submitted = 0;  ///< accepted
  std::uint64_t completed = 0;  ///< answered with a value
  std::uint64_t failed = 0;     ///< answered with the model's error, or for want of an answer
  std::uint64_t cancelled = 0;  ///< given up by the caller
  std::uint64_t expired = 0;    ///< deadline passed, waiting or running
  std::uint64_t late = 0;       ///< of those, the ones that were running: work done for nothing
  std::uint64_t shed = 0;       ///< given up under overload for another
  std::uint64_t shut_down = 0;  ///< still waiting at stop()

  struct Rejected {
    std::array<std::uint64_t, kRefusals> by{};  ///< by Refusal
    std::uint64_t cancelled = 0;                ///< its stop token was stopped
    std::uint64_t invalid = 0;                  ///< bad arguments
    std::uint64_t operator[](Refusal why) const noexcept {
      return by[static_cast<std::size_t>(why)];
    }
    std::uint64_t total() const noexcept {
      return std::accumulate(by.begin(), by.end(), cancelled + invalid);
    }
  } rejected{};  ///< never accepted, by reason

  std::array<std::uint64_t, kCloseReasons> closed{};  ///< batches by CloseReason
  std::uint64_t batched_requests = 0;                 ///< requests in those batches
  std::uint64_t batched_cost = 0;                     ///< sum of their costs
  std::uint64_t padded_cost = 0;     ///< the same, were each request as long as its batch's longest
  Duration total_wait{0};            ///< arrival to dispatch, over all of them
  std::uint64_t runs = 0;            ///< calls of the model that have ended
  Duration total_execution{0};       ///< their time
  std::uint64_t extra_runs = 0;      ///< of those, the ones that bisection and splitting added
  std::uint64_t out_of_memory = 0;   ///< runs that ran out of memory
  std::uint64_t forecasts = 0;       ///< batches whose time the policy had foretold
  Duration total_forecast_error{0};  ///< sum of |foretold - actual| over those
  Duration total_forecast_actual{0};   ///< sum of their actual times
  std::uint64_t callbacks_failed = 0;  ///< on_ready callbacks that threw
  std::size_t max_batch_size = 0;      ///< as configured, for fill()
  HistogramCounts wait_ns, execution_ns, batch_sizes;

  std::uint64_t batches() const noexcept {
    return std::accumulate(closed.begin(), closed.end(), std::uint64_t{0});
  }
  std::uint64_t closed_by(CloseReason reason) const noexcept {
    return closed[static_cast<std::size_t>(reason)];
  }
  /// Accepted and not resolved yet.
  std::uint64_t pending() const noexcept {
    return submitted - completed - failed - cancelled - expired - shed - shut_down;
  }
  double mean_batch() const noexcept { return ratio(batched_requests, batches()); }
  /// The mean batch as a share of the largest, 0 … 1.
  double fill() const noexcept { return ratio(batched_requests, batches() * max_batch_size); }
  /// The share of a padded batch that is padding, 0 … 1.
  double padding() const noexcept {
    return padded_cost == 0 ? 0.0 : 1.0 - ratio(batched_cost, padded_cost);
  }
  /// How far the policy's forecasts are off, as a share of the actual time.
  double forecast_error() const noexcept {
    return ratio(static_cast<std::uint64_t>(total_forecast_error.count()),
                 static_cast<std::uint64_t>(total_forecast_actual.count()));
  }
  Duration mean_wait() const noexcept {
    return total_wait / static_cast<std::int64_t>(batched_requests == 0 ? 1 : batched_requests);
  }
  Duration mean_execution() const noexcept {
    return total_execution / static_cast<std::int64_t>(runs == 0 ? 1 : runs);
  }

 private:
  static double ratio(std::uint64_t part, std::uint64_t whole) noexcept {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};

constexpr std::string_view to_string(Refusal why) noexcept {
  constexpr std::string_view kNames[kRefusals] = {"none",        "queue full", "outstanding full",
                                                  "tenant full", "oversize",   "unknown group",
                                                  "expired",     "infeasible", "shutting down"};
  return kNames[static_cast<std::size_t>(why)];
}

/// A table for people: requests, rejections, batches by close reason, times.
inline std::string to_string(const BatcherStats& stats) {
  std::string out;
  const auto row = [&](std::string_view name, std::uint64_t value, const char* indent = "  ") {
    char line[96];
    std::snprintf(line, sizeof line, "%s%-20.*s %12llu\n", indent, static_cast<int>(name.size()),
                  name.data(), static_cast<unsigned long long>(value));
    out += line;
  };
  const auto figure = [&](const char* name, double value, const char* unit) {
    char line[96];
    std::snprintf(line, sizeof line, "  %-20s %12.3f %s\n", name, value, unit);
    out += line;
  };
  const auto times = [&](const char* name, Duration mean, const HistogramCounts& ns) {
    char line[128];
    std::snprintf(line, sizeof line, "  %-20s %12.3f ms   p50 %.3f   p99 %.3f\n", name,
                  std::chrono::duration<double, std::milli>(mean).count(), ns.quantile(0.5) / 1e6,
                  ns.quantile(0.99) / 1e6);
    out += line;
  };
  out += "requests\n";
  row("submitted", stats.submitted);
  row("completed", stats.completed);
  row("failed", stats.failed);
  row("cancelled", stats.cancelled);
  row("expired", stats.expired);
  if (stats.late > 0) row("while running", stats.late, "    ");
  if (stats.shed > 0) row("shed", stats.shed);
  row("shut down", stats.shut_down);
  row("rejected", stats.rejected.total());
  for (std::size_t i = 0; i < kRefusals; ++i) {
    if (stats.rejected.by[i] > 0)
      row(to_string(static_cast<Refusal>(i)), stats.rejected.by[i], "    ");
  }
  if (stats.rejected.cancelled > 0) row("cancelled", stats.rejected.cancelled, "    ");
  if (stats.rejected.invalid > 0) row("invalid", stats.rejected.invalid, "    ");
  out += "batches\n";
  row("closed", stats.batches());
  for (std::size_t i = 0; i < kCloseReasons; ++i) {
    const std::string name = "by " + std::string(to_string(static_cast<CloseReason>(i)));
    if (stats.closed[i] > 0) row(name, stats.closed[i], "    ");
  }
  figure("mean size", stats.mean_batch(), "requests");
  if (stats.max_batch_size > 0) figure("fill", 100.0 * stats.fill(), "%");
  figure("padding if padded", 100.0 * stats.padding(), "%");
  times("wait", stats.mean_wait(), stats.wait_ns);
  times("execution", stats.mean_execution(), stats.execution_ns);
  if (stats.extra_runs > 0) row("extra runs", stats.extra_runs);
  if (stats.out_of_memory > 0) row("out of memory", stats.out_of_memory);
  if (stats.forecasts > 0) figure("forecast error", 100.0 * stats.forecast_error(), "%");
  if (stats.callbacks_failed > 0) row("callbacks failed", stats.callbacks_failed);
  return out;
}

}  // namespace ciuic::inline CIUIC_ABI
