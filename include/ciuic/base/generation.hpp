// The words in which a generating model and an engine speak to each other: token ids, page numbers,
// one step over many sequences. Plain data, so that neither side needs the other's headers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

using TokenId = std::int32_t;

/// How the next token is chosen: repetition penalty, then temperature, top-k, top-p and a draw, in
/// the order and with the meaning of Hugging Face's generation. Greedy unless `temperature` > 0.
struct SamplingOptions {
  float temperature = 0.0f;  ///< 0 = greedy; otherwise logits are divided by it
  std::int32_t top_k = 0;    ///< keep the k most likely tokens; 0 = all
  float top_p = 1.0f;        ///< keep the fewest tokens whose probability reaches p, in (0, 1]
  float repetition_penalty = 1.0f;  ///< > 1 makes tokens already in the sequence less likely
  std::uint64_t seed = 0;  ///< same seed, prompt and options: same text, whatever else runs
};

/// Errors: `invalid_argument` naming the field.
inline Result<void> validate(const SamplingOptions& options) {
  const auto wrong = [](std::string_view field, std::string_view wanted, float got) {
    return Error(ErrorCode::invalid_argument,
                 {field, ": wanted ", wanted, ", got ", std::to_string(got)});
  };
  if (!(options.temperature >= 0.0f) || std::isinf(options.temperature)) {
    return wrong("temperature", "a number of at least 0", options.temperature);
  }
  if (options.top_k < 0) return wrong("top_k", "at least 0", static_cast<float>(options.top_k));
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    return wrong("top_p", "more than 0 and at most 1", options.top_p);
  }
  if (!(options.repetition_penalty > 0.0f) || std::isinf(options.repetition_penalty)) {
    return wrong("repetition_penalty", "a number above 0", options.repetition_penalty);
  }
  return {};
}

/// A token and the natural logarithm of the probability the model gave it.
struct TokenLogprob {
  TokenId token = -1;
  float logprob = 0.0f;
};

/// Sees and may change the logits [vocab] of a request before its next token is chosen: a grammar,
/// a ban, a bias. `context` is the prompt and the answer so far. It runs on the thread that runs
/// the step and may run again for the same context (a step that is tried again, a guess that was
/// wrong), so it must depend on its arguments alone. What it throws fails its request.
using LogitsHook = std::function<void(std::span<const TokenId> context, std::span<float> logits)>;

/// One sequence's share of a step: its new tokens (a prompt, a piece of one, or the last generated
/// token and guesses of what follows), where they stand, and the pages that hold its context.
struct SequenceStep {
  std::span<const TokenId> tokens{};  ///< at least one, computed in this step
  std::int32_t first_position = 0;    ///< absolute position of tokens[0]
  std::span<const std::int32_t>
      pages{};         ///< cover positions 0 … first_position + tokens.size() - 1
  bool sample = true;  ///< choose a next token after the last one
  /// The last so many of `tokens` are guesses. With `sample`, a token is chosen before the first
  /// guess and after each, until a choice differs from the guess that stands in its place.
  std::int32_t drafts = 0;
  std::span<const TokenId> history{};         ///< prompt and answer so far, and the guesses
  const SamplingOptions* sampling = nullptr;  ///< null = greedy
  const LogitsHook* logits_hook = nullptr;
  /// Room for what the model thought of each choice: 1 + `top_logprobs` entries a choice, the
  /// chosen token first, then the likeliest in order. Probabilities of the logits as the model made
  /// them: before the hook, penalties, temperature and cuts. Empty = not wanted.
  std::span<TokenLogprob> logprobs{};
  std::int32_t top_logprobs = 0;
};

/// What a step made of one sequence.
struct StepResult {
  TokenId token = -1;                ///< the last choice; -1 when `sample` was false
  std::int32_t accepted_drafts = 0;  ///< guesses that were chosen, and stand before `token`
  std::optional<Error> error;        ///< this sequence alone failed, for example by a NaN
};

struct StepModelLimits {
  std::int32_t vocab_size = 0;
  std::int32_t max_context_tokens = 0;  ///< prompt and answer together
  std::int32_t page_tokens = 16;        ///< positions per page
  std::size_t page_bytes = 0;           ///< memory of one page, over all layers
  std::int32_t max_drafts = 0;          ///< guesses in one step, all sequences together
  bool logits_hook = false;             ///< honours SequenceStep::logits_hook
  std::int32_t max_top_logprobs = -1;   ///< fills SequenceStep::logprobs; -1 = it does not
};

}  // namespace ciuic::inline CIUIC_ABI
