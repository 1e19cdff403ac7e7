// BatchCore: when a batch closes and who is in it. A pure state machine: no threads, no clock, no
// locks, no allocation after construction. The batcher, the generation engine and the simulator all
// run this object; what differs is who calls it.
//
//   BatchCore core({.max_batch_size = 8, .max_queue_delay = 2ms});
//   Admission a = core.submit(now, {.cost = 3});      // a.slot, or why not: a.refusal
//   for (;;) {
//     BatchAction action = core.poll(now, room);      // room: what this caller can take right now
//     switch (action.kind) {
//       case BatchAction::dispatch:    // run action.slots; each ends with complete() or release()
//       case BatchAction::expire:      // deadlines of action.slots passed: tell their owners
//       case BatchAction::abandon:     // after stop(): action.slots will not run
//       case BatchAction::wait_until:  // nothing before action.when, unless something is submitted
//       case BatchAction::idle:        // nothing waits and nothing is timed
//     }
//   }
//
// A slot's life: free → waiting → running → finished → free.
//   submit          free → waiting
//   poll: dispatch  waiting → running
//   poll: expire    waiting → finished; a running slot is reported once and stays running
//   poll: abandon   waiting → finished
//   cancel          waiting → finished; a running or finished slot stays as it is
//   complete        running → finished: the work is over, the answer still occupies the slot
//   release         whatever → free: the answer was taken, the slot can be used again
// Waiting slots are bounded by `queue_capacity`, all slots that are not free by `max_outstanding`.
// Whoever got a slot from poll() or took it out with cancel() owns it and must release it.
//
// A batch closes, in this order of precedence, when
//   full   `max_batch_size` requests wait
//   cost   the next request would exceed `max_batch_cost` (or nothing is left of it)
//   room   the same two for the smaller room of this call
//   idle   `min_batch_size` requests wait: poll() is called by someone who is free, so go
//   drain  drain() was called: nobody else will come
//   delay  the oldest request has waited `max_queue_delay`
// so a minimum is waited for no longer than the delay, and the maxima are never exceeded. A request
// that fits the maxima but not this call's room stays first in line: later, smaller ones do not
// overtake it.
//
// Who is in it: the higher priority first, and the first to come within a priority, as the queue
// says; but who has waited `priority_ageing` goes before everybody who came later, whatever the
// priorities. So nothing starves: from then on only requests that came before are served before.
//
// Time never runs backwards inside the core: a `now` before the latest one seen counts as that one.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/error.hpp"
#include "ciuic/base/priority.hpp"
#include "ciuic/batching/batch_limits.hpp"
#include "ciuic/batching/deadline_heap.hpp"
#include "ciuic/batching/fifo_queue.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Names one accepted request. A handle whose slot was released is stale: using it does nothing.
struct SlotHandle {
  std::uint32_t index = kNoSlot;  ///< below `max_outstanding`: a key for the caller's own tables
  std::uint32_t generation = 0;
  friend bool operator==(const SlotHandle&, const SlotHandle&) = default;
};

enum class SlotState : std::uint8_t { free, waiting, running, finished };

/// What one request asks for.
struct RequestTerms {
  std::uint64_t cost = 1;  ///< in the unit of `max_batch_cost`: tokens, bytes, …
  Priority priority = Priority::normal;
  TimePoint deadline = kNever;
};

/// Why a request was not accepted.
enum class Refusal : std::uint8_t {
  none,
  queue_full,        ///< `queue_capacity` requests wait
  outstanding_full,  ///< `max_outstanding` requests are not released yet
  oversize,          ///< its cost is above `max_batch_cost`
  expired,           ///< its deadline is already past
  shutting_down,     ///< drain() or stop() was called
};

/// The answer to submit(): a slot, or a refusal.
struct Admission {
  SlotHandle slot;
  Refusal refusal = Refusal::none;
  explicit operator bool() const noexcept { return refusal == Refusal::none; }
};

/// Why a batch was closed; see the top of this file.
enum class CloseReason : std::uint8_t { full, cost, room, idle, drain, delay };
inline constexpr std::size_t kCloseReasons = 6;
constexpr std::string_view to_string(CloseReason reason) noexcept {
  constexpr std::string_view kNames[kCloseReasons] = {"full", "cost",  "room",
                                                      "idle", "drain", "delay"};
  return kNames[static_cast<std::size_t>(reason)];
}

