// Gate: holds threads at a point until a test opens it.
#pragma once

#include "ciuic/base/sync.hpp"

namespace ciuic::testing {

/// Thread-safety: thread-safe.
class Gate {
 public:
  /// Reports an arrival, and waits while the gate is closed.
  void pass() {
    Lock lock(mutex_);
    ++arrivals_;
    changed_.notify_all();
    while (!open_) changed_.wait(lock);
  }
  void open() {
    Lock lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  /// Returns once pass() has been called `n` times in all.
  void await_arrivals(int n) {
    Lock lock(mutex_);
    while (arrivals_ < n) changed_.wait(lock);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int arrivals_ CIUIC_GUARDED_BY(mutex_) = 0;
  bool open_ CIUIC_GUARDED_BY(mutex_) = false;
};

}  // namespace ciuic::testing
