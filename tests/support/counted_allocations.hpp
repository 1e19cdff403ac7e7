// Counts what a program asks of operator new. Link ciuic_counted_allocations; the operators of the
// whole program are replaced. Not with sanitizers where the test says so: those bring their own.
#pragma once

#include <atomic>
#include <cstdint>

namespace ciuic::testing {

inline std::atomic<std::uint64_t> allocation_count{0};  ///< calls so far
inline std::atomic<std::uint64_t> allocated_bytes{0};   ///< sum of all requests so far
inline std::atomic<std::uint64_t> live_bytes{0};        ///< given and not returned
inline std::atomic<std::uint64_t> peak_bytes{0};        ///< largest `live_bytes` since it was set

/// From 0 on: so many calls succeed yet, then one fails, or with `fail_for_good` every one.
/// Negative: none fails. For programs that allocate on one thread meanwhile.
inline std::atomic<std::int64_t> fail_after{-1};
inline std::atomic<bool> fail_for_good{false};

}  // namespace ciuic::testing