/// What the caller of poll() can take at this moment, below the batch's own maxima.
struct BatchRoom {
  std::size_t max_count = std::numeric_limits<std::size_t>::max();
  std::uint64_t max_cost = kUnlimitedCost;
};

/// What to do next.
struct BatchAction {
  enum Kind : std::uint8_t { dispatch, expire, abandon, wait_until, idle };
  Kind kind = idle;
  CloseReason reason = CloseReason::full;  ///< dispatch only
  std::uint64_t cost = 0;                  ///< dispatch only: the sum over `slots`
  TimePoint when = kNever;                 ///< wait_until only
  std::span<const SlotHandle> slots{};     ///< valid until the next call of poll() or expire()
};

/// The state machine described at the top of this file.
/// Thread-safety: thread-compatible; every call but construction is noexcept and allocates nothing.
template <class Queue>
class BasicBatchCore {
 public:
  /// `limits` must pass validate().
  explicit BasicBatchCore(const BatchLimits& limits)
      : limits_(resolved(limits)),
        nodes_(limits_.max_outstanding),
        batch_(std::min(limits_.max_batch_size, limits_.max_outstanding)),
        queue_(limits_.max_outstanding),
        arrivals_(limits_.max_outstanding),
        deadlines_(limits_.max_outstanding) {
    assert(validate(limits));
    for (std::size_t i = nodes_.size(); i-- > 0;) push_free(static_cast<std::uint32_t>(i));
  }

  /// What submit() would say, without submitting.
  Refusal refusal(TimePoint now, const RequestTerms& terms) noexcept {
    advance(now);
    if (closing_ != Closing::no) return Refusal::shutting_down;
    if (terms.cost > limits_.max_batch_cost) return Refusal::oversize;
    if (terms.deadline <= now_) return Refusal::expired;
    if (waiting_ >= limits_.queue_capacity) return Refusal::queue_full;
    return free_ == kNoSlot ? Refusal::outstanding_full : Refusal::none;
  }
  /// O(1); O(log n) with a deadline.
  Admission submit(TimePoint now, const RequestTerms& terms) noexcept {
    if (const Refusal why = refusal(now, terms); why != Refusal::none) return {{}, why};
    const std::uint32_t slot = free_;
    Node& node = nodes_[slot];
    free_ = node.next_free;
    node.arrival = now_;
    node.cost = terms.cost;
    node.priority = terms.priority;
    node.state = SlotState::waiting;
    queue_.push(slot, terms.priority);
    arrivals_.push_back(oldest_, slot);
    if (terms.deadline != kNever) deadlines_.push(slot, terms.deadline);
    ++waiting_;
    ++outstanding_;
    waiting_cost_ += terms.cost;
    return {{slot, node.generation}, Refusal::none};
  }

  /// What to do now, for a caller that can run a batch of at most `room`. Expired requests come
  /// before batches. O(batch).
  BatchAction poll(TimePoint now, const BatchRoom& room = {}) noexcept {
    if (BatchAction action = expire(now); action.kind != BatchAction::idle) return action;
    if (waiting_ == 0) return idle_until(deadlines_.first_deadline());
    if (closing_ == Closing::stop) return abandon();
    const std::size_t max_count = std::min(full_count(), room.max_count);
    const std::uint64_t max_cost = std::min(limits_.max_batch_cost, room.max_cost);
    CloseReason reason = CloseReason::delay;
    if (!closes(max_count, max_cost, reason)) {
      return idle_until(std::min(deadlines_.first_deadline(), close_time()));
    }
    const BatchAction action = take(max_count, max_cost, reason);
    // Nothing fits this room: the caller comes back when it has more, or for the next deadline.
    return action.slots.empty() ? idle_until(deadlines_.first_deadline()) : action;
  }

