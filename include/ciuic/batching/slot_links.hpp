// SlotLinks: lists of slots whose links live in one array.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::uint32_t kNoSlot = 0xFFFFFFFFu;

/// A doubly linked list over slot numbers: push and erase are O(1) and allocate nothing. Many lists
/// may share the links, as long as no slot is in two of them. Thread-safety: thread-compatible.
class SlotLinks {
 public:
  struct List {
    std::uint32_t head = kNoSlot;
    std::uint32_t tail = kNoSlot;
    bool empty() const noexcept { return head == kNoSlot; }
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

}  // namespace ciuic::inline CIUIC_ABI
