// GenerationEngine: the scheduler, a lock, and whoever runs the steps: a thread of our own, the
// host's executor, or the host itself through run_one(). Not a template, so that including the
// engine stays cheap; AsyncInferenceEngine is the typed front.
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/base/host_context.hpp"
#include "ciuic/engine/generation_scheduler.hpp"
#include "ciuic/engine/step_model.hpp"

namespace ciuic::inline CIUIC_ABI {

struct EngineOptions {
  std::int32_t max_sequences = 32;       ///< sequences in one step
  std::int32_t max_batch_tokens = 2048;  ///< tokens in one step; longer prompts are cut into pieces
  std::size_t kv_memory = 0;  ///< bytes of keys and values; 0 = full contexts, at most 1 GiB
  std::size_t queue_capacity = 1024;  ///< requests that may wait
  bool host_driven = false;           ///< no thread: the host calls `run_one`
  HostContext host{};                 ///< `executor`, when given, runs the steps
};

namespace detail {

/// Thread-safety: thread-safe.
class GenerationEngine {
 public:
  GenerationEngine(AnyTextModel& model, const EngineOptions& options)
      : model_(model),
        options_(options),
        bell_(std::make_shared<EngineBell>()),
        pump_(std::make_shared<Pump>()) {
    status_ = start();
  }
  ~GenerationEngine() { stop(); }
  GenerationEngine(const GenerationEngine&) = delete;
  GenerationEngine& operator=(const GenerationEngine&) = delete;

  const Result<void>& status() const noexcept { return status_; }

  TextStream generate(std::string_view prompt, GenerateOptions options) {
    auto state = std::make_shared<StreamState>(bell_);
    Result<std::vector<TokenId>> tokens = model_.encode(prompt, options.parse_special);
    if (!tokens) {
      state->fail(std::move(tokens).error());
    } else {
      submit(state, *std::move(tokens), std::move(options));
    }
    return TextStream(std::move(state));
  }
  TextStream generate(std::vector<TokenId> prompt, GenerateOptions options) {
    auto state = std::make_shared<StreamState>(bell_);
    submit(state, std::move(prompt), std::move(options));
    return TextStream(std::move(state));
  }

  /// Runs one step; false when there was nothing to compute, or another thread is at it.
  bool run_one() {
    Lock lock(bell_->mutex);
    return run_one(lock);
  }
  /// After run_one() returned false: when to call it again unless something is submitted.
  TimePoint next_event() const {
    const Lock lock(bell_->mutex);
    return scheduler_ ? scheduler_->next_event() : kNever;
  }

  bool drain(Duration timeout) {
    const TimePoint until = add_saturating(options_.host.clock->now(), timeout);
    Lock lock(bell_->mutex);
    if (!scheduler_) return true;
    scheduler_->drain();
    while (!scheduler_->empty()) {
      if (options_.host_driven && run_one(lock)) continue;
      if (options_.host.clock->now() >= until) return false;
      const TimePoint wake = std::min(until, scheduler_->next_event());
      options_.host.clock->wait_until(idle_, lock, options_.host_driven ? wake : until);
    }
    return true;
  }

  void stop() {
    {
      Lock lock(bell_->mutex);
      stopping_ = true;
      if (scheduler_) scheduler_->stop();
      if (!stepping_) abort_all();
    }
    bell_->ring();
    const Lock one_at_a_time(stop_mutex_);
    thread_.join();
    pump_->close();  // no task on the host's executor uses this engine after here
    Lock lock(bell_->mutex);
    while (stepping_) idle_.wait(lock);  // a host thread inside run_one() ends its step first
  }

  EngineStats stats() const {
    const Lock lock(bell_->mutex);
    return scheduler_ ? scheduler_->stats() : EngineStats();
  }

 private:
  /// Lets tasks on the host's executor find the engine, or that it is gone.
  struct Pump {
    Mutex mutex;
    CondVar left;
    GenerationEngine* engine CIUIC_GUARDED_BY(mutex) = nullptr;
    int inside CIUIC_GUARDED_BY(mutex) = 0;
    bool scheduled CIUIC_GUARDED_BY(mutex) = false;

