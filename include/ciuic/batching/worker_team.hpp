// WorkerTeam: threads that poll a BatchShell themselves, the leader/follower way.
//
// Of the workers that have nothing to do one leads: it alone sleeps with a time, the earliest of
// close time and deadline. When it gets a batch it lets go of the lead, wakes a follower if
// anything is left to wait for, and runs. A request that comes while a worker is free is taken by
// that worker without a hand-off through another thread. While every worker runs, one more thread
// keeps the deadlines; it sleeps until the first of them, and for ever when there is none.
#pragma once

#include <utility>
#include <vector>

#include "ciuic/batching/batch_shell.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchDriver says.
class WorkerTeam final : public BatchDriver {
 public:
  WorkerTeam(BatchShell& shell, unsigned workers) : shell_(shell), workers_(workers) {
    threads_.reserve(workers + 1);
  }

  /// Errors: `out_of_memory` when a thread does not start; those that did are ended by finish().
  Result<void> start() override {
    for (unsigned i = 0; i <= workers_; ++i) {
      Result<Thread> thread = Thread::start(
          [this, alive = Ref<BatchShell>::share(&shell_), timer = i == workers_]() mutable {
            timer ? keep_time() : work();
            alive = {};  // the last thread of an owner that could not wait ends here
          });
      if (!thread) return std::move(thread).error();
      threads_.push_back(*std::move(thread));
    }
    return {};
  }

  bool wake(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    CondVar* sleeper = nullptr;
    if (has_leader_) {
      const TimePoint event = shell_.core().next_event();
      if (event < leader_until_) {
        leader_until_ = event;
        sleeper = &leader_;
      }
    } else if (followers_waiting_ > 0) {
      sleeper = &followers_;
    } else if (shell_.core().next_deadline() < timer_until_) {
      timer_until_ = shell_.core().next_deadline();
      sleeper = &timer_;
    }
    lock.unlock();
    if (sleeper != nullptr) sleeper->notify_one();
    return true;
  }
  void wake_all(Lock&) noexcept override {
    leader_.notify_all();
    followers_.notify_all();
    timer_.notify_all();
  }
  void taken(Lock&) noexcept override {
    if (has_leader_) return;
    if (followers_waiting_ > 0) {
      if (shell_.stopping() || shell_.core().next_event() != kNever) followers_.notify_one();
    } else if (shell_.core().next_deadline() < timer_until_) {
      timer_until_ = shell_.core().next_deadline();
      timer_.notify_one();
    }
  }
  void finish(Lock& lock, bool wait) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    wake_all(lock);
    std::vector<Thread> threads = std::move(threads_);
    if (!wait) {
      for (Thread& thread : threads) thread.detach();
      return;
    }
    lock.unlock();
    threads.clear();  // joins
    lock.lock();
  }

 private:
  void work() noexcept {
    Lock lock(shell_.mutex());
    for (;;) {
      while (has_leader_) {
        ++followers_waiting_;
        followers_.wait(lock);
        --followers_waiting_;
      }
      has_leader_ = true;
      const BatchAction action = lead(lock);
      has_leader_ = false;
      if (action.slots.empty()) return followers_.notify_one();  // stopped: so does the next one
      shell_.perform(action, lock);  // calls taken(), which hands the lead over
    }
  }
  /// Sleeps until there is something to do; without slots: end.
  BatchAction lead(Lock& lock) noexcept {
    for (;;) {
      const BatchAction action = shell_.poll(lock);
      if (!action.slots.empty() || shell_.stopping()) return action;
      leader_until_ = action.when;
      shell_.clock().wait_until(leader_, lock, leader_until_);
    }
  }
  void keep_time() noexcept {
    Lock lock(shell_.mutex());
    while (!shell_.stopping()) {
      const BatchAction action = shell_.expire(lock);
      if (!action.slots.empty()) {
        shell_.perform(action, lock);
        continue;
      }
      timer_until_ = shell_.core().next_deadline();
      shell_.clock().wait_until(timer_, lock, timer_until_);
    }
  }

  BatchShell& shell_;
  const unsigned workers_;
  std::vector<Thread> threads_;
  CondVar leader_, followers_, timer_;
  bool has_leader_ = false;
  unsigned followers_waiting_ = 0;
  TimePoint leader_until_ = kNever;
  TimePoint timer_until_ = kNever;
};

}  // namespace ciuic::inline CIUIC_ABI
