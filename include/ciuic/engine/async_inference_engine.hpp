// AsyncInferenceEngine: many requests at once through one generating model.
#pragma once

#include <limits>
#include <utility>

#include "ciuic/engine/generation_engine.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Over a TextModel: below. Over replicas of a one-shot model: one_shot_engine.hpp.
template <class Model>
class AsyncInferenceEngine {
  static_assert(TextModel<Model>,
                "AsyncInferenceEngine: Model is no TextModel (engine/step_model.hpp says what that "
                "takes), and no Replicas (engine/one_shot_engine.hpp)");
};

/// Runs requests through a model it owns, as one continuously changing batch: a request joins at
/// the next step after it is submitted and leaves when its answer ends. Every accepted request ends
/// exactly once, as an answer or an error, whatever throws, expires, is cancelled or shuts down. A
/// step that fails is tried again one sequence at a time, so only the culprits end with its error.
///
///   AsyncInferenceEngine engine(std::move(model), {.max_batch_tokens = 4096, .kv_memory = 2_GiB});
///   TextStream stream = engine.generate("Name three rivers.", {.max_new_tokens = 64});
///
/// Thread-safety: thread-safe. Steps run on one thread of its own, on `host.executor` when given,
/// or in `run_one` when host-driven; that thread sleeps while there is nothing to do. The model's
/// own functions must not call back into the engine. Streams may outlive the engine. The destructor
/// is `stop`, and not to be run from inside a step.
template <TextModel Model>
class AsyncInferenceEngine<Model> {
 public:
  /// Takes memory for keys and values at once. When that or starting a thread fails, or an option
  /// is out of range, every request is refused with the reason, which `status` also tells.
  explicit AsyncInferenceEngine(Model model, const EngineOptions& options = {})
      : model_(std::move(model)), adapter_(model_), engine_(adapter_, options) {}

  const Result<void>& status() const noexcept { return engine_.status(); }
  const Model& model() const noexcept { return model_; }

  /// Continues a prompt. Never blocks; a refusal (`queue_full`, `oversize`, `invalid_argument`, …)
  /// is the first thing the stream says.
  [[nodiscard]] TextStream generate(std::string_view prompt, GenerateOptions options = {}) {
    return engine_.generate(prompt, std::move(options));
  }
  /// The same for a prompt in token ids, taken as they are: no beginning-of-text is added.
  [[nodiscard]] TextStream generate(std::vector<TokenId> prompt, GenerateOptions options = {}) {
    return engine_.generate(std::move(prompt), std::move(options));
  }

  /// Host-driven mode: runs at most one step on the calling thread. False when there is nothing to
  /// compute, or another thread is inside a step; there is nothing to wait for then but the next
  /// `generate`. Always false when the engine is driven otherwise.
  bool run_one() { return engine_.run_one(); }
  /// Host-driven mode: when `run_one` will have something to do (a deadline) though nobody submits,
  /// reads or cancels; `kNever` if so.
  TimePoint next_event() { return engine_.next_event(); }

  /// Accepts nothing more and waits for what was accepted. Errors: `expired` when `timeout` came
  /// first; `would_deadlock` when called from inside a step or callback, and then nothing changes.
  Result<void> drain(Duration timeout = Duration::max()) { return engine_.drain(timeout); }
  /// Accepts nothing more and ends every request with `shutting_down`, after the step that runs
  /// now. Errors: `would_deadlock` when called from inside a step.
  Result<void> stop() { return engine_.stop(); }

  EngineStats stats() const { return engine_.stats(); }

 private:
  Model model_;
  detail::TextModelAdapter<Model> adapter_;
  detail::GenerationEngine engine_;
};

template <TextModel Model>
AsyncInferenceEngine(Model, const EngineOptions& = {}) -> AsyncInferenceEngine<Model>;

}  // namespace ciuic::inline CIUIC_ABI
