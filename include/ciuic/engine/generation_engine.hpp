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
#include "ciuic/engine/executor_driver.hpp"
#include "ciuic/engine/generation_scheduler.hpp"
#include "ciuic/engine/step_model.hpp"

namespace ciuic::inline CIUIC_ABI {

struct EngineOptions {
  std::int32_t max_sequences = 32;       ///< sequences in one step, at most 65,536
  std::int32_t max_batch_tokens = 2048;  ///< tokens in one step; longer prompts are cut into pieces
  std::size_t kv_memory = 0;  ///< bytes of keys and values; 0 = full contexts, at most 1 GiB
  std::size_t queue_capacity = 1024;  ///< requests that may wait, at most 2^20
  bool host_driven = false;           ///< no thread: the host calls `run_one`
  HostContext host{};                 ///< `executor`, when given, runs the steps, one a task
};

namespace detail {

/// Thread-safety: thread-safe.
class GenerationEngine final : private Steppable {
 public:
  GenerationEngine(AnyTextModel& model, const EngineOptions& options) noexcept
      : model_(model), options_(with_defaults(options)) {
    Result<void> guarded = call_guarded(ErrorCode::internal, "engine", [&] {
      bell_ = std::make_shared<EngineBell>();
      status_ = start();
    });
    if (!guarded) status_ = std::move(guarded);
  }
  ~GenerationEngine() { (void)stop(); }
  GenerationEngine(const GenerationEngine&) = delete;
  GenerationEngine& operator=(const GenerationEngine&) = delete;

  const Result<void>& status() const noexcept { return status_; }

  TextStream generate(std::string_view prompt, GenerateOptions options) {
    return begin([&](const std::shared_ptr<StreamState>& state) -> Result<void> {
      Result<std::vector<TokenId>> tokens = model_.encode(prompt, options.parse_special);
      if (!tokens) return std::move(tokens).error();
      return submit(state, *std::move(tokens), std::move(options));
    });
  }
  TextStream generate(std::vector<TokenId> prompt, GenerateOptions options) {
    return begin([&](const std::shared_ptr<StreamState>& state) {
      return submit(state, std::move(prompt), std::move(options));
    });
  }

  /// The host's turn, when it drives: one step; false when there is nothing to compute.
  bool run_one() { return options_.host_driven && step_once(); }

  bool drain(Duration timeout) {
    if (!scheduler_) return true;
    const Clock& clock = *options_.host.clock;
    const TimePoint until = add_saturating(clock.now(), timeout);
    Lock lock(bell_->mutex);
    scheduler_->drain();
    while (!scheduler_->empty()) {
      if (clock.now() >= until) return false;
      if (options_.host_driven && step_once(lock)) continue;
      if (scheduler_->empty()) break;
      clock.wait_until(idle_, lock, until);
    }
    return true;
  }

  /// Errors: `would_deadlock` from inside a step.
  Result<void> stop() {
    if (!bell_) return {};
    {
      Lock lock(bell_->mutex);
      if (stepping_ && stepping_thread_ == this_thread_id()) {
        return Error(ErrorCode::would_deadlock, "stop: called from inside a step of this engine");
      }
      stopping_ = true;
      if (!stepping_) abort_all();
    }
    bell_->ring();
    {
      const Lock one_at_a_time(stop_mutex_);
      thread_.join();
      driver_.reset();  // no task on the host's executor uses this engine after here
    }
    Lock lock(bell_->mutex);
    while (stepping_) idle_.wait(lock);  // a host thread inside run_one() ends its step first
    return {};
  }

