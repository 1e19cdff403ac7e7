// What worlds of a simulated schedule are made of: dice, a clock, threads that hesitate and sleep.
// For tests that are built with CIUIC_SYNC_SIMULATED.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/function.hpp"

namespace ciuic::testing {

/// What a world's threads choose by.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed * 0xD1342543DE82EF95u + 7) {}
  /// 0 … n - 1
  std::size_t below(std::size_t n) noexcept {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>((state_ >> 33) % n);
  }
  std::size_t pick(std::size_t low, std::size_t high) noexcept {
    return low + below(high - low + 1);
  }
  bool chance(std::size_t one_in) noexcept { return below(one_in) == 0; }

 private:
  std::uint64_t state_;
};

constexpr Duration micros(std::size_t n) { return std::chrono::microseconds(n); }

class SimulatedClock final : public Clock {
 public:
  TimePoint now() const noexcept override { return simulated::now(); }
  void wait_until(CondVar& condition, Lock& lock, TimePoint until) const override {
    condition.wait_until(lock, until);
  }
};
inline const SimulatedClock simulated_clock;

inline void start(std::vector<Thread>& threads, Function<void()> body) {
  Result<Thread> thread = Thread::start(std::move(body));
  if (thread) threads.push_back(*std::move(thread));
}
/// Some switch points.
inline void hesitate(std::size_t turns) {
  const Atomic<int> nothing{0};
  while (turns-- > 0) static_cast<void>(nothing.load());
}
inline void sleep_for(Duration time) {
  Mutex mutex;
  CondVar nobody;
  Lock lock(mutex);
  const TimePoint end = simulated::now() + time;
  while (simulated::now() < end) nobody.wait_until(lock, end);
}

/// A number from the environment.
inline std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace ciuic::testing
