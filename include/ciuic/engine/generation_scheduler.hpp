// GenerationScheduler: which sequences take part in the next step. Continuous batching: requests
// join and leave between steps; prompts and single generated tokens share one packed batch.
//
// A pure state machine like the BatchCore inside it, which holds the waiting requests: no threads,
// no clock, no model. The engine calls plan(), runs the model, and calls commit() or fail(); under
// its lock, except while the model runs. submit() and cancel() may come in between.
//
// A step, in this order: every running sequence that has its prompt behind it gives its last token;
// then prompts, oldest first, fill what is left of `max_batch_tokens`; a prompt that does not fit
// is cut and goes on in the next step. A request is admitted when a sequence slot is free and pages
// for its whole prompt and answer are: nothing admitted can run out of memory later.
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
#include "ciuic/engine/generated_text.hpp"
#include "ciuic/engine/generation.hpp"
#include "ciuic/engine/page_pool.hpp"
#include "ciuic/engine/text_stream.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Counters since the engine began. A copy; consistent in itself.
struct EngineStats {
  std::uint64_t submitted = 0, completed = 0, failed = 0, cancelled = 0, expired = 0, refused = 0;
  std::uint64_t steps = 0;
  std::uint64_t sequence_steps = 0;  ///< sum over steps of the sequences in them
  std::uint64_t prompt_tokens = 0;   ///< computed
  std::uint64_t generated_tokens = 0;
  std::int32_t running = 0;  ///< sequences now in the batch
  std::size_t waiting = 0;   ///< requests not yet admitted
  std::int32_t pages_used = 0, pages_total = 0;

  double mean_sequences_per_step() const noexcept {
    return steps == 0 ? 0.0 : static_cast<double>(sequence_steps) / static_cast<double>(steps);
  }
};

namespace detail {

/// One accepted request.
struct Sequence {
  std::shared_ptr<StreamState> stream;
  std::vector<TokenId> tokens;  // prompt, then answer
  std::int32_t prompt_tokens = 0;
  std::int32_t computed = 0;  // positions whose keys and values are in the cache
  std::vector<std::int32_t> pages;
  GenerateOptions options;
  GeneratedText text;
  SlotHandle slot;
  TimePoint submitted{}, started{}, first_token{};
};

struct SchedulerLimits {
  std::int32_t max_sequences = 32;
  std::int32_t max_batch_tokens = 2048;
  std::int32_t max_context_tokens = 0;
  std::int32_t vocab_size = 0;
  std::int32_t page_tokens = 16;
  std::int32_t pages = 0;
  std::size_t queue_capacity = 1024;
};

/// Thread-safety: thread-compatible; the engine's lock guards it.
class GenerationScheduler {
 public:
  /// `cancels` counts the cancellations so far; it must outlive the scheduler.
  GenerationScheduler(const SchedulerLimits& limits, const Atomic<std::uint64_t>& cancels)
      : limits_(limits),
        cancels_(cancels),
        core_({.max_batch_size = static_cast<std::size_t>(limits.max_sequences),
               .min_batch_size = 1,
               .max_batch_cost = static_cast<std::uint64_t>(limits.pages),
               .queue_capacity = limits.queue_capacity,
               .max_outstanding =
                   limits.queue_capacity + static_cast<std::size_t>(limits.max_sequences)}),
        pool_(limits.pages),
        sequences_(core_.limits().max_outstanding) {
    running_.reserve(static_cast<std::size_t>(limits.max_sequences));
    in_step_.reserve(static_cast<std::size_t>(limits.max_sequences));
    steps_.reserve(static_cast<std::size_t>(limits.max_sequences));
  }

