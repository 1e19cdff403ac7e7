// TenantTable: who has been served how much, for the tenants that matter at the moment.
//
// Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996): every tenant has a virtual time, the
// cost served to it so far; the tenant with the least is served next. Whoever comes back after a
// pause starts at the virtual time of the system, the start of what was served last, so that nobody
// saves up a claim by staying away. A tenant that is behind that time and has nothing waiting can
// be forgotten without a trace.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ciuic/batching/request_terms.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A fixed number of tenants, found by id. Virtual times are compared by their distance, so they
/// may wrap. Allocates in the constructor only. Thread-safety: thread-compatible.
class TenantTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;

  /// `capacity` at least 1. With 1 there are no tenants: every id means the same one.
  explicit TenantTable(std::size_t capacity)
      : tenants_(capacity), buckets_(std::bit_ceil(2 * capacity), kNone) {}

  std::size_t capacity() const noexcept { return tenants_.size(); }
  /// `kNone` when the id has no place.
  std::uint32_t find(TenantId id) const noexcept {
    if (tenants_.size() == 1) return 0;
    return buckets_[bucket_of(id)];
  }
  /// Is there a place for one more tenant?
  bool has_room() const noexcept { return used_ < tenants_.size() || idle() != kNone; }
  /// The tenant's place, made if need be. Only if it has one or has_room().
  std::uint32_t place(TenantId id) noexcept {
    if (tenants_.size() == 1) return 0;
    std::size_t bucket = bucket_of(id);
    if (buckets_[bucket] != kNone) return buckets_[bucket];
    std::uint32_t index = static_cast<std::uint32_t>(used_);
    if (used_ < tenants_.size()) {
      ++used_;
    } else {
      index = idle();
      forget(index);
      bucket = bucket_of(id);
    }
    tenants_[index] = {id, virtual_time_, 0};
    buckets_[bucket] = index;
    return index;
  }

  std::size_t waiting(std::uint32_t tenant) const noexcept { return tenants_[tenant].waiting; }
  /// One more request of this tenant waits.
  void join(std::uint32_t tenant) noexcept {
    Tenant& t = tenants_[tenant];
    if (t.waiting++ == 0 && before(t.served, virtual_time_)) t.served = virtual_time_;
  }
  void leave(std::uint32_t tenant) noexcept { --tenants_[tenant].waiting; }
  /// A request of this tenant is served.
  void charge(std::uint32_t tenant, std::uint64_t cost) noexcept {
    if (tenants_.size() == 1) return;
    Tenant& t = tenants_[tenant];
    if (before(virtual_time_, t.served)) virtual_time_ = t.served;
    t.served += std::max<std::uint64_t>(cost, 1);  // or who costs nothing would always be next
  }
  /// What was served cost so much more than was charged for it, or less. Nothing if the tenant has
  /// been forgotten meanwhile.
  void correct(TenantId id, std::int64_t more) noexcept {
    const std::uint32_t tenant = find(id);
    if (tenant != kNone) tenants_[tenant].served += static_cast<std::uint64_t>(more);
  }
  /// Is it `a`'s turn before `b`'s?
  bool precedes(std::uint32_t a, std::uint32_t b) const noexcept {
    return before(tenants_[a].served, tenants_[b].served);
  }

 private:
  struct Tenant {
    TenantId id = 0;
    std::uint64_t served = 0;
    std::size_t waiting = 0;
  };
  static bool before(std::uint64_t a, std::uint64_t b) noexcept {
    return static_cast<std::int64_t>(a - b) < 0;
  }
  /// The tenant without waiting requests that was served least.
  std::uint32_t idle() const noexcept {
    std::uint32_t least = kNone;
    for (std::uint32_t i = 0; i < tenants_.size(); ++i) {
      if (tenants_[i].waiting == 0 && (least == kNone || precedes(i, least))) least = i;
    }
    return least;
  }

  // Open addressing, linear probing.
  std::size_t home(TenantId id) const noexcept {
    return static_cast<std::size_t>((id * 0x9E3779B97F4A7C15u) >> 32) & (buckets_.size() - 1);
  }
  std::size_t next(std::size_t bucket) const noexcept {
    return (bucket + 1) & (buckets_.size() - 1);
  }
  /// Where `id` is, or where it would go.
  std::size_t bucket_of(TenantId id) const noexcept {
    std::size_t bucket = home(id);
    while (buckets_[bucket] != kNone && tenants_[buckets_[bucket]].id != id) bucket = next(bucket);
    return bucket;
  }
  /// Takes a tenant out and moves up whoever was displaced by it.
  void forget(std::uint32_t tenant) noexcept {
    std::size_t hole = bucket_of(tenants_[tenant].id);
    for (std::size_t at = next(hole); buckets_[at] != kNone; at = next(at)) {
      const std::size_t wish = home(tenants_[buckets_[at]].id);
      const std::size_t mask = buckets_.size() - 1;
      if (((at - wish) & mask) >= ((at - hole) & mask)) {
        buckets_[hole] = buckets_[at];
        hole = at;
      }
    }
    buckets_[hole] = kNone;
  }

  std::vector<Tenant> tenants_;
  std::vector<std::uint32_t> buckets_;
  std::size_t used_ = 0;
  std::uint64_t virtual_time_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
