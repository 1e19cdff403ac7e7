// Asks for memory before it is needed.
#pragma once

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The cache line of `address` is about to be written here, and another core most likely has it:
/// to fetch it for reading first, and then again for writing, would cost twice. A hint.
inline void prefetch_to_write(const void* address) noexcept {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));  // a no-op where unknown
#elif defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address, 1);
#else
  static_cast<void>(address);
#endif
}

}  // namespace ciuic::inline CIUIC_ABI