  /// The expiring half of poll(), for a caller that cannot run anything: `expire` or `idle`.
  /// Running slots are reported too (their state stays `running`), each slot once.
  BatchAction expire(TimePoint now) noexcept {
    advance(now);
    std::size_t n = 0;
    while (n < batch_.size() && deadlines_.first_deadline() <= now_) {
      const std::uint32_t slot = deadlines_.first_slot();
      if (nodes_[slot].state == SlotState::waiting) {
        leave_queue(slot, SlotState::finished);
      } else {
        deadlines_.erase(slot);
      }
      batch_[n++] = handle(slot);
    }
    if (n == 0) return {};
    return {.kind = BatchAction::expire, .slots = {batch_.data(), n}};
  }

  /// Hands back what waits, at most a batch of it: `abandon`, without slots when nothing waits.
  /// What poll() does after stop(), for a caller that cannot get anything run.
  BatchAction abandon() noexcept {
    std::size_t n = 0;
    for (std::uint32_t slot = queue_.peek(); slot != kNoSlot && n < batch_.size();
         slot = queue_.peek()) {
      batch_[n++] = handle(slot);
      leave_queue(slot, SlotState::finished);
    }
    return {.kind = BatchAction::abandon, .slots = {batch_.data(), n}};
  }

  /// Takes a waiting request out: `waiting` is returned, it is the caller's to release. Otherwise
  /// nothing changes and its state is returned, `free` for a stale handle. O(1) but for a deadline.
  SlotState cancel(SlotHandle slot) noexcept {
    const SlotState before = state(slot);
    if (before == SlotState::waiting) leave_queue(slot.index, SlotState::finished);
    return before;
  }
  /// A running request is over: its deadline no longer counts, its slot stays taken.
  void complete(SlotHandle slot) noexcept {
    if (state(slot) != SlotState::running) return;
    deadlines_.erase(slot.index);
    nodes_[slot.index].state = SlotState::finished;
    --running_;
  }
  /// Gives a slot back, whatever its state; handles to it become stale.
  void release(SlotHandle slot) noexcept {
    if (state(slot) == SlotState::free) return;
    cancel(slot);
    complete(slot);
    nodes_[slot.index].state = SlotState::free;
    ++nodes_[slot.index].generation;
    --outstanding_;
    push_free(slot.index);
  }

  /// From now on nothing is accepted and nobody is waited for; what waits is dispatched.
  void drain() noexcept { closing_ = std::max(closing_, Closing::drain); }
  /// From now on nothing is accepted and poll() abandons what waits.
  void stop() noexcept { closing_ = Closing::stop; }
  bool closing() const noexcept { return closing_ != Closing::no; }

  /// `free` for a stale handle.
  SlotState state(SlotHandle slot) const noexcept {
    if (slot.index >= nodes_.size() || nodes_[slot.index].generation != slot.generation) {
      return SlotState::free;
    }
    return nodes_[slot.index].state;
  }
  /// When the request was submitted, and its cost. The handle must not be stale.
  TimePoint arrival(SlotHandle slot) const noexcept { return nodes_[slot.index].arrival; }
  std::uint64_t cost(SlotHandle slot) const noexcept { return nodes_[slot.index].cost; }

  std::size_t waiting() const noexcept { return waiting_; }
  std::uint64_t waiting_cost() const noexcept { return waiting_cost_; }
  std::size_t running() const noexcept { return running_; }
  std::size_t outstanding() const noexcept { return outstanding_; }
  /// The limits in force, their zeros replaced.
  const BatchLimits& limits() const noexcept { return limits_; }
  /// The first deadline of a waiting or running request; `kNever` without one.
  TimePoint next_deadline() const noexcept { return deadlines_.first_deadline(); }
  /// When poll() with all the room there is will next have something to do; `kNever` when only a
  /// submission can change that, `TimePoint::min()` for at once. O(1).
  TimePoint next_event() const noexcept {
    if (waiting_ == 0) return deadlines_.first_deadline();
    CloseReason reason = CloseReason::delay;
    if (closing_ == Closing::stop || closes(full_count(), limits_.max_batch_cost, reason)) {
      return TimePoint::min();
    }
    return std::min(deadlines_.first_deadline(), close_time());
  }

