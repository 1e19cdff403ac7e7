// BatchPolicy: when to close a batch, and how large to make it. A policy decides, BatchCore obeys.
//
// The core asks decide() whenever somebody is free to run a batch, and fits() while it fills one.
// It tells the policy of every batch that starts and ends, so that a policy can learn. A policy
// sees no request, holds no lock and reads no clock: it is a pure function of what it was told,
// which is why the same object serves threads, a host's event loop and the simulator.
//
//   class Impatient final : public BatchPolicy {      // runs whatever waits, at once
//     BatchDecision decide(const QueueView&) noexcept override { return {.dispatch = true}; }
//   };
//   DynamicBatcher<Request, Response> batcher(model, options, Impatient());
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "ciuic/base/clock.hpp"
#include "ciuic/batching/batch_limits.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Why a batch was closed.
enum class CloseReason : std::uint8_t {
  full,      ///< `max_batch_size` requests wait, or the queue is full
  cost,      ///< the next request would exceed `max_batch_cost`
  memory,    ///< more would not fit the memory: the budget, or what an out-of-memory taught
  room,      ///< the caller could take no more (BatchRoom)
  idle,      ///< somebody is free and `min_batch_size` requests wait
  deadline,  ///< waiting longer, or adding one more, would have made a request late
  policy,    ///< the policy saw no gain in waiting, or in adding one more
  drain,     ///< drain() was called: nobody else will come
  delay,     ///< the oldest request has waited `max_queue_delay`
};
inline constexpr std::size_t kCloseReasons = 9;
constexpr std::string_view to_string(CloseReason reason) noexcept {
  constexpr std::string_view kNames[kCloseReasons] = {
      "full", "cost", "memory", "room", "idle", "deadline", "policy", "drain", "delay"};
  return kNames[static_cast<std::size_t>(reason)];
}

/// What waits, as far as a decision needs it. Sums are over the requests that may share the next
/// batch: those of the group whose turn it is.
struct QueueView {
  TimePoint now{};
  std::size_t waiting = 0;         ///< at least 1 when decide() is called
  std::uint64_t waiting_cost = 0;  ///< sum of their costs
  TimePoint oldest_arrival{};
  TimePoint first_deadline = kNever;  ///< the earliest of all waiting requests
  std::uint64_t arrived = 0;          ///< requests accepted so far: its growth is the arrival rate
  std::size_t running_batches = 0;    ///< not this one
  std::size_t running = 0;            ///< requests in them
  std::size_t max_count = 1;          ///< the most this batch may hold: limits and caller's room
  std::uint64_t max_cost = 1;         ///< likewise, in cost
  std::uint64_t memory_free = kNoBytes;  ///< of the memory budget, bytes not reserved by batches
  bool draining = false;                 ///< nobody else will come
  bool alike = false;  ///< all that wait have a deadline, and are of one priority and group

  static constexpr std::uint64_t kNoBytes = std::numeric_limits<std::uint64_t>::max();
};

/// What a batch holds, as far as its time and memory depend on it.
struct BatchShape {
  std::size_t count = 0;
  std::uint64_t cost = 0;      ///< sum over the requests
  std::uint64_t max_cost = 0;  ///< of one request: `count * max_cost` is the cost when padded
};

/// Close a batch now, or look again later.
struct BatchDecision {
  bool dispatch = false;
  CloseReason reason = CloseReason::policy;
  /// Dispatch: at most so many, below the view's `max_count`; reason for fewer: `reason`.
  std::size_t max_count = std::numeric_limits<std::size_t>::max();
  std::uint64_t max_cost = kUnlimitedCost;
  /// No dispatch: decide again at this time, or as soon as so many requests wait (of all groups),
  /// whichever is first. A full batch is always looked at.
  TimePoint when = kNever;
  std::size_t wake_count = std::numeric_limits<std::size_t>::max();
};

/// A batch that has ended.
struct BatchReport {
  BatchShape shape{};  ///< after an out-of-memory: of the largest part that passed, if any
  TimePoint started{};
  Duration execution{0};          ///< from the start to the last answer
  std::uint64_t memory_used = 0;  ///< bytes, as the model reported; 0 = it did not
  std::uint32_t route = 0;        ///< what BatchPolicy::route() said of it
  bool failed = false;            ///< the model threw or returned an error
  bool out_of_memory = false;     ///< and was split
};

