// Sequence: one accepted request while it waits, runs, or lost its place.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/batching/request_terms.hpp"
#include "ciuic/engine/generated_text.hpp"
#include "ciuic/engine/generation.hpp"
#include "ciuic/engine/prompt_lookup.hpp"
#include "ciuic/engine/stream_state.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Memory for all it will hold is taken when it is made; from then on nothing here allocates but
/// its text.
struct Sequence {
  std::shared_ptr<StreamState> stream;
  GenerateOptions options;
  GeneratedText text;
  SlotHandle slot;
  std::uint64_t turn = 0;       // counts admissions: who came earlier
  std::int32_t max_tokens = 0;  // prompt and the longest answer

  std::vector<TokenId> tokens;      // prompt, answer, and the guesses of the planned step
  std::vector<std::int32_t> pages;  // in the order of positions
  std::vector<TokenId> drafts;      // of the planned step
  std::vector<TokenLogprob> logprobs;
  DraftLength draft_length;
  std::int32_t prompt_tokens = 0;
  std::int32_t computed = 0;   // positions whose keys and values are in the pages
  std::int32_t published = 0;  // pages that others can find
  std::int32_t planned = 0;    // tokens of the planned step, guesses apart
  std::int32_t furthest = 0;   // `computed` at its best: up to there a preemption costs work
  std::int32_t cached = 0;     // positions of the prompt that were found computed
  std::int32_t used = 0;       // tokens computed of the prompt and made: what its tenant pays
  std::int32_t charged = 0;    // of these, and of what is left of the prompt
  bool running = false;        // has pages
  bool preempted = false;      // has lost its pages once
  bool raised = false;         // to the highest priority

  TimePoint submitted{}, started{}, first_token{};

  /// Tokens known, but not computed. One: the last token, in whose place the next is chosen.
  std::int32_t pending() const noexcept {
    return static_cast<std::int32_t>(tokens.size()) - computed;
  }
  /// Who keeps its pages when they run out: the more important, then who came earlier. Whoever has
  /// lost them to others once is as important as any, so that a stream of important ones cannot
  /// starve it. The best of all only yields while its reader is slow, so it ends, and then the next
  /// is the best.
  bool ranks_before(const Sequence& other) const noexcept {
    const Priority mine = raised ? Priority::high : options.priority;
    const Priority theirs = other.raised ? Priority::high : other.options.priority;
    return mine != theirs ? mine > theirs : turn < other.turn;
  }
  /// Its reader has enough to read.
  bool paused() const noexcept { return stream->is_full(); }
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
