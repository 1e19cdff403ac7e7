// Inbox: how a request gets from submit() to the core without a lock.
//
// Producers push tickets on a stack whose head also counts the pushes, so that one compare-and-swap
// admits a request, counts it and bounds the queue. Whoever holds the batcher's lock takes the
// whole stack at once and turns it round. Most pushes wake nobody. Before somebody goes to sleep it
// arms the bell: "wake me at so many pushes, so much cost, or for a deadline before this time"; the
// push that finds the bell due disarms it and rings, once.
//
// Nobody is forgotten between going to sleep and pushing: the sleeper arms, then looks at the
// stack; the producer pushes, then looks at the bell; all four are sequentially consistent, so one
// of the two sees the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ciuic/base/prefetch.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. "Owner" calls are made under the owner's lock.
/// Thread-safety: thread-safe. Allocates in the constructor only.
class Inbox {
 public:
  enum class Pushed : std::uint8_t {
    quietly,  ///< accepted, somebody awake will see it
    due,      ///< accepted, and the bell is due: the caller must ring
    full,     ///< refused: `capacity` requests wait
    closed,   ///< refused
  };
  /// `tickets` below 2^24: what is pushed.
  Inbox(std::size_t tickets, std::size_t capacity)
      : next_(tickets), capacity_(static_cast<std::int32_t>(capacity)) {}

  /// A push will follow soon.
  void expect_push() const noexcept { prefetch_to_write(&head_); }
  /// A ticket may be in the inbox once. Lock-free.
  Pushed push(std::uint32_t ticket, std::uint64_t cost, TimePoint deadline) noexcept {
    std::uint64_t head = head_.load(std::memory_order_relaxed);
    do {
      if ((head & kClosed) != 0) return Pushed::closed;
      // Never more than capacity; less when what left since is not known here yet.
      const auto waiting =
          static_cast<std::int32_t>(count_of(head) - left_.load(std::memory_order_relaxed));
      if (waiting >= capacity_) return Pushed::full;
      next_[ticket] = static_cast<std::uint32_t>(head) & kTicket;
    } while (!head_.compare_exchange_weak(head, ((head & ~kTicketMask) + kOne) | ticket));
    if (cost != 1) pushed_extra_.fetch_add(cost - 1);
    return is_due(deadline) && armed_.exchange(false) ? Pushed::due : Pushed::quietly;
  }
  /// Pushes so far, modulo 2^32.
  std::uint32_t pushed() const noexcept { return count_of(head_.load()); }
  bool closed() const noexcept { return (head_.load() & kClosed) != 0; }

