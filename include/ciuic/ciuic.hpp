// Everything: batching over any callable, and model directories behind an engine.
//
//   auto model = ciuic::load_model("models/some-llama").value();
//   ciuic::AsyncInferenceEngine engine(std::move(model), {.max_batch_tokens = 4096});
//   auto stream = engine.generate("Name three rivers.", {.max_new_tokens = 64});
//   while (auto piece = stream.next().value()) std::cout << *piece;
#pragma once

#include "ciuic/base/units.hpp"
#include "ciuic/batching/adapted_batcher.hpp"
#include "ciuic/batching/autotuner.hpp"
#include "ciuic/batching/batches.hpp"
#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/padded_adapter.hpp"
#include "ciuic/batching/prometheus.hpp"
#include "ciuic/batching/slo_policy.hpp"
#include "ciuic/batching/text_adapter.hpp"
#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/engine/one_shot_engine.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "ciuic/model/chat_format.hpp"
#include "ciuic/model/language_model.hpp"
#include "ciuic/model/quantize.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "ciuic/quant/calibrate.hpp"
#include "ciuic/quant/prune.hpp"
#include "ciuic/quant/quantize_dynamic.hpp"
#include "ciuic/quant/smooth.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Loads a Hugging Face directory; `LanguageModel::load` under the name one looks for first.
inline Result<LanguageModel> load_model(const std::filesystem::path& directory,
                                        const ModelOptions& options = {}) {
  return LanguageModel::load(directory, options);
}

}  // namespace ciuic::inline CIUIC_ABI
