// AdaptiveSpin: wait awake for a moment before going to sleep, as long as that pays.
//
// A sleep and its wake-up cost tens of microseconds; a turn of a spin loop costs a tenth of one.
// Where answers come that fast, spinning wins; where they do not, it is wasted, and after a few
// misses it is only tried now and then. Most turns are yields, because whom one waits for may need
// this very core. Bounded by kSpinPauses and kSpinYields (base/sync.hpp).
#pragma once

#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// One place where threads wait. Thread-safety: thread-safe; threads share what they learn.
class AdaptiveSpin {
 public:
  /// Spins until `ready()`; false when it is time to sleep.
  template <class Ready>
  bool until(Ready&& ready) noexcept {
    const int credit = credit_.load(std::memory_order_relaxed);
    if (credit <= 0) {  // sixteen sleeps, then another try
      credit_.store(credit <= -kSkip ? 1 : credit - 1, std::memory_order_relaxed);
      return false;
    }
    for (int turn = 0; turn < kSpinPauses + kSpinYields; ++turn) {
      turn < kSpinPauses ? spin_pause() : yield_thread();
      if (!ready()) continue;
      if (credit < kMost) credit_.store(credit + 1, std::memory_order_relaxed);
      return true;
    }
    credit_.store(credit - 1, std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr int kSkip = 16, kMost = 4;
  Atomic<int> credit_{kMost};
};

}  // namespace ciuic::inline CIUIC_ABI
