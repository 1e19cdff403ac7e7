// TextStream: the reader's end of one generation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ciuic/base/clock.hpp"
#include "ciuic/engine/generation.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Rings the engine's bell; shared, so that a stream may outlive its engine.
struct EngineBell {
  Mutex mutex;
  CondVar changed;
  std::uint64_t rings CIUIC_GUARDED_BY(mutex) = 0;
  Atomic<std::uint64_t> cancels{0};

  void ring() noexcept {
    {
      const Lock lock(mutex);
      ++rings;
    }
    changed.notify_one();
  }
};

/// What engine and reader share. Resolved exactly once, by `finish`. The text of an answer is
/// bounded by its max_new_tokens, so nothing here grows without limit.
class StreamState {
 public:
  explicit StreamState(std::shared_ptr<EngineBell> bell) : bell_(std::move(bell)) {}

  // --- the engine's side ------------------------------------------------------------------------
  void append(std::string_view text, std::optional<TokenId> token) {
    {
      const Lock lock(mutex_);
      generation_.text += text;
      if (token) generation_.tokens.push_back(*token);
    }
    if (!text.empty()) readable_.notify_all();
  }
  /// Ends the stream with what `fill` writes into the generation, or with an error.
  template <class Fill>
  void finish(Fill fill) {
    {
      const Lock lock(mutex_);
      if (finished_) return;
      fill(generation_);
      finished_ = true;
    }
    readable_.notify_all();
  }
  void fail(Error error) {
    {
      const Lock lock(mutex_);
      if (finished_) return;
      error_ = std::move(error);
      finished_ = true;
    }
    readable_.notify_all();
  }
  bool cancel_requested() const noexcept { return cancelled_.load(std::memory_order_acquire); }

  // --- the reader's side ------------------------------------------------------------------------
  void cancel() noexcept {
    if (finished() || cancelled_.exchange(true, std::memory_order_acq_rel)) return;
    bell_->cancels.fetch_add(1, std::memory_order_acq_rel);
    bell_->ring();
  }
  bool finished() const noexcept {
    const Lock lock(mutex_);
    return finished_;
  }
  /// Text past `position`; waits for some when `wait`. No text and no error: the end, or not yet.
  Result<std::string> read(std::size_t& position, bool wait, bool& at_end) {
    Lock lock(mutex_);
    while (wait && !finished_ && generation_.text.size() == position) readable_.wait(lock);
    std::string piece = generation_.text.substr(position);
    position += piece.size();
    at_end = finished_ && piece.empty();
    if (at_end && error_) return *error_;
    return piece;
  }
  Result<Generation> take() {
    Lock lock(mutex_);
    while (!finished_) readable_.wait(lock);
    if (error_) return *error_;
    return generation_;
  }

 private:
  mutable Mutex mutex_;
  CondVar readable_;
  Generation generation_ CIUIC_GUARDED_BY(mutex_);
  std::optional<Error> error_ CIUIC_GUARDED_BY(mutex_);
  bool finished_ CIUIC_GUARDED_BY(mutex_) = false;
  Atomic<bool> cancelled_{false};
  std::shared_ptr<EngineBell> bell_;
};

}  // namespace detail

/// Text of one answer as it is made. A deadline is noticed between steps. Dropping an unfinished
/// stream cancels its request; `detach` lets it run. May outlive its engine. Thread-safety:
/// thread-compatible; one reader.
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
      state_ = std::move(other.state_);
      without_state_ = other.without_state_;
      position_ = other.position_;
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

  /// Waits for the end and returns the whole answer, also what `next` has already given. Waiting is
  /// for threads that do not themselves have to drive the engine: a host-driven one, or the only
  /// thread of the executor that runs it, would wait for itself; those use `is_ready`, `try_next`.
  [[nodiscard]] Result<Generation> finish() {
    if (!state_) return no_stream();
    return state_->take();
  }
  /// True once `finish` would not block.
  [[nodiscard]] bool is_ready() const noexcept { return !state_ || state_->finished(); }

  /// Gives the request up; the engine frees its place within one step. Harmless when finished.
  void cancel() noexcept {
    if (state_) state_->cancel();
  }
  /// Lets the request run to its end unread.
  void detach() noexcept { state_.reset(); }

 private:
  Error no_stream() const {
    if (without_state_ != ErrorCode::invalid_argument) return Error(without_state_);

    return Error(ErrorCode::invalid_argument, "stream: detached or moved from");
  }
  Result<std::optional<std::string_view>> read(bool wait) {
    if (!state_) return no_stream();
    bool at_end = false;
    Result<std::string> piece = state_->read(position_, wait, at_end);
    if (!piece) return std::move(piece).error();
    piece_ = *std::move(piece);
    if (at_end) return std::optional<std::string_view>();
    return std::optional<std::string_view>(piece_);
  }

  std::shared_ptr<detail::StreamState> state_;
  ErrorCode without_state_ = ErrorCode::invalid_argument;
  std::size_t position_ = 0;
  std::string piece_;
};

}  // namespace ciuic::inline CIUIC_ABI
