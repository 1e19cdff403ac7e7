// StreamState: what the engine and the reader of one answer share.
//
// Locks: the engine writes here while it holds its own lock, never the other way round: whatever
// the reader does rings the engine's bell after it has let go of this state. Continuations (a
// callback, a waiting coroutine) are the host's code: the engine runs them with no lock held.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/function.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/engine/generation.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Whoever must be told that there is work, besides the thread that waits on the bell.
class Waker {
 public:
  virtual ~Waker() = default;
  virtual void wake() = 0;
};

/// Rings the engine's bell; shared, so that a stream may outlive its engine.
struct EngineBell {
  Mutex mutex;
  CondVar changed;
  std::uint64_t rings CIUIC_GUARDED_BY(mutex) = 0;
  std::shared_ptr<Waker> waker CIUIC_GUARDED_BY(mutex);
  Atomic<std::uint64_t> cancels{0};
  Atomic<std::uint64_t> callback_failures{0};  // callbacks and coroutines that threw
  const Clock* clock = &steady_clock();
  /// When somebody should ring: the next deadline while nobody runs a step. A timer is set for it,
  /// but timers may be lost, so whoever comes by after that time looks as well.
  Atomic<TimePoint> due{kNever};

  /// To be called with no lock held.
  void ring_if_due() {
    TimePoint when = due.load(std::memory_order_relaxed);
    if (when == kNever || clock->now() < when) return;
    if (due.compare_exchange_strong(when, kNever, std::memory_order_relaxed)) ring();
  }
  void ring() {
    std::shared_ptr<Waker> also;
    {
      const Lock lock(mutex);
      ++rings;
      also = waker;
    }
    changed.notify_all();  // host-driven, several threads may drain
    if (also) also->wake();
  }
};

/// Resolved exactly once, by `finish` or `fail`. The text of an answer is bounded by its
/// max_new_tokens, so nothing here grows without limit. Thread-safety: thread-safe.
class StreamState {
 public:
  StreamState(std::shared_ptr<EngineBell> bell, std::size_t max_unread)
      : max_unread_(max_unread), bell_(std::move(bell)) {}

  // --- the engine's side ------------------------------------------------------------------------
  /// These three return true when a continuation waits for what they did: then `run_continuation`
  /// must follow, with no lock held.
  bool append(std::string_view text, std::optional<TokenId> token,
              std::span<const TokenLogprob> logprobs) {
    Lock lock(mutex_);
    generation_.text += text;
    if (token) generation_.tokens.push_back(*token);
    if (token && !logprobs.empty()) {
      generation_.logprobs.push_back({logprobs[0].logprob, {logprobs.begin() + 1, logprobs.end()}});
    }
    if (max_unread_ != 0 && unread() >= max_unread_) full_.store(true, std::memory_order_relaxed);
    if (text.empty()) return false;
    if (waiters_ > 0) readable_.notify_all();
    return !wants_end_ && call();
  }
  /// Ends the stream with what `fill` writes into the generation.
  template <class Fill>
  bool finish(Fill fill) {
    Lock lock(mutex_);
    if (finished_) return false;
    fill(generation_);
    return end();
  }
  bool fail(Error error) {
    Lock lock(mutex_);
    if (finished_) return false;
    error_ = std::move(error);
    return end();
  }
  void run_continuation() noexcept {
    Function<void()> continuation;
    {
      const Lock lock(mutex_);
      continuation = std::move(continuation_);
      called_ = false;
    }
    if (continuation) call_host(continuation);
  }
  /// What the host's code throws is counted, and harms nobody.
  template <class F>
  void call_host(F&& callback) noexcept {
    if (call_guarded(ErrorCode::internal, "callback", callback)) return;
    bell_->callback_failures.fetch_add(1, std::memory_order_relaxed);
  }
  bool cancel_requested() const noexcept { return cancelled_.load(std::memory_order_acquire); }
  /// The reader has as much unread text as it wants.
  bool is_full() const noexcept { return full_.load(std::memory_order_acquire); }

