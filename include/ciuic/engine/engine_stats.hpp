// EngineStats: what a generating engine has done.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/clock.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Counters since the engine began. A copy; consistent in itself.
struct EngineStats {
  std::uint64_t submitted = 0, completed = 0, failed = 0, cancelled = 0, expired = 0, refused = 0;
  std::uint64_t steps = 0;
  std::uint64_t sequence_steps = 0;     ///< sum over steps of the sequences in them
  std::uint64_t prompt_tokens = 0;      ///< of prompts, computed
  std::uint64_t cached_tokens = 0;      ///< of prompts, found computed already
  std::uint64_t recomputed_tokens = 0;  ///< computed again after a preemption
  std::uint64_t generated_tokens = 0;
  std::uint64_t drafted_tokens = 0, accepted_drafts = 0;  ///< guesses checked, and right
  std::uint64_t preemptions = 0;        ///< sequences that gave up their pages for others
  std::uint64_t callback_failures = 0;  ///< callbacks and coroutines that threw
  std::int32_t running = 0;             ///< sequences that have pages
  std::int32_t paused = 0;              ///< of those, that wait for their reader
  std::size_t waiting = 0;              ///< requests without pages
  std::int32_t pages_used = 0, pages_cached = 0, pages_total = 0;
  Duration model_time{};  ///< inside the model's steps
  Duration step_time{};   ///< inside steps, planning and bookkeeping included

  double mean_sequences_per_step() const noexcept {
    return steps == 0 ? 0.0 : static_cast<double>(sequence_steps) / static_cast<double>(steps);
  }
};

}  // namespace ciuic::inline CIUIC_ABI
