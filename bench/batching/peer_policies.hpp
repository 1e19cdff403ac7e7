// The rules by which other batchers close a batch, as BatchPolicy, so that they run on the same
// core and the same traces. Only the rules: their threads, locks and languages cost nothing here,
// and polling is kept only where it is part of the rule. Written from their papers and sources, as
// named at each; read at triton-inference-server/core@73aad7c, tensorflow/tensorflow@de30797,
// openvinotoolkit/openvino@55898c5, bentoml/BentoML@32230a5.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <deque>
#include <span>
#include <utility>
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
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
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
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
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
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
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
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
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
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
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

/// BentoML's Cork dispatcher (src/bentoml/_internal/marshal/dispatcher.py), checked against the
/// real one by peer_policies_test.
///
/// It looks at the queue when a request comes to an empty one, and from then on every millisecond
/// and right after each batch it starts; while a batch runs it only gives up. It fits
/// duration = a·n + b to the last 50 batches: at the third, again after 5 s, and after each stage
/// of its training. That is 8 batches to warm up, then one each that waits for 1, 2 and 3 requests
/// as long as a small part of the objective; each takes all that waits, and counts as not having
/// waited. After that it gives up the oldest while more than one waits and it would be late, and
/// waits while n·(time since the newest + 1 ms + a) <= 0.95 · the mean wait of those 50 batches.
///
/// Here requests are given up by deadline: all must be allowed the same time, and of those with the
/// same deadline all go at once.
class BentoPolicy final : public BatchPolicy {
 public:
  /// `max_batch` is enforced here: a core that knew of it would not ask when it is reached.
  BentoPolicy(Duration max_latency, std::size_t max_batch)
      : max_batch_(max_batch),
        objective_(seconds(max_latency)),
        a_(std::min(2.0, objective_ * 2 / 30)),
        b_(std::min(1.0, objective_ / 30)) {}

  BatchDecision decide(const QueueView& view) noexcept override {
    if (view.first_deadline != kNever) allowed_ = view.first_deadline - view.oldest_arrival;
    note(view.waiting);
    look_until(view.now);
    if (look_ == view.now) give_up();
    if (given_up_ > 0) return {.when = view.now};  // hopeless_before() has it done
    if (look_ > view.now) return {.when = look_};
    if (waits() && !view.draining) return {.when = look_ += kTick};
    return {.dispatch = true, .reason = CloseReason::policy, .max_count = max_batch_};
  }
  TimePoint hopeless_before(TimePoint now) noexcept override {
    return std::max(now, add_saturating(last_given_up_, allowed_));
  }
  TimePoint expected_finish(const QueueView& view, std::uint64_t) noexcept override {
    note(view.waiting);
    look_until(view.now);
    if (waiting_.empty()) look_ = view.now;
    waiting_.push_back(view.now);
    return view.now;
  }
  void on_start(const BatchShape& shape, TimePoint now) noexcept override {
    look_ = now;
    running_.push_back({now, training() || waiting_.empty() ? 0.0 : age(waiting_.front())});
    for (std::size_t i = 0; i < shape.count && !waiting_.empty(); ++i) waiting_.pop_front();
    ++stage_batches_;
    if (!training() || stage_batches_ < (stage_ == 0 ? 8u : 1u)) return;
    if (stage_++ > 0) refit();
    stage_batches_ = 0;
    const double batch = static_cast<double>(stage_);
    patience_ = stage_ < 2 ? 0 : std::min(0.95 * objective_, (2 * batch + 1) * a_ + b_);
  }
  void on_finish(const BatchReport& report) noexcept override {
    const auto batch = std::find_if(running_.begin(), running_.end(),
                                    [&](const Running& r) { return r.started == report.started; });
    if (batch == running_.end()) return;
    const double wait = batch->wait;
    running_.erase(batch);
    const TimePoint now = report.started + report.execution;
    look_until(now);
    if (++finished_ <= 2) return;
    kept_[recorded_++ % kept_.size()] = {static_cast<double>(report.shape.count),
                                         seconds(report.execution), wait};
    if (recorded_ > 1 && now - refitted_ < std::chrono::seconds(5)) return;
    refitted_ = now;
    refit();
  }