    void close() {
      Lock lock(mutex);
      engine = nullptr;
      while (inside > 0) left.wait(lock);
    }
  };

  static Error wrong(std::string_view field, std::string_view wanted, std::int64_t got) {
    return Error(ErrorCode::invalid_argument,
                 {field, ": wanted ", wanted, ", got ", std::to_string(got)});
  }

  Result<void> start() {
    if (options_.max_sequences < 1)
      return wrong("max_sequences", "at least 1", options_.max_sequences);
    if (options_.max_batch_tokens < 1)
      return wrong("max_batch_tokens", "at least 1", options_.max_batch_tokens);
    if (options_.queue_capacity < 1 || options_.queue_capacity > kMaxSlots / 4) {
      return wrong("queue_capacity", "1 to 2^22",
                   static_cast<std::int64_t>(options_.queue_capacity));
    }
    const StepModelLimits model = model_.limits();
    // Every running sequence needs room for one token in each step.
    const std::int32_t sequences = std::min(options_.max_sequences, options_.max_batch_tokens);
    const std::uint64_t full =
        static_cast<std::uint64_t>(sequences) *
        static_cast<std::uint64_t>(ceil_div(model.max_context_tokens, model.page_tokens));
    const std::size_t memory = options_.kv_memory != 0 ? options_.kv_memory : std::size_t{1} << 30;
    const std::uint64_t pages =
        std::min({full, std::uint64_t{memory} / std::max<std::size_t>(model.page_bytes, 1),
                  std::uint64_t{1} << 30});
    if (pages == 0) {
      return Error(ErrorCode::invalid_argument,
                   {"kv_memory: wanted at least one page of ", std::to_string(model.page_bytes),
                    " bytes, got ", std::to_string(memory)});
    }
    const SchedulerLimits limits{.max_sequences = sequences,
                                 .max_batch_tokens = options_.max_batch_tokens,
                                 .max_context_tokens = model.max_context_tokens,
                                 .page_tokens = model.page_tokens,
                                 .pages = static_cast<std::int32_t>(pages),
                                 .queue_capacity = options_.queue_capacity};
    if (Result<void> reserved =
            model_.reserve(limits.pages, limits.max_batch_tokens, limits.max_sequences);
        !reserved) {
      return reserved;
    }
    {
      const Lock lock(bell_->mutex);
      scheduler_.emplace(limits);
      results_.reserve(static_cast<std::size_t>(limits.max_sequences));
    }
    if (options_.host_driven) return {};
    if (options_.host.executor != nullptr) {
      const Lock lock(pump_->mutex);
      pump_->engine = this;
      return {};
    }
    Result<Thread> thread = Thread::start([this] { run_thread(); });
    if (!thread) return std::move(thread).error();
    thread_ = *std::move(thread);
    return {};
  }

  void submit(const std::shared_ptr<StreamState>& state, std::vector<TokenId> prompt,
              GenerateOptions options) {
    Result<void> accepted = check(prompt, options);
    if (accepted) accepted = enqueue(state, std::move(prompt), std::move(options));
    if (!accepted) return state->fail(std::move(accepted).error());
    bell_->ring();
    schedule_pump();
  }

  Result<void> check(const std::vector<TokenId>& prompt, const GenerateOptions& options) const {
    if (!status_) return status_;
    if (options.max_new_tokens < 1)
      return wrong("max_new_tokens", "at least 1", options.max_new_tokens);
    if (Result<void> sampling = validate(options.sampling); !sampling) return sampling;
    for (const std::string& stop : options.stop) {
      if (stop.empty())
        return Error(ErrorCode::invalid_argument, "stop: wanted texts, got an empty one");
    }
    const std::int32_t vocab = model_.limits().vocab_size;
    for (TokenId token : prompt) {
      if (token < 0 || token >= vocab) {
        return wrong("prompt", "token ids below " + std::to_string(vocab), token);
      }
    }
    return {};
  }