  /// Owner: hands every ticket to `take`, first come first; to `expect` before, in any order.
  template <class Expect, class Take>
  void drain(Expect&& expect, Take&& take) noexcept {
    if (empty()) return;
    const std::uint64_t head = head_.fetch_or(kTicketMask, std::memory_order_acq_rel);
    std::uint32_t newest = static_cast<std::uint32_t>(head) & kTicket, oldest = kTicket;
    while (newest != kTicket) {  // turn the stack round
      expect(newest);
      const std::uint32_t below = next_[newest];
      next_[newest] = oldest;
      oldest = newest;
      newest = below;
    }
    std::uint64_t drained = drained_.load(std::memory_order_relaxed);
    while (oldest != kTicket) {
      const std::uint32_t ticket = oldest;
      oldest = next_[ticket];
      ++drained;
      take(ticket);
    }
    drained_.store(drained);
  }
  /// Owner: from now on pushes are refused; what was pushed is still there.
  void close() noexcept { head_.fetch_or(kClosed); }
  /// Owner: nothing to drain.
  bool empty() const noexcept { return (head_.load() & kTicketMask) == kTicketMask; }
  /// Tickets drained so far.
  std::uint64_t drained() const noexcept { return drained_.load(std::memory_order_relaxed); }
  /// All that was ever accepted.
  std::uint64_t accepted() const noexcept {
    const std::uint64_t before = drained_.load();  // first: it cannot overtake what is read next
    return before + static_cast<std::uint32_t>(pushed() - static_cast<std::uint32_t>(before));
  }
  /// Owner: so many of the drained still count against the capacity.
  void set_waiting(std::size_t waiting) noexcept {
    left_.store(static_cast<std::uint32_t>(drained() - waiting), std::memory_order_relaxed);
  }
  /// Owner, with an empty inbox: who goes to sleep wants to be woken by the push that makes `count`
  /// more, `cost` more, or has a deadline before `time`. False: look again, something came.
  bool arm(std::size_t count, std::uint64_t cost, TimePoint time) noexcept {
    bell_from_.store(static_cast<std::uint32_t>(drained()), std::memory_order_relaxed);
    bell_extra_.store(drained_extra_, std::memory_order_relaxed);
    bell_count_.store(static_cast<std::uint32_t>(std::min(count, kNoCount)),
                      std::memory_order_relaxed);
    bell_cost_.store(std::min(cost, kNoCost), std::memory_order_relaxed);
    bell_time_.store(time.time_since_epoch().count(), std::memory_order_relaxed);
    armed_.store(true);
    return empty();
  }
  /// Owner: somebody is awake and will look.
  void disarm() noexcept {
    if (armed_.load(std::memory_order_relaxed)) armed_.store(false, std::memory_order_relaxed);
  }
  /// Owner: `cost` of a drained ticket.
  void note_cost(std::uint64_t cost) noexcept { drained_extra_ += cost - 1; }

  static constexpr std::size_t kNoCount = std::size_t{1} << 30;     // more than can be pushed
  static constexpr std::uint64_t kNoCost = std::uint64_t{1} << 62;  // likewise

 private:
  static constexpr std::uint32_t kTicket = 0xFFFFFF;  // all ones: none
  static constexpr std::uint64_t kTicketMask = kTicket;
  static constexpr std::uint64_t kClosed = std::uint64_t{1} << 31;
  static constexpr std::uint64_t kOne = std::uint64_t{1} << 32;  // of the count
  static std::uint32_t count_of(std::uint64_t head) noexcept {
    return static_cast<std::uint32_t>(head >> 32);
  }
  /// Of several pushes the one whose last write is the last of all sees what all have written.
  bool is_due(TimePoint deadline) const noexcept {
    if (!armed_.load()) return false;
    const std::uint32_t count = pushed() - bell_from_.load(std::memory_order_relaxed);
    const std::uint64_t extra = pushed_extra_.load() - bell_extra_.load(std::memory_order_relaxed);
    const auto cost = static_cast<std::int64_t>(count + extra);
    return count >= bell_count_.load(std::memory_order_relaxed) ||
           deadline.time_since_epoch().count() < bell_time_.load(std::memory_order_relaxed) ||
           cost >= static_cast<std::int64_t>(bell_cost_.load(std::memory_order_relaxed));
  }

  std::vector<std::uint32_t> next_;  // below a ticket in the stack
  const std::int32_t capacity_;
  Atomic<std::uint64_t> drained_{0};                     // written by the owner
  std::uint64_t drained_extra_ = 0;                      // the owner's
  alignas(64) Atomic<std::uint64_t> head_{kTicketMask};  // count, closed, newest ticket
  // Cost above 1 a push, modulo 2^64, so that pushes of cost 1 need not write it.
  Atomic<std::uint64_t> pushed_extra_{0};
  alignas(64) Atomic<std::uint32_t> left_{0};  // drained and not waiting any more
  Atomic<std::uint32_t> bell_from_{0};         // pushes drained when it was armed,
  Atomic<std::uint64_t> bell_extra_{0};        // and their extra cost
  Atomic<std::uint32_t> bell_count_{0};
  Atomic<std::uint64_t> bell_cost_{kNoCost};
  Atomic<Duration::rep> bell_time_{0};
  Atomic<bool> armed_{false};
};

}  // namespace ciuic::inline CIUIC_ABI
