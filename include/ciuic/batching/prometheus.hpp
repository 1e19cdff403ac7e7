// to_prometheus(): BatcherStats in the text format that Prometheus scrapes (exposition format
// 0.0.4).
//
// Names are the same in every batcher; the label `batcher` tells them apart, so what several of
// them did goes on one page, each family once. Numbers are written digit by digit: no locale turns
// their points into commas. A histogram's `le` is the largest value of one of LogHistogram's
// buckets, so its counts are exact.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "ciuic/batching/batcher_stats.hpp"

namespace ciuic::inline CIUIC_ABI {

struct NamedBatcherStats {
  std::string name;  ///< UTF-8; the value of the label `batcher`
  BatcherStats stats;
};

namespace detail {

/// Writes families of metrics for some batchers.
class PrometheusPage {
 public:
  explicit PrometheusPage(std::span<const NamedBatcherStats> batchers) : batchers_(batchers) {}
  std::string take() && { return std::move(text_); }

  /// `value(stats)`: a count.
  template <class Value>
  void counter(std::string_view name, std::string_view help, Value value) {
    family(name, help, "counter");
    each([&](const BatcherStats& stats) { sample(name, "", "", "", count(value(stats))); });
  }
  template <class Value>
  void gauge(std::string_view name, std::string_view help, Value value) {
    family(name, help, "gauge");
    each([&](const BatcherStats& stats) { sample(name, "", "", "", count(value(stats))); });
  }
  /// `value(stats)`: a time since the batcher was made.
  template <class Value>
  void seconds(std::string_view name, std::string_view help, Value value) {
    family(name, help, "counter");
    each([&](const BatcherStats& stats) {
      sample(name, "", "", "", decimal(static_cast<std::uint64_t>(value(stats).count())));
    });
  }
  /// `add(put, stats)` calls `put(value of the label, count)` for each sample.
  template <class Add>
  void counters(std::string_view name, std::string_view help, std::string_view label, Add add) {
    family(name, help, "counter");
    each([&](const BatcherStats& stats) {
      add([&](std::string_view which,
              std::uint64_t n) { sample(name, "", label, underscored(which), count(n)); },
          stats);
    });
  }
  /// Of times in nanoseconds, shown in seconds: a bucket per octave from 1 us to 34 s.
  template <class Counts, class Sum>
  void histogram_of_times(std::string_view name, std::string_view help, Counts counts, Sum sum) {
    family(name, help, "histogram");
    each([&](const BatcherStats& stats) {
      const HistogramCounts& all = counts(stats);
      std::uint64_t below = 0;
      std::size_t bucket = 0;
      for (unsigned octave = 10; octave <= 35; ++octave) {
        const std::size_t end = HistogramCounts::bucket_of(std::uint64_t{1} << octave);
        for (; bucket < end; ++bucket) below += all[bucket];
        sample(name, "_bucket", "le", decimal((std::uint64_t{1} << octave) - 1), count(below));
      }
      finish(name, all, decimal(static_cast<std::uint64_t>(sum(stats).count())));
    });
  }
  /// Of whole numbers up to about `most(stats)`: all buckets there are.
  template <class Counts, class Sum, class Most>
  void histogram_of_sizes(std::string_view name, std::string_view help, Counts counts, Sum sum,
                          Most most) {
    family(name, help, "histogram");
    each([&](const BatcherStats& stats) {
      const HistogramCounts& all = counts(stats);
      const std::size_t last = HistogramCounts::bucket_of(most(stats));
      std::uint64_t below = all[0];
      for (std::size_t bucket = 1; bucket <= last; ++bucket) {
        below += all[bucket];
        const std::uint64_t largest = HistogramCounts::lower_bound(bucket + 1) - 1;
        sample(name, "_bucket", "le", count(largest), count(below));
      }
      finish(name, all, count(sum(stats)));
    });
  }

