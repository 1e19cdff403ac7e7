// BatchLimits: how large a batch may get, how long it may be waited for, how much may be pending.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "ciuic/base/error.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Costs above this are refused, so that sums over every slot cannot wrap. 2^40: a tebibyte.
inline constexpr std::uint64_t kUnlimitedCost = std::uint64_t{1} << 40;
/// More slots than this are refused, for the same reason.
inline constexpr std::size_t kMaxSlots = (std::size_t{1} << 24) - 1;

/// The numbers that BatchCore decides by.
struct BatchLimits {
  std::size_t max_batch_size = 32;
  /// A free caller takes a batch as soon as this many wait, and otherwise after the delay.
  /// 0 = `max_batch_size`: wait for a full batch. 1 = never wait while somebody is free.
  std::size_t min_batch_size = 0;
  std::uint64_t max_batch_cost = kUnlimitedCost;  ///< sum over a batch, in the unit of the requests
  Duration max_queue_delay{0};                    ///< from the arrival of the oldest request
  std::size_t queue_capacity = 1024;              ///< requests that may wait
  /// Requests accepted and not released yet. 0 = twice the queue and one batch of at most a queue.
  std::size_t max_outstanding = 0;
  /// A request that has waited so long goes before later ones of other priorities. Among tenants
  /// they still share by cost.
  Duration priority_ageing{std::chrono::milliseconds(100)};
  /// Tenants that may have requests waiting at once; above 1 they share by cost. At most 4096.
  std::size_t max_tenants = 1;
  std::size_t max_queue_per_tenant = 0;  ///< requests of one tenant that may wait; 0 = no bound
  std::size_t max_groups = 1;            ///< only requests of one group share a batch; at most 256
  /// Bytes that running batches may need together, as the policy forecasts them; 0 = no bound.
  std::uint64_t memory_budget = 0;
};

/// Errors: `invalid_argument`, naming the field.
inline Result<void> validate(const BatchLimits& limits) {
  const auto wrong = [](const char* name, const char* wanted, std::uint64_t got) {
    return Error(ErrorCode::invalid_argument,
                 {name, ": wanted ", wanted, ", got ", std::to_string(got)});
  };
  if (limits.max_batch_size == 0) return wrong("max_batch_size", "at least 1", 0);
  if (limits.min_batch_size > limits.max_batch_size) {
    return wrong("min_batch_size", "at most max_batch_size", limits.min_batch_size);
  }
  if (limits.max_batch_cost == 0 || limits.max_batch_cost > kUnlimitedCost) {
    return wrong("max_batch_cost", "1 to 2^40", limits.max_batch_cost);
  }
  if (limits.max_queue_delay < Duration{0}) {
    return Error(ErrorCode::invalid_argument, "max_queue_delay: wanted at least 0");
  }
  if (limits.priority_ageing < Duration{0}) {
    return Error(ErrorCode::invalid_argument, "priority_ageing: wanted at least 0");
  }
  if (limits.queue_capacity == 0 || limits.queue_capacity > kMaxSlots / 4) {
    return wrong("queue_capacity", "1 to 2^22 - 1", limits.queue_capacity);
  }
  if (limits.max_outstanding > kMaxSlots) {
    return wrong("max_outstanding", "below 2^24", limits.max_outstanding);
  }
  if (limits.max_tenants == 0 || limits.max_tenants > 4096) {
    return wrong("max_tenants", "1 to 4096", limits.max_tenants);
  }
  if (limits.max_groups == 0 || limits.max_groups > 256) {
    return wrong("max_groups", "1 to 256", limits.max_groups);
  }
  return {};
}

/// The same limits with their zeros replaced by what they stand for.
inline BatchLimits resolved(BatchLimits limits) noexcept {
  limits.max_batch_size = std::min(limits.max_batch_size, kMaxSlots / 4);
  if (limits.min_batch_size == 0) limits.min_batch_size = limits.max_batch_size;
  if (limits.max_outstanding == 0) {
    limits.max_outstanding =
        2 * limits.queue_capacity + std::min(limits.max_batch_size, limits.queue_capacity);
  }
  limits.queue_capacity = std::min(limits.queue_capacity, limits.max_outstanding);
  if (limits.max_queue_per_tenant == 0) limits.max_queue_per_tenant = limits.queue_capacity;
  return limits;
}

}  // namespace ciuic::inline CIUIC_ABI
