// DeadlineHeap: which slot's deadline comes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A binary heap of slots by deadline in which every slot knows its place, so that any can be
/// erased in O(log n). Allocates only in the constructor. Thread-safety: thread-compatible.
class DeadlineHeap {
 public:
  explicit DeadlineHeap(std::size_t slots) : place_(slots, kAbsent) { heap_.reserve(slots); }

  bool empty() const noexcept { return heap_.empty(); }
  std::size_t size() const noexcept { return heap_.size(); }
  /// `kNever` when empty.
  TimePoint first_deadline() const noexcept {
    return heap_.empty() ? kNever : heap_.front().deadline;
  }
  std::uint32_t first_slot() const noexcept { return heap_.front().slot; }
  bool contains(std::uint32_t slot) const noexcept { return place_[slot] != kAbsent; }

  void push(std::uint32_t slot, TimePoint deadline) noexcept {
    heap_.push_back({deadline, slot});
    rise(heap_.size() - 1);
  }
  /// Does nothing when the slot is absent.
  void erase(std::uint32_t slot) noexcept {
    const std::size_t hole = std::exchange(place_[slot], kAbsent);
    if (hole == kAbsent) return;
    const Item last = heap_.back();
    heap_.pop_back();
    if (hole == heap_.size()) return;
    heap_[hole] = last;
    sink(hole);
    rise(place_[last.slot]);
  }

 private:
  struct Item {
    TimePoint deadline;
    std::uint32_t slot;
  };
  static constexpr std::uint32_t kAbsent = 0xFFFFFFFFu;

  void rise(std::size_t at) noexcept {
    const Item item = heap_[at];
    for (; at > 0 && item.deadline < heap_[(at - 1) / 2].deadline; at = (at - 1) / 2) {
      put(at, heap_[(at - 1) / 2]);
    }
    put(at, item);
  }
  void sink(std::size_t at) noexcept {
    const Item item = heap_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1].deadline < heap_[child].deadline) ++child;
      if (!(heap_[child].deadline < item.deadline)) break;
      put(at, heap_[child]);
      at = child;
    }
    put(at, item);
  }
  void put(std::size_t at, Item item) noexcept {
    heap_[at] = item;
    place_[item.slot] = static_cast<std::uint32_t>(at);
  }

  std::vector<Item> heap_;
  std::vector<std::uint32_t> place_;
};

}  // namespace ciuic::inline CIUIC_ABI
