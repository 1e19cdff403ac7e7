// What one request asks of a BatchCore, and the core's answer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/priority.hpp"
#include "ciuic/base/sync.hpp"
#include "ciuic/batching/slot_links.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Names one accepted request. A handle whose slot was released is stale: using it does nothing.
struct SlotHandle {
  std::uint32_t index = kNoSlot;  ///< below `max_outstanding`: a key for the caller's own tables
  std::uint32_t generation = 0;
  friend bool operator==(const SlotHandle&, const SlotHandle&) = default;
};

enum class SlotState : std::uint8_t { free, waiting, running, finished };

/// On whose behalf a request comes. Any number; counts only when `max_tenants` is above 1.
using TenantId = std::uint64_t;

/// What one request asks for.
struct RequestTerms {
  std::uint64_t cost = 1;  ///< in the unit of `max_batch_cost`: tokens, bytes, …
  Priority priority = Priority::normal;
  TimePoint deadline = kNever;
  TenantId tenant = 0;
  std::uint16_t group = 0;  ///< below `max_groups`; only requests of one group share a batch
};

/// Why a request was not accepted.
enum class Refusal : std::uint8_t {
  none,
  queue_full,        ///< `queue_capacity` requests wait
  outstanding_full,  ///< `max_outstanding` requests are not released yet
  tenant_full,       ///< `max_queue_per_tenant` of this tenant wait, or `max_tenants` tenants do
  oversize,          ///< its cost is above `max_batch_cost`
  unknown_group,     ///< its group is not below `max_groups`
  expired,           ///< its deadline is already past
  infeasible,        ///< the policy expects its answer after its deadline
  shutting_down,     ///< drain() or stop() was called
};
inline constexpr std::size_t kRefusals = 9;
/// Would be accepted if fewer requests were there.
constexpr bool is_full(Refusal why) noexcept {
  return why == Refusal::queue_full || why == Refusal::outstanding_full ||
         why == Refusal::tenant_full;
}

/// The answer to submit(): a slot, or a refusal.
struct Admission {
  SlotHandle slot;
  Refusal refusal = Refusal::none;
  explicit operator bool() const noexcept { return refusal == Refusal::none; }
};

}  // namespace ciuic::inline CIUIC_ABI
