// Rotary embedding frequencies of a configuration, in the f32 arithmetic of the reference.
#pragma once

#include <vector>

#include "ciuic/model/model_config.hpp"

namespace ciuic::inline CIUIC_ABI {

/// [head_dim / 2] angular frequencies, scaled as `config.rope_scaling` says.
/// Source: Su et al. 2021 (arXiv 2104.09864); llama3 scaling as published with Llama 3.1.
std::vector<float> rope_frequencies(const ModelConfig& config);

}  // namespace ciuic::inline CIUIC_ABI
