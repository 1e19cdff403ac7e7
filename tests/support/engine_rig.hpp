// What tests of the generation engine share: one engine over the toy model, run in any of the three
// ways, and coroutines to wait with.
#pragma once

#include <atomic>
#include <coroutine>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/toy_language_model.hpp"

namespace ciuic::testing {

using ToyEngine = AsyncInferenceEngine<ToyLanguageModel>;

enum class Drive { thread, executor, host };
inline constexpr Drive kDrives[] = {Drive::thread, Drive::executor, Drive::host};
inline const char* name_of(Drive drive) {
  return drive == Drive::thread ? "thread" : drive == Drive::executor ? "executor" : "host-driven";
}

/// An engine and whoever runs it: a thread of its own, a pool, or a thread of ours that plays the
/// host. Thread-safety: as the engine's; `reset` from one thread.
class EngineRig {
 public:
  explicit EngineRig(Drive drive, EngineOptions options = {}, ToySettings settings = {}) {
    options.host_driven = drive == Drive::host;
    if (drive == Drive::executor) {
      pool_.emplace(ThreadPoolOptions{.threads = 2, .queue_capacity = 64, .host = options.host});
      options.host.executor = &*pool_;
    }
    log->before_step = [this](std::span<const SequenceStep>) -> Result<void> {
      log->sequences_per_step.clear();
      log->tokens_per_step.clear();
      return before_step ? before_step() : Result<void>();
    };
    engine_.emplace(ToyLanguageModel(log, settings), options);
    if (drive == Drive::host) {
      host_ = Thread::start([this] {
                while (!gone_) {
                  if (!engine_->run_one()) yield_thread();
                }
              }).value();
    }
  }
  ~EngineRig() { reset(); }
  ToyEngine& operator*() { return *engine_; }
  ToyEngine* operator->() { return &*engine_; }
  /// The end of the engine.
  void reset() {
    gone_ = true;
    host_.join();
    engine_.reset();
  }

  std::shared_ptr<ToyLanguageModel::Log> log = std::make_shared<ToyLanguageModel::Log>();
  Function<Result<void>()> before_step;  // to be set before the first request

 private:
  std::atomic<bool> gone_{false};
  std::optional<ThreadPool> pool_;
  std::optional<ToyEngine> engine_;
  Thread host_;
};

/// A coroutine that begins at once; what it throws goes to whoever resumes it.
struct Eager {
  struct promise_type {
    Eager get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    /// The frame of a coroutine that throws to whoever resumed it stays until somebody destroys it.
    void unhandled_exception() {
      thrown().add(std::coroutine_handle<promise_type>::from_promise(*this));
      throw;
    }
  };
  class Frames {
   public:
    ~Frames() {
      for (const std::coroutine_handle<> frame : frames_) frame.destroy();
    }
    void add(std::coroutine_handle<> frame) {
      const Lock lock(mutex_);
      frames_.push_back(frame);
    }

   private:
    Mutex mutex_;
    std::vector<std::coroutine_handle<>> frames_ CIUIC_GUARDED_BY(mutex_);
  };
  static Frames& thrown() {
    static Frames frames;
    return frames;
  }
};

/// What a reader saw, and when it was over; told by any thread, awaited by the test's.
class Seen {
 public:
  void text(std::string_view piece) {
    const Lock lock(mutex_);
    text_ += piece;
  }
  void over(const Result<void>& result) {
    const Lock lock(mutex_);
    if (++ended_ == 1 && !result) code_ = result.error().code();
    changed_.notify_all();
  }
  /// Takes what `next` or a callback of `on_text` gives; false at the end.
  bool take(const Result<std::optional<std::string_view>>& piece) {
    if (piece && *piece) {
      text(**piece);
      return true;
    }
    over(piece ? Result<void>() : Result<void>(piece.error()));
    return false;
  }
  void take(const Result<Generation>& answer) {
    if (answer) text(answer->text);
    over(answer ? Result<void>() : Result<void>(answer.error()));
  }
  /// Waits for the end, and returns the text.
  std::string wait() {
    Lock lock(mutex_);
    while (ended_ == 0) changed_.wait(lock);
    return text_;
  }
  /// How it ended; nothing for a success.
  std::optional<ErrorCode> code() const {
    const Lock lock(mutex_);
    return code_;
  }
  int ended() const {
    const Lock lock(mutex_);
    return ended_;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::string text_ CIUIC_GUARDED_BY(mutex_);
  std::optional<ErrorCode> code_ CIUIC_GUARDED_BY(mutex_);
  int ended_ CIUIC_GUARDED_BY(mutex_) = 0;
};

/// The ways to wait for an answer; each tells `seen` all it gets.
enum class Wait { next, try_next, finish, wait_for, on_text, on_ready, pieces, answer };
inline constexpr Wait kWaits[] = {Wait::next,    Wait::try_next, Wait::finish, Wait::wait_for,
                                  Wait::on_text, Wait::on_ready, Wait::pieces, Wait::answer};

inline Eager await_pieces(TextStream stream, std::shared_ptr<Seen> seen) {
  for (;;) {
    const Result<std::optional<std::string_view>> piece = co_await stream.next_piece();
    if (!seen->take(piece)) break;
  }
}
inline Eager await_answer(TextStream stream, std::shared_ptr<Seen> seen) {
  const Result<Generation> answer = co_await std::move(stream);
  seen->take(answer);
}

inline void wait_by(Wait way, TextStream stream, const std::shared_ptr<Seen>& seen) {
  switch (way) {
    case Wait::next:
      while (seen->take(stream.next())) {
      }
      return;
    case Wait::try_next:
      while (seen->take(stream.try_next())) yield_thread();
      return;
    case Wait::finish:
      return seen->take(stream.finish());
    case Wait::wait_for:
      while (!stream.wait_for(std::chrono::microseconds(50))) {
      }
      return seen->take(stream.finish());
    case Wait::on_text:
      return std::move(stream).on_text(
          [seen](auto piece) { static_cast<void>(seen->take(piece)); });
    case Wait::on_ready:
      return std::move(stream).on_ready([seen](const Result<Generation>& a) { seen->take(a); });
    case Wait::pieces:
      static_cast<void>(await_pieces(std::move(stream), seen));
      return;
    case Wait::answer:
      static_cast<void>(await_answer(std::move(stream), seen));
      return;
  }
}

}  // namespace ciuic::testing
