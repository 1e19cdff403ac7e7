// GenerationScheduler: which sequences take part in the next step. Continuous batching: requests
// join and leave between steps; prompts and single generated tokens share one packed batch.
//
// A pure state machine like the BatchCore inside it, which holds the queue, slots and deadlines: no
// threads, no clock, no model. The engine calls plan(), runs the model, and calls commit(); under
// its lock, except while the model runs. submit() may come in between.
//
// A step is a transaction. plan() takes the pages it needs; commit() moves sequences forward; a
// step whose results are errors moves nobody, and what it wrote into pages counts for nothing.
//
// plan(), in this order:
//   retire    what was cancelled or expired gives its pages back
//   resume    sequences that lost their pages, then new requests, while there is a place in the
//             batch and there are pages for all their tokens (residents.hpp). Beginnings that are
//             known are not computed again. Whoever is next and does not fit is not overtaken.
//   lay out   streams, guesses and pieces of prompts (step_plan.hpp)
//
// Tenants pay for tokens: for the prompt when the request is let in, for the answer as it is made;
// what is found computed, or given up, is given back (after Sheng et al., "Fairness in Serving
// Large Language Models", OSDI 2024). Let there be two that always have requests waiting. When one
// of them was last let in, it had been served no more than the other, plus what the other had paid
// for prompts in the batch; it has got ahead since by what it had in the batch itself. So what they
// were served differs by no more than `max_sequences` of the longest requests, in tokens really
// used; requests that pause for their readers come on top.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/base/checked.hpp"
#include "ciuic/base/generation.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/batching/batch_core.hpp"
#include "ciuic/engine/engine_stats.hpp"
#include "ciuic/engine/residents.hpp"
#include "ciuic/engine/scheduler_limits.hpp"
#include "ciuic/engine/sequence.hpp"
#include "ciuic/engine/step_plan.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Thread-safety: thread-compatible; the engine's lock guards it.
class GenerationScheduler {
 public:
  /// `cancels` counts the cancellations so far; it must outlive the scheduler.
  GenerationScheduler(const SchedulerLimits& limits, const Atomic<std::uint64_t>& cancels)
      : limits_(limits),
        cancels_(cancels),
        core_({.max_batch_size = 1,
               .min_batch_size = 1,
               .queue_capacity = limits.queue_capacity,
               .max_outstanding =
                   limits.queue_capacity + static_cast<std::size_t>(limits.max_sequences) + 1,
               .max_tenants = limits.max_tenants}),
        sequences_(core_.limits().max_outstanding),
        residents_(limits, sequences_.size(), stats_),
        plan_(limits) {
    to_continue_.reserve(sequences_.size());
    spent_hooks_.reserve(2 * sequences_.size());
  }

