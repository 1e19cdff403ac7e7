// WorkerTeam: threads that poll a BatchShell themselves, the leader/follower way.
//
// Of the workers that have nothing to do one leads: it alone sleeps with a time, the earliest of
// close time and deadline. When it gets a batch it lets go of the lead, wakes a follower if
// anything is left to wait for, and runs. A request that comes while a worker is free is taken by
// that worker without a hand-off through another thread. While every worker runs, one more thread
// keeps the deadlines; it sleeps until the first of them, and for ever when there is none.
//
// Whoever changes that picture settles it before the lock is released: somebody is awake and will
// look, or the inbox's bell is armed for what the sleepers wait for.
#pragma once

#include <utility>
#include <vector>

#include "ciuic/base/timer_slack.hpp"
#include "ciuic/batching/adaptive_spin.hpp"
#include "ciuic/batching/batch_shell.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: as BatchDriver says.
class WorkerTeam final : public BatchDriver {
 public:
  /// `final_spin`: see BatcherOptions.
  WorkerTeam(BatchShell& shell, unsigned workers, Duration final_spin)
      : shell_(shell), workers_(workers), final_spin_(final_spin) {
    threads_.reserve(workers + 1);
  }

  /// Errors: `out_of_memory` when a thread does not start; those that did are ended by finish().
  Result<void> start() override {
    for (unsigned i = 0; i <= workers_; ++i) {
      Result<Thread> thread = Thread::start(
          [this, alive = Ref<BatchShell>::share(&shell_), timer = i == workers_]() mutable {
            sleep_precisely();
            timer ? keep_time() : work();
            alive = {};  // the last thread of an owner that could not wait ends here
          });
      if (!thread) return std::move(thread).error();
      threads_.push_back(*std::move(thread));
    }
    return {};
  }

  bool wake(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    CondVar* sleeper = settle();
    lock.unlock();
    if (sleeper != nullptr) sleeper->notify_one();
    return true;
  }
  void wake_all(Lock&) noexcept override {
    leader_asleep_ = false;
    leader_.notify_all();
    followers_.notify_all();
    timer_.notify_all();
  }
  void taken(Lock&) noexcept override {
    if (CondVar* sleeper = settle()) sleeper->notify_one();
  }
  void ended(Lock& lock) noexcept override {
    if (has_leader_) taken(lock);  // without one, this thread or a follower leads and looks itself
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
  // How long before a close time spinning for requests would make the batch late.
  static constexpr Duration kSpinMargin = std::chrono::microseconds(100);

  /// Arms the bell, or says who has to be notified because there is something to do.
  CondVar* settle() noexcept {
    Inbox& inbox = shell_.inbox();
    for (;;) {
      shell_.absorb();
      BatchCore& core = shell_.core();
      bool armed = false;
      if (has_leader_) {
        if (!leader_asleep_) {
          inbox.disarm();
          return nullptr;
        }
        const BatchAction next = core.outlook();
        if (next.when < leader_event_) {
          leader_asleep_ = false;
          inbox.disarm();
          return &leader_;
        }
        armed = inbox.arm(next.wake_count - core.waiting(), next.wake_cost - core.waiting_cost(),
                          leader_event_);
      } else if (followers_waiting_ > 0) {
        const BatchAction next = core.outlook();
        if (follower_called_ || shell_.stopping() || next.when != kNever) {
          inbox.disarm();
          return std::exchange(follower_called_, true) ? nullptr : &followers_;
        }
        armed = inbox.arm(next.wake_count - core.waiting(), next.wake_cost - core.waiting_cost(),
                          kNever);
      } else {
        if (core.next_deadline() < timer_until_) {
          timer_until_ = core.next_deadline();
          inbox.disarm();
          return &timer_;
        }
        armed = inbox.arm(Inbox::kNoCount, Inbox::kNoCost, timer_until_);
      }
      if (armed) return nullptr;
    }
  }

  void work() noexcept {
    Lock lock(shell_.mutex());
    for (;;) {
      while (has_leader_) {
        ++followers_waiting_;
        followers_.wait(lock);
        --followers_waiting_;
      }
      has_leader_ = true;
      follower_called_ = false;
      const BatchAction action = lead(lock);
      has_leader_ = false;
      if (action.slots.empty()) return followers_.notify_one();  // stopped: so does the next one
      shell_.perform(action, lock);  // calls taken(), which hands the lead over
    }
  }
  /// Waits until there is something to do; without slots: end.
  BatchAction lead(Lock& lock) noexcept {
    bool may_spin = true;
    for (;;) {
      const BatchAction action = shell_.poll(lock);
      if (!action.slots.empty() || shell_.stopping()) return action;
      if (may_spin) {  // the lock is released meanwhile, so look again in any case
        may_spin = spin_for_requests(action, lock);
        continue;
      }
      if (spin_until_close(action, lock)) continue;
      leader_event_ = action.when;
      leader_asleep_ = true;
      const BatchCore& core = shell_.core();
      if (shell_.inbox().empty() &&
          shell_.inbox().arm(action.wake_count - core.waiting(),
                             action.wake_cost - core.waiting_cost(), action.when)) {
        shell_.clock().wait_until(leader_, lock, before_final_spin(action.when));
      }
      leader_asleep_ = false;
      shell_.inbox().disarm();
    }
  }
  /// True when enough came; false without trying when a batch is to close soon.
  bool spin_for_requests(const BatchAction& action,
                         Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (action.when != kNever && action.when - shell_.clock().now() < kSpinMargin) return false;
    Inbox& inbox = shell_.inbox();
    const auto drained = static_cast<std::uint32_t>(inbox.drained());
    const std::size_t wanted = action.wake_count - shell_.core().waiting();
    lock.unlock();
    const bool came = spin_.until([&] { return inbox.pushed() - drained >= wanted; });
    lock.lock();
    return came;
  }
  TimePoint before_final_spin(TimePoint when) const noexcept {
    return when == kNever ? when : when - std::min(final_spin_, when.time_since_epoch());
  }
  /// The last stretch before a close time, awake. True when it was spun.
  bool spin_until_close(const BatchAction& action,
                        Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (final_spin_ == Duration{0} || action.when == kNever) return false;
    const Clock& clock = shell_.clock();
    if (clock.now() < before_final_spin(action.when)) return false;
    Inbox& inbox = shell_.inbox();
    const auto seen = static_cast<std::uint32_t>(inbox.drained());  // by the core, which said when
    lock.unlock();
    while (clock.now() < action.when && inbox.pushed() == seen && !inbox.closed()) spin_pause();
    lock.lock();
    return true;
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
      CondVar* const sleeper = settle();
      if (sleeper == &timer_) continue;  // an earlier deadline came
      if (sleeper != nullptr) sleeper->notify_one();
      shell_.clock().wait_until(timer_, lock, timer_until_);
    }
  }

  BatchShell& shell_;
  const unsigned workers_;
  const Duration final_spin_;
  std::vector<Thread> threads_;
  CondVar leader_, followers_, timer_;
  AdaptiveSpin spin_;  // of the leader
  bool has_leader_ = false;
  bool leader_asleep_ = false;    // and not notified
  bool follower_called_ = false;  // notified, and has not got the lock yet
  unsigned followers_waiting_ = 0;
  TimePoint leader_event_ = kNever;  // what the sleeping leader sleeps for
  TimePoint timer_until_ = kNever;
};

}  // namespace ciuic::inline CIUIC_ABI