 private:
  enum class Closing : std::uint8_t { no, drain, stop };
  struct Node {
    TimePoint arrival{};
    std::uint64_t cost = 0;
    std::uint32_t generation = 0;
    std::uint32_t next_free = kNoSlot;
    Priority priority = Priority::normal;
    SlotState state = SlotState::free;
  };

  void advance(TimePoint now) noexcept { now_ = std::max(now_, now); }
  SlotHandle handle(std::uint32_t slot) const noexcept { return {slot, nodes_[slot].generation}; }
  void push_free(std::uint32_t slot) noexcept {
    nodes_[slot].next_free = free_;
    free_ = slot;
  }
  static BatchAction idle_until(TimePoint when) noexcept {
    return {.kind = when == kNever ? BatchAction::idle : BatchAction::wait_until, .when = when};
  }
  TimePoint close_time() const noexcept {
    return add_saturating(nodes_[oldest_.head].arrival, limits_.max_queue_delay);
  }
  /// A queue that can grow no further is as full as it gets.
  std::size_t full_count() const noexcept {
    return std::min(limits_.max_batch_size, limits_.queue_capacity);
  }

  bool closes(std::size_t max_count, std::uint64_t max_cost, CloseReason& reason) const noexcept {
    if (waiting_ >= max_count) {
      reason = max_count < full_count() ? CloseReason::room : CloseReason::full;
    } else if (waiting_cost_ >= max_cost) {
      reason = max_cost < limits_.max_batch_cost ? CloseReason::room : CloseReason::cost;
    } else if (waiting_ >= limits_.min_batch_size) {
      reason = CloseReason::idle;
    } else if (closing_ != Closing::no) {
      reason = CloseReason::drain;
    } else if (close_time() <= now_) {
      reason = CloseReason::delay;
    } else {
      return false;
    }
    return true;
  }

  /// The slot to serve next; `kNoSlot` when nothing waits.
  std::uint32_t next() const noexcept {
    if (waiting_ == 0) return kNoSlot;
    const TimePoint aged = add_saturating(nodes_[oldest_.head].arrival, limits_.priority_ageing);
    return aged <= now_ ? oldest_.head : queue_.peek();
  }
  BatchAction take(std::size_t max_count, std::uint64_t max_cost, CloseReason reason) noexcept {
    std::size_t n = 0;
    std::uint64_t cost = 0;
    max_count = std::min(max_count, batch_.size());
    for (std::uint32_t slot = next(); slot != kNoSlot && n < max_count; slot = next()) {
      if (nodes_[slot].cost > max_cost - cost) {  // enough wait, but the budget ends first
        reason = max_cost < limits_.max_batch_cost ? CloseReason::room : CloseReason::cost;
        break;
      }
      cost += nodes_[slot].cost;
      batch_[n++] = handle(slot);
      leave_queue(slot, SlotState::running);
    }
    return {
        .kind = BatchAction::dispatch, .reason = reason, .cost = cost, .slots = {batch_.data(), n}};
  }

  /// Running slots keep their deadline.
  void leave_queue(std::uint32_t slot, SlotState next) noexcept {
    Node& node = nodes_[slot];
    queue_.erase(slot, node.priority);
    arrivals_.erase(oldest_, slot);
    if (next == SlotState::running) {
      ++running_;
    } else {
      deadlines_.erase(slot);
    }
    node.state = next;
    --waiting_;
    waiting_cost_ -= node.cost;
  }

  BatchLimits limits_;
  std::vector<Node> nodes_;
  std::vector<SlotHandle> batch_;  // what the last poll() reported
  Queue queue_;                    // waiting slots in the order they are served
  SlotLinks arrivals_;             // waiting slots in the order they came
  SlotLinks::List oldest_;
  DeadlineHeap deadlines_;  // waiting and running slots
  TimePoint now_ = TimePoint::min();
  std::uint32_t free_ = kNoSlot;
  std::size_t waiting_ = 0;
  std::size_t running_ = 0;
  std::size_t outstanding_ = 0;
  std::uint64_t waiting_cost_ = 0;
  Closing closing_ = Closing::no;
};

using BatchCore = BasicBatchCore<FifoQueue>;

}  // namespace ciuic::inline CIUIC_ABI