  /// Accepts a request whose prompt is in `sequence->tokens`, and takes it over; or says why not.
  Result<void> submit(std::unique_ptr<Sequence>& sequence, TimePoint now, TimePoint deadline) {
    Sequence& s = *sequence;
    const auto prompt = static_cast<std::int64_t>(s.tokens.size());
    if (prompt == 0) {
      return Error(ErrorCode::invalid_argument, "prompt: wanted at least one token, got none");
    }
    if (prompt >= limits_.max_context_tokens) {
      return Error(ErrorCode::oversize,
                   {"prompt: wanted fewer tokens than the model's context of ",
                    std::to_string(limits_.max_context_tokens), ", got ", std::to_string(prompt)});
    }
    const std::int64_t longest =
        std::min<std::int64_t>(prompt + s.options.max_new_tokens, limits_.max_context_tokens);
    // The last token of an answer is never fed back, so it needs no place in the cache.
    const std::int64_t pages = ceil_div<std::int64_t>(longest - 1, limits_.page_tokens);
    if (pages > limits_.pages) {
      return Error(ErrorCode::oversize,
                   {"prompt and max_new_tokens: wanted at most ", std::to_string(limits_.pages),
                    " pages of kv_memory, need ", std::to_string(pages)});
    }
    // All memory the request will need is taken here, where a failure can still be refused.
    const auto drafts = static_cast<std::size_t>(
        std::min(s.options.draft_tokens, std::min(limits_.max_drafts, limits_.max_context_tokens)));
    s.tokens.reserve(static_cast<std::size_t>(longest) + drafts);
    s.pages.reserve(static_cast<std::size_t>(pages) + 1);
    s.drafts.reserve(drafts);
    s.draft_length = DraftLength(static_cast<std::int32_t>(drafts));
    if (s.options.top_logprobs >= 0) {
      s.logprobs.resize((drafts + 1) * static_cast<std::size_t>(1 + s.options.top_logprobs));
    }
    s.max_tokens = static_cast<std::int32_t>(longest);
    s.prompt_tokens = static_cast<std::int32_t>(prompt);
    s.submitted = now;
    s.charged = s.prompt_tokens;  // when it is let in
    const Admission admission = core_.submit(now, {.cost = static_cast<std::uint64_t>(prompt),
                                                   .priority = s.options.priority,
                                                   .deadline = deadline,
                                                   .tenant = s.options.tenant});
    switch (admission.refusal) {
      case Refusal::none:
        break;
      case Refusal::expired:
        return Error(ErrorCode::expired, "deadline: already past at submit");
      case Refusal::shutting_down:
        return Error(ErrorCode::shutting_down, "engine: stopping");
      case Refusal::tenant_full:
        return Error(ErrorCode::queue_full,
                     {"max_tenants: requests of ", std::to_string(limits_.max_tenants),
                      " other tenants are waiting"});
      case Refusal::outstanding_full:
        return Error(ErrorCode::queue_full,
                     {"queue_capacity: ", std::to_string(core_.outstanding()),
                      " requests run, pause or wait"});
      case Refusal::queue_full:
      case Refusal::oversize:  // this one and the next two: no such limits here
      case Refusal::unknown_group:
      case Refusal::infeasible:
        return Error(
            ErrorCode::queue_full,
            {"queue_capacity: ", std::to_string(limits_.queue_capacity), " requests are waiting"});
    }
    s.slot = admission.slot;
    sequences_[admission.slot.index] = std::move(sequence);
    ++stats_.submitted;
    return {};
  }

  /// Retires what was cancelled or expired, admits what fits, and lays out the next step. Empty
  /// when there is nothing to compute: not before `next_event`, or until the engine's bell rings.
  std::span<const SequenceStep> plan(TimePoint now) {
    retire_cancelled();
    retire_expired(now);
    admit(now);
    plan_.lay_out(residents_, now);
    stats_.drafted_tokens += static_cast<std::uint64_t>(plan_.drafted_tokens());
    return plan_.steps();
  }

  /// Takes over what the model made of the planned step, which took `time`. A request whose text
  /// finds no memory fails alone.
  void commit(std::span<const StepResult> results, Duration time, TimePoint now) {
    ++stats_.steps;
    stats_.sequence_steps += plan_.sequences().size();
    stats_.model_time += time;
    plan_.observe(time);
    for (std::size_t i = 0; i < results.size(); ++i) {
      Sequence& sequence = *plan_.sequences()[i];
      const SlotHandle slot = sequence.slot;
      const Result<void> committed = call_guarded(ErrorCode::model_failed, "the model's text", [&] {
        commit_one(sequence, plan_.steps()[i], results[i], now);
      });
      if (!committed) fail_one(slot, committed.error());
    }
    const auto lost = [](const StepResult& result) {
      return result.error && result.error->code() == ErrorCode::device_lost;
    };
    if (std::any_of(results.begin(), results.end(), lost)) residents_.lose_all();
    plan_.clear();
  }

  /// Accepts nothing more; what waits and what runs goes on.
  void drain() noexcept { core_.drain(); }
  /// Ends everything that waits or runs. Not while a planned step runs.
  void end_all(const Error& error) {
    for (std::unique_ptr<Sequence>& sequence : sequences_) {
      if (sequence) fail_one(sequence->slot, error);
    }
  }
  std::size_t outstanding() const noexcept { return core_.outstanding(); }
  bool empty() const noexcept { return core_.outstanding() == 0; }
  /// The first deadline of a request; `kNever` without one.
  TimePoint next_event() const noexcept { return core_.next_deadline(); }

  /// Streams whose callback or coroutine must be run once the engine's lock is released. The caller
  /// takes them out.
  std::vector<std::shared_ptr<StreamState>>& to_continue() noexcept { return to_continue_; }
  /// Hooks of requests that have ended: the host's objects, to be destroyed with no lock held after
  /// every step.
  std::vector<LogitsHook>& spent_hooks() noexcept { return spent_hooks_; }
  void count_step_time(Duration time) noexcept { stats_.step_time += time; }

