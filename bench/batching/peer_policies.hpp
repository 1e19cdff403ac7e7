// The rules by which other batchers close a batch, as BatchPolicy, so that they run on the same core
// and the same traces. Only the rules: their threads, locks and languages cost nothing here, and
// polling is kept only where it is part of the rule. Written from their papers and sources, as
// named at each; read at triton-inference-server/core@73aad7c, tensorflow/tensorflow@de30797,
// openvinotoolkit/openvino@55898c5, bentoml/BentoML@0053fc4.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

#include "ciuic/batching/batch_policy.hpp"

namespace batching_bench {

using namespace ciuic;

/// Always exactly `size`, however long it takes: the plain buffer of many home-made batchers.
class FixedPolicy final : public BatchPolicy {
 public:
  explicit FixedPolicy(std::size_t size) : size_(size) {}
  BatchDecision decide(const QueueView& view) noexcept override {
    if (view.waiting >= size_ || view.draining) {
      return {.dispatch = true, .reason = CloseReason::full, .max_count = size_};
    }
    return {.wake_count = size_};
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return shape.count <= size_;
  }

 private:
  std::size_t size_;
};

/// `size`, or what there is when the oldest has waited `delay`.
class FixedDelayPolicy : public BatchPolicy {
 public:
  FixedDelayPolicy(std::size_t size, Duration delay) : size_(size), delay_(delay) {}
  BatchDecision decide(const QueueView& view) noexcept override {
    const TimePoint close = ready_at(view.oldest_arrival);
    if (view.waiting >= size_ || view.draining || close <= view.now) {
      return {.dispatch = true, .reason = CloseReason::delay, .max_count = size_};
    }
    return {.when = close, .wake_count = size_};
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return shape.count <= size_;
  }

 protected:
  virtual TimePoint ready_at(TimePoint oldest) const noexcept { return oldest + delay_; }

 private:
  std::size_t size_;
  Duration delay_;
};

/// TensorFlow's SharedBatchScheduler: `max_batch_size`, `batch_timeout_micros` since the batch was
/// opened; a full batch is taken at once, a timeout is noticed by threads that look every
/// millisecond (shared_batch_scheduler.h).
class TensorFlowPolicy final : public FixedDelayPolicy {
 public:
  using FixedDelayPolicy::FixedDelayPolicy;

 protected:
  TimePoint ready_at(TimePoint oldest) const noexcept override {
    const auto due = FixedDelayPolicy::ready_at(oldest).time_since_epoch();
    return TimePoint(std::chrono::ceil<std::chrono::milliseconds>(due));
  }
};

/// Runs whatever waits as soon as somebody is free: DelayPolicy with `min_batch_size` 1, Triton's
/// default, TEI, and the batchers that only pull.
class NoDelayPolicy final : public BatchPolicy {
 public:
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .reason = CloseReason::idle};
  }
};

/// Clipper (Crankshaw et al., NSDI 2017, section 4.3.1): takes what waits, up to a size that grows
/// by one while batches meet the latency objective and shrinks by a tenth when one does not.
class AimdPolicy final : public BatchPolicy {
 public:
  explicit AimdPolicy(Duration objective) : objective_(objective) {}
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .reason = CloseReason::idle};
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return static_cast<double>(shape.count) <= size_;
  }
  void on_finish(const BatchReport& report) noexcept override {
    if (report.execution > objective_) {
      size_ = std::max(1.0, size_ * 0.9);
    } else if (static_cast<double>(report.shape.count) >= std::floor(size_)) {
      size_ += 1;
    }
  }

 private:
  Duration objective_;
  double size_ = 1;
};

/// Triton's dynamic batcher: the largest preferred size that waits is run at once; otherwise what
/// there is when the oldest has waited `max_queue_delay` (dynamic_batch_scheduler.cc).
class TritonPolicy final : public BatchPolicy {
 public:
  TritonPolicy(std::vector<std::size_t> preferred, Duration delay)
      : preferred_(std::move(preferred)), delay_(delay) {}
  BatchDecision decide(const QueueView& view) noexcept override {
    most_ = view.max_count;
    for (auto size = preferred_.rbegin(); size != preferred_.rend(); ++size) {
      if (view.waiting >= *size) {
        return {.dispatch = true, .reason = CloseReason::full, .max_count = *size};
      }
    }
    const TimePoint close = view.oldest_arrival + delay_;
    if (close <= view.now || view.draining) return {.dispatch = true, .reason = CloseReason::delay};
    return {.when = close, .wake_count = preferred_.front()};
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return shape.count <= std::max(most_, preferred_.back());
  }

 private:
  std::vector<std::size_t> preferred_;  // ascending
  Duration delay_;
  std::size_t most_ = 1;
};

