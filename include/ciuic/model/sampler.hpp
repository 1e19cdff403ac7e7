// From logits to the next token.
#pragma once

#include <span>

#include "ciuic/base/generation.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Chooses a token from `logits` [vocab], which is scratch afterwards. `history` feeds the
/// repetition penalty; `position` is where the token will stand: with the seed it fixes the random
/// draw, so the choice depends on nothing else. Ties go to the lowest id. Errors: `model_failed`
/// when a logit is NaN or none is finite. Source: order and meaning of the steps as in Hugging Face
/// transformers' logits processors.
CIUIC_API Result<TokenId> sample(std::span<float> logits, const SamplingOptions& options,
                                 std::span<const TokenId> history, std::int64_t position);

}  // namespace ciuic::inline CIUIC_ABI
