// GenerationEngine: the scheduler, a lock, and whoever runs the steps: a thread of our own, the
// host's executor, or the host itself through run_one(). Not a template, so that including the
// engine stays cheap; AsyncInferenceEngine is the typed front.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/base/guarded.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/base/utf8.hpp"
#include "ciuic/engine/engine_options.hpp"
#include "ciuic/engine/executor_driver.hpp"
#include "ciuic/engine/generation_scheduler.hpp"
#include "ciuic/engine/step_model.hpp"
#include "ciuic/engine/text_stream.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Thread-safety: thread-safe.
class GenerationEngine final : private Steppable {
 public:
  GenerationEngine(AnyTextModel& model, const EngineOptions& options) noexcept
      : model_(model), options_(with_defaults(options)) {
    Result<void> guarded = call_guarded(ErrorCode::internal, "engine", [&] {
      bell_ = std::make_shared<EngineBell>();
      bell_->clock = options_.host.clock;
      status_ = start();
    });
    if (!guarded) status_ = std::move(guarded);
  }
  ~GenerationEngine() { (void)stop(); }
  GenerationEngine(const GenerationEngine&) = delete;
  GenerationEngine& operator=(const GenerationEngine&) = delete;

  const Result<void>& status() const noexcept { return status_; }

  TextStream generate(std::string_view prompt, GenerateOptions options) {
    return begin(
        options.max_unread, [&](const std::shared_ptr<StreamState>& state) -> Result<void> {
          Result<std::vector<TokenId>> tokens = model_.encode(prompt, options.parse_special);
          if (!tokens) return std::move(tokens).error();
          return submit(state, *std::move(tokens), std::move(options));
        });
  }
  TextStream generate(std::vector<TokenId> prompt, GenerateOptions options) {
    return begin(options.max_unread, [&](const std::shared_ptr<StreamState>& state) {
      return submit(state, std::move(prompt), std::move(options));
    });
  }

  /// The host's turn, when it drives: one step; false when there is nothing to compute.
  bool run_one() { return options_.host_driven && step_once(); }
  /// When run_one() will have something to do though nothing is submitted, read or cancelled.
  TimePoint next_event() override {
    if (!scheduler_) return kNever;
    const Lock lock(bell_->mutex);
    // stop() ends what is left itself, as soon as nobody is inside a step.
    const TimePoint event = stopping_ ? kNever : scheduler_->next_event();
    if (driven_by_executor()) {
      bell_->due.store(event, std::memory_order_relaxed);
      idle_.notify_all();  // drain() waits until then
    }
    return event;
  }

  /// Errors: `expired` when something is left at the end of `timeout`, `would_deadlock`.
  Result<void> drain(Duration timeout) {
    if (!scheduler_) return {};
    const Clock& clock = *options_.host.clock;
    const TimePoint until = add_saturating(clock.now(), timeout);
    bell_->ring_if_due();
    Lock lock(bell_->mutex);
    if (is_inside_step()) return deadlock("drain");
    scheduler_->drain();
    // The end of a step is the end of its callbacks.
    while (!scheduler_->empty() || stepping_) {
      if (clock.now() >= until) {
        return Error(ErrorCode::expired,
                     {"drain: ", std::to_string(scheduler_->outstanding()), " requests are left"});
      }
      if (!options_.host_driven) {
        const TimePoint due = bell_->due.load(std::memory_order_relaxed);
        clock.wait_until(idle_, lock, std::min(until, due));
        lock.unlock();
        bell_->ring_if_due();
        lock.lock();
        continue;
      }
      const std::uint64_t rings = bell_->rings;
      if (step_once(lock) || bell_->rings != rings) continue;
      if (scheduler_->empty() && !stepping_) continue;
      // Whoever is inside a step tells, and readers who go on ring. Deadlines do neither.
      const TimePoint event = stepping_ ? kNever : scheduler_->next_event();
      clock.wait_until(bell_->changed, lock, std::min(until, event));
    }
    return {};
  }

