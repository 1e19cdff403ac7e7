// ManualClock: time that moves when a test says so.
#pragma once

#include <algorithm>
#include <vector>

#include "ciuic/base/clock.hpp"

namespace ciuic::testing {

/// Starts at 1 s. Threads that wait on it sleep until advance() brings their time.
/// Thread-safety: thread-safe.
class ManualClock final : public Clock {
 public:
  /// Room for sleepers is taken now: tests count what the batcher allocates, not what its clock
  /// does.
  ManualClock() { sleepers_.reserve(64); }
  TimePoint now() const noexcept override {
    Lock lock(mutex_);
    return now_;
  }
  void wait_until(CondVar& condition, Lock& lock, TimePoint until) const override {
    Sleeper sleeper{&condition, until};
    {
      Lock own(mutex_);
      if (now_ >= until) return;
      sleepers_.push_back(&sleeper);
      changed_.notify_all();
    }
    // advance() cannot take the waiter's mutex, so it may notify in the gap before the wait begins:
    // a bounded real wait closes it. Waits may return for no reason; the caller looks again.
    condition.wait_until(lock, std::chrono::steady_clock::now() + std::chrono::milliseconds(1));
    Lock own(mutex_);
    std::erase(sleepers_, &sleeper);
  }

  TimePoint advance(Duration by) {
    Lock lock(mutex_);
    now_ += by;
    for (const Sleeper* sleeper : sleepers_) {
      if (sleeper->until <= now_) sleeper->condition->notify_all();
    }
    return now_;
  }
  /// Returns once some thread sleeps until exactly `until`: it has seen everything before.
  void await_sleeper(TimePoint until) const {
    Lock lock(mutex_);
    while (std::none_of(sleepers_.begin(), sleepers_.end(),
                        [&](const Sleeper* s) { return s->until == until; })) {
      changed_.wait(lock);
    }
  }

 private:
  struct Sleeper {
    CondVar* condition;
    TimePoint until;
  };
  mutable Mutex mutex_;
  mutable CondVar changed_;
  mutable std::vector<const Sleeper*> sleepers_ CIUIC_GUARDED_BY(mutex_);
  TimePoint now_ CIUIC_GUARDED_BY(mutex_){std::chrono::seconds(1)};
};

}  // namespace ciuic::testing
