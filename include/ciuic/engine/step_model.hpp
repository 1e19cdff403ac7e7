// What the engine asks of a generating model: a step over sequences, and text in and out of tokens.
// The engine deals in token ids and page numbers; the model owns weights, key/value bytes and
// devices.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

using TokenId = std::int32_t;

/// How the next token is chosen. Greedy unless `temperature` > 0.
struct SamplingOptions {
  float temperature = 0.0f;         ///< 0 = greedy; otherwise logits are divided by it
  std::int32_t top_k = 0;           ///< keep the k most likely tokens; 0 = all
  float top_p = 1.0f;               ///< keep the smallest set of tokens whose probability reaches p
  float repetition_penalty = 1.0f;  ///< > 1 makes tokens already in the sequence less likely
  std::uint64_t seed = 0;  ///< same seed, prompt and options: same text, whatever else runs
};

/// One sequence's share of a step: its new tokens (a prompt, a piece of one, or the last generated
/// token), where they stand, and the pages that hold its context.
struct SequenceStep {
  std::span<const TokenId> tokens;      ///< at least one, computed in this step
  std::int32_t first_position = 0;      ///< absolute position of tokens[0]
  std::span<const std::int32_t> pages;  ///< covers positions 0 … first_position + tokens.size() - 1
  bool sample = true;                   ///< choose a next token from the last row
  std::span<const TokenId> history;     ///< prompt and generated tokens, for the repetition penalty
  const SamplingOptions* sampling = nullptr;  ///< null = greedy
};

/// What a step made of one sequence.
struct StepResult {
  TokenId token = -1;    ///< the sampled token; -1 when `sample` was false
  float logprob = 0.0f;  ///< of that token, under the unmodified distribution
};

struct StepModelLimits {
  std::int32_t vocab_size = 0;
  std::int32_t max_context_tokens = 0;  ///< prompt and answer together
  std::int32_t page_tokens = 16;        ///< positions per page
  std::size_t page_bytes = 0;           ///< memory of one page over all layers
};

/// A model that advances many sequences by one step. Thread-safety: thread-compatible; one engine
/// drives it.
class StepModel {
 public:
  virtual ~StepModel() = default;
  virtual StepModelLimits limits() const noexcept = 0;
  /// Makes room for `pages` pages and `max_step_tokens` tokens a step; called once, before `step`.
  /// Errors: `out_of_memory`.
  virtual Result<void> reserve(std::int32_t pages, std::int32_t max_step_tokens,
                               std::int32_t max_sequences) = 0;
  /// Advances every sequence; `results` has one element for each. On error no sequence advanced,
  /// and the same step may be tried again.
  virtual Result<void> step(std::span<const SequenceStep> sequences,
                            std::span<StepResult> results) = 0;
};

/// Turns token ids into text as they arrive, never half a character.
/// Thread-safety: thread-compatible.
class TokenTextStream {
 public:
  virtual ~TokenTextStream() = default;
  /// Text that `token` completed, possibly none. Valid until the next call.
  virtual std::string_view push(TokenId token) = 0;
  /// What is left at the end: incomplete bytes become U+FFFD. Valid until the next call.
  virtual std::string_view finish() = 0;
};

/// A step model that also speaks text. Thread-safety: the text functions are const and thread-safe.
class TextModel : public StepModel {
 public:
  /// Token ids of a prompt, beginning-of-text included where the model wants it. Literals of
  /// special tokens in `text` are plain text unless `parse_special`.
  virtual Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const = 0;
  virtual std::unique_ptr<TokenTextStream> text_stream() const = 0;
  /// Tokens that end an answer.
  virtual std::span<const TokenId> end_tokens() const noexcept = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