/// May a batch grow? Yes, or no and why: which is then the reason it is closed for.
struct Fit {
  /// Implicit: most policies have one reason only, their own.
  constexpr Fit(bool fits) noexcept : yes(fits) {}
  constexpr Fit(CloseReason otherwise) noexcept : yes(false), why_not(otherwise) {}
  constexpr explicit operator bool() const noexcept { return yes; }

  bool yes;
  CloseReason why_not = CloseReason::policy;  ///< when not `yes`
};

/// What a policy expects of a batch.
struct BatchForecast {
  Duration mean{0};
  Duration upper{0};         ///< exceeded rarely (a high quantile of past errors)
  std::uint64_t memory = 0;  ///< bytes, upper; 0 = unknown
  bool known = false;        ///< false: too little was seen to say
};

/// Signals from outside the queue, as the host or a device monitor reads them.
struct Signals {
  std::uint64_t memory_used = 0;
  std::uint64_t memory_free = QueueView::kNoBytes;
  double utilisation = 1.0;  ///< of the device, 0 … 1; 1 = busy or unknown
};
/// Where signals come from. read() is called under the batcher's lock: it must be quick.
class SignalSource {
 public:
  virtual Signals read(TimePoint now) noexcept = 0;

 protected:
  ~SignalSource() = default;
};

/// See the top of this file. Thread-safety: thread-compatible; a batcher calls it under its lock.
/// Calls allocate nothing.
class BatchPolicy {
 public:
  virtual ~BatchPolicy() = default;
  /// The limits the core enforces whatever the policy says. Called once, before anything else.
  virtual void bind(const BatchLimits& /*limits*/) noexcept {}
  virtual BatchDecision decide(const QueueView& view) noexcept = 0;
  /// May the batch grow to `shape`, whose members' first deadline is `first_deadline`? Not asked
  /// for the first request of a batch. Yes, unless told otherwise.
  virtual Fit fits(const BatchShape& /*shape*/, TimePoint /*now*/,
                   TimePoint /*first_deadline*/) noexcept {
    return true;
  }
  /// Waiting requests whose deadline is at this or before are expired now: they are not worth their
  /// place any more. `now` by default: those that are late. Called before decide().
  virtual TimePoint hopeless_before(TimePoint now) noexcept { return now; }
  /// The earliest that a request of `cost` that came now, behind what `view` holds, can be counted
  /// on to be answered: it is refused if that is after its deadline. `view.now` = never refuse.
  virtual TimePoint expected_finish(const QueueView& view, std::uint64_t /*cost*/) noexcept {
    return view.now;
  }
  virtual BatchForecast forecast(const BatchShape& /*shape*/) noexcept { return {}; }
  /// For policies that know where batches run: may a batch of what `view` holds start? Asked of
  /// every batch that closes, whatever the reason. If not, what is asked for stays closed, and is
  /// asked again when a batch ends, after `when` and `wake_count` of the answer, and as it pleases.
  virtual BatchDecision may_start(const QueueView& /*view*/) noexcept { return {.dispatch = true}; }
  /// A batch of this shape starts now: where? The answer is `Batch::route()` and
  /// `BatchReport::route`. Called before on_start().
  virtual std::uint32_t route(const BatchShape& /*shape*/, TimePoint /*now*/) noexcept { return 0; }
  virtual void on_start(const BatchShape& /*shape*/, TimePoint /*now*/) noexcept {}
  virtual void on_finish(const BatchReport& /*report*/) noexcept {}
};

/// The default: a free worker takes a batch as soon as `min_batch_size` requests wait, and
/// otherwise when the oldest has waited `max_queue_delay`.
class DelayPolicy final : public BatchPolicy {
 public:
  void bind(const BatchLimits& limits) noexcept override {
    min_batch_size_ = limits.min_batch_size;
    max_queue_delay_ = limits.max_queue_delay;
  }
  BatchDecision decide(const QueueView& view) noexcept override {
    if (view.waiting >= min_batch_size_) return {.dispatch = true, .reason = CloseReason::idle};
    if (view.draining) return {.dispatch = true, .reason = CloseReason::drain};
    const TimePoint close = add_saturating(view.oldest_arrival, max_queue_delay_);
    if (close <= view.now) return {.dispatch = true, .reason = CloseReason::delay};
    return {.when = close, .wake_count = min_batch_size_};
  }

 private:
  std::size_t min_batch_size_ = 1;
  Duration max_queue_delay_{0};
};

}  // namespace ciuic::inline CIUIC_ABI
