// ExecutorPump: runs a BatchShell on the host's own threads.
//
// A pump is a task that polls and performs until nothing is due, then ends; at most `workers` of
// them exist. A tick is a task posted for a time: it expires what is late and starts a pump when a
// batch is due. Every task holds the shell, so one that the host runs late finds it stopped and
// ends.
#pragma once

#include <utility>

#include "ciuic/batching/batch_shell.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchDriver says.
class ExecutorPump final : public BatchDriver {
 public:
  ExecutorPump(BatchShell& shell, Executor& executor, unsigned workers)
      : shell_(shell), executor_(executor), workers_(workers) {}

  Result<void> start() override { return {}; }
  bool wake(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    const bool arranged = arrange(lock);
    lock.unlock();
    return arranged;
  }
  void wake_all(Lock& lock) noexcept override { arrange(lock); }
  void taken(Lock& lock) noexcept override { arrange(lock); }
  void finish(Lock&, bool) noexcept override {}

 private:
  /// Posts a pump when something is due and one more may run, or a tick for when something will be.
  bool arrange(Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (shell_.stopping()) return true;
    const TimePoint now = shell_.clock().now();
    const bool busy = pumps_ >= workers_;
    const TimePoint event = busy ? shell_.core().next_deadline() : shell_.core().next_event();
    if (event == kNever || (event > now && event >= tick_at_)) return true;
    Ref<BatchShell> alive = Ref<BatchShell>::share(&shell_);
    bool posted = false;
    if (event <= now && !busy) {
      ++pumps_;
      lock.unlock();
      posted = executor_.post([this, alive = std::move(alive)] { pump(); });
      lock.lock();
      if (!posted) --pumps_;
    } else {
      const TimePoint before = std::exchange(tick_at_, event);
      lock.unlock();
      posted = executor_.post_at(event, [this, alive = std::move(alive), event] { tick(event); });
      lock.lock();
      if (!posted && tick_at_ == event) tick_at_ = before;
    }
    return posted;
  }
  void pump() noexcept {
    Lock lock(shell_.mutex());
    for (;;) {
      const BatchAction action = shell_.core().poll(shell_.clock().now());
      if (action.slots.empty()) break;
      shell_.perform(action, lock);
    }
    --pumps_;
    arrange(lock);
  }
  void tick(TimePoint when) noexcept {
    Lock lock(shell_.mutex());
    if (tick_at_ == when) tick_at_ = kNever;
    for (;;) {
      const BatchAction action = shell_.core().expire(shell_.clock().now());
      if (action.slots.empty()) break;
      shell_.perform(action, lock);
    }
    arrange(lock);
  }

  BatchShell& shell_;
  Executor& executor_;
  const unsigned workers_;
  unsigned pumps_ = 0;
  TimePoint tick_at_ = kNever;
};

}  // namespace ciuic::inline CIUIC_ABI
