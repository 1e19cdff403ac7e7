// WatchedClock: the system's clock, and word of who goes to sleep on it.
//
// Unlike under ManualClock nobody wakes up without a reason, so a wake-up that was forgotten shows.
#pragma once

#include <map>

#include "ciuic/base/clock.hpp"

namespace ciuic::testing {

/// Thread-safety: thread-safe.
class WatchedClock final : public Clock {
 public:
  TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
  void wait_until(CondVar& condition, Lock& lock, TimePoint until) const override {
    {
      Lock own(mutex_);
      ++sleeps_[until];
      changed_.notify_all();
    }
    condition.wait_until(lock, until);
  }
  /// Returns once threads have gone to sleep until exactly `until` so many times in all. Whoever
  /// takes the sleeper's lock from then on finds it asleep.
  void await_sleeps(TimePoint until, int times = 1) const {
    Lock lock(mutex_);
    while (sleeps_[until] < times) changed_.wait(lock);
  }

 private:
  mutable Mutex mutex_;
  mutable CondVar changed_;
  mutable std::map<TimePoint, int> sleeps_ CIUIC_GUARDED_BY(mutex_);
};

}  // namespace ciuic::testing
