// choose: from the logits of a step to the next tokens of one sequence.
#pragma once

#include <span>
#include <vector>

#include "ciuic/base/generation.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Chooses a token before each guess of `step` and after the last, and stops at the first that
/// differs from the guess in its place. Since a choice depends on nothing but its logits, the
/// tokens before it, seed and position, the tokens are those that steps without guesses would have
/// made. `logits` [drafts + 1, vocab] is scratch afterwards; `scratch` may grow to [vocab].
/// Source: verification of drafts as in speculative decoding (Leviathan et al., ICML 2023), for
/// draws that are fixed by their position.
/// Errors, in `result`: `model_failed` for a NaN, or what the hook threw.
void choose(const SequenceStep& step, std::span<float> logits, std::vector<float>& scratch,
            StepResult& result);

/// The log-probability of `token` and of the `top.size()` likeliest in their order; ties go to the
/// lowest id. Fewer than that many tokens: the rest of `top` gets token -1.
TokenLogprob log_probabilities(std::span<const float> logits, TokenId token,
                               std::span<TokenLogprob> top);

}  // namespace ciuic::inline CIUIC_ABI
