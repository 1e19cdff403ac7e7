// A loop over independent pieces of work that takes seconds, such as loading matrices.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <vector>

#include "ciuic/base/error.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// How many threads may do such work. Several only where threads and memory are ciuic's own: a
/// host's memory may not be made for it.
inline int working_threads(int wanted, const HostContext& host) noexcept {
  const bool own = host.executor == nullptr && host.memory == std::pmr::new_delete_resource();
  return own ? wanted : 1;
}

/// Calls `work(i)`, a Result<void>, for i = 0 … count - 1 on up to `threads` threads, the caller's
/// included; 0 = as many as the machine runs at once. The first error ends it: what has begun is
/// finished, nothing more is begun.
template <class Work>
Result<void> in_parallel(std::size_t count, int threads, const Work& work) {
  std::size_t limit = threads > 0 ? static_cast<std::size_t>(threads) : hardware_threads();
  limit = limit < count ? limit : count;
  Atomic<std::size_t> next{0};
  Mutex mutex;
  Result<void> outcome;
  const auto run = [&] {
    for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      Result<void> done;
      const Result<void> called =
          call_guarded(ErrorCode::internal, "in_parallel", [&] { done = work(i); });
      if (!called) done = called;
      if (done) continue;
      next.store(count);
      const Lock lock(mutex);
      if (outcome) outcome = std::move(done);
    }
  };
  {
    std::vector<Thread> helpers;
    for (std::size_t i = 1; i < limit; ++i) {
      Result<Thread> helper = Thread::start([&run] { run(); });
      if (!helper) break;  // fewer do it as well
      helpers.push_back(*std::move(helper));
    }
    run();
  }
  return outcome;
}

}  // namespace ciuic::inline CIUIC_ABI