  /// Errors: `would_deadlock` from inside a step or a callback.
  Result<void> stop() {
    if (!bell_) return {};
    {
      Lock lock(bell_->mutex);
      if (is_inside_step()) return deadlock("stop");
      stopping_ = true;
      if (!stepping_) abort_all(lock);
      bell_->waker.reset();  // what readers do from here on concerns nobody
    }
    bell_->ring();
    {
      const Lock one_at_a_time(stop_mutex_);
      thread_.join();
      driver_.reset();  // no task on the host's executor uses this engine after here
    }
    Lock lock(bell_->mutex);
    while (stepping_) idle_.wait(lock);  // a host thread inside run_one() ends its step first
    abort_all(lock);                     // what came while callbacks ran without a step
    return {};
  }

  EngineStats stats() const {
    if (!scheduler_) return EngineStats();
    bell_->ring_if_due();
    const Lock lock(bell_->mutex);
    EngineStats stats = scheduler_->stats();
    stats.refused = refused_.load(std::memory_order_relaxed);
    stats.callback_failures = bell_->callback_failures.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  static constexpr std::size_t kMaxStops = 64, kMaxStopBytes = 1024;
  static constexpr std::int32_t kMaxTopLogprobs = 20, kMaxDrafts = 1024;

  static EngineOptions with_defaults(EngineOptions options) noexcept {
    if (options.host.clock == nullptr) options.host.clock = &steady_clock();
    return options;
  }
  static Error wrong(std::string_view field, std::string_view wanted, std::int64_t got) {
    return Error(ErrorCode::invalid_argument,
                 {field, ": wanted ", wanted, ", got ", std::to_string(got)});
  }

  Result<void> check(const EngineOptions& options) const {
    constexpr std::int32_t kMaxSequences = 1 << 16, kMaxStepDrafts = 1 << 16;
    if (options.max_sequences < 1 || options.max_sequences > kMaxSequences) {
      return wrong("max_sequences", "1 to 65536", options.max_sequences);
    }
    if (options.max_batch_tokens < 1) {
      return wrong("max_batch_tokens", "at least 1", options.max_batch_tokens);
    }
    if (options.queue_capacity < 1 || options.queue_capacity > std::size_t{1} << 20) {
      return wrong("queue_capacity", "1 to 2^20",
                   static_cast<std::int64_t>(options.queue_capacity));
    }
    if (!(options.prompt_stretch == 0.0 ||
          (options.prompt_stretch >= 1.0 && options.prompt_stretch < 1e9))) {
      return Error(ErrorCode::invalid_argument, {"prompt_stretch: wanted 0, or 1 to 1e9, got ",
                                                 std::to_string(options.prompt_stretch)});
    }
    if (options.max_draft_tokens < 0 || options.max_draft_tokens > kMaxStepDrafts) {
      return wrong("max_draft_tokens", "0 to 65536", options.max_draft_tokens);
    }
    if (options.max_tenants < 1 || options.max_tenants > 4096) {
      return wrong("max_tenants", "1 to 4096", static_cast<std::int64_t>(options.max_tenants));
    }
    if (model_limits_.page_tokens < 1 || model_limits_.max_context_tokens < 2 ||
        model_limits_.vocab_size < 1) {
      return Error(ErrorCode::contract_violation,
                   "model: limits: wanted a page of at least 1 token, a context of at least 2 and "
                   "a vocabulary");
    }
    return {};
  }

  Result<void> start() {
    model_limits_ = model_.limits();
    if (Result<void> checked = check(options_); !checked) return checked;
    // Every running sequence needs room for one token in each step.
    const std::int32_t sequences = std::min(options_.max_sequences, options_.max_batch_tokens);
    const std::uint64_t full = static_cast<std::uint64_t>(sequences) *
                               static_cast<std::uint64_t>(ceil_div(model_limits_.max_context_tokens,
                                                                   model_limits_.page_tokens));
    const std::size_t memory = options_.kv_memory != 0 ? options_.kv_memory : std::size_t{1} << 30;
    const std::uint64_t pages =
        std::min({full, std::uint64_t{memory} / std::max<std::size_t>(model_limits_.page_bytes, 1),
                  std::uint64_t{1} << 30});
    if (pages == 0) {
      return Error(ErrorCode::invalid_argument, {"kv_memory: wanted at least one page of ",
                                                 std::to_string(model_limits_.page_bytes),
                                                 " bytes, got ", std::to_string(memory)});
    }
    const SchedulerLimits limits{
        .max_sequences = sequences,
        .max_batch_tokens = options_.max_batch_tokens,
        .max_context_tokens = model_limits_.max_context_tokens,
        .vocab_size = model_limits_.vocab_size,
        .page_tokens = model_limits_.page_tokens,
        .pages = static_cast<std::int32_t>(pages),
        .max_drafts = std::min(
            {options_.max_draft_tokens, model_limits_.max_drafts, options_.max_batch_tokens - 1}),
        .queue_capacity = options_.queue_capacity,
        .max_tenants = options_.max_tenants,
        .prefix_cache = options_.prefix_cache,
        .prompt_stretch = options_.prompt_stretch};
    if (Result<void> reserved = model_.reserve(limits.pages, limits.max_batch_tokens,
                                               limits.max_sequences, limits.max_drafts);
        !reserved) {
      return reserved;
    }
    results_.reserve(static_cast<std::size_t>(limits.max_sequences));
    scheduler_ = std::make_unique<GenerationScheduler>(limits, bell_->cancels);
    if (options_.host_driven) return {};
    if (options_.host.executor != nullptr) {
      driver_.emplace(*options_.host.executor, static_cast<Steppable&>(*this));
      const Lock lock(bell_->mutex);
      bell_->waker = driver_->waker();
      return {};
    }
    Result<Thread> thread = Thread::start([this] { run_thread(); });
    if (!thread) return std::move(thread).error();
    thread_ = *std::move(thread);
    return {};
  }

  /// A stream for whatever `accept` makes of the request: running, or failed with the reason.
  template <class Accept>
  TextStream begin(std::size_t max_unread, Accept accept) {
    std::shared_ptr<StreamState> state;
    Result<void> accepted;
    // What may throw here is the model: its tokenizer, its text stream.
    Result<void> guarded = call_guarded(ErrorCode::model_failed, "generate: the model", [&] {
      if (!bell_) return;
      state = std::make_shared<StreamState>(bell_, max_unread);
      accepted = accept(state);
    });
    if (!guarded) accepted = std::move(guarded);
    if (!state) return TextStream(status_ ? ErrorCode::out_of_memory : status_.error().code());
    if (!accepted) {
      refused_.fetch_add(1, std::memory_order_relaxed);
      (void)state->fail(std::move(accepted).error());
      return TextStream(std::move(state));
    }
    bell_->ring();
    return TextStream(std::move(state));
  }

  Result<void> submit(const std::shared_ptr<StreamState>& state, std::vector<TokenId> prompt,
                      GenerateOptions options) {
    if (Result<void> checked = check(prompt, options); !checked) return checked;
    const TimePoint now = options_.host.clock->now();
    TimePoint deadline = options.deadline.value_or(kNever);
    if (options.timeout) deadline = std::min(deadline, add_saturating(now, *options.timeout));
    auto sequence = std::make_unique<Sequence>();
    sequence->stream = state;
    sequence->tokens = std::move(prompt);
    sequence->text = GeneratedText(model_.text_stream(), options.stop, model_.end_tokens());
    sequence->options = std::move(options);
    const Lock lock(bell_->mutex);
    if (stopping_) return Error(ErrorCode::shutting_down, "engine: stopped");
    return scheduler_->submit(sequence, now, deadline);  // what is refused goes after the lock
  }

  Result<void> check(const std::vector<TokenId>& prompt, const GenerateOptions& options) const {
    if (!status_) return status_;
    if (options.max_new_tokens < 1) {
      return wrong("max_new_tokens", "at least 1", options.max_new_tokens);
    }
    if (static_cast<int>(options.priority) >= kPriorityLevels) {
      return wrong("priority", "low, normal or high", static_cast<int>(options.priority));
    }
    if (options.timeout && *options.timeout < Duration{0}) {
      return wrong("timeout", "at least 0", options.timeout->count());
    }
    if (Result<void> sampling = validate(options.sampling); !sampling) return sampling;
    if (options.stop.size() > kMaxStops) {
      return wrong("stop", "at most 64 texts", static_cast<std::int64_t>(options.stop.size()));
    }
    for (const std::string& stop : options.stop) {
      if (stop.empty() || stop.size() > kMaxStopBytes || !is_valid_utf8(stop)) {
        return Error(ErrorCode::invalid_argument,
                     {"stop: wanted texts in UTF-8 of 1 to 1024 bytes, got one of ",
                      std::to_string(stop.size()), " bytes"});
      }
    }
    if (options.stop_tokens.size() > kMaxStops) {
      return wrong("stop_tokens", "at most 64",
                   static_cast<std::int64_t>(options.stop_tokens.size()));
    }
    for (TokenId token : options.stop_tokens) {
      if (token < 0 || token >= model_limits_.vocab_size) {
        return wrong("stop_tokens", "ids below " + std::to_string(model_limits_.vocab_size), token);
      }
    }
    if (options.draft_tokens < 0 || options.draft_tokens > kMaxDrafts) {
      return wrong("draft_tokens", "0 to 1024", options.draft_tokens);
    }
    if (options.top_logprobs < -1 || options.top_logprobs > kMaxTopLogprobs) {
      return wrong("top_logprobs", "-1 to 20", options.top_logprobs);
    }
    if (options.top_logprobs > model_limits_.max_top_logprobs) {
      return Error(ErrorCode::unsupported, "top_logprobs: the model does not report so many");
    }
    if (options.logits_hook && !model_limits_.logits_hook) {
      return Error(ErrorCode::unsupported, "logits_hook: the model does not show its logits");
    }
    for (TokenId token : prompt) {
      if (token < 0 || token >= model_limits_.vocab_size) {
        return wrong("prompt", "token ids below " + std::to_string(model_limits_.vocab_size),
                     token);
      }
    }
    return {};
  }

  TimePoint now() const noexcept override { return options_.host.clock->now(); }
  bool driven_by_executor() const noexcept {
    return options_.host.executor != nullptr && !options_.host_driven;
  }
  bool step_once() override {
    if (!scheduler_) return false;
    Lock lock(bell_->mutex);
    return step_once(lock);
  }
  void abandon_work() override {
    Lock lock(bell_->mutex);
    abandoned_ = true;
    if (stepping_) return;  // who steps goes on with all, who abandons looks again
    while (std::exchange(abandoned_, false)) {
      scheduler_->end_all(
          Error(ErrorCode::queue_full, "host.executor: takes no more tasks, so nothing can run"));
      run_continuations(lock);
    }
    tell_waiting();
    // A task that came while callbacks ran found no turn to take.
    const bool more = !scheduler_->empty();
    lock.unlock();
    if (more) bell_->ring();
  }

  /// Called with the lock held; lets go of it while the model and the host's callbacks run.
  bool step_once(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (stepping_ || stopping_) return false;
    const Clock& clock = *options_.host.clock;
    const TimePoint begun = clock.now();
    const std::span<const SequenceStep> steps = scheduler_->plan(begun);
    if (steps.empty()) {
      const std::uint64_t rings = bell_->rings;
      run_continuations(lock);
      if (scheduler_->empty()) tell_waiting();
      return bell_->rings != rings;  // a callback may have submitted
    }
    results_.assign(steps.size(), StepResult());
    stepping_ = true;
    stepping_thread_ = this_thread_id();
    lock.unlock();
    const TimePoint before = clock.now();
    const bool at_once = run_model(steps);
    const TimePoint after = clock.now();
    lock.lock();
    // How long a step takes that had to be tried again says nothing about the next.
    scheduler_->commit(results_, at_once ? after - before : Duration(0), after);
    scheduler_->count_step_time(clock.now() - begun);
    if (stopping_) scheduler_->end_all(stopped());
    run_continuations(lock);
    stepping_ = false;
    if (stopping_) abort_all(lock);
    tell_waiting();
    return true;
  }

  /// Fills results_. A step that fails as a whole is tried again one sequence at a time, so that
  /// one bad request never harms its batch mates; a lost device is lost for all. False when there
  /// was an error.
  bool run_model(std::span<const SequenceStep> steps) {
    Result<void> together = step_model(steps, results_);
    if (together) return true;
    const bool retry = steps.size() > 1 && together.error().code() != ErrorCode::device_lost;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      results_[i] = StepResult();
      Result<void> alone = together;
      if (retry) alone = step_model(steps.subspan(i, 1), std::span(results_).subspan(i, 1));
      if (!alone) results_[i].error = std::move(alone).error();
    }
    return false;
  }
  Result<void> step_model(std::span<const SequenceStep> steps, std::span<StepResult> results) {
    Result<void> stepped;
    Result<void> guarded = call_guarded(ErrorCode::model_failed, "step: the model",
                                        [&] { stepped = model_.step(steps, results); });
    return guarded ? std::move(stepped) : std::move(guarded);
  }

