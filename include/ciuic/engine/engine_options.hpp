// EngineOptions: how much a generating engine may take, and how it shares it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/host_context.hpp"

namespace ciuic::inline CIUIC_ABI {

struct EngineOptions {
  std::int32_t max_sequences = 32;       ///< sequences in one step, at most 65,536
  std::int32_t max_batch_tokens = 2048;  ///< tokens in one step; longer prompts are cut into pieces
  std::size_t kv_memory = 0;  ///< bytes of keys and values; 0 = full contexts, at most 1 GiB
  std::size_t queue_capacity = 1024;  ///< requests that may wait, at most 2^20
  /// A step that carries pieces of prompts may take so many times as long as one that only streams:
  /// at least 1. Smaller is smoother for running streams, larger is faster for new prompts. 0 =
  /// prompts fill every step.
  double prompt_stretch = 1.9;
  bool prefix_cache = true;  ///< beginnings that prompts have in common are computed once
  /// Guesses that one step may check, over all requests that asked for some (`draft_tokens`); each
  /// takes memory for a row of logits. 0 = none.
  std::int32_t max_draft_tokens = 32;
  /// Tenants that may have requests waiting at once; above 1 they share the engine by tokens, and
  /// `GenerateOptions::tenant` says whose a request is. At most 4096.
  std::size_t max_tenants = 1;
  bool host_driven = false;  ///< no thread: the host calls `run_one`
  HostContext host{};        ///< `executor`, when given, runs the steps, one a task
};

}  // namespace ciuic::inline CIUIC_ABI
