// PagePool: which key/value pages are free. Integers only; the model owns the bytes.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Hands out page numbers 0 … pages-1, each to one owner at a time. Allocates only on construction.
/// Thread-safety: thread-compatible.
class PagePool {
 public:
  explicit PagePool(std::int32_t pages) : free_(static_cast<std::size_t>(pages)), total_(pages) {
    std::iota(free_.rbegin(), free_.rend(), 0);  // lowest numbers first
  }

  std::int32_t total() const noexcept { return total_; }
  std::int32_t available() const noexcept { return static_cast<std::int32_t>(free_.size()); }

  /// Appends `count` pages to `to`, or takes none and returns false.
  [[nodiscard]] bool take(std::int32_t count, std::vector<std::int32_t>& to) {
    if (count > available()) return false;
    to.insert(to.end(), free_.rbegin(), free_.rbegin() + count);
    free_.resize(free_.size() - static_cast<std::size_t>(count));
    return true;
  }
  /// Gives pages back; each must have been taken and not given back since.
  void give_back(std::span<const std::int32_t> pages) {
    free_.insert(free_.end(), pages.rbegin(), pages.rend());  // never beyond the first capacity
  }

 private:
  std::vector<std::int32_t> free_;
  std::int32_t total_;
};

}  // namespace ciuic::inline CIUIC_ABI
