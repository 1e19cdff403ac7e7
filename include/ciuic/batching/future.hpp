// Future: the answer to come. One handle that can be waited for, awaited, given a callback or
// dropped.
#pragma once

#include <coroutine>
#include <optional>
#include <type_traits>
#include <utility>

#include "ciuic/batching/completion_pool.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The consumer's side of one slot of a CompletionPool; lets go (and so cancels) when destroyed.
template <class T>
class FutureSlot {
 public:
  FutureSlot() noexcept = default;
  /// A fresh slot of `pool`, whose producer's side the caller must take; empty when all are busy.
  static FutureSlot acquire(CompletionPool<T>& pool) noexcept {
    const std::uint32_t slot = pool.acquire();
    return slot == CompletionPool<T>::kNone ? FutureSlot() : FutureSlot(pool, slot);
  }
  /// Takes over the consumer's hold of an acquired slot.
  FutureSlot(CompletionPool<T>& pool, std::uint32_t slot) noexcept : pool_(&pool), slot_(slot) {}
  FutureSlot(FutureSlot&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), slot_(other.slot_) {}
  FutureSlot& operator=(FutureSlot&& other) noexcept {
    if (this == &other) return *this;
    drop();
    pool_ = std::exchange(other.pool_, nullptr);
    slot_ = other.slot_;
    return *this;
  }
  ~FutureSlot() { drop(); }

  bool valid() const noexcept { return pool_ != nullptr; }
  bool is_ready() const noexcept { return pool_->has(slot_, CompletionPool<T>::kReady); }
  void wait(TimePoint until) const noexcept { pool_->wait(slot_, until); }
  TimePoint now() const noexcept { return pool_->clock_->now(); }
  Result<T> take() noexcept {
    Result<T> result = pool_->take(slot_);
    detach();
    return result;
  }
  bool cancel() noexcept { return pool_->cancel(slot_); }
  void cancel_on(StopToken token) noexcept { pool_->cancel_on(slot_, std::move(token)); }
  void detach() noexcept {
    if (pool_ == nullptr) return;
    std::exchange(pool_, nullptr)->let_go(slot_);
  }
  /// An unowned copy, to register a continuation that owns the original.
  struct Weak {
    CompletionPool<T>* pool;
    std::uint32_t slot;
    /// `continuation` runs once, when the answer is there.
    void continue_with(Function<void()>&& continuation) const noexcept {
      pool->continue_with(slot, std::move(continuation));
    }
  };
  Weak weak() const noexcept { return {pool_, slot_}; }

 private:
  void drop() noexcept {
    if (pool_ != nullptr) std::exchange(pool_, nullptr)->drop(slot_);
  }
  CompletionPool<T>* pool_ = nullptr;
  std::uint32_t slot_ = 0;
};

/// The answer to one request, there or still to come.
///
/// Every future is resolved exactly once: with a value, or with an error that says what happened
/// (`cancelled`, `expired`, `shutting_down`, `model_failed`, …). A refused request gives a future
/// that is ready with the reason. Dropping a future cancels its request; detach() lets it run.
/// Futures outlive the batcher that made them, but not the host's clock (a wait sleeps on it) and
/// log.
///
/// A callback or coroutine runs on the thread that resolves the request (a worker, the one that
/// cancels or stops, or the caller itself when the answer is already there), with no lock held. It
/// may submit; an exception from it is logged and counted, and harms nobody (from the callback of a
/// refused request, which runs inside on_ready(), it is swallowed: no batcher counts it). It should
/// not wait for another answer of the same batcher: it may be sitting on the worker that would
/// produce it.
///
/// Destroying a coroutine that waits here cancels its request, but only if nobody else may resolve
/// the request at that moment. Who resolves it resumes the coroutine, and nothing can hold that
/// thread back once it has begun: a frame destroyed meanwhile is used after its end. So destroy one
/// where nothing resolves: on the only thread that calls run_one(), or before its batcher's workers
/// can know the request. Otherwise stop its stop token, let it resume with `cancelled`, and
/// destroy it when it is done.
///
/// Thread-safety: thread-compatible; to cancel from another thread, submit with a stop token.
template <class T>
class [[nodiscard]] Future {
 public:
  using value_type = T;