  // --- the reader's side ------------------------------------------------------------------------
  void cancel() noexcept {
    if (finished() || cancelled_.exchange(true, std::memory_order_acq_rel)) return;
    bell_->cancels.fetch_add(1, std::memory_order_acq_rel);
    bell_->ring();
  }
  bool finished() const noexcept {
    bell_->ring_if_due();
    const Lock lock(mutex_);
    return finished_;
  }
  /// Nobody reads piece by piece any more: the answer is made to its end.
  void lift_back_pressure() noexcept {
    {
      const Lock lock(mutex_);
      max_unread_ = 0;
    }
    if (full_.exchange(false, std::memory_order_acq_rel)) bell_->ring();
  }
  /// Text past what was read; waits for some when `wait`. No text and no error: the end, or not
  /// yet.
  Result<std::string> read(bool wait, bool& at_end) {
    bell_->ring_if_due();
    std::string piece;
    {
      Lock lock(mutex_);
      ++waiters_;
      while (wait && !finished_ && unread() == 0) readable_.wait(lock);
      --waiters_;
      const std::string_view text = std::string_view(generation_.text).substr(read_);
      if (!call_guarded(ErrorCode::internal, "stream", [&] { piece = text; })) return no_memory();
      read_ += piece.size();
      at_end = finished_ && piece.empty();
      if (at_end && error_) return *error_;
    }
    if (full_.exchange(false, std::memory_order_acq_rel)) bell_->ring();
    return piece;
  }
  Result<Generation> take() {
    lift_back_pressure();
    Lock lock(mutex_);
    ++waiters_;
    while (!finished_) readable_.wait(lock);
    --waiters_;
    if (error_) return *error_;
    return copy_of(generation_);
  }
  bool wait_until_finished(TimePoint until) {
    if (now() >= until) return finished();
    lift_back_pressure();
    Lock lock(mutex_);
    ++waiters_;
    while (!finished_ && bell_->clock->now() < until) {
      bell_->clock->wait_until(readable_, lock, until);
    }
    --waiters_;
    return finished_;
  }
  TimePoint now() const noexcept { return bell_->clock->now(); }
  /// `continuation` runs once, when there is unread text or the end (`wants_end`: only the end).
  /// False, and it is gone unrun, when that is so already.
  bool continue_with(Function<void()> continuation, bool wants_end) {
    if (wants_end) lift_back_pressure();
    const Lock lock(mutex_);
    if (finished_ || (!wants_end && unread() > 0)) return false;
    continuation_ = std::move(continuation);
    wants_end_ = wants_end;
    return true;
  }

 private:
  static Error no_memory() noexcept {
    return Error(ErrorCode::out_of_memory, "stream: no memory for a copy of the text; it is kept");
  }
  static Result<Generation> copy_of(const Generation& original) noexcept {
    Generation copy;
    if (!call_guarded(ErrorCode::internal, "stream", [&] { copy = original; })) return no_memory();
    return copy;
  }
  std::size_t unread() const CIUIC_REQUIRES(mutex_) { return generation_.text.size() - read_; }
  bool end() CIUIC_REQUIRES(mutex_) {
    finished_ = true;
    readable_.notify_all();
    return call();
  }
  bool call() CIUIC_REQUIRES(mutex_) { return continuation_ && !std::exchange(called_, true); }

  mutable Mutex mutex_;
  CondVar readable_;
  Generation generation_ CIUIC_GUARDED_BY(mutex_);
  std::optional<Error> error_ CIUIC_GUARDED_BY(mutex_);
  Function<void()> continuation_ CIUIC_GUARDED_BY(mutex_);
  bool wants_end_ CIUIC_GUARDED_BY(mutex_) = false;
  bool called_ CIUIC_GUARDED_BY(mutex_) = false;  // run_continuation was asked for
  bool finished_ CIUIC_GUARDED_BY(mutex_) = false;
  int waiters_ CIUIC_GUARDED_BY(mutex_) = 0;  // threads in readable_.wait
  std::size_t read_ CIUIC_GUARDED_BY(mutex_) = 0;
  std::size_t max_unread_ CIUIC_GUARDED_BY(mutex_);
  Atomic<bool> full_{false};
  Atomic<bool> cancelled_{false};
  std::shared_ptr<EngineBell> bell_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
