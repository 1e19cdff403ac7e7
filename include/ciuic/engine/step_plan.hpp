// StepPlan: what the next step computes, out of the sequences that have pages.
//
//   streams   each sequence that only lacks its next token gives its last one. A new page that
//             nobody has is taken from the lowest in rank.
//   guesses   of what comes next, for those that asked, as far as there is room
//   prompts   fill the rest, cut into pieces the streams can bear (StepPacer). The one let in
//             first gets half of it, the shortest of the others come next: a long prompt does not
//             stand in the way of short ones, nor they in its way, and none starves. Of prompts
//             that begin alike one goes ahead, the others take its pages when they are full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ciuic/base/generation.hpp"
#include "ciuic/engine/residents.hpp"
#include "ciuic/engine/step_pacer.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Takes its memory when it is made. Thread-safety: thread-compatible.
class StepPlan {
 public:
  explicit StepPlan(const SchedulerLimits& limits)
      : limits_(limits), pacer_(limits.prompt_stretch) {
    const auto most = static_cast<std::size_t>(limits.max_sequences);
    prompts_.reserve(most);
    in_step_.reserve(most);
    steps_.reserve(most);
  }

  /// Of the planned step: its sequences, and what each does in it.
  std::span<Sequence* const> sequences() const noexcept { return in_step_; }
  std::span<const SequenceStep> steps() const noexcept { return steps_; }
  std::int32_t drafted_tokens() const noexcept { return drafted_tokens_; }

  /// The planned step took `time`; 0 = that says nothing.
  void observe(Duration time) noexcept { pacer_.observe(streaming_tokens_, prompt_tokens_, time); }
  void clear() noexcept {
    in_step_.clear();
    steps_.clear();
  }

  void lay_out(Residents& residents, TimePoint now) {
    clear();
    prompts_.clear();
    std::int32_t room = limits_.max_batch_tokens;
    // By rank, so that whoever is made to yield is not yet part of the step: it is paused, or comes
    // later in this order.
    for (std::size_t i = 0; i < residents.running().size() && room > 0; ++i) {
      Sequence& sequence = *residents.running()[i];
      if (sequence.paused()) continue;
      if (sequence.pending() > 1) {
        prompts_.push_back(&sequence);
        continue;
      }
      if (!residents.grow(sequence, sequence.computed + 1, /*at_others_expense=*/true)) {
        residents.preempt(sequence);  // the lowest itself
        break;
      }
      while (residents.running()[i] != &sequence) --i;  // a paused one before it has gone
      sequence.planned = 1;
      sequence.drafts.clear();
      in_step_.push_back(&sequence);
      --room;
    }
    room -= add_drafts(residents, room);
    streaming_tokens_ = limits_.max_batch_tokens - room;
    prompt_tokens_ = add_prompts(residents, std::min(room, pacer_.piece(streaming_tokens_)));
    for (Sequence* sequence : in_step_) {
      if (sequence->started == TimePoint{}) sequence->started = now;
      add_step(*sequence, residents);
    }
  }

 private:
  /// Guesses for the streams that asked for them, in half of the room where prompts want some too.
  /// Returns how many.
  std::int32_t add_drafts(Residents& residents, std::int32_t room) {
    const std::int32_t most = std::min(prompts_.empty() ? room : room / 2, limits_.max_drafts);
    std::int32_t added = 0;
    for (Sequence* s : in_step_) {
      const auto known = static_cast<std::int32_t>(s->tokens.size());
      const std::int32_t count =
          std::min({s->draft_length.now(), most - added, s->max_tokens - known - 1});
      if (count <= 0) continue;
      look_up_prompt(s->tokens, static_cast<std::size_t>(count), s->drafts);
      const auto guessed = static_cast<std::int32_t>(s->drafts.size());
      if (guessed == 0) continue;
      if (!residents.grow(*s, s->computed + 1 + guessed, /*at_others_expense=*/false)) {
        s->drafts.clear();
        continue;
      }
      s->tokens.insert(s->tokens.end(), s->drafts.begin(), s->drafts.end());
      added += guessed;
    }
    drafted_tokens_ = added;
    return added;
  }

