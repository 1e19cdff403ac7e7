// FreeSlots: the slots of a pool that nobody holds, as a few stacks in cache lines of their own.
//
// A thread puts slots on the stack that its id names and takes them from there first, so that
// threads which submit and take answers side by side leave each other's lines alone, and get slots
// that their own cache still knows. Where a stack is empty, the next ones are asked in turn.
// Stacks, never rings: a slot that is held for long holds up nobody.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ciuic/base/prefetch.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Slot numbers below a capacity, all free at first. `Link` maps a number to an Atomic<uint32_t> in
/// that very slot, for the number below it while it lies here. Thread-safety: thread-safe,
/// lock-free.
template <class Link>
class FreeSlots {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFF;

  /// `capacity` at most kNone.
  FreeSlots(std::size_t capacity, Link link) noexcept : below_(link) {
    for (std::size_t slot = capacity; slot-- > 0;) {
      // Neighbours lie on one stack: what else is kept by slot number is then shared less, too.
      Atomic<std::uint64_t>& stack = stacks_[slot * kStacks / capacity].head;
      const auto number = static_cast<std::uint32_t>(slot);
      below_(number).store(static_cast<std::uint32_t>(stack.load()), std::memory_order_relaxed);
      stack.store(number);
    }
  }
  /// A slot, the caller's from now on; `kNone` when there was a moment without any.
  std::uint32_t pop() noexcept {
    const std::size_t own = stack_of_this_thread();
    for (;;) {
      const std::uint64_t before = pushes();
      for (std::size_t i = 0; i < kStacks; ++i) {
        const std::uint32_t slot = pop_from(stacks_[(own + i) % kStacks].head);
        if (slot != kNone) return slot;
      }
      // None was pushed onto a stack after it was seen empty: they were empty all at once.
      if (pushes() == before) return kNone;
    }
  }
  /// What pop() would most likely give this thread.
  std::uint32_t likely() const noexcept {
    const Atomic<std::uint64_t>& head = stacks_[stack_of_this_thread()].head;
    prefetch_to_write(&head);
    return static_cast<std::uint32_t>(head.load(std::memory_order_relaxed) & kTop);
  }
  /// Gives a slot back; false, and it is not put there, when the stacks are closed.
  /// `on_wanted` is called, at most once and before the slot lies there, if somebody wants one.
  template <class F>
  bool push(std::uint32_t slot, F&& on_wanted) noexcept {
    Atomic<std::uint64_t>& stack = stacks_[stack_of_this_thread()].head;
    std::uint64_t head = stack.load(std::memory_order_relaxed);
    bool told = false;
    do {
      if ((head & kClosed) != 0) return false;
      if ((head & kWanted) != 0 && !std::exchange(told, true)) on_wanted();
      below_(slot).store(static_cast<std::uint32_t>(head & kTop), std::memory_order_relaxed);
    } while (!stack.compare_exchange_weak(head, ((head & ~kTop) + kPush) | slot));
    return true;
  }
  /// From now on, or no more, pushes call `on_wanted`. A pop() that finds nothing after this is
  /// followed by such a push.
  void want(bool wanted) noexcept {
    for (Stack& stack : stacks_) {
      wanted ? stack.head.fetch_or(kWanted) : stack.head.fetch_and(~kWanted);
    }
  }
  /// Refuses what is pushed from now on, when nobody pops any more; how many slots lie here.
  std::size_t close() noexcept {
    std::size_t free = 0;
    for (Stack& stack : stacks_) {
      const std::uint64_t head = stack.head.fetch_or(kClosed);
      for (auto slot = static_cast<std::uint32_t>(head & kTop); slot != kNone;
           slot = below_(slot).load(std::memory_order_relaxed)) {
        ++free;
      }
    }
    return free;
  }

 private:
  static constexpr std::size_t kStacks = 8;
  // The word of a stack: its top, two flags, and in the upper half a count of pushes, so that a
  // stale pop fails: without a push between, a slot that left the top does not come back.
  static constexpr std::uint64_t kTop = 0xFFFFFF, kWanted = 1 << 24, kClosed = 1 << 25,
                                 kPush = std::uint64_t{1} << 32;
  struct alignas(64) Stack {
    Atomic<std::uint64_t> head{kNone};
  };

  /// Of all stacks so far, modulo 2^32.
  std::uint64_t pushes() const noexcept {
    std::uint64_t sum = 0;
    for (const Stack& stack : stacks_) sum += stack.head.load(std::memory_order_acquire) >> 32;
    return sum;
  }
  std::uint32_t pop_from(Atomic<std::uint64_t>& stack) noexcept {
    std::uint64_t head = stack.load(std::memory_order_acquire);
    for (;;) {
      const auto slot = static_cast<std::uint32_t>(head & kTop);
      if (slot == kNone) return kNone;
      const std::uint64_t next = below_(slot).load(std::memory_order_relaxed);
      if (stack.compare_exchange_weak(head, (head & ~kTop) | next)) return slot;
    }
  }
  /// Ids are most often addresses, equally far apart: multiplying by the golden ratio spreads them.
  static std::size_t stack_of_this_thread() noexcept {
    const ThreadId id = this_thread_id();
    std::uint64_t bits = 0;
    static_assert(std::is_trivially_copyable_v<ThreadId> && sizeof(id) <= sizeof(bits));
    std::memcpy(&bits, &id, sizeof(id));
    return static_cast<std::size_t>((bits * 0x9E3779B97F4A7C15) >> 61);
  }
  static_assert(kStacks == 1 << (64 - 61));

  std::array<Stack, kStacks> stacks_;
  Link below_;
};

}  // namespace ciuic::inline CIUIC_ABI
