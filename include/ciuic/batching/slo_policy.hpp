// SloPolicy: as many answers as possible before their deadlines.
//
// It learns how long batches take (CostModel), how fast requests come, how long they are given and
// how many batches run at once, and decides from that:
//
//   who can make it   A request whose chance to be in time is smaller than its share of a batch's
//                     time is refused, or given up when others would gain by it. When batches short
//                     enough for the most urgent request cannot keep up with what waits, the most
//                     urgent are given up for batches that can. When more wait than fill a batch,
//                     the freshest are served: those have time left if the batch takes long.
//   how large         A batch grows while all in it are in time, the memory bears it, the time per
//                     request does not get worse, and the next request would not rather be served
//                     apart (a long one that would pad all the others).
//   when              At once, unless that is worse: when whoever came right after would be late
//                     for want of a free worker, and fewer were lost by waiting for company until
//                     the last moment that is safe.
//
// Without deadlines nobody is given up and nothing is waited for. `min_batch_size` and
// `max_queue_delay` mean nothing to it.
//
// Signals from outside: near the memory mark batches are halved; when a device idles beside a
// backlog, they grow.
//
// With several groups (`max_groups` above 1, bucketed adapters) nobody is waited for: who comes is
// counted for each group apart, while deadlines and workers are shared, so the loss by waiting
// cannot be weighed. A group that waited would mostly wait for a worker that another one takes.
//
// The idea of giving up early to keep batches large is that of Nexus (Shen et al., SOSP 2019), that
// of waiting until the last safe moment of Symphony (Chen et al., arXiv 2308.07470).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ciuic/batching/batch_policy.hpp"
#include "ciuic/batching/cost_model.hpp"

namespace ciuic::inline CIUIC_ABI {

struct SloOptions {
  CostModelOptions model{};
  /// Which part of the way from the forecast's mean to its upper value is planned with. Little is
  /// best: when a batch takes a bit too long only the most urgent in it are late.
  double caution = 0.4;
  /// Memory above this part of what there is (used + free) makes batches shrink.
  double memory_mark = 0.9;
  /// Below this utilisation a backlog makes batches grow.
  double idle_mark = 0.5;
  /// Where Signals come from; null = nowhere. Must outlive the policy.
  SignalSource* signals = nullptr;
};

/// See the top of this file. Calls allocate nothing. Thread-safety: thread-compatible.
class SloPolicy final : public BatchPolicy {
 public:
  explicit SloPolicy(const SloOptions& options = {}) noexcept
      : options_(options), model_(options.model) {
    if (!(options_.caution >= 0)) options_.caution = 0;  // nor what is no number
  }

  void bind(const BatchLimits& limits) noexcept override {
    one_group_ = limits.max_groups <= 1;
    max_size_ = std::max<std::size_t>(limits.max_batch_size, 1);
    cap_ = best_size_ = max_size_;
  }

  BatchDecision decide(const QueueView& view) noexcept override {
    look(view);
    const std::size_t most = std::min(view.max_count, cap_);
    const bool capped = cap_ < std::min(view.max_count, view.waiting);
    const BatchDecision go{.dispatch = true,
                           .reason = capped ? CloseReason::memory : CloseReason::policy,
                           .max_count = most};
    if (view.draining || !model_.known() || view.first_deadline == kNever) return go;
    if (view.waiting > 1 && head_is_in_the_way(view.now)) {
      give_up_ = true;  // hopeless_before() does it
      return {.reason = CloseReason::deadline, .when = view.now};
    }
    if (view.waiting >= std::min(most, size_limit())) return go;

    // Is anybody free for the next request while this batch runs?
    const double n = static_cast<double>(view.waiting);
    if (running_batches_ + 1 < workers_) return go;
    const double lost = lost_after(view, n, 0);
    if (lost < kLittleLoss) return go;
    // The last safe moment, with the company that will have come by then.
    const double slack = ticks(view.first_deadline - view.now);
    double wait = slack - upper(n + 1);
    for (int i = 0; i < 2 && wait > 0; ++i) wait = slack - upper(n + 1 + rate_ * wait);
    if (wait <= 0 || rate_ * wait < kLittleCompany) return go;
    if (lost_after(view, n, wait) > lost - kLittleLoss) return go;
    return {.reason = CloseReason::deadline,
            .when = view.now + Duration(static_cast<Duration::rep>(wait) + 1),
            .wake_count = std::min(most, size_limit())};
  }

