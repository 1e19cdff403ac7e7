// CompletionPool and Promise: where answers are delivered, exactly once each.
//
// A pool owns a fixed number of slots; each accepted request holds one from acceptance until its
// answer was taken. A slot has two sides, the producer's (Promise) and the consumer's (Future), and
// one word that decides every race:
//
//   claimed        somebody resolves it: only who set this bit may write the answer
//   ready          the answer is written
//   parked         a thread sleeps in wait(): wake it
//   continuation   a callback or coroutine is registered: run it
//   the rest       how many promises and futures hold the slot; the last to let go frees it
//
// Futures outlive whoever made them: when the last owner goes the pool retires, which closes the
// stacks of free slots (free_slots.hpp), and the last busy slot takes the pool with it. So a
// request pays for no count of references.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ciuic/base/guarded.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/base/prefetch.hpp"
#include "ciuic/base/ref.hpp"
#include "ciuic/batching/adaptive_spin.hpp"
#include "ciuic/batching/free_slots.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A fixed set of completion slots. Created with `new` and owned through `Ref`; derive from it to
/// hear about cancellations. Thread-safety: thread-safe. Allocates in the constructor only.
template <class T>
class CompletionPool {
  static_assert(std::is_void_v<T> || std::is_nothrow_move_constructible_v<T>,
                "a response must move without throwing; wrap it in a std::unique_ptr");

 public:
  /// `capacity` below 2^24; `host` gives the clock and the log.
  CompletionPool(std::size_t capacity, const HostContext& host)
      : slots_(new Slot[capacity]),
        capacity_(capacity),
        clock_(host.clock),
        log_(host.log),
        free_(capacity, LinkOfSlot{slots_.get()}) {}
  CompletionPool(const CompletionPool&) = delete;
  CompletionPool& operator=(const CompletionPool&) = delete;

  std::size_t capacity() const noexcept { return capacity_; }
  /// Callbacks that threw; each was logged.
  std::uint64_t callbacks_failed() const noexcept {
    return callbacks_failed_.load(std::memory_order_relaxed);
  }

