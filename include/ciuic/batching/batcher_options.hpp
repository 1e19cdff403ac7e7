// What a DynamicBatcher is told when it is made, and with each request.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/host_context.hpp"
#include "ciuic/base/priority.hpp"
#include "ciuic/batching/batch_limits.hpp"
#include "ciuic/batching/request_terms.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What submit() does when the queue or the number of outstanding requests is at its bound.
enum class Overload : std::uint8_t {
  reject,  ///< a future that is ready with `queue_full` and says when to try again
  /// Wait for room, until the request's deadline or stop token ends the wait. In a model, and in a
  /// callback on the thread of a batch, it is `reject`. In a callback that cancel() or a stop token
  /// runs, give a deadline: the request whose callback it is may hold the last place. Without
  /// workers, another thread has to make the room.
  block,
  /// Accept, and complete as `shed` whoever matters least: of the lowest priority that waits, at
  /// most the new one's, the oldest request of the tenant that has most of them waiting. `reject`
  /// when all that wait matter more, or what is full is `max_outstanding` or the tenant's own
  /// bound.
  shed,
};

/// What happens to a batch when the model throws or returns an error.
enum class OnFailure : std::uint8_t {
  fail_batch,  ///< its requests get the error
  /// Halves are run again, and their halves, until only the culprits are left: for one among n, at
  /// most 2·ceil(log2 n) more runs. For models without side effects, and deterministic ones.
  bisect,
};

struct BatcherOptions {
  std::size_t max_batch_size = 32;
  /// A free worker takes a batch as soon as this many wait, and otherwise after the delay.
  /// 0 = `max_batch_size`: wait for a full batch. 1 = never wait while a worker is free. Nothing is
  /// waited for longer than `max_queue_delay`: with its default, 0, that is not at all.
  std::size_t min_batch_size = 0;
  std::uint64_t max_batch_cost = kUnlimitedCost;  ///< bounds the sum of `SubmitOptions::cost`
  Duration max_queue_delay{0};                    ///< from the arrival of the oldest request
  std::size_t queue_capacity = 1024;              ///< requests that may wait
  /// Requests accepted whose answer was not taken yet. 0 = twice the queue and one batch.
  std::size_t max_outstanding = 0;
  /// A request that has waited so long goes before later ones of other priorities, so that nothing
  /// starves. 0: priorities count for nothing; Duration::max(): they alone count.
  Duration priority_ageing{std::chrono::milliseconds(100)};
  Overload overload = Overload::reject;
  OnFailure on_failure = OnFailure::fail_batch;
  /// Tenants (`SubmitOptions::tenant`) that may have requests waiting at once. Above 1 they share
  /// by cost: of two that always have something waiting, with costs of at most a and b, neither is
  /// served more than a + b beyond the other. At most 4096.
  std::size_t max_tenants = 1;
  std::size_t max_queue_per_tenant = 0;  ///< of one tenant that may wait; 0 = no bound of its own
  std::size_t max_groups = 1;  ///< only requests of one `SubmitOptions::group` share a batch
  /// Bytes that batches that run may need together, as the policy forecasts them; 0 = no bound.
  std::uint64_t memory_budget = 0;
  /// Workers go to sleep so much before a batch is to close, and spin from there: microseconds of
  /// CPU time per batch against the tens of microseconds by which sleepers wake up late. At most
  /// 10 ms.
  Duration final_spin{0};
  /// Batches that may run at once, each on a thread of its own (or a task of `host.executor`).
  /// 0 = none: the host calls run_one().
  ///
  /// With an executor nothing happens but in its tasks. While all its threads are busy with other
  /// work no batch starts and no deadline fires; both catch up when it gets to its tasks. drain()
  /// and stop() wait for such tasks, so do not call them (nor destroy the batcher) in an ordinary
  /// task of the same executor unless another of its threads is free: only from the batcher's own
  /// callbacks and models do they say `would_deadlock` instead. Requests that no task is taken for
  /// end as `queue_full`. A task that runs after stop() does nothing.
  unsigned workers = 1;
  /// The executor must live until the batcher is destroyed. Clock and log must outlive the futures
  /// too: a wait sleeps on the clock, and a callback that throws is logged, also after that.
  HostContext host{};

  BatchLimits limits() const noexcept {
    return {max_batch_size,       min_batch_size,  max_batch_cost,  max_queue_delay,
            queue_capacity,       max_outstanding, priority_ageing, max_tenants,
            max_queue_per_tenant, max_groups,      memory_budget};
  }
};

/// Errors: `invalid_argument`, naming the field.
inline Result<void> validate(const BatcherOptions& options) {
  if (options.workers > 1024) {
    return Error(ErrorCode::invalid_argument, "workers: wanted at most 1024");
  }
  if (options.final_spin < Duration{0} || options.final_spin > std::chrono::milliseconds(10)) {
    return Error(ErrorCode::invalid_argument, "final_spin: wanted 0 to 10 ms");
  }
  if (options.host.clock == nullptr) {
    return Error(ErrorCode::invalid_argument, "host.clock: wanted a clock, got null");
  }
  return validate(options.limits());
}

struct SubmitOptions {
  Duration timeout = Duration::max();  ///< from now; the earlier of the two counts
  TimePoint deadline = kNever;         ///< on the host's clock
  std::uint64_t cost = 1;              ///< in the unit of `max_batch_cost`
  Priority priority = Priority::normal;
  TenantId tenant = 0;      ///< on whose behalf; counts with `max_tenants` above 1
  std::uint16_t group = 0;  ///< below `max_groups`
  StopToken stop_token{};   ///< cancels the request, also from another thread
};

}  // namespace ciuic::inline CIUIC_ABI
