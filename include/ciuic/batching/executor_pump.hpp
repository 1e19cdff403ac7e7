// ExecutorPump: runs a BatchShell on the host's own threads.
//
// A pump is a task that polls and performs until nothing is due, then ends; at most `workers` of
// them exist. A tick is a task posted for a time: it becomes a pump if one more may run, and
// otherwise expires what is late. An executor cannot take a task back, so a tick is posted only
// when it is earlier than all that are still to come: they form a stack, the earliest on top.
//
// An executor may refuse a task at any moment. What was accepted is not lost: either a pump that
// runs, or a tick in time, looks again, or every waiting request is handed back as `queue_full`.
//
// Tasks hold a link that is cut when the batcher stops: one that the host runs late finds nothing,
// touches neither clock nor log, and keeps nothing alive.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "ciuic/batching/batch_shell.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchDriver says.
class ExecutorPump final : public BatchDriver {
 public:
  ExecutorPump(BatchShell& shell, Executor& executor, unsigned workers)
      : shell_(shell),
        executor_(executor),
        workers_(workers),
        link_(std::make_shared<Link>(shell)) {
    ticks_.reserve(64);
  }

  Result<void> start() override {
    Lock lock(shell_.mutex());
    arrange(lock);  // the first request rings
    return {};
  }
  bool wake(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    const bool arranged = arrange(lock);
    lock.unlock();
    return arranged;
  }
  void wake_all(Lock& lock) noexcept override { taken(lock); }
  void taken(Lock& lock) noexcept override {
    if (!arrange(lock)) shell_.hand_back(lock);
  }
  void ended(Lock& lock) noexcept override {
    if (pumps_ == 0) taken(lock);  // a pump goes on polling
  }
  void finish(Lock&, bool) noexcept override { link_->cut(); }

 private:
  /// The way from a task to the shell, as long as there is one.
  class Link {
   public:
    explicit Link(BatchShell& shell) noexcept : shell_(&shell) {}
    Ref<BatchShell> shell() noexcept {
      Lock lock(mutex_);
      return Ref<BatchShell>::share(shell_);
    }
    void cut() noexcept {
      Lock lock(mutex_);
      shell_ = nullptr;
    }

   private:
    Mutex mutex_;
    BatchShell* shell_ CIUIC_GUARDED_BY(mutex_);
  };

  /// Posts a pump when something is due and one more may run, or a tick for when something will be.
  /// False when the executor refused and nobody else will look at what waits in time.
  bool arrange(Lock& lock) noexcept {
    for (;;) {
      shell_.absorb();
      if (shell_.stopping()) return true;
      BatchCore& core = shell_.core();
      const TimePoint now = shell_.clock().now();
      const bool busy = pumps_ >= workers_;
      const BatchAction next = core.outlook();
      const TimePoint event = busy ? core.next_deadline() : next.when;
      const std::uint64_t seen = shell_.inbox().drained();
      bool taken_on = true;
      if (event == kNever) {
        // only a request can change that
      } else if (event <= now && !busy) {
        taken_on = post_pump(lock);
      } else if (!ticks_by(event)) {
        taken_on = post_tick(event, lock);
      }
      if (!taken_on && pumps_ == 0 && !ticks_by(event) && core.waiting() > 0) return false;
      // Posting releases the lock. Somebody else may have absorbed what came meanwhile, without
      // arranging anything: whoever pushed it quietly relies on this call.
      if (shell_.inbox().drained() == seen && arm(lock)) return true;
    }
  }
  /// The bell rings for what the pumps and ticks to come are too few or too late for.
  bool arm(Lock&) noexcept {
    BatchCore& core = shell_.core();
    const TimePoint look = ticks_.empty() ? kNever : ticks_.back();
    if (pumps_ >= workers_) return shell_.inbox().arm(Inbox::kNoCount, Inbox::kNoCost, look);
    const BatchAction next = core.outlook();
    if (next.when == TimePoint::min()) {  // a pump was posted: another for another full batch
      return shell_.inbox().arm(core.limits().max_batch_size, Inbox::kNoCost, look);
    }
    return shell_.inbox().arm(next.wake_count - core.waiting(),
                              next.wake_cost - core.waiting_cost(), std::min(look, next.when));
  }
  bool ticks_by(TimePoint event) const noexcept {
    return !ticks_.empty() && ticks_.back() <= event;
  }
  bool post_pump(Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    ++pumps_;
    lock.unlock();
    const bool posted = executor_.post([this, link = link_] {
      const Ref<BatchShell> alive = link->shell();
      if (!alive) return;
      Lock own(shell_.mutex());
      pump(own);
    });
    lock.lock();
    if (!posted) --pumps_;
    return posted;
  }
  bool post_tick(TimePoint when, Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    const auto note = [&] { ticks_.push_back(when); };
    if (!call_guarded(ErrorCode::out_of_memory, "batcher", note)) return false;
    lock.unlock();
    const bool posted = executor_.post_at(when, [this, link = link_, when] {
      const Ref<BatchShell> alive = link->shell();
      if (!alive) return;
      Lock own(shell_.mutex());
      tick(when, own);
    });
    lock.lock();
    if (!posted) std::erase(ticks_, when);
    return posted;
  }

  /// Counted in `pumps_` by whoever starts it.
  void pump(Lock& lock) noexcept {
    for (;;) {
      const BatchAction action = shell_.poll(lock);
      if (action.slots.empty()) break;
      shell_.perform(action, lock);
    }
    --pumps_;
    taken(lock);
  }
  void tick(TimePoint when, Lock& lock) noexcept {
    std::erase(ticks_, when);
    if (pumps_ < workers_) {
      ++pumps_;
      return pump(lock);
    }
    for (;;) {  // a callback may have dropped the batcher: then what waits is handed back from here
      const BatchAction action = shell_.stopping() ? shell_.poll(lock) : shell_.expire(lock);
      if (action.slots.empty()) break;
      shell_.perform(action, lock);
    }
    taken(lock);
  }

  BatchShell& shell_;
  Executor& executor_;
  const unsigned workers_;
  const std::shared_ptr<Link> link_;
  unsigned pumps_ = 0;            // posted or running
  std::vector<TimePoint> ticks_;  // posted and not run yet, the earliest last
};

}  // namespace ciuic::inline CIUIC_ABI