  Fit fits(const BatchShape& shape, TimePoint now, TimePoint first_deadline) noexcept override {
    if (shape.count > cap_ || !memory_bears(shape)) return CloseReason::memory;
    // The first batches are small, so that a bad size costs little, and of several sizes, to learn.
    if (!model_.known()) return started_ >= 6 || shape.count <= std::size_t{4} << 2 * started_;
    const double mean = model_.mean(shape);
    if (first_deadline != kNever) {
      const double slack = ticks(first_deadline - now);
      const double ratio = crowded_ ? fair_ratio(static_cast<double>(shape.count)) : margin();
      if (mean * ratio > slack && model_.mean(kLeast) * least_ratio() <= slack) {
        return CloseReason::deadline;
      }
    }
    if (shape.count > size_limit() && is_slow(shape, mean)) return false;
    return !better_apart(shape, mean);
  }

  TimePoint hopeless_before(TimePoint now) noexcept override {
    read_signals(now);
    // Alone, the last one runs: the forecast may be wrong, and who never runs never learns.
    if (!model_.known() || first_deadline_ == kNever || (waiting_ < 2 && !give_up_)) {
      return now;
    }
    const double least = std::min(model_.mean(kLeast) * least_ratio(), kMostGivenUp * allowed_);
    double give_up = least;
    // Of a full batch the core does not ask decide() first: all that are in its way go at once.
    if (waiting_ >= size_limit() && head_is_in_the_way(now)) {
      give_up = std::max(least, time_of_survivors(now));
    }
    give_up = std::max(give_up, time_of_the_fresh(now));
    TimePoint until = add_saturating(now, Duration(static_cast<Duration::rep>(give_up)));
    if (give_up_) until = std::max(until, first_deadline_);
    give_up_ = false;
    return until;
  }

  TimePoint expected_finish(const QueueView& view, std::uint64_t cost) noexcept override {
    look(view);
    if (!model_.known() || (view.waiting == 0 && running_batches_ == 0)) return view.now;
    // Of those that wait before it, some may be given up for it; but not what runs, and not what
    // has no deadline.
    double start = running_batches_ < workers_ ? 0 : until_free(view.now);
    if (view.waiting > 0 && view.first_deadline == kNever) {
      const double size = static_cast<double>(std::min(best_size_, size_limit()));
      const double batches = std::floor(static_cast<double>(view.waiting) / size);
      start += batches * mean(size) / static_cast<double>(workers_);
    }
    const double own = model_.mean({1, cost, cost});
    const double soonest = (start + own) * least_ratio();
    return add_saturating(
        view.now,
        Duration(static_cast<Duration::rep>(std::min(soonest, ticks(kNever - view.now)))));
  }

  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return model_.predict(shape);
  }

  void on_start(const BatchShape& shape, TimePoint now) noexcept override {
    waiting_ -= std::min(waiting_, shape.count);
    if (running_batches_ < kMaxWorkers) {
      ends_[running_batches_] = add_saturating(
          now, Duration(static_cast<Duration::rep>(std::min(model_.mean(shape), kLongest))));
    }
    ++running_batches_;
    started_ = std::min<std::size_t>(started_ + 1, 6);
    workers_ = std::max(workers_, std::min(running_batches_, kMaxWorkers));
    adapt(shape);
    const double count = static_cast<double>(shape.count), cost = static_cast<double>(shape.cost);
    blend(cost_, cost / count);
    if (shape.count > 1 && cost > 0) {
      const double padding = count * static_cast<double>(shape.max_cost) / cost - 1;
      padding_ += kBlend * (padding / std::log2(count) - padding_);
    }
  }
  void on_finish(const BatchReport& report) noexcept override {
    // Which of those that run it was does not matter: the one that was to end first.
    if (running_batches_ > 0) {
      --running_batches_;
      const std::size_t n = std::min(running_batches_ + 1, kMaxWorkers);
      const auto first = std::min_element(ends_.begin(), ends_.begin() + std::ptrdiff_t(n));
      *first = ends_[n - 1];
    }
    if (report.failed || report.out_of_memory) return;
    model_.observe(report.shape, report.execution, report.memory_used);
    if (model_.known()) best_size_ = find_best_size();
  }

