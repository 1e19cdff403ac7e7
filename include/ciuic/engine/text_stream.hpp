// TextStream: the reader's end of one generation, and every way to wait for it.
#pragma once

#include <coroutine>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ciuic/engine/stream_state.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Text of one answer as it is made. Dropping an unfinished stream cancels its request; `detach`
/// lets it run. May outlive its engine, but not the host's clock.
///
/// Ways to wait, for a piece of text / for the whole answer:
///   blocking        `next()`                     `finish()`, `wait_for(timeout)`
///   without         `try_next()`                 `is_ready()`
///   callback        `std::move(s).on_text(f)`    `std::move(s).on_ready(f)`
///   coroutine       `co_await s.next_piece()`    `co_await std::move(s)`
/// Where there is no memory for a copy of the text, the error is `out_of_memory` and the text stays
/// for the next try; `on_text`, `on_ready` and `cancel_on` then throw and change nothing.
/// Callbacks and coroutines run on the thread that makes the answer, between two steps, with no
/// lock held: keep them short. They may submit; what they throw is counted and harms nobody. Do not
/// destroy a coroutine that waits here while its engine runs on another thread: `cancel`, and let
/// it resume with `cancelled`.
///
/// Thread-safety: thread-compatible; one reader. To cancel from another thread, `cancel_on`.
class TextStream {
 public:
  TextStream() noexcept = default;
  /// A stream that could not even be made: all it says is `why`.
  explicit TextStream(ErrorCode why) noexcept : without_state_(why) {}
  explicit TextStream(std::shared_ptr<detail::StreamState> state) noexcept
      : state_(std::move(state)) {}
  TextStream(TextStream&&) noexcept = default;
  TextStream& operator=(TextStream&& other) noexcept {
    if (this != &other) {
      cancel();
      stop_.reset();
      state_ = std::move(other.state_);
      stop_ = std::move(other.stop_);
      without_state_ = other.without_state_;
      piece_ = std::move(other.piece_);
    }
    return *this;
  }
  ~TextStream() { cancel(); }

  /// The next piece of text, never half a character; nothing at the end. Blocks until there is one.
  /// The view is valid until the next call. An error (`expired`, `cancelled`, `shutting_down`,
  /// `model_failed`, …) comes after the text that was made before it, and never looks like an end.
  [[nodiscard]] Result<std::optional<std::string_view>> next() { return read(true); }
  /// Like `next` without waiting: an empty view means "nothing yet".
  [[nodiscard]] Result<std::optional<std::string_view>> try_next() { return read(false); }
  /// `co_await` it for what `next` gives.
  auto next_piece() noexcept { return PieceAwaiter{*this}; }
  /// `fn(Result<std::optional<std::string_view>>)` for each piece, the last time with nothing (the
  /// end) or the error. The request goes on although this object is gone.
  template <class F>
  requires std::is_invocable_v<F&, Result<std::optional<std::string_view>>>
  void on_text(F fn) && {
    struct Loop {
      Loop(TextStream&& s, F&& f) : stream(std::move(s)), fn(std::move(f)) {}
      TextStream stream;
      F fn;
      static void run(const std::shared_ptr<Loop>& self) {
        for (;;) {
          Result<std::optional<std::string_view>> piece = self->stream.try_next();
          const bool last = !piece || !*piece;
          if (last || !(*piece)->empty()) self->fn(std::move(piece));
          if (last) return;
          if (self->stream.state_->continue_with([self] { run(self); }, false)) return;
        }
      }
    };
    const std::shared_ptr<detail::StreamState> state = state_;
    auto loop = std::make_shared<Loop>(std::move(*this), std::move(fn));
    call_host(state, [&] { Loop::run(loop); });
  }