 private:
  struct Running {
    TimePoint started;
    double wait;
  };
  struct Kept {
    double count, time, wait;
  };
  static constexpr Duration kTick{std::chrono::milliseconds(1)};
  static double seconds(Duration d) noexcept { return std::chrono::duration<double>(d).count(); }
  bool training() const noexcept { return stage_ < 4; }

  /// s, at the look.
  double age(TimePoint arrival) const noexcept { return seconds(look_ - arrival); }

  /// So many wait in the core, those given up included. It drops the oldest when they are late.
  void note(std::size_t waiting) noexcept {
    while (waiting_.size() > waiting) waiting_.pop_front();
    given_up_ = std::min(given_up_, waiting - waiting_.size());
  }
  /// The looks before `now`, while a batch ran.
  void look_until(TimePoint now) noexcept {
    for (; look_ < now && !waiting_.empty(); look_ += kTick) {
      give_up();
      if (waiting_.size() != 1 || training() || age(waiting_.front()) < objective_) continue;
      give_up_oldest();
    }
  }
  void give_up() noexcept {
    while (!waiting_.empty()) {
      const double n = static_cast<double>(waiting_.size()), oldest = age(waiting_.front());
      if (training()) {
        constexpr double kNeeded[] = {2, 6, 5, 3};
        if (n <= kNeeded[stage_] - static_cast<double>(stage_batches_) || oldest < objective_) {
          return;
        }
      } else if (n < 2 || oldest + a_ * n + b_ < objective_) {
        return;
      }
      give_up_oldest();
    }
  }
  void give_up_oldest() noexcept {
    last_given_up_ = waiting_.front();
    waiting_.pop_front();
    ++given_up_;
  }
  bool waits() const noexcept {
    const double n = static_cast<double>(waiting_.size());
    if (waiting_.size() >= max_batch_) return false;
    if (training()) {
      const double wanted = static_cast<double>(stage_);
      return wanted > 1 && n < wanted && wanted * a_ + b_ + age(waiting_.front()) <= patience_;
    }
    return n * (age(waiting_.back()) + seconds(kTick) + a_) <= wait_ * 0.95;
  }
  void refit() noexcept {
    const std::size_t n = std::min(recorded_, kept_.size());
    if (n == 0) return;
    double x = 0, y = 0, xx = 0, xy = 0, wait = 0;
    for (const Kept& k : std::span(kept_).first(n)) {
      x += k.count, y += k.time, xx += k.count * k.count, xy += k.count * k.time, wait += k.wait;
    }
    const double count = static_cast<double>(n), det = count * xx - x * x;
    if (det > 0.5) {  // counts are whole numbers
      a_ = (count * xy - x * y) / det;
      b_ = (y - a_ * x) / count;
    } else {  // least norm, as numpy's lstsq has it
      const double k = x / count;
      b_ = y / count / (1 + k * k);
      a_ = b_ * k;
    }
    a_ = std::max(1e-6, a_);
    b_ = std::max(0.0, b_);
    wait_ = std::max(0.0, wait / count);
  }

  const std::size_t max_batch_;
  const double objective_;  // s
  double a_, b_;            // s a request, s
  double wait_ = 0;         // s, the mean of those kept
  double patience_ = 0;     // s, of this stage of the training
  std::size_t stage_ = 0, stage_batches_ = 0;
  std::size_t finished_ = 0, recorded_ = 0;
  std::array<Kept, 50> kept_{};
  std::vector<Running> running_;
  std::deque<TimePoint> waiting_;               // arrivals of those not given up
  std::size_t given_up_ = 0;                    // and still in the core
  TimePoint last_given_up_ = TimePoint::min();  // its arrival
  Duration allowed_{0};                         // from a request's arrival to its deadline
  TimePoint look_{}, refitted_{};
};

}  // namespace batching_bench