  /// Runs the callbacks and coroutines that wait for what has just happened, and destroys hooks,
  /// with no lock held. That counts as part of the step: no other begins meanwhile.
  void run_continuations(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    std::vector<std::shared_ptr<StreamState>>& waiting = scheduler_->to_continue();
    std::vector<LogitsHook>& spent = scheduler_->spent_hooks();
    if (waiting.empty() && spent.empty()) return;
    const bool inside = std::exchange(stepping_, true);
    if (inside && stepping_thread_ != this_thread_id()) return;  // that thread will see to it
    stepping_thread_ = this_thread_id();
    while (!spent.empty()) {
      LogitsHook hook = std::move(spent.back());
      spent.pop_back();
      lock.unlock();
      hook = nullptr;
      lock.lock();
    }
    while (!waiting.empty()) {
      const std::shared_ptr<StreamState> state = std::move(waiting.back());
      waiting.pop_back();
      lock.unlock();
      state->run_continuation();
      lock.lock();
    }
    stepping_ = inside;
    if (!inside) tell_waiting();
  }
  /// A turn is over, or all is. Host-driven, drain() waits on the bell.
  void tell_waiting() noexcept {
    idle_.notify_all();
    if (options_.host_driven) bell_->changed.notify_all();
  }
  bool is_inside_step() const CIUIC_REQUIRES(bell_->mutex) {
    return stepping_ && stepping_thread_ == this_thread_id();
  }

