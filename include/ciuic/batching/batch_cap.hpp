// BatchCap: how large a batch the memory has shown to bear.
//
// An out-of-memory puts the cap at the largest part of that batch that then passed; every eighth
// batch that filled the cap and passed raises it by a quarter, until it is out of the way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ciuic/batching/batch_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: thread-compatible.
class BatchCap {
 public:
  std::size_t count() const noexcept { return count_; }
  std::uint64_t cost() const noexcept { return cost_; }

  /// A batch of this shape passed; or a larger one ran out of memory, and this is what passed of
  /// it.
  void observe(const BatchShape& shape, bool out_of_memory, const BatchLimits& limits) noexcept {
    if (out_of_memory) {
      count_ = std::max<std::size_t>(std::min(shape.count, count_), 1);
      cost_ = std::max<std::uint64_t>(std::min(shape.cost, cost_), 1);
      passed_ = 0;
      return;
    }
    if (shape.count < count_ && shape.cost < cost_) return;  // no news, or no cap
    if (++passed_ < kPassesToGrow) return;
    passed_ = 0;
    count_ = grown(count_, limits.max_batch_size);
    cost_ = grown(cost_, limits.max_batch_cost);
  }

 private:
  /// A cap that reached the limit is none.
  template <class T>
  static T grown(T cap, T limit) noexcept {
    return cap >= limit - std::min(limit, std::max<T>(cap / 4, 1)) ? std::numeric_limits<T>::max()
                                                                   : cap + std::max<T>(cap / 4, 1);
  }

  static constexpr unsigned kPassesToGrow = 8;
  std::size_t count_ = std::numeric_limits<std::size_t>::max();
  std::uint64_t cost_ = std::numeric_limits<std::uint64_t>::max();
  unsigned passed_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