  const CostModel& model() const noexcept { return model_; }
  /// Requests a second, as estimated.
  double arrival_rate() const noexcept { return rate_ * 1e9; }
  /// Batches of the usual requests are not made larger at the moment.
  std::size_t size_limit() const noexcept {
    return idle_backlog_ ? cap_ : std::min(cap_, best_size_);
  }

 private:
  static constexpr std::size_t kMaxWorkers = 64;
  static constexpr BatchShape kLeast{1, 1, 1};
  static constexpr double kLongest = 1e18;        // ticks
  static constexpr double kLittleLoss = 0.01;     // of the requests: not worth waiting for
  static constexpr double kLittleCompany = 0.02;  // requests expected while waiting
  static constexpr double kMostGivenUp = 0.9;     // of the time that requests are given
  static constexpr double kWorthIt = 1.02;        // times faster: worth giving somebody up
  static constexpr double kSameSpeed = 1.02;      // time per request that counts as no worse
  static constexpr double kAlmostSure = 0.95;     // chance to be in time
  static constexpr double kSmallChance = 0.1;     // not worth a place, even if that costs nothing
  static constexpr double kFew = 8;               // requests: what a place costs is told from more
  static constexpr double kBlend = 0.05;          // weight of the newest in running averages

  static double ticks(Duration d) noexcept { return static_cast<double>(d.count()); }
  static void blend(double& average, double value) noexcept {
    average = average == 0 ? value : average + kBlend * (value - average);
  }
  double margin() const noexcept { return 1 + options_.caution * (model_.upper_ratio() - 1); }
  /// Time of a batch of `n` of the usual requests, in ticks.
  double mean(double n) const noexcept {
    const double count = std::max(1.0, n);
    const double cost = std::max(1.0, cost_);
    const auto usual = [](double x) { return static_cast<std::uint64_t>(x + 0.5); };
    return model_.mean({static_cast<std::size_t>(count + 0.5), usual(count * cost),
                        usual(cost * (1 + padding_ * std::log2(count)))});
  }
  double upper(double n) const noexcept { return mean(n) * margin(); }

  /// Notes what a view tells.
  void look(const QueueView& view) noexcept {
    waiting_ = view.waiting;
    first_deadline_ = view.first_deadline;
    alike_ = view.alike && !view.draining;
    if (view.waiting > 0 && view.first_deadline != kNever) {
      const double allowed = ticks(view.first_deadline - view.oldest_arrival);
      if (allowed > 0) blend(allowed_, allowed);
    }
    if (one_group_) count_arrivals(view);
  }
  /// The rate over the last kRateWindow arrivals or so.
  void count_arrivals(const QueueView& view) noexcept {
    if (view.arrived <= arrived_ || view.now <= counted_) return;
    if (arrived_ > 0 || counted_ != TimePoint::min()) {
      const double n = static_cast<double>(view.arrived - arrived_);
      const double gap = ticks(view.now - counted_) / n;
      const double old = std::exp(-n / kRateWindow);
      gap_ = gap_ == 0 ? gap : old * gap_ + (1 - old) * gap;
      rate_ = 1 / gap_;
    }
    arrived_ = view.arrived;
    counted_ = view.now;
  }
  static constexpr double kRateWindow = 32;

  /// Ticks until a worker that is busy now is free.
  double until_free(TimePoint now) const noexcept {
    const std::size_t n = std::min(running_batches_, kMaxWorkers);
    if (n == 0) return 0;
    const auto end = *std::min_element(ends_.begin(), ends_.begin() + std::ptrdiff_t(n));
    return std::max(0.0, ticks(end - now));
  }

  /// What part of the arrivals is lost if `n` requests and those that come within `wait` start
  /// after it: those who come so soon after the start that the next batch is too late for them.
  double lost_after(const QueueView& view, double n, double wait) const noexcept {
    const double first = mean(n + rate_ * wait);
    double busy = wait + first;  // from now on, until a worker is free
    if (running_batches_ > 0) busy = std::max(wait, std::min(busy, until_free(view.now)));
    const double blocked = busy - wait;
    const double next = mean(std::max(1.0, rate_ * std::min(blocked, allowed_)));
    const double lost = std::clamp(blocked + next - allowed_, 0.0, blocked);
    return lost / std::max(1.0, busy);
  }