  static Error deadlock(std::string_view what) {
    return Error(ErrorCode::would_deadlock,
                 {what, ": called from inside a step or callback of this engine"});
  }
  static Error stopped() { return Error(ErrorCode::shutting_down, "engine: stopped"); }
  void abort_all(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (scheduler_) {
      scheduler_->end_all(stopped());
      run_continuations(lock);
    }
    tell_waiting();
  }

  void run_thread() {
    Lock lock(bell_->mutex);
    while (!stopping_) {
      const std::uint64_t rings = bell_->rings;
      if (step_once(lock)) continue;
      // Nothing can be computed: only a ring or a deadline can change that.
      const TimePoint until = scheduler_->next_event();
      while (!stopping_ && bell_->rings == rings && options_.host.clock->now() < until) {
        if (until == kNever) {
          bell_->changed.wait(lock);
        } else {
          options_.host.clock->wait_until(bell_->changed, lock, until);
        }
      }
    }
    abort_all(lock);
  }

  AnyTextModel& model_;
  const EngineOptions options_;
  StepModelLimits model_limits_;  // from start() on, constant
  Result<void> status_;
  std::shared_ptr<EngineBell> bell_;  // its mutex guards what follows
  std::unique_ptr<GenerationScheduler> scheduler_ CIUIC_PT_GUARDED_BY(bell_->mutex);
  std::vector<StepResult> results_;  // of whoever is stepping
  bool stepping_ CIUIC_GUARDED_BY(bell_->mutex) = false;
  bool stopping_ CIUIC_GUARDED_BY(bell_->mutex) = false;
  bool abandoned_ CIUIC_GUARDED_BY(bell_->mutex) = false;  // by the executor
  ThreadId stepping_thread_ CIUIC_GUARDED_BY(bell_->mutex);
  Atomic<std::uint64_t> refused_{0};
  CondVar idle_;      // a step ended, or nothing is left
  Mutex stop_mutex_;  // joins once, whoever stops
  std::optional<ExecutorDriver> driver_;
  Thread thread_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