  void add_reference() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
  void drop_reference() noexcept {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) retire();
  }

  // The producer's side by slot: what a Promise does, for whoever answers many requests at once.

  /// A free slot, held twice: by its producer and its consumer. `kNone` when all are busy.
  std::uint32_t acquire() noexcept { return free_.pop(); }
  static constexpr std::uint32_t kNone = 0xFFFFFF;
  /// The slot that acquire would most likely give; `capacity()` or more: none.
  std::uint32_t likely_slot() const noexcept { return free_.likely(); }
  /// The slot is about to be resolved here.
  void expect(std::uint32_t slot) const noexcept { prefetch_to_write(&slots_[slot]); }
  /// The name under which a cancellation is reported; set before the future is given away.
  void set_tag(std::uint32_t slot, std::uint64_t tag) noexcept { slots_[slot].tag = tag; }
  /// One more, or one less, holds the slot; the last to let go frees it.
  void hold(std::uint32_t slot) noexcept {
    slots_[slot].flags.fetch_add(kHolder, std::memory_order_relaxed);
  }
  void let_go(std::uint32_t slot) noexcept {
    const std::uint32_t before = slots_[slot].flags.fetch_sub(kHolder, std::memory_order_acq_rel);
    if (before < 2 * kHolder) recycle(slot);
  }

  /// True for exactly one caller in the life of a request: that one writes the answer.
  bool claim(std::uint32_t slot) noexcept {
    return (slots_[slot].flags.fetch_or(kClaimed, std::memory_order_acq_rel) & kClaimed) == 0;
  }
  bool is_claimed(std::uint32_t slot) const noexcept { return has(slot, kClaimed); }
  /// Puts the answer there, unseen. After claim().
  void stage(std::uint32_t slot, Result<T>&& result) noexcept {
    slots_[slot].result.emplace(std::move(result));
  }
  /// Makes the answer visible and tells whoever waits for it. The caller keeps the slot alive.
  void publish(std::uint32_t index) noexcept {
    if (slots_[index].flags.fetch_or(kReady, std::memory_order_acq_rel) & (kParked | kContinuation))
      tell(index);
  }
  /// publish() in two steps, for whoever publishes many: true when somebody is to be told. If not,
  /// it also lets go.
  bool publish_quietly(std::uint32_t index) noexcept {
    Slot& slot = slots_[index];
    std::uint32_t flags = slot.flags.load(std::memory_order_relaxed);
    while ((flags & (kParked | kContinuation)) == 0) {
      if (!slot.flags.compare_exchange_weak(flags, (flags | kReady) - kHolder,
                                            std::memory_order_acq_rel)) {
        continue;
      }
      if (flags < 2 * kHolder) recycle(index);
      return false;
    }
    slot.flags.fetch_or(kReady, std::memory_order_acq_rel);
    return true;
  }
  /// Wakes the consumer, or runs its continuation.
  void tell(std::uint32_t index) noexcept {
    Slot& slot = slots_[index];
    if (has(index, kContinuation)) return run_continuation(index);
    { Lock asleep(slot.mutex); }  // whoever set `parked` sleeps by now
    slot.ready.notify_all();
  }

 protected:
  virtual ~CompletionPool() = default;
  /// A cancel has won: to be counted before the future is ready. Followed by on_cancelled().
  virtual void on_cancelling() noexcept {}
  /// The consumer gave up the request that `tag` names, before anything else resolved it. Called
  /// once, outside all locks, on the cancelling thread.
  virtual void on_cancelled(std::uint64_t /*tag*/) noexcept {}
  /// A wanted slot was freed: acquire may succeed again. Called outside all locks, on any thread.
  virtual void on_slot_freed() noexcept {}
  /// From now on, or no more, on_slot_freed() is to be called. An acquire that fails after this is
  /// followed by a call.
  void want_slots(bool wanted) noexcept { free_.want(wanted); }

 private:
  template <class>
  friend class Promise;
  template <class>
  friend class FutureSlot;

  static constexpr std::uint32_t kClaimed = 1, kReady = 2, kParked = 4, kContinuation = 8,
                                 kHolder = 16;
  static constexpr std::int64_t kInUse = std::int64_t{1} << 40;

  struct CancelOnStop {
    CompletionPool* pool;
    std::uint32_t slot;
    void operator()() const noexcept { pool->cancel(slot); }
  };
  struct alignas(64) Slot {
    Atomic<std::uint32_t> flags{2 * kHolder};
    Atomic<std::uint32_t> below{kNone};  // while it is free
    std::uint64_t tag = 0;
    std::optional<Result<T>> result;
    Function<void()> continuation;
    std::optional<StopCallback<CancelOnStop>> stop;
    Mutex mutex;  // for parking only
    CondVar ready;
  };
  struct LinkOfSlot {
    Slot* slots;
    Atomic<std::uint32_t>& operator()(std::uint32_t slot) const noexcept {
      return slots[slot].below;
    }
  };

  /// The pool may be gone afterwards.
  void push_free(std::uint32_t slot) noexcept {
    bool staying = false;
    const bool pushed = free_.push(slot, [&] {
      staying = true;
      keepers_.fetch_add(1, std::memory_order_relaxed);  // to be here for the call
    });
    if (pushed && staying) on_slot_freed();
    if (staying) leave();
    if (!pushed) leave();
  }
  /// No owner is left: whoever is the last to leave deletes the pool.
  void retire() noexcept { leave(kInUse - static_cast<std::int64_t>(capacity_ - free_.close())); }
  void leave(std::int64_t keepers = 1) noexcept {
    if (keepers_.fetch_sub(keepers, std::memory_order_acq_rel) == keepers) delete this;
  }
  void recycle(std::uint32_t index) noexcept {
    Slot& slot = slots_[index];
    slot.stop.reset();  // first: waits for a cancel that is on its way on another thread
    slot.result.reset();
    slot.continuation = nullptr;
    slot.flags.store(2 * kHolder, std::memory_order_relaxed);
    push_free(index);
  }
  /// claim() that also holds: in one step, because once it is resolved all may let go of it.
  bool claim_and_hold(std::uint32_t slot) noexcept {
    std::uint32_t flags = slots_[slot].flags.load(std::memory_order_relaxed);
    do {
      if ((flags & kClaimed) != 0) return false;
    } while (!slots_[slot].flags.compare_exchange_weak(flags, (flags | kClaimed) + kHolder,
                                                       std::memory_order_acq_rel));
    return true;
  }
  bool has(std::uint32_t slot, std::uint32_t flag) const noexcept {
    return (slots_[slot].flags.load(std::memory_order_acquire) & flag) != 0;
  }
  void run_continuation(std::uint32_t slot) noexcept {
    Function<void()> continuation = std::move(slots_[slot].continuation);
    const Result<void> outcome =
        call_guarded(ErrorCode::internal, "ciuic: a completion callback", continuation);
    if (outcome) return;
    callbacks_failed_.fetch_add(1, std::memory_order_relaxed);
    if (log_ != nullptr) log_->write(LogLevel::warning, outcome.error().message());
  }

  // The consumer's side.
  void wait(std::uint32_t index, TimePoint until) noexcept {
    prefetch_to_write(&slots_[index]);
    if (has(index, kReady)) return;
    if (spin_.until([&] { return has(index, kReady); })) return;
    Slot& slot = slots_[index];
    Lock lock(slot.mutex);
    slot.flags.fetch_or(kParked, std::memory_order_acq_rel);
    while (!has(index, kReady) && (until == kNever || clock_->now() < until)) {
      clock_->wait_until(slot.ready, lock, until);
    }
  }
  Result<T> take(std::uint32_t index) noexcept { return *std::move(slots_[index].result); }
  bool cancel(std::uint32_t index) noexcept {
    if (!claim_and_hold(index)) return false;  // till the end: the tag must name this request
    const std::uint64_t tag = slots_[index].tag;
    on_cancelling();
    slots_[index].result.emplace(Error(ErrorCode::cancelled));
    publish(index);
    on_cancelled(tag);
    let_go(index);
    return true;
  }
  void drop(std::uint32_t index) noexcept {
    if (!has(index, kReady) && claim(index)) {
      // A coroutine that is destroyed while it waits: the claim is ours, so nobody resumes it. Had
      // the claim been lost, whoever won it would resume the destroyed frame (see Future).
      slots_[index].continuation = nullptr;
      on_cancelling();
      on_cancelled(slots_[index].tag);
    }
    let_go(index);
  }
  /// `continuation` may own the consumer's side of this very slot.
  void continue_with(std::uint32_t index, Function<void()>&& continuation) noexcept {
    slots_[index].continuation = std::move(continuation);
    std::uint32_t flags = slots_[index].flags.load(std::memory_order_acquire);
    while ((flags & kReady) == 0) {  // afterwards no more: who made it ready may still tell
      if (slots_[index].flags.compare_exchange_weak(flags, flags | kContinuation,
                                                    std::memory_order_acq_rel)) {
        return;
      }
    }
    hold(index);
    run_continuation(index);
    let_go(index);
  }
  void cancel_on(std::uint32_t index, StopToken token) noexcept {
    slots_[index].stop.emplace(std::move(token), CancelOnStop{this, index});
  }

  std::unique_ptr<Slot[]> slots_;
  std::size_t capacity_;
  const Clock* clock_;
  LogSink* log_;
  Atomic<std::uint64_t> callbacks_failed_{0};
  AdaptiveSpin spin_;                     // of consumers that wait
  Atomic<std::size_t> references_{1};     // owners
  Atomic<std::int64_t> keepers_{kInUse};  // once retired: busy slots; and who is in a call
  FreeSlots<LinkOfSlot> free_;
};

