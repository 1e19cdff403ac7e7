// batches(range): offline batching. The caller runs the model; the sizes are ours.
//
//   for (auto& batch : ciuic::batches(inputs, {.max_batch_size = 64, .min_batch_size = 8}))
//     use(model(batch), batch.indices());
//
// The order of the input is kept and the tail is flushed: every input is in exactly one batch.
//
// The size follows the measured rate. It starts at the minimum. The time from handing out a batch
// to being asked for the next is the cost of that batch; while doubling the size raises the rate
// (inputs per second) by more than 5 %, it doubles again, up to the maximum. When it no longer
// does, the best size so far is kept for 32 batches, and then doubling is tried once more, because
// inputs change.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>
#include <ranges>
#include <span>
#include <utility>
#include <vector>

#include "ciuic/base/clock.hpp"

namespace ciuic::inline CIUIC_ABI {

struct OfflineBatchOptions {
  std::size_t max_batch_size = 32;       ///< at least 1
  std::size_t min_batch_size = 1;        ///< 1 … max; only the tail is ever smaller
  const Clock* clock = &steady_clock();  ///< measures the time between batches; null: the system's
};

/// The size rule described at the top of this file. Thread-safety: thread-compatible.
class BatchSizer {
 public:
  /// Values outside their range are moved to its ends.
  explicit BatchSizer(const OfflineBatchOptions& options) noexcept
      : max_(std::max<std::size_t>(options.max_batch_size, 1)),
        size_(std::clamp<std::size_t>(options.min_batch_size, 1, max_)),
        best_(size_) {}

  std::size_t size() const noexcept { return size_; }
  /// A batch of `n` inputs took `time`. A tail, of another size than was asked for, teaches
  /// nothing.
  void observe(std::size_t n, Duration time) noexcept {
    if (n != size_) return;
    if (held_ > 0) {
      if (--held_ == 0) {
        best_rate_ = rate(n, time);
        size_ = std::min(2 * size_, max_);
      }
      return;
    }
    if (rate(n, time) > best_rate_ * 1.05) {
      best_rate_ = rate(n, time);
      best_ = n;
      if (size_ < max_) {
        size_ = std::min(2 * size_, max_);
        return;
      }
    }
    size_ = best_;
    held_ = kHold;
  }

 private:
  static constexpr int kHold = 32;
  static double rate(std::size_t n, Duration time) noexcept {
    return static_cast<double>(n) / static_cast<double>(std::max<Duration::rep>(time.count(), 1));
  }
  std::size_t max_;
  std::size_t size_;
  std::size_t best_;
  double best_rate_ = 0.0;  // inputs per nanosecond
  int held_ = 0;            // batches until doubling is tried again
};

/// Some consecutive inputs. Converts to std::span<const T>. Valid until the next batch is asked
/// for.
template <class T>
class OfflineBatch {
 public:
  OfflineBatch(std::span<T> items, std::span<const std::size_t> indices) noexcept
      : items_(items), indices_(indices) {}
  std::size_t size() const noexcept { return items_.size(); }
  T* data() const noexcept { return items_.data(); }
  T* begin() const noexcept { return items_.data(); }
  T* end() const noexcept { return items_.data() + items_.size(); }
  T& operator[](std::size_t i) const noexcept { return items_[i]; }
  /// The place of each input in the range, counted from 0.
  std::span<const std::size_t> indices() const noexcept { return indices_; }

 private:
  std::span<T> items_;
  std::span<const std::size_t> indices_;
};

/// What batches() returns: an input range of OfflineBatch. Inputs are copied out of the range
/// (moved, if it gives rvalues). Thread-safety: thread-compatible.
template <std::ranges::input_range V>
class OfflineBatches {
  using Item = std::ranges::range_value_t<V>;

 public:
  OfflineBatches(V inputs, const OfflineBatchOptions& options)
      : inputs_(std::move(inputs)),
        sizer_(options),
        clock_(options.clock == nullptr ? &steady_clock() : options.clock) {}

  class Iterator {
   public:
    using value_type = OfflineBatch<Item>;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(OfflineBatches& owner) noexcept : owner_(&owner) {}
    OfflineBatch<Item>& operator*() const noexcept { return *owner_->batch_; }
    Iterator& operator++() {
      owner_->sizer_.observe(owner_->items_.size(), owner_->clock_->now() - owner_->handed_out_);
      owner_->fill();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& it, std::default_sentinel_t) noexcept {
      return it.done();
    }

   private:
    bool done() const noexcept { return owner_->items_.empty(); }
    OfflineBatches* owner_;
  };

  /// Call once.
  Iterator begin() {
    next_.emplace(std::ranges::begin(inputs_));
    fill();
    return Iterator(*this);
  }
  std::default_sentinel_t end() const noexcept { return {}; }

 private:
  void fill() {
    const std::size_t first = indices_.empty() ? 0 : indices_.back() + 1;
    items_.clear();
    indices_.clear();
    for (; items_.size() < sizer_.size() && *next_ != std::ranges::end(inputs_); ++*next_) {
      indices_.push_back(first + items_.size());
      items_.push_back(**next_);
    }
    batch_.emplace(std::span<Item>(items_), indices_);
    handed_out_ = clock_->now();
  }

  V inputs_;
  BatchSizer sizer_;
  const Clock* clock_;
  std::optional<std::ranges::iterator_t<V>> next_;
  std::vector<Item> items_;
  std::vector<std::size_t> indices_;
  std::optional<OfflineBatch<Item>> batch_;
  TimePoint handed_out_{};
};

/// See the top of this file.
template <std::ranges::viewable_range R>
requires std::ranges::input_range<R>
auto batches(R&& inputs, const OfflineBatchOptions& options = {}) {
  return OfflineBatches<std::views::all_t<R>>(std::views::all(std::forward<R>(inputs)), options);
}

}  // namespace ciuic::inline CIUIC_ABI