  EngineStats stats() const noexcept {
    EngineStats stats = stats_;
    stats.running = static_cast<std::int32_t>(residents_.running().size());
    for (const Sequence* sequence : residents_.running())
      stats.paused += sequence->paused() ? 1 : 0;
    stats.waiting = core_.waiting() + residents_.suspended();
    stats.pages_total = residents_.pages().total();
    stats.pages_used = residents_.pages().used();
    stats.pages_cached = residents_.pages().idle();
    return stats;
  }

 private:
  void admit(TimePoint now) {
    while (residents_.has_place()) {
      Sequence* next = residents_.next_suspended();
      if (next == nullptr) next = take_new(now);
      if (next == nullptr || !residents_.let_in(*next)) return;
    }
  }
  /// The next waiting request becomes a sequence without pages. Null when none waits.
  Sequence* take_new(TimePoint now) {
    const BatchAction action = core_.poll(now);
    if (action.kind != BatchAction::dispatch || action.slots.empty()) return nullptr;
    Sequence& sequence = *sequences_[action.slots[0].index];
    sequence.turn = next_turn_++;
    residents_.add(sequence);
    return &sequence;
  }

  void commit_one(Sequence& s, const SequenceStep& step, const StepResult& result, TimePoint now) {
    const auto guesses = static_cast<std::int32_t>(s.drafts.size());
    const auto known = static_cast<std::int32_t>(s.tokens.size()) - guesses;
    s.tokens.resize(static_cast<std::size_t>(known));
    if (result.error) {
      residents_.retract(s);  // a NaN may have begun earlier than it was seen
      return fail_one(s.slot, *result.error);
    }
    count_computed(s);
    if (step.sample && !check(result, guesses)) {
      return fail_one(
          s.slot,
          Error(ErrorCode::contract_violation,
                {"model: wanted a token below ", std::to_string(limits_.vocab_size),
                 " after at most ", std::to_string(guesses), " guesses, got ",
                 std::to_string(result.token), " after ", std::to_string(result.accepted_drafts)}));
    }
    const std::int32_t accepted = step.sample ? result.accepted_drafts : 0;
    s.draft_length.observe(guesses, accepted);
    stats_.accepted_drafts += static_cast<std::uint64_t>(accepted);
    s.tokens.insert(s.tokens.end(), s.drafts.begin(), s.drafts.begin() + accepted);
    s.computed += s.planned + accepted;
    residents_.publish(s);
    if (!step.sample) return charge(s, std::max(s.prompt_tokens - s.furthest, 0));
    if (s.first_token == TimePoint{}) s.first_token = now;
    const auto width = static_cast<std::size_t>(1 + step.top_logprobs);
    for (std::int32_t i = 0; i <= accepted; ++i) {
      const bool last = i == accepted;
      const auto row = static_cast<std::size_t>(i) * width;
      const std::span<const TokenLogprob> logprobs =
          step.logprobs.empty() ? std::span<const TokenLogprob>()
                                : std::span<const TokenLogprob>(step.logprobs).subspan(row, width);
      ++stats_.generated_tokens;
      ++s.used;
      if (last) s.tokens.push_back(result.token);
      if (!accept(s, known + i, logprobs, now)) return;
    }
    charge(s, 0);
  }
  void count_computed(Sequence& s) noexcept {
    const std::int32_t end = s.computed + s.planned;
    const std::int32_t fresh = std::max(s.computed, s.furthest);
    stats_.recomputed_tokens += static_cast<std::uint64_t>(std::min(end, fresh) - s.computed);
    const std::int32_t prompt = std::max(std::min(end, s.prompt_tokens) - fresh, 0);
    stats_.prompt_tokens += static_cast<std::uint64_t>(prompt);
    s.used += prompt;
    s.furthest = std::max(s.furthest, end);
  }
  /// Its tenant has paid for what was used and for `left` tokens of the prompt.
  void charge(Sequence& s, std::int32_t left) noexcept {
    const std::int32_t due = s.used + left;
    core_.correct_cost(s.options.tenant, due - std::exchange(s.charged, due));
  }
  bool check(const StepResult& result, std::int32_t guesses) const noexcept {
    return result.token >= 0 && result.token < limits_.vocab_size && result.accepted_drafts >= 0 &&
           result.accepted_drafts <= guesses;
  }

