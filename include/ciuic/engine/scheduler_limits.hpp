// SchedulerLimits: the numbers a generation scheduler and its parts decide by.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

struct SchedulerLimits {
  std::int32_t max_sequences = 32;
  std::int32_t max_batch_tokens = 2048;
  std::int32_t max_context_tokens = 0;
  std::int32_t vocab_size = 0;
  std::int32_t page_tokens = 16;
  std::int32_t pages = 0;
  std::int32_t max_drafts = 0;
  std::size_t queue_capacity = 1024;
  std::size_t max_tenants = 1;
  bool prefix_cache = true;
  double prompt_stretch = 0;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
