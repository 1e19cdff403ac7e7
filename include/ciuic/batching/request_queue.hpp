// RequestQueue: in which order waiting requests are served.
//
// A higher priority before a lower one; within a priority the tenant that was served least; within
// a tenant, first come, first served. With one tenant that is: first come, first served within a
// priority. Strictly so: that nothing starves is BatchCore's doing, which looks at the oldest
// first.
//
// A flow is one tenant's requests of one priority and group, a list. Finding the next request looks
// at the head of every flow that is not empty.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ciuic/batching/slot_links.hpp"
#include "ciuic/batching/tenant_table.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Allocates in the constructor only. Thread-safety: thread-compatible.
class RequestQueue {
 public:
  RequestQueue(std::size_t slots, std::size_t max_tenants, std::size_t max_groups)
      : links_(slots),
        items_(slots),
        tenants_(max_tenants),
        groups_(max_groups),
        flows_(kPriorityLevels * max_tenants * max_groups) {
    for (auto& level : active_) level.reserve(max_tenants * max_groups);
    for (std::size_t i = 0; i < flows_.size(); ++i) {  // kept, for divisions take their time
      flows_[i].group = static_cast<std::uint16_t>(i % max_groups);
      flows_[i].tenant = static_cast<std::uint32_t>(i / max_groups % max_tenants);
      flows_[i].level = static_cast<std::uint16_t>(i / max_groups / max_tenants);
    }
  }

  TenantTable& tenants() noexcept { return tenants_; }
  const TenantTable& tenants() const noexcept { return tenants_; }

  /// Only if the tenant has room.
  void push(std::uint32_t slot, const RequestTerms& terms) noexcept {
    const std::uint32_t tenant = tenants_.place(terms.tenant);
    const auto level = static_cast<std::size_t>(terms.priority);
    const auto flow =
        static_cast<std::uint32_t>((level * tenants_.capacity() + tenant) * groups_ + terms.group);
    tenants_.join(tenant);
    items_[slot] = {next_turn_++, flow};
    if (flows_[flow].list.empty()) {
      flows_[flow].place = static_cast<std::uint32_t>(active_[level].size());
      active_[level].push_back(flow);
    }
    links_.push_back(flows_[flow].list, slot);
  }
  void erase(std::uint32_t slot) noexcept {
    const std::uint32_t number = items_[slot].flow;
    Flow& flow = flows_[number];
    links_.erase(flow.list, slot);
    tenants_.leave(tenant_of(number));
    if (!flow.list.empty()) return;
    std::vector<std::uint32_t>& active = active_[level_of(number)];
    active[flow.place] = active.back();
    flows_[active.back()].place = flow.place;
    active.pop_back();
  }
  /// The request counts as served: to be called before erase().
  void charge(std::uint32_t slot, std::uint64_t cost) noexcept {
    tenants_.charge(tenant_of(items_[slot].flow), cost);
  }

  /// True when all that wait have the same priority.
  bool one_priority() const noexcept {
    return std::count_if(active_.begin(), active_.end(),
                         [](const auto& level) { return !level.empty(); }) <= 1;
  }
  /// The request to serve next; `kNoSlot` when nothing waits.
  std::uint32_t peek() const noexcept {
    for (std::size_t level = kPriorityLevels; level-- > 0;) {
      if (!active_[level].empty()) return best(level, kAnyGroup);
    }
    return kNoSlot;
  }
  /// The same among the requests of one group.
  std::uint32_t peek(std::size_t group) const noexcept {
    for (std::size_t level = kPriorityLevels; level-- > 0;) {
      if (const std::uint32_t slot = best(level, group); slot != kNoSlot) return slot;
    }
    return kNoSlot;
  }
  /// The same among the requests of one group that have the priority of `peer`.
  std::uint32_t peek_beside(std::uint32_t peer, std::size_t group) const noexcept {
    return best(level_of(items_[peer].flow), group);
  }
  /// Whom to give up for a request of `priority`: of the lowest priority there is, at most that
  /// one, the oldest request of the tenant that has most of them waiting. `kNoSlot` when all that
  /// wait matter more.
  std::uint32_t victim(Priority priority) const noexcept {
    for (std::size_t level = 0; level <= static_cast<std::size_t>(priority); ++level) {
      std::uint32_t found = kNoSlot;
      std::size_t most = 0;
      for (const std::uint32_t flow : active_[level]) {
        const std::size_t waiting = tenants_.waiting(tenant_of(flow));
        const std::uint32_t head = flows_[flow].list.head;
        if (waiting > most || (waiting == most && came_before(head, found))) {
          most = waiting;
          found = head;
        }
      }
      if (found != kNoSlot) return found;
    }
    return kNoSlot;
  }
  bool came_before(std::uint32_t a, std::uint32_t b) const noexcept {
    return items_[a].turn < items_[b].turn;
  }

 private:
  static constexpr std::size_t kAnyGroup = static_cast<std::size_t>(-1);
  struct Item {
    std::uint64_t turn = 0;  // counts arrivals
    std::uint32_t flow = 0;
  };
  struct Flow {
    SlotLinks::List list;
    std::uint32_t place = 0;  // in active_
    std::uint32_t tenant = 0;
    std::uint16_t group = 0, level = 0;
  };

  std::size_t level_of(std::uint32_t flow) const noexcept { return flows_[flow].level; }
  std::uint32_t tenant_of(std::uint32_t flow) const noexcept { return flows_[flow].tenant; }
  std::uint32_t best(std::size_t level, std::size_t group) const noexcept {
    std::uint32_t found = kNoSlot, found_tenant = 0;
    for (const std::uint32_t flow : active_[level]) {
      if (group != kAnyGroup && flows_[flow].group != group) continue;
      const std::uint32_t head = flows_[flow].list.head;
      const std::uint32_t tenant = tenant_of(flow);
      if (found == kNoSlot || tenants_.precedes(tenant, found_tenant) ||
          (!tenants_.precedes(found_tenant, tenant) && came_before(head, found))) {
        found = head;
        found_tenant = tenant;
      }
    }
    return found;
  }

  SlotLinks links_;
  std::vector<Item> items_;  // by slot
  TenantTable tenants_;
  std::size_t groups_;
  std::vector<Flow> flows_;                                         // by priority, tenant, group
  std::array<std::vector<std::uint32_t>, kPriorityLevels> active_;  // flows that are not empty
  std::uint64_t next_turn_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