  /// Pieces of prompts, `room` tokens in all. Returns how many tokens.
  std::int32_t add_prompts(Residents& residents, std::int32_t room) {
    if (prompts_.empty() || room <= 0) return 0;
    std::int32_t left = room;
    const auto add = [&](Sequence& sequence, std::int32_t most) {
      if (std::min(most, left) <= 0) return;
      if (sequence.planned == 0) in_step_.push_back(&sequence);
      const std::int32_t count = std::min({sequence.pending() - sequence.planned, most, left});
      sequence.planned += count;
      left -= count;
    };
    for (Sequence* sequence : prompts_) {
      sequence->planned = 0;
      sequence->drafts.clear();
      residents.find_pages(*sequence);
    }
    const auto earlier = [](const Sequence* x, const Sequence* y) { return x->turn < y->turn; };
    std::iter_swap(prompts_.begin(), std::min_element(prompts_.begin(), prompts_.end(), earlier));
    Sequence& first = *prompts_.front();
    add(first, (room + 1) / 2);
    std::sort(prompts_.begin() + 1, prompts_.end(), [](const Sequence* x, const Sequence* y) {
      return x->pending() != y->pending() ? x->pending() < y->pending() : x->turn < y->turn;
    });
    const std::size_t streams = in_step_.size() - 1;  // those before the first prompt
    for (std::size_t i = 1; i < prompts_.size() && left > 0; ++i) {
      if (!follows_in_step(*prompts_[i], streams)) add(*prompts_[i], left);
    }
    if (first.pending() > first.planned && left > 0) add(first, left);
    return room - left;
  }
  /// A prompt of this step computes the very page that `sequence` would begin next.
  bool follows_in_step(const Sequence& sequence, std::size_t streams) const noexcept {
    const std::int32_t width = limits_.page_tokens;
    if (!limits_.prefix_cache || sequence.computed != sequence.published * width) return false;
    const auto page = static_cast<std::size_t>(sequence.published);
    if (sequence.pending() <= width) return false;  // it would have to compute that page itself
    const auto begins = [&](const Sequence& s) { return s.tokens.begin() + sequence.computed; };
    for (std::size_t i = streams; i < in_step_.size(); ++i) {
      const Sequence& other = *in_step_[i];
      if (other.published != sequence.published || other.pending() < width) continue;
      // Who begins alike has the same pages so far.
      if (page > 0 && other.pages[page - 1] != sequence.pages[page - 1]) continue;
      if (std::equal(begins(sequence), begins(sequence) + width, begins(other))) return true;
    }
    return false;
  }

  void add_step(Sequence& sequence, const Residents& residents) {
    const auto guesses = static_cast<std::int32_t>(sequence.drafts.size());
    const auto first = static_cast<std::size_t>(sequence.computed);
    const auto end = static_cast<std::size_t>(sequence.computed + sequence.planned + guesses);
    SequenceStep step{
        .tokens = std::span(sequence.tokens).subspan(first, end - first),
        .first_position = sequence.computed,
        .pages = std::span(sequence.pages)
                     .first(static_cast<std::size_t>(
                         residents.pages_for(static_cast<std::int32_t>(end)))),
        .sample = end == sequence.tokens.size(),
        .drafts = guesses,
        .history = sequence.tokens,
        .sampling = &sequence.options.sampling,
        .logits_hook = sequence.options.logits_hook ? &sequence.options.logits_hook : nullptr};
    if (step.sample && sequence.options.top_logprobs >= 0) {
      step.top_logprobs = sequence.options.top_logprobs;
      step.logprobs = std::span(sequence.logprobs)
                          .first(static_cast<std::size_t>((guesses + 1) * (1 + step.top_logprobs)));
    }
    steps_.push_back(step);
  }

  SchedulerLimits limits_;
  StepPacer pacer_;
  std::vector<Sequence*> prompts_;  // that could fill the planned step
  std::vector<Sequence*> in_step_;  // parallel to steps_
  std::vector<SequenceStep> steps_;
  std::int32_t streaming_tokens_ = 0, prompt_tokens_ = 0, drafted_tokens_ = 0;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