  /// Requests a tick, by those that wait: deadlines are taken to be spread evenly over the time
  /// that requests are given.
  double density(TimePoint now) const noexcept {
    const double slack = ticks(first_deadline_ - now);
    return static_cast<double>(waiting_) / std::max(allowed_ - slack, 0.01 * allowed_);
  }
  /// Must the most urgent request be given up, because a batch of all that wait (or the best part
  /// of them) would be too late for it, and batches short enough for it are too slow for the
  /// others?
  bool head_is_in_the_way(TimePoint now) noexcept {
    crowded_ = false;
    if (first_deadline_ <= now || first_deadline_ == kNever) return false;
    const double slack = ticks(first_deadline_ - now);
    const double most = static_cast<double>(std::min(waiting_, size_limit()));
    const double whole = mean(most);
    if (whole * std::max(margin(), fair_ratio(most)) <= slack) return false;
    double unhurt = 0;
    for (double n = 1; n < most; n = next_size(n, most)) {
      const double time = mean(n);
      if (time * margin() > slack) break;
      unhurt = std::max(unhurt, n / time);
    }
    crowded_ =
        unhurt * static_cast<double>(workers_) < density(now) && unhurt * kWorthIt < most / whole;
    return crowded_ && whole * fair_ratio(most) > slack;
  }
  /// The time that a batch takes of those that would be in time in it.
  double time_of_survivors(TimePoint now) const noexcept {
    const double supply = density(now);
    double low = 1, high = static_cast<double>(size_limit());
    for (int i = 0; i < 8; ++i) {
      const double n = (low + high) / 2;
      (supply * (allowed_ - mean(n) * fair_ratio(n)) > n ? low : high) = n;
    }
    return mean(high) * fair_ratio(high);
  }
  /// Of more than fill a batch somebody stays behind. Is it the most urgent, all others start
  /// sooner after they came and are in time more surely: so the next batch takes the freshest. But
  /// who stays behind is given up, while later on there may be room again. Until when deadlines
  /// should be left out: the chance that is asked of the first of the batch rises with the number
  /// of those that would wait on, from none to almost sure when they are another batch. Only among
  /// equals: no request makes room for others that matter less, can wait, or do not share a batch.
  double time_of_the_fresh(TimePoint now) const noexcept {
    const double size = static_cast<double>(size_limit());
    const std::size_t free =
        std::max<std::size_t>(workers_, running_batches_ + 1) - running_batches_;
    const double spare = static_cast<double>(waiting_) - size * static_cast<double>(free);
    if (spare <= 0 || !alike_) return 0;
    const double slack = ticks(first_deadline_ - now), supply = density(now), time = mean(size);
    const auto wanted = [&](double given_up) {
      return time * model_.ratio(std::min(kAlmostSure, (spare - given_up) / size));
    };
    if (wanted(0) <= slack) return 0;
    double low = 0, high = spare;
    for (int i = 0; i < 8; ++i) {
      const double middle = (low + high) / 2;
      (slack + middle / supply < wanted(middle) ? low : high) = middle;
    }
    return slack + high / supply;
  }
  /// When more wait than can be served, an urgent request is worth its place if its chance to be in
  /// time is above the share of a place in the time of the batch: that quantile of measured / mean.
  double fair_ratio(double n) const noexcept {
    return model_.ratio(std::clamp(share_of_a_place(n), 0.2, 0.8));
  }
  /// Below this times the mean nobody is counted on: a request whose chance is smaller than the
  /// share of its place is refused or given up.
  double least_ratio() const noexcept {
    const double few =
        std::min(std::max(static_cast<double>(waiting_), kFew), static_cast<double>(size_limit()));
    return model_.ratio(std::clamp(share_of_a_place(few), kSmallChance, 0.5));
  }
  /// The time that one request more costs, by the time of each in a batch of `n`: near 0 where the
  /// batch costs nearly the same without it.
  double share_of_a_place(double n) const noexcept {
    const double time = mean(n);
    return time > 0 ? std::max(0.0, mean(n + 1) - time) * n / time : 0;
  }

