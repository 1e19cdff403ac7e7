// FifoQueue: in which order waiting requests are served. Another order is another queue type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ciuic/base/priority.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::uint32_t kNoSlot = 0xFFFFFFFFu;

/// A doubly linked list over slot numbers whose links live in one array: push and erase are O(1)
/// and allocate nothing. Thread-safety: thread-compatible.
class SlotLinks {
 public:
  struct List {
    std::uint32_t head = kNoSlot;
    std::uint32_t tail = kNoSlot;
  };
  explicit SlotLinks(std::size_t slots) : links_(slots) {}

  void push_back(List& list, std::uint32_t slot) noexcept {
    links_[slot] = {list.tail, kNoSlot};
    (list.tail == kNoSlot ? list.head : links_[list.tail].next) = slot;
    list.tail = slot;
  }
  void erase(List& list, std::uint32_t slot) noexcept {
    const Link link = links_[slot];
    (link.prev == kNoSlot ? list.head : links_[link.prev].next) = link.next;
    (link.next == kNoSlot ? list.tail : links_[link.next].prev) = link.prev;
  }

 private:
  struct Link {
    std::uint32_t prev = kNoSlot;
    std::uint32_t next = kNoSlot;
  };
  std::vector<Link> links_;
};

/// First come, first served within a priority; a higher priority before a lower one. Strictly so:
/// that nothing starves is BatchCore's doing, which serves who has waited too long before it asks.
///
/// What BatchCore asks of a queue type: a constructor from the number of slots, `push`, `erase` of
/// any waiting slot, and `peek`, the slot to serve next. Thread-safety: thread-compatible.
class FifoQueue {
 public:
  explicit FifoQueue(std::size_t slots) : links_(slots) {}

  void push(std::uint32_t slot, Priority priority) noexcept {
    links_.push_back(level(priority), slot);
  }
  void erase(std::uint32_t slot, Priority priority) noexcept {
    links_.erase(level(priority), slot);
  }
  /// `kNoSlot` when nothing waits.
  std::uint32_t peek() const noexcept {
    for (std::size_t i = levels_.size(); i-- > 0;) {
      if (levels_[i].head != kNoSlot) return levels_[i].head;
    }
    return kNoSlot;
  }

 private:
  SlotLinks::List& level(Priority priority) noexcept {
    return levels_[static_cast<std::size_t>(priority)];
  }
  SlotLinks links_;
  std::array<SlotLinks::List, kPriorityLevels> levels_;
};

}  // namespace ciuic::inline CIUIC_ABI