/// The producer's side of one request. The first of resolve(), reject() and the consumer's cancel
/// decides; a promise that is dropped unresolved rejects, so nobody waits for ever. resolve() and
/// reject() may run the consumer's callback on this thread: call them without locks held.
/// Thread-safety: thread-compatible.
template <class T>
class [[nodiscard]] Promise {
 public:
  Promise() noexcept = default;
  Promise(Promise&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), slot_(other.slot_) {}
  Promise& operator=(Promise&& other) noexcept {
    if (this == &other) return *this;
    abandon();
    pool_ = std::exchange(other.pool_, nullptr);
    slot_ = other.slot_;
    return *this;
  }
  ~Promise() { abandon(); }

  /// Delivers the answer and lets go. False, and the answer is dropped, when the request was
  /// resolved before (cancelled, most likely) or this promise is empty.
  bool resolve(Result<T> result) noexcept {
    const bool won = win();
    if (won) publish(std::move(result));
    let_go();
    return won;
  }
  bool reject(Error error) noexcept { return resolve(Result<T>(std::move(error))); }
  /// resolve() in steps, for whoever keeps books in between. win() claims the right to answer;
  /// publish() answers; let_go() ends it.
  bool win() noexcept { return pool_ != nullptr && pool_->claim(slot_); }
  void publish(Result<T> result) noexcept {
    pool_->stage(slot_, std::move(result));
    pool_->publish(slot_);
  }
  /// False once resolved through this promise or let go.
  bool valid() const noexcept { return pool_ != nullptr; }
  /// True when somebody else resolved the request: it need not be computed any more.
  bool cancelled() const noexcept { return pool_ != nullptr && pool_->is_claimed(slot_); }
  /// A second promise of the same request, for another thread: the first to resolve decides.
  Promise share() const noexcept {
    pool_->hold(slot_);
    return Promise(pool_, slot_);
  }
  /// The slot's number, below the pool's capacity: this request's alone until all let go of it.
  std::uint32_t slot() const noexcept { return slot_; }
  /// Lets go without an answer: another promise of this request gives it.
  void let_go() noexcept {
    if (pool_ != nullptr) std::exchange(pool_, nullptr)->let_go(slot_);
  }
  /// See CompletionPool.
  void set_tag(std::uint64_t tag) noexcept { pool_->set_tag(slot_, tag); }

 private:
  template <class U>
  friend struct Completion;
  Promise(CompletionPool<T>* pool, std::uint32_t slot) noexcept : pool_(pool), slot_(slot) {}
  void abandon() noexcept {
    if (cancelled()) let_go();
    if (valid()) reject(Error(ErrorCode::internal, "the request was dropped without an answer"));
  }

  CompletionPool<T>* pool_ = nullptr;
  std::uint32_t slot_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