  EngineStats stats() const {
    if (!scheduler_) return EngineStats();
    const Lock lock(bell_->mutex);
    EngineStats stats = scheduler_->stats();
    stats.refused = refused_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  static constexpr std::size_t kMaxStops = 64, kMaxStopBytes = 1024;

  static EngineOptions with_defaults(EngineOptions options) noexcept {
    if (options.host.clock == nullptr) options.host.clock = &steady_clock();
    return options;
  }
  static Error wrong(std::string_view field, std::string_view wanted, std::int64_t got) {
    return Error(ErrorCode::invalid_argument,
                 {field, ": wanted ", wanted, ", got ", std::to_string(got)});
  }

  Result<void> start() {
    constexpr std::int32_t kMaxSequences = 1 << 16;
    if (options_.max_sequences < 1 || options_.max_sequences > kMaxSequences) {
      return wrong("max_sequences", "1 to 65536", options_.max_sequences);
    }
    if (options_.max_batch_tokens < 1) {
      return wrong("max_batch_tokens", "at least 1", options_.max_batch_tokens);
    }
    if (options_.queue_capacity < 1 || options_.queue_capacity > std::size_t{1} << 20) {
      return wrong("queue_capacity", "1 to 2^20",
                   static_cast<std::int64_t>(options_.queue_capacity));
    }
    model_limits_ = model_.limits();
    if (model_limits_.page_tokens < 1 || model_limits_.max_context_tokens < 2 ||
        model_limits_.vocab_size < 1) {
      return Error(ErrorCode::contract_violation,
                   "model: limits: wanted a page of at least 1 token, a context of at least 2 and "
                   "a vocabulary");
    }
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
    const SchedulerLimits limits{.max_sequences = sequences,
                                 .max_batch_tokens = options_.max_batch_tokens,
                                 .max_context_tokens = model_limits_.max_context_tokens,
                                 .vocab_size = model_limits_.vocab_size,
                                 .page_tokens = model_limits_.page_tokens,
                                 .pages = static_cast<std::int32_t>(pages),
                                 .queue_capacity = options_.queue_capacity};
    if (Result<void> reserved =
            model_.reserve(limits.pages, limits.max_batch_tokens, limits.max_sequences);
        !reserved) {
      return reserved;
    }
    results_.reserve(static_cast<std::size_t>(limits.max_sequences));
    scheduler_ = std::make_unique<GenerationScheduler>(limits, bell_->cancels);
    if (options_.host_driven) return {};
    if (options_.host.executor != nullptr) {
      driver_.emplace(*options_.host.executor, static_cast<Steppable&>(*this));
      return {};
    }
    Result<Thread> thread = Thread::start([this] { run_thread(); });
    if (!thread) return std::move(thread).error();
    thread_ = *std::move(thread);
    return {};
  }

  /// A stream for whatever `accept` makes of the request: running, or failed with the reason.
  template <class Accept>
  TextStream begin(Accept accept) {
    std::shared_ptr<StreamState> state;
    Result<void> accepted;
    Result<void> guarded = call_guarded(ErrorCode::internal, "generate", [&] {
      if (!bell_) return;
      state = std::make_shared<StreamState>(bell_);
      accepted = accept(state);
    });
    if (!guarded) accepted = std::move(guarded);
    if (!state) return TextStream(status_ ? ErrorCode::out_of_memory : status_.error().code());
    if (!accepted) {
      refused_.fetch_add(1, std::memory_order_relaxed);
      state->fail(std::move(accepted).error());
      return TextStream(std::move(state));
    }
    bell_->ring();
    if (driver_) driver_->wake();
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
    return scheduler_->submit(std::move(sequence), now, deadline);
  }

  Result<void> check(const std::vector<TokenId>& prompt, const GenerateOptions& options) const {
    if (!status_) return status_;
    if (options.max_new_tokens < 1) {
      return wrong("max_new_tokens", "at least 1", options.max_new_tokens);
    }
    if (Result<void> sampling = validate(options.sampling); !sampling) return sampling;
    if (options.stop.size() > kMaxStops) {
      return wrong("stop", "at most 64 texts", static_cast<std::int64_t>(options.stop.size()));
    }
    for (const std::string& stop : options.stop) {
      if (stop.empty() || stop.size() > kMaxStopBytes || !is_valid_utf8(stop)) {
        return wrong("stop", "texts in UTF-8 of 1 to 1024 bytes, not one of",
                     static_cast<std::int64_t>(stop.size()));
      }
    }
    for (TokenId token : prompt) {
      if (token < 0 || token >= model_limits_.vocab_size) {
        return wrong("prompt", "token ids below " + std::to_string(model_limits_.vocab_size),
                     token);
      }
    }
    return {};
  }

  bool step_once() override {
    if (!scheduler_) return false;
    Lock lock(bell_->mutex);
    return step_once(lock);
  }
  void abandon_work() override {
    const Lock lock(bell_->mutex);
    if (!stepping_) {
      scheduler_->end_all(
          Error(ErrorCode::queue_full, "host.executor: takes no more tasks, so nothing can run"));
    }
    idle_.notify_all();
  }

  /// Called with the lock held; lets go of it while the model runs.
  bool step_once(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (stepping_ || stopping_) return false;
    const std::span<const SequenceStep> steps = scheduler_->plan(options_.host.clock->now());
    if (steps.empty()) {
      if (scheduler_->empty()) idle_.notify_all();
      return false;
    }
    results_.assign(steps.size(), StepResult());
    stepping_ = true;
    stepping_thread_ = this_thread_id();
    lock.unlock();
    run_model(steps);
    lock.lock();
    stepping_ = false;
    scheduler_->commit(results_, options_.host.clock->now());
    if (stopping_) abort_all();
    idle_.notify_all();
    return true;
  }

  /// Fills results_. A step that fails as a whole is tried again one sequence at a time, so that
  /// one bad request never harms its batch mates; a lost device is lost for all.
  void run_model(std::span<const SequenceStep> steps) {
    Result<void> together = step_model(steps, results_);
    if (together) return;
    const bool retry = steps.size() > 1 && together.error().code() != ErrorCode::device_lost;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      results_[i] = StepResult();
      Result<void> alone = together;
      if (retry) alone = step_model(steps.subspan(i, 1), std::span(results_).subspan(i, 1));
      if (!alone) results_[i].error = std::move(alone).error();
    }
  }
  Result<void> step_model(std::span<const SequenceStep> steps, std::span<StepResult> results) {
    Result<void> stepped;
    Result<void> guarded = call_guarded(ErrorCode::model_failed, "step: the model",
                                        [&] { stepped = model_.step(steps, results); });
    return guarded ? std::move(stepped) : std::move(guarded);
  }

  void abort_all() CIUIC_REQUIRES(bell_->mutex) {
    if (scheduler_) scheduler_->end_all(Error(ErrorCode::shutting_down, "engine: stopped"));
    idle_.notify_all();
  }

  void run_thread() {
    Lock lock(bell_->mutex);
    while (!stopping_) {
      const std::uint64_t rings = bell_->rings;
      // Nothing to compute means nothing waits either: only a ring can change that.
      if (step_once(lock)) continue;
      while (!stopping_ && bell_->rings == rings) bell_->changed.wait(lock);
    }
    abort_all();
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
  ThreadId stepping_thread_ CIUIC_GUARDED_BY(bell_->mutex);
  Atomic<std::uint64_t> refused_{0};
  CondVar idle_;      // a step ended, or nothing is left
  Mutex stop_mutex_;  // joins once, whoever stops
  std::optional<ExecutorDriver> driver_;
  Thread thread_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
