// Sleeps that end when they should.
#pragma once

#include "ciuic/base/version.hpp"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

namespace ciuic::inline CIUIC_ABI {

/// Asks the kernel not to round this thread's sleeps: by default Linux may end them 50 µs late, to
/// save wake-ups. Only the calling thread is affected. Does nothing elsewhere.
inline void sleep_precisely() noexcept {
#if defined(__linux__)
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
#endif
}

}  // namespace ciuic::inline CIUIC_ABI