  /// 1, 2, 3, … 16, 18, 20, … and `most`.
  static double next_size(double n, double most) noexcept {
    return n >= most ? most + 1 : std::min(most, n + std::max(1.0, std::floor(n / 8)));
  }
  /// The largest size at which a request takes hardly longer than at the best one.
  std::size_t find_best_size() const noexcept {
    const double most = static_cast<double>(max_size_);
    double least = kLongest;
    for (double n = 1; n <= most; n = next_size(n, most)) least = std::min(least, mean(n) / n);
    double best = 1;
    for (double n = 1; n <= most; n = next_size(n, most)) {
      if (mean(n) <= kSameSpeed * least * n) best = n;
    }
    return static_cast<std::size_t>(best);
  }
  /// Does a batch take longer than one of the best size, by the request and by the cost?
  bool is_slow(const BatchShape& shape, double time) const noexcept {
    const double size = static_cast<double>(size_limit()), best = kSameSpeed * mean(size) / size;
    return time > best * static_cast<double>(shape.count) &&
           time * std::max(1.0, cost_) > best * static_cast<double>(shape.cost);
  }
  /// Would the request that made the batch grow to `shape` cost less in a batch of its own? Only
  /// the sum and the largest cost are known of the batch: it is the last one asked about, if that
  /// had one request less.
  bool better_apart(const BatchShape& shape, double mean) noexcept {
    BatchShape before = last_fit_;
    if (shape.count == 2) {
      before = {1, shape.cost - shape.max_cost, shape.cost - shape.max_cost};
    }
    last_fit_ = shape;
    if (before.count + 1 != shape.count || before.cost > shape.cost) return false;
    const std::uint64_t cost = shape.cost - before.cost;
    return mean > kSameSpeed * (model_.mean(before) + model_.mean({1, cost, cost}));
  }

  bool memory_bears(const BatchShape& shape) noexcept {
    if (options_.signals == nullptr || signals_.memory_free == QueueView::kNoBytes) return true;
    const std::uint64_t bytes = model_.predict(shape).memory;
    const double all =
        static_cast<double>(signals_.memory_used) + static_cast<double>(signals_.memory_free);
    return static_cast<double>(signals_.memory_used) + static_cast<double>(bytes) <=
               options_.memory_mark * all ||
           bytes == 0;
  }
  void read_signals(TimePoint now) noexcept {
    if (options_.signals != nullptr) signals_ = options_.signals->read(now);
  }
  /// Adapts the cap to the signals, once per batch.
  void adapt(const BatchShape& shape) noexcept {
    if (options_.signals == nullptr) return;
    idle_backlog_ = signals_.utilisation < options_.idle_mark && waiting_ > 0;
    const double used = static_cast<double>(signals_.memory_used);
    const double all = used + static_cast<double>(signals_.memory_free);
    const bool known = signals_.memory_free != QueueView::kNoBytes;
    if (known && used > options_.memory_mark * all) {
      cap_ = std::max<std::size_t>(std::min(cap_, shape.count) / 2, 1);
    } else {
      cap_ = std::min(max_size_, cap_ + (idle_backlog_ ? std::max<std::size_t>(cap_ / 4, 1) : 1));
    }
  }

  SloOptions options_;
  CostModel model_;
  Signals signals_{};
  std::size_t max_size_ = 1;
  std::size_t cap_ = 1;        // what the signals allow
  std::size_t best_size_ = 1;  // what the model finds quickest per request
  bool one_group_ = true;
  bool idle_backlog_ = false;

  // What the last view told.
  std::size_t waiting_ = 0;
  bool alike_ = false;  // see QueueView
  TimePoint first_deadline_ = kNever;
  std::uint64_t arrived_ = 0;
  TimePoint counted_ = TimePoint::min();

  // Running averages, in ticks and in cost.
  double gap_ = 0, rate_ = 0;  // between arrivals; arrivals per tick
  double allowed_ = 0;         // from the arrival to the deadline
  double cost_ = 0;            // of a request
  double padding_ = 0;         // of a batch relative to its cost, by the logarithm of its size

  std::size_t started_ = 0;  // batches, counted to 6
  std::size_t running_batches_ = 0;
  std::size_t workers_ = 1;                    // the most that were seen running
  std::array<TimePoint, kMaxWorkers> ends_{};  // expected, of those that run
  bool crowded_ = false;                       // more wait than can be served in time
  bool give_up_ = false;                       // the first deadline
  BatchShape last_fit_{};
};

}  // namespace ciuic::inline CIUIC_ABI
