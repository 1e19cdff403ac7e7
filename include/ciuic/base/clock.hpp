// Time as a parameter: the host's clock in production, a hand-moved one in tests.
#pragma once

#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A monotonic clock that threads can also wait on. Thread-safety: thread-safe.
class Clock {
 public:
  virtual TimePoint now() const noexcept = 0;
  /// Waits on `condition` until it is notified or this clock reads `until`, or for no reason at
  /// all.
  virtual void wait_until(CondVar& condition, Lock& lock, TimePoint until) const = 0;

 protected:
  ~Clock() = default;
};

/// The system's monotonic clock. Stateless; the default of every HostContext.
class SteadyClock final : public Clock {
 public:
  TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
  void wait_until(CondVar& condition, Lock& lock, TimePoint until) const override {
    condition.wait_until(lock, until);
  }
};

inline const Clock& steady_clock() noexcept {
  static constexpr SteadyClock clock;
  return clock;
}

/// `now + duration`, saturating: a huge relative timeout means "never", not a time in the past.
constexpr TimePoint add_saturating(TimePoint now, Duration duration) noexcept {
  using Rep = Duration::rep;
  const Rep at = now.time_since_epoch().count(), by = duration.count();
  if (by > 0 && at > kNever.time_since_epoch().count() - by) return kNever;
  if (by < 0 && at < TimePoint::min().time_since_epoch().count() - by) return TimePoint::min();
  return now + duration;
}

}  // namespace ciuic::inline CIUIC_ABI