/// OpenVINO's automatic batching: exactly `size` together, or, when the timeout passes, all that
/// were collected one by one (src/plugins/auto_batch). Its timer is taken to start with the oldest
/// request; the real one runs free.
class OpenVinoPolicy final : public BatchPolicy {
 public:
  OpenVinoPolicy(std::size_t size, Duration timeout) : size_(size), timeout_(timeout) {}
  BatchDecision decide(const QueueView& view) noexcept override {
    singles_ = std::min(singles_, view.waiting);
    if (singles_ == 0 && view.waiting < size_) {
      const TimePoint close = view.oldest_arrival + timeout_;
      if (close > view.now && !view.draining) return {.when = close, .wake_count = size_};
      singles_ = view.waiting;
    }
    return {.dispatch = true,
            .reason = CloseReason::delay,
            .max_count = singles_ > 0 ? std::size_t{1} : size_};
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return shape.count <= (singles_ > 0 ? 1 : size_);
  }
  void on_start(const BatchShape&, TimePoint) noexcept override {
    singles_ -= std::min<std::size_t>(singles_, 1);
  }

 private:
  std::size_t size_;
  Duration timeout_;
  std::size_t singles_ = 0;
};

/// BentoML's Cork dispatcher: fits duration = a·n + b to the last 50 batches (again every 5 s),
/// drops the oldest while more than one waits and it would be late, and waits in ticks of a
/// millisecond while n·(time since the newest + tick + a) <= 0.95 · the mean wait of earlier
/// batches. Its first batches, of 1, 2 and 3, teach it
/// (src/bentoml/_internal/marshal/dispatcher.py). Its tick while a batch runs is left out.
class BentoPolicy final : public BatchPolicy {
 public:
  explicit BentoPolicy(Duration max_latency)
      : a_(seconds(max_latency) * 2 / 30), b_(seconds(max_latency) / 30) {}

  BatchDecision decide(const QueueView& view) noexcept override {
    look(view);
    if (started_ < 6) return go(started_ < 4 ? 1 : started_ - 2);
    if (drops(view.now)) return {.when = view.now};  // hopeless_before() takes the oldest
    const double n = static_cast<double>(view.waiting);
    const double newest = seconds(view.now - newest_);
    if (view.waiting < view.max_count && !view.draining &&
        n * (newest + kTick + a_) <= 0.95 * wait_) {
      return {.when = view.now + std::chrono::milliseconds(1)};
    }
    return go(view.max_count);
  }
  bool fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return started_ >= 6 || shape.count <= limit_;
  }
  TimePoint hopeless_before(TimePoint now) noexcept override {
    if (started_ < 6 || !drops(now)) return now;
    const TimePoint oldest = first_deadline_;
    first_deadline_ = kNever;  // until the next view
    return std::max(now, oldest);
  }
  TimePoint expected_finish(const QueueView& view, std::uint64_t) noexcept override {
    newest_ = view.now;
    if (view.waiting > 0) look(view);
    return view.now;
  }
  void on_start(const BatchShape&, TimePoint now) noexcept override {
    ++started_;
    waits_[starts_++ % kKept] = seconds(now - oldest_);
  }
  void on_finish(const BatchReport& report) noexcept override {
    if (++finished_ <= 2) return;
    counts_[kept_ % kKept] = static_cast<double>(report.shape.count);
    times_[kept_ % kKept] = seconds(report.execution);
    ++kept_;
    const TimePoint now = report.started + report.execution;
    if (finished_ > 6 && now < refit_ + std::chrono::seconds(5)) return;
    refit_ = now;
    refit();
  }

 private:
  static constexpr std::size_t kKept = 50;
  static constexpr double kTick = 1e-3;
  static double seconds(Duration d) noexcept { return std::chrono::duration<double>(d).count(); }

  BatchDecision go(std::size_t most) noexcept {
    limit_ = most;
    return {.dispatch = true, .reason = CloseReason::policy, .max_count = most};
  }
  void look(const QueueView& view) noexcept {
    waiting_ = view.waiting;
    oldest_ = view.oldest_arrival;
    first_deadline_ = view.first_deadline;
  }
  bool drops(TimePoint now) const noexcept {
    return waiting_ > 1 && first_deadline_ != kNever &&
           seconds(first_deadline_ - now) <= a_ * static_cast<double>(waiting_) + b_;
  }
  void refit() noexcept {
    const std::size_t n = std::min(kept_, kKept), w = std::min(starts_, kKept);
    double x = 0, y = 0, xx = 0, xy = 0, wait = 0;
    for (std::size_t i = 0; i < n; ++i) {
      x += counts_[i], y += times_[i], xx += counts_[i] * counts_[i], xy += counts_[i] * times_[i];
    }
    for (std::size_t i = 0; i < w; ++i) wait += waits_[i];
    const double count = static_cast<double>(n), det = count * xx - x * x;
    if (det > 1e-9) {
      a_ = (count * xy - x * y) / det;
      b_ = (y - a_ * x) / count;
    } else {  // least norm, as numpy's lstsq has it
      const double k = x / count;
      b_ = y / count / (1 + k * k);
      a_ = b_ * k;
    }
    a_ = std::max(1e-6, a_);
    b_ = std::max(0.0, b_);
    wait_ = std::max(0.0, wait / static_cast<double>(w));
  }

  double a_, b_, wait_ = 0.01;
  std::size_t started_ = 0, finished_ = 0, kept_ = 0, starts_ = 0, limit_ = 1, waiting_ = 0;
  std::array<double, kKept> counts_{}, times_{}, waits_{};
  TimePoint oldest_{}, newest_{}, refit_{};
  TimePoint first_deadline_ = kNever;
};

}  // namespace batching_bench