  /// Waits for the end and returns the whole answer, also what `next` has already given. Waiting is
  /// for threads that do not themselves have to drive the engine: a host-driven one, or the only
  /// thread of the executor that runs it, would wait for itself.
  [[nodiscard]] Result<Generation> finish() {
    if (!state_) return no_stream();
    return state_->take();
  }
  /// Waits at most so long, on the engine's clock; true once `finish` would not block.
  bool wait_for(Duration timeout) {
    return !state_ || state_->wait_until_finished(add_saturating(state_->now(), timeout));
  }
  [[nodiscard]] bool is_ready() const noexcept { return !state_ || state_->finished(); }
  /// `fn(Result<Generation>)` once the answer is there. The request goes on although this object is
  /// gone.
  template <class F>
  requires std::is_invocable_v<F&, Result<Generation>>
  void on_ready(F fn) && {
    struct Last {
      Last(TextStream&& s, F&& f) : stream(std::move(s)), fn(std::move(f)) {}
      void operator()() { fn(stream.finish()); }
      TextStream stream;
      F fn;
    };
    const std::shared_ptr<detail::StreamState> state = state_;
    auto last = std::make_shared<Last>(std::move(*this), std::move(fn));
    if (state && state->continue_with([last] { (*last)(); }, true)) return;
    call_host(state, *last);
  }
  /// `Result<Generation> answer = co_await engine.generate(prompt);`
  auto operator co_await() && noexcept;

  /// Gives the request up; the engine frees its place within one step. Harmless when finished.
  void cancel() noexcept {
    if (state_) state_->cancel();
  }
  /// Cancels the request when `token` is stopped, from whatever thread. Once per stream; until it
  /// is detached or dropped.
  void cancel_on(StopToken token) {
    if (state_) stop_ = std::make_unique<StopCallback<Cancel>>(std::move(token), Cancel{state_});
  }
  /// Lets the request run to its end unread.
  void detach() noexcept {
    stop_.reset();
    if (state_) state_->lift_back_pressure();
    state_.reset();
  }

 private:
  struct Cancel {
    std::shared_ptr<detail::StreamState> state;
    void operator()() const noexcept { state->cancel(); }
  };
  struct PieceAwaiter {
    TextStream& stream;
    bool await_ready() const noexcept { return !stream.state_; }
    bool await_suspend(std::coroutine_handle<> waiting) {
      return stream.state_->continue_with([waiting] { waiting.resume(); }, false);
    }
    Result<std::optional<std::string_view>> await_resume() { return stream.read(false); }
  };
  struct EndAwaiter;

  template <class F>
  static void call_host(const std::shared_ptr<detail::StreamState>& state, F&& callback) noexcept {
    if (state) return state->call_host(callback);
    static_cast<void>(call_guarded(ErrorCode::internal, "callback", callback));
  }
  Error no_stream() const {
    if (without_state_ != ErrorCode::invalid_argument) return Error(without_state_);
    return Error(ErrorCode::invalid_argument, "stream: detached or moved from");
  }
  Result<std::optional<std::string_view>> read(bool wait) {
    if (!state_) return no_stream();
    bool at_end = false;
    Result<std::string> piece = state_->read(wait, at_end);
    if (!piece) return std::move(piece).error();
    piece_ = *std::move(piece);
    if (at_end) return std::optional<std::string_view>();
    return std::optional<std::string_view>(piece_);
  }

  std::shared_ptr<detail::StreamState> state_;
  std::unique_ptr<StopCallback<Cancel>> stop_;
  ErrorCode without_state_ = ErrorCode::invalid_argument;
  std::string piece_;
};

struct TextStream::EndAwaiter {
  TextStream stream;
  bool await_ready() const noexcept { return stream.is_ready(); }
  bool await_suspend(std::coroutine_handle<> waiting) {
    return stream.state_->continue_with([waiting] { waiting.resume(); }, true);
  }
  Result<Generation> await_resume() { return stream.finish(); }
};
inline auto TextStream::operator co_await() && noexcept { return EndAwaiter{std::move(*this)}; }

}  // namespace ciuic::inline CIUIC_ABI