  /// Accepts a request whose prompt is in `sequence->tokens`, or says why not.
  Result<void> submit(std::unique_ptr<Sequence> sequence, TimePoint now, TimePoint deadline) {
    const auto prompt = static_cast<std::int64_t>(sequence->tokens.size());
    if (prompt == 0)
      return refuse(ErrorCode::invalid_argument, "prompt: wanted at least one token, got none");
    if (prompt >= limits_.max_context_tokens) {
      return refuse(ErrorCode::oversize,
                    "prompt: wanted fewer tokens than the model's context of " +
                        std::to_string(limits_.max_context_tokens) + ", got " +
                        std::to_string(prompt));
    }
    // The last token of an answer is never fed back, so it needs no place in the cache.
    const std::int64_t positions = std::min<std::int64_t>(prompt + sequence->options.max_new_tokens,
                                                          limits_.max_context_tokens) -
                                   1;
    const std::int64_t pages =
        ceil_div<std::int64_t>(std::max<std::int64_t>(positions, 1), limits_.page_tokens);
    if (pages > limits_.pages) {
      return refuse(ErrorCode::oversize, "prompt and max_new_tokens: wanted at most " +
                                             std::to_string(limits_.pages) +
                                             " pages of kv_memory, need " + std::to_string(pages));
    }
    // All memory the request will need is taken here, where a failure can still be refused.
    sequence->tokens.reserve(static_cast<std::size_t>(positions) + 1);
    sequence->pages.reserve(static_cast<std::size_t>(pages));
    const Admission admission =
        core_.submit(now, {.cost = static_cast<std::uint64_t>(pages), .deadline = deadline});
    switch (admission.refusal) {
      case Refusal::none:
        break;
      case Refusal::expired:
        return refuse(ErrorCode::expired, "deadline: already past at submit");
      case Refusal::shutting_down:
        return refuse(ErrorCode::shutting_down, "engine: stopping");
      case Refusal::oversize:
        return refuse(ErrorCode::oversize, "kv_memory: too small for the request");
      case Refusal::queue_full:
      case Refusal::outstanding_full:
      case Refusal::tenant_full:  // this one and the next two: no tenants, groups or policy here
      case Refusal::unknown_group:
      case Refusal::infeasible:
        return refuse(
            ErrorCode::queue_full,
            "queue_capacity: " + std::to_string(limits_.queue_capacity) + " requests are waiting");
    }
    sequence->slot = admission.slot;
    sequence->submitted = now;
    sequence->prompt_tokens = static_cast<std::int32_t>(prompt);
    sequences_[admission.slot.index] = std::move(sequence);
    ++stats_.submitted;
    return {};
  }

  /// Retires what was cancelled or expired, admits what fits, and lays out the next step. Empty
  /// when there is nothing to compute; `next_event` then says until when.
  std::span<const SequenceStep> plan(TimePoint now) {
    retire_cancelled();
    for (bool more = true; more;) {
      const BatchAction action = core_.poll(
          now, {.max_count = static_cast<std::size_t>(limits_.max_sequences) - running_.size(),
                .max_cost = static_cast<std::uint64_t>(pool_.available())});
      switch (action.kind) {
        case BatchAction::dispatch:
          for (const SlotHandle& slot : action.slots) admit(slot, now);
          break;
        case BatchAction::expire:
          for (const SlotHandle& slot : action.slots) {
            ++stats_.expired;
            end(slot, Error(ErrorCode::expired, "deadline: passed before the answer was finished"));
          }
          break;
        case BatchAction::abandon:  // never: what must end is ended by end_all()
        case BatchAction::wait_until:
        case BatchAction::idle:
          more = false;
      }
    }
    lay_out_step();
    return steps_;
  }

  /// Takes over what the model made of the planned step. A request whose text finds no memory fails
  /// alone.
  void commit(std::span<const StepResult> results, TimePoint now) {
    ++stats_.steps;
    stats_.sequence_steps += in_step_.size();
    for (std::size_t i = 0; i < in_step_.size(); ++i) {
      const SlotHandle slot = in_step_[i]->slot;
      const Result<void> committed = call_guarded(ErrorCode::model_failed, "the model's text", [&] {
        commit_one(*in_step_[i], steps_[i], results[i], now);
      });
      if (!committed) fail_one(slot, committed.error());
    }
    in_step_.clear();
    steps_.clear();
  }

  /// Accepts nothing more; what waits and what runs goes on.
  void drain() noexcept { core_.drain(); }
  /// Ends everything that waits or runs. Not while a planned step runs.
  void end_all(const Error& error) {
    for (std::unique_ptr<Sequence>& sequence : sequences_) {
      if (sequence) fail_one(sequence->slot, error);
    }
  }
  bool empty() const noexcept { return core_.outstanding() == 0; }

  EngineStats stats() const noexcept {
    EngineStats stats = stats_;
    stats.running = static_cast<std::int32_t>(running_.size());
    stats.waiting = core_.waiting();
    stats.pages_total = pool_.total();
    stats.pages_used = pool_.total() - pool_.available();
    return stats;
  }

 private:
  static Error refuse(ErrorCode code, const std::string& message) { return Error(code, message); }

  void admit(SlotHandle slot, TimePoint now) {
    Sequence& sequence = *sequences_[slot.index];
    // Cannot fail: the room given to poll() was what the pool has.
    (void)pool_.take(static_cast<std::int32_t>(core_.cost(slot)), sequence.pages);
    sequence.started = now;
    running_.push_back(&sequence);
  }