 private:
  template <class Write>
  void each(Write write) {
    for (const NamedBatcherStats& batcher : batchers_) {
      current_ = &batcher;
      write(batcher.stats);
    }
  }
  void family(std::string_view name, std::string_view help, std::string_view type) {
    text_.append("# HELP ciuic_batcher_").append(name).append(" ").append(help).append("\n");
    text_.append("# TYPE ciuic_batcher_").append(name).append(" ").append(type).append("\n");
  }
  void sample(std::string_view name, std::string_view suffix, std::string_view label,
              std::string_view label_value, std::string_view value) {
    text_.append("ciuic_batcher_").append(name).append(suffix).append("{batcher=\"");
    escape(current_->name);
    if (!label.empty()) text_.append("\",").append(label).append("=\"").append(label_value);
    text_.append("\"} ").append(value).append("\n");
  }
  void finish(std::string_view name, const HistogramCounts& all, std::string_view sum) {
    const std::string total = count(all.total());
    sample(name, "_bucket", "le", "+Inf", total);
    sample(name, "_sum", "", "", sum);
    sample(name, "_count", "", "", total);
  }
  void escape(std::string_view value) {
    for (const char c : value) {
      if (c == '\n') {
        text_ += "\\n";
        continue;
      }
      if (c == '\\' || c == '"') text_ += '\\';
      text_ += c;
    }
  }
  static std::string underscored(std::string_view name) {
    std::string out(name);
    std::replace(out.begin(), out.end(), ' ', '_');
    return out;
  }
  static std::string count(std::uint64_t n) {
    char digits[24];
    return {digits, std::to_chars(digits, digits + sizeof digits, n).ptr};
  }
  /// Nanoseconds as seconds, exactly.
  static std::string decimal(std::uint64_t ns) {
    const std::string fraction = count(ns % 1'000'000'000);
    return count(ns / 1'000'000'000) + "." + std::string(9 - fraction.size(), '0') + fraction;
  }

  std::span<const NamedBatcherStats> batchers_;
  const NamedBatcherStats* current_ = nullptr;
  std::string text_;
};

}  // namespace detail

/// One page for several batchers, whose names must differ.
inline std::string to_prometheus(std::span<const NamedBatcherStats> batchers) {
  using S = const BatcherStats&;
  detail::PrometheusPage page(batchers);
  page.counter("submitted_total", "Requests accepted.", [](S s) { return s.submitted; });
  page.counters("requests_total", "Accepted requests that ended, by how.", "outcome",
                [](auto put, S s) {
                  put("completed", s.completed);
                  put("failed", s.failed);
                  put("cancelled", s.cancelled);
                  put("expired", s.expired);
                  put("shed", s.shed);
                  put("shut_down", s.shut_down);
                });
  page.gauge("pending_requests", "Accepted requests that have not ended.",
             [](S s) { return s.pending(); });
  page.counter("late_total", "Expired requests that were running: work done for nothing.",
               [](S s) { return s.late; });
  page.counters("rejected_total", "Requests never accepted, by reason.", "reason",
                [](auto put, S s) {
                  for (std::size_t i = 1; i < kRefusals; ++i) {
                    put(to_string(static_cast<Refusal>(i)), s.rejected.by[i]);
                  }
                  put("cancelled", s.rejected.cancelled);
                  put("invalid", s.rejected.invalid);
                });
  page.counters("batches_total", "Batches, by why they closed.", "reason", [](auto put, S s) {
    for (std::size_t i = 0; i < kCloseReasons; ++i) {
      put(to_string(static_cast<CloseReason>(i)), s.closed[i]);
    }
  });
  page.counter("cost_total", "Sum of the costs of batched requests.",
               [](S s) { return s.batched_cost; });
  page.counter("padded_cost_total",
               "The same, were each request as long as the longest of its batch.",
               [](S s) { return s.padded_cost; });
  page.counter("extra_runs_total", "Runs of the model that bisection and splitting added.",
               [](S s) { return s.extra_runs; });
  page.counter("out_of_memory_total", "Runs of the model that ran out of memory.",
               [](S s) { return s.out_of_memory; });
  page.counter("callbacks_failed_total", "Completion callbacks that threw.",
               [](S s) { return s.callbacks_failed; });
  page.counter("forecasts_total", "Batches whose time the policy had foretold.",
               [](S s) { return s.forecasts; });
  page.seconds("forecast_error_seconds_total", "Sum of |foretold - actual| over those.",
               [](S s) { return s.total_forecast_error; });
  page.seconds("forecast_actual_seconds_total", "Sum of their actual times.",
               [](S s) { return s.total_forecast_actual; });
  page.gauge("max_batch_size", "The largest batch allowed.", [](S s) { return s.max_batch_size; });
  page.histogram_of_times(
      "wait_seconds", "From a request's arrival to the start of its batch.",
      [](S s) -> const HistogramCounts& { return s.wait_ns; }, [](S s) { return s.total_wait; });
  page.histogram_of_times(
      "execution_seconds", "Runs of the model.",
      [](S s) -> const HistogramCounts& { return s.execution_ns; },
      [](S s) { return s.total_execution; });
  page.histogram_of_sizes(
      "batch_size", "Requests in a batch.",
      [](S s) -> const HistogramCounts& { return s.batch_sizes; },
      [](S s) { return s.batched_requests; }, [](S s) { return s.max_batch_size; });
  return std::move(page).take();
}
/// A page for one batcher.
inline std::string to_prometheus(const BatcherStats& stats, std::string_view name) {
  const NamedBatcherStats one{std::string(name), stats};
  return to_prometheus({&one, 1});
}

}  // namespace ciuic::inline CIUIC_ABI