  Result<void> enqueue(const std::shared_ptr<StreamState>& state, std::vector<TokenId> prompt,
                       GenerateOptions options) {
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

  /// Called with the lock held; lets go of it while the model runs.
  bool run_one(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (stepping_ || !scheduler_) return false;
    if (stopping_) {
      abort_all();
      return false;
    }
    const std::span<const SequenceStep> steps = scheduler_->plan(options_.host.clock->now());
    if (steps.empty()) {
      if (scheduler_->empty()) idle_.notify_all();
      return false;
    }
    results_.assign(steps.size(), StepResult());
    stepping_ = true;
    lock.unlock();
    Result<void> stepped = step(steps);
    lock.lock();
    stepping_ = false;
    if (stepped) {
      scheduler_->commit(results_, options_.host.clock->now());
    } else {
      scheduler_->fail(stepped.error());
    }
    if (stopping_) abort_all();
    if (stopping_ || scheduler_->empty()) idle_.notify_all();
    return true;
  }

  Result<void> step(std::span<const SequenceStep> steps) {
#if defined(__cpp_exceptions)
    try {
      return model_.step(steps, results_);
    } catch (const std::exception& e) {
      return Error(ErrorCode::model_failed, {"step: the model threw: ", e.what()});
    } catch (...) {
      return Error(ErrorCode::model_failed, "step: the model threw");
    }
#else
    return model_.step(steps, results_);
#endif
  }

  void abort_all() CIUIC_REQUIRES(bell_->mutex) {
    if (scheduler_) scheduler_->abort(Error(ErrorCode::shutting_down, "engine: stopped"));
    idle_.notify_all();
  }

  void run_thread() {
    Lock lock(bell_->mutex);
    while (!stopping_) {
      const std::uint64_t rings = bell_->rings;
      if (run_one(lock)) continue;
      if (stopping_ || bell_->rings != rings) continue;
      options_.host.clock->wait_until(bell_->changed, lock, scheduler_->next_event());
    }
    abort_all();
  }

  // --- on the host's executor: one task at a time runs steps until there is nothing to do
  // ---------
  void schedule_pump() {
    if (options_.host.executor == nullptr || options_.host_driven) return;
    {
      const Lock lock(pump_->mutex);
      if (pump_->scheduled) return;
      pump_->scheduled = true;
    }
    if (!options_.host.executor->post([pump = pump_] { run_pump(pump); })) {
      {
        const Lock lock(pump_->mutex);
        pump_->scheduled = false;
      }
      const Lock lock(bell_->mutex);
      if (!stepping_) abort_all();  // nobody will ever run these requests
    }
  }

  static void run_pump(const std::shared_ptr<Pump>& pump) {
    GenerationEngine* engine = nullptr;
    {
      const Lock lock(pump->mutex);
      pump->scheduled = false;  // whoever submits from here on posts a task of its own
      engine = pump->engine;
      if (engine == nullptr) return;
      ++pump->inside;
    }
    while (engine->run_one()) {
    }
    if (const TimePoint when = engine->next_event(); when != kNever) {
      (void)engine->options_.host.executor->post_at(when, [pump] { run_pump(pump); });
    }
    const Lock lock(pump->mutex);
    --pump->inside;
    pump->left.notify_all();
  }

  AnyTextModel& model_;
  const EngineOptions options_;
  Result<void> status_;
  std::shared_ptr<EngineBell> bell_;  // its mutex guards what follows
  std::shared_ptr<Pump> pump_;
  std::optional<GenerationScheduler> scheduler_ CIUIC_GUARDED_BY(bell_->mutex);
  std::vector<StepResult> results_;  // written by the model while stepping_, else guarded
  bool stepping_ CIUIC_GUARDED_BY(bell_->mutex) = false;
  bool stopping_ CIUIC_GUARDED_BY(bell_->mutex) = false;
  CondVar idle_;
  Mutex stop_mutex_;  // joins once, whoever stops
  Thread thread_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