  void lay_out_step() {
    steps_.clear();
    in_step_.clear();
    std::int32_t room = limits_.max_batch_tokens;
    for (const bool prompts : {false, true}) {
      for (Sequence* sequence : running_) {
        if ((sequence->computed < sequence->prompt_tokens) != prompts || room == 0) continue;
        const auto known = static_cast<std::int32_t>(sequence->tokens.size());
        const std::int32_t count = std::min(known - sequence->computed, room);
        room -= count;
        const auto first = static_cast<std::size_t>(sequence->computed);
        const auto end = static_cast<std::size_t>(sequence->computed + count);
        in_step_.push_back(sequence);
        steps_.push_back(
            {.tokens = std::span(sequence->tokens).subspan(first, end - first),
             .first_position = sequence->computed,
             .pages = std::span(sequence->pages)
                          .first(ceil_div(end, static_cast<std::size_t>(limits_.page_tokens))),
             .sample = end == sequence->tokens.size(),
             .history = sequence->tokens,
             .sampling = &sequence->options.sampling});
      }
    }
  }

  void commit_one(Sequence& sequence, const SequenceStep& step, const StepResult& result,
                  TimePoint now) {
    if (sequence.computed < sequence.prompt_tokens) stats_.prompt_tokens += step.tokens.size();
    sequence.computed += static_cast<std::int32_t>(step.tokens.size());
    if (result.error) return fail_one(sequence.slot, *result.error);
    if (!step.sample) return;
    if (result.token < 0 || result.token >= limits_.vocab_size) {
      return fail_one(sequence.slot,
                      Error(ErrorCode::contract_violation,
                            {"model: wanted a token below ", std::to_string(limits_.vocab_size),
                             ", got ", std::to_string(result.token)}));
    }
    ++stats_.generated_tokens;
    accept(sequence, result.token, now);
  }

  /// A new token of a sequence: its text goes to the reader, and the end is recognised.
  void accept(Sequence& sequence, TokenId token, TimePoint now) {
    if (sequence.first_token == TimePoint{}) sequence.first_token = now;
    const std::vector<TokenId>& stops = sequence.options.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      return finish(sequence, FinishReason::stop, now);
    }
    if (!sequence.options.ignore_end_tokens && sequence.text.is_end_token(token)) {
      return finish(sequence, FinishReason::end_of_text, now);
    }
    sequence.tokens.push_back(token);
    const bool stopped = sequence.text.push(token);
    sequence.stream->append(sequence.text.ready(), token);
    if (stopped) return finish(sequence, FinishReason::stop, now);
    const auto length = static_cast<std::int32_t>(sequence.tokens.size());
    if (length - sequence.prompt_tokens >= sequence.options.max_new_tokens ||
        length >= limits_.max_context_tokens) {
      finish(sequence, FinishReason::length, now);
    }
  }

  void finish(Sequence& sequence, FinishReason reason, TimePoint now) {
    if (reason != FinishReason::stop || !sequence.text.stopped()) {
      if (sequence.text.finish()) reason = FinishReason::stop;
      sequence.stream->append(sequence.text.ready(), std::nullopt);
    }
    ++stats_.completed;
    sequence.stream->finish([&](Generation& generation) {
      generation.reason = reason;
      generation.prompt_tokens = sequence.prompt_tokens;
      generation.queue_time = sequence.started - sequence.submitted;
      generation.time_to_first_token = sequence.first_token - sequence.submitted;
      generation.total_time = now - sequence.submitted;
    });
    remove(sequence.slot);
  }

  void fail_one(SlotHandle slot, Error error) {
    ++stats_.failed;
    end(slot, std::move(error));
  }
  void end(SlotHandle slot, Error error) {
    if (!sequences_[slot.index]) return;  // already ended
    sequences_[slot.index]->stream->fail(std::move(error));
    remove(slot);
  }

  void remove(SlotHandle slot) {
    Sequence* sequence = sequences_[slot.index].get();
    pool_.give_back(sequence->pages);
    std::erase(running_, sequence);
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

  SchedulerLimits limits_;
  const Atomic<std::uint64_t>& cancels_;
  std::uint64_t cancels_seen_ = 0;
  BatchCore core_;
  PagePool pool_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // by slot: waiting and running
  std::vector<Sequence*> running_;                    // in the order of admission
  std::vector<Sequence*> in_step_;                    // of the planned step, parallel to steps_
  std::vector<SequenceStep> steps_;
  EngineStats stats_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