  /// The token at `position` of a sequence is new: its text goes to the reader, and the end is
  /// recognised. False when the sequence has ended, and is gone.
  bool accept(Sequence& sequence, std::int32_t position, std::span<const TokenLogprob> logprobs,
              TimePoint now) {
    const TokenId token = sequence.tokens[static_cast<std::size_t>(position)];
    const std::vector<TokenId>& stops = sequence.options.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      return finish(sequence, FinishReason::stop, now);
    }
    if (!sequence.options.ignore_end_tokens && sequence.text.is_end_token(token)) {
      return finish(sequence, FinishReason::end_of_text, now);
    }
    const bool stopped = sequence.text.push(token);
    note(sequence, sequence.stream->append(sequence.text.ready(), token, logprobs));
    if (stopped) return finish(sequence, FinishReason::stop, now);
    if (position + 1 == sequence.max_tokens) return finish(sequence, FinishReason::length, now);
    return true;
  }
  void note(const Sequence& sequence, bool continues) {
    if (continues) to_continue_.push_back(sequence.stream);
  }

  bool finish(Sequence& sequence, FinishReason reason, TimePoint now) {
    bool continues = false;
    if (reason != FinishReason::stop || !sequence.text.stopped()) {
      if (sequence.text.finish()) reason = FinishReason::stop;
      continues = sequence.stream->append(sequence.text.ready(), std::nullopt, {});
    }
    ++stats_.completed;
    continues |= sequence.stream->finish([&](Generation& generation) {
      generation.reason = reason;
      generation.prompt_tokens = sequence.prompt_tokens;
      generation.cached_tokens = sequence.cached;
      generation.queue_time = sequence.started - sequence.submitted;
      generation.time_to_first_token = sequence.first_token - sequence.submitted;
      generation.total_time = now - sequence.submitted;
    });
    note(sequence, continues);
    remove(sequence.slot);
    return false;
  }

  void fail_one(SlotHandle slot, Error error) {
    ++stats_.failed;
    end(slot, std::move(error));
  }
  void end(SlotHandle slot, Error error) {
    Sequence* sequence = sequences_[slot.index].get();
    if (sequence == nullptr) return;  // already ended
    note(*sequence, sequence->stream->fail(std::move(error)));
    remove(slot);
  }
  void remove(SlotHandle slot) {
    Sequence* sequence = sequences_[slot.index].get();
    residents_.remove(*sequence);
    if (core_.state(slot) == SlotState::running) charge(*sequence, 0);
    if (sequence->options.logits_hook) {
      spent_hooks_.push_back(std::move(sequence->options.logits_hook));
    }
    sequences_[slot.index].reset();
    core_.release(slot);
  }

  void retire_cancelled() {
    // Cancels are rare and ring up a counter: without a new one nobody needs to be looked at.
    const std::uint64_t cancels = cancels_.load(std::memory_order_acquire);
    if (cancels == cancels_seen_) return;
    cancels_seen_ = cancels;
    for (const std::unique_ptr<Sequence>& sequence : sequences_) {
      if (sequence && sequence->stream->cancel_requested()) {
        ++stats_.cancelled;
        end(sequence->slot, Error(ErrorCode::cancelled, "request: given up by its reader"));
      }
    }
  }
  void retire_expired(TimePoint now) {
    for (;;) {
      const BatchAction action = core_.expire(now);
      if (action.kind != BatchAction::expire) return;
      for (const SlotHandle& slot : action.slots) {
        ++stats_.expired;
        end(slot, Error(ErrorCode::expired, "deadline: passed before the answer was finished"));
      }
    }
  }

  SchedulerLimits limits_;
  const Atomic<std::uint64_t>& cancels_;
  std::uint64_t cancels_seen_ = 0;
  EngineStats stats_;
  BatchCore core_;                                    // queue, slots, deadlines
  std::vector<std::unique_ptr<Sequence>> sequences_;  // by slot: all there are
  Residents residents_;
  StepPlan plan_;
  std::vector<std::shared_ptr<StreamState>> to_continue_;
  std::vector<LogitsHook> spent_hooks_;
  std::uint64_t next_turn_ = 0;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
