// LogHistogram: how often which magnitude was seen, to within 12.5 %.
//
// Four buckets to an octave, so a quantile is known to within an eighth; 64-bit values fit 252
// buckets. After HdrHistogram's layout of sub-buckets (G. Tene).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Counts read out of a LogHistogram. Thread-safety: thread-compatible.
class HistogramCounts {
 public:
  static constexpr std::size_t kBuckets = 252;

  static constexpr std::size_t bucket_of(std::uint64_t value) noexcept {
    if (value < 4) return static_cast<std::size_t>(value);
    const auto octave = static_cast<std::size_t>(std::bit_width(value)) - 1;  // at least 2
    return 4 * (octave - 1) + static_cast<std::size_t>((value >> (octave - 2)) & 3);
  }
  /// The least value of a bucket.
  static constexpr std::uint64_t lower_bound(std::size_t bucket) noexcept {
    if (bucket < 4) return bucket;
    return (std::uint64_t{4} + bucket % 4) << (bucket / 4 - 1);
  }

  std::uint64_t& operator[](std::size_t bucket) noexcept { return counts_[bucket]; }
  std::uint64_t operator[](std::size_t bucket) const noexcept { return counts_[bucket]; }
  std::uint64_t total() const noexcept {
    std::uint64_t sum = 0;
    for (const std::uint64_t count : counts_) sum += count;
    return sum;
  }
  /// The value that a share `q` (0 … 1) of what was seen does not exceed, to within an eighth: the
  /// middle of its bucket. 0 when nothing was seen.
  double quantile(double q) const noexcept {
    const std::uint64_t all = total();
    if (all == 0) return 0.0;
    const double rank = q * static_cast<double>(all);
    std::uint64_t below = 0;
    std::size_t bucket = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      if (counts_[i] == 0) continue;
      bucket = i;
      below += counts_[i];
      if (static_cast<double>(below) >= rank) break;
    }
    const double low = static_cast<double>(lower_bound(bucket));
    if (bucket < 4) return low;
    return low + static_cast<double>(std::uint64_t{1} << (bucket / 4 - 1)) / 2.0;
  }

 private:
  std::array<std::uint64_t, kBuckets> counts_{};
};

/// Thread-safety: thread-safe.
class LogHistogram {
 public:
  void add(std::uint64_t value, std::uint64_t times = 1) noexcept {
    counts_[HistogramCounts::bucket_of(value)].fetch_add(times, std::memory_order_relaxed);
  }
  /// add() to a histogram that is only written under one lock: cheaper.
  void add_locked(std::uint64_t value) noexcept {
    Atomic<std::uint64_t>& count = counts_[HistogramCounts::bucket_of(value)];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  HistogramCounts read() const noexcept {
    HistogramCounts counts;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      counts[i] = counts_[i].load(std::memory_order_relaxed);
    }
    return counts;
  }

 private:
  std::array<Atomic<std::uint64_t>, HistogramCounts::kBuckets> counts_{};
};

}  // namespace ciuic::inline CIUIC_ABI
