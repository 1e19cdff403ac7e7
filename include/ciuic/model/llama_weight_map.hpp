// Which tensors a Llama needs, by the names that Hugging Face gives them.
#pragma once

#include "ciuic/base/error.hpp"
#include "ciuic/model/model_config.hpp"
#include "ciuic/model/weight_files.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Every tensor that `config` calls for is there, with exactly its shape and a type of F32, F16 or
/// BF16. Tensors that no Llama needs are ignored. To be called before any memory for weights is
/// allocated. Errors: `bad_model`, naming file, tensor and both shapes; `unsupported` for another
/// type.
CIUIC_API Result<void> check_llama_weights(const ModelConfig& config, const WeightFiles& weights);

/// The same tensors, drawn at random and stored nowhere (`WeightFiles::random`): for measuring a
/// shape whose weights are not at hand.
CIUIC_API Result<WeightFiles> random_llama_weights(const ModelConfig& config,
                                                   std::uint64_t seed = 0);
/// The same for norms and biases alone: a quantized directory, whose matrices have a table of their
/// own.
CIUIC_API Result<void> check_llama_vectors(const ModelConfig& config, const WeightFiles& weights);

}  // namespace ciuic::inline CIUIC_ABI