  /// An empty future; get() says so.
  Future() noexcept = default;
  explicit Future(FutureSlot<T> slot) noexcept : slot_(std::move(slot)) {}
  /// Ready, with an error.
  static Future failed(Error error) noexcept {
    Future future;
    future.error_ = std::move(error);
    return future;
  }
  Future(Future&&) noexcept = default;
  Future& operator=(Future&&) noexcept = default;
  ~Future() = default;

  /// True until the answer is taken.
  bool valid() const noexcept { return slot_.valid() || error_.has_value(); }
  bool is_ready() const noexcept { return slot_.valid() ? slot_.is_ready() : true; }

  /// Waits for the answer and takes it; the future is empty afterwards.
  /// Errors: the request's own, or `invalid_argument` from an empty future.
  [[nodiscard]] Result<T> get() noexcept {
    if (!slot_.valid()) return take_error();
    slot_.wait(kNever);
    return slot_.take();
  }
  /// Waits at most so long, on the batcher's clock; true when the answer is there.
  bool wait_for(Duration timeout) const noexcept {
    if (slot_.valid() && !is_ready()) slot_.wait(add_saturating(slot_.now(), timeout));
    return is_ready();
  }
  bool wait_until(TimePoint deadline) const noexcept {
    if (slot_.valid()) slot_.wait(deadline);
    return is_ready();
  }
  /// Gives the request up: get() then returns `cancelled`. A waiting request frees its place now, a
  /// running one-shot model's result is discarded. False when it was resolved already.
  bool cancel() noexcept { return slot_.valid() && slot_.cancel(); }
  /// Lets the request run without anybody to take its answer.
  void detach() noexcept {
    slot_.detach();
    error_.reset();
  }
  /// Cancels the request when `token` is stopped, on the stopping thread. Once per future.
  void cancel_on(StopToken token) noexcept {
    if (slot_.valid() && token.stop_possible()) slot_.cancel_on(std::move(token));
  }

  /// `fn(Result<T>)` once the answer is there. `std::move(f).on_ready(fn)`.
  template <class F>
  requires std::is_invocable_v < std::decay_t<F>
  &, Result < T >> void on_ready(F&& fn) && {
    if (!slot_.valid()) {
      static_cast<void>(call_guarded(ErrorCode::internal, "callback", [&] { fn(take_error()); }));
      return;
    }
    const typename FutureSlot<T>::Weak here = slot_.weak();
    here.continue_with(
        [slot = std::move(slot_), fn = std::forward<F>(fn)]() mutable { fn(slot.take()); });
  }

  /// `Result<T> answer = co_await batcher.submit(request);` Before you destroy a coroutine that
  /// waits, read the class comment.
  auto operator co_await() && noexcept { return Awaiter{std::move(*this)}; }

 private:
  struct Awaiter {
    Future future;
    bool await_ready() const noexcept { return future.is_ready(); }
    void await_suspend(std::coroutine_handle<> waiting) noexcept {
      const typename FutureSlot<T>::Weak here = future.slot_.weak();
      here.continue_with([waiting] { waiting.resume(); });
    }
    Result<T> await_resume() noexcept { return future.get(); }
  };
  Result<T> take_error() noexcept {
    if (!error_) return Error(ErrorCode::invalid_argument, "future: empty, its answer was taken");
    Error error = *std::move(error_);
    error_.reset();
    return error;
  }

  FutureSlot<T> slot_;
  std::optional<Error> error_;  // of a refused request, which has no slot
};

/// Both sides of a fresh slot.
template <class T>
struct Completion {
  Promise<T> promise;
  Future<T> future;

  /// Empty when every slot of `pool` is taken. Allocates nothing.
  static std::optional<Completion> make(CompletionPool<T>& pool) noexcept {
    FutureSlot<T> slot = FutureSlot<T>::acquire(pool);
    if (!slot.valid()) return std::nullopt;
    Promise<T> promise(&pool, slot.weak().slot);
    return Completion{std::move(promise), Future<T>(std::move(slot))};
  }
};

}  // namespace ciuic::inline CIUIC_ABI
