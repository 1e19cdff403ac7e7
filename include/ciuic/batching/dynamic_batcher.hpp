// DynamicBatcher: turns single requests into batches, and answers each one exactly once.
//
//   ciuic::DynamicBatcher<std::string, Vector> batcher(
//       [&](std::span<const std::string> texts) { return embed(texts); },   // std::vector<Vector>
//       {.max_batch_size = 64, .min_batch_size = 8, .max_queue_delay = 2ms});
//   ciuic::Future<Vector> f = batcher.submit("hello");
//   ciuic::Result<Vector> vector = f.get();
//
// The model may also take a `ciuic::Batch<Request, Response>&` and resolve its requests one by one:
// no copy, no allocation (batch.hpp). When a batch closes is told in batch_core.hpp and
// batch_policy.hpp, what a future can do in future.hpp, who runs what in worker_team.hpp.
#pragma once

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>

#include "ciuic/batching/batcher_state.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Batches requests for a model.
///
/// Of every accepted request the future is resolved exactly once: with the model's answer or error,
/// or as `expired`, `cancelled`, `shed` or `shutting_down`. A model that throws, or returns an
/// error, fails the requests of that batch that it has not resolved. With more than one worker the
/// model is called from several threads at once.
///
/// The constructor does not fail: a batcher that could not start (bad options, no thread) answers
/// every request with the reason, as does status(). `create` gives the reason at once.
///
/// The destructor stops: what waits completes as `shutting_down`, running batches end, threads are
/// joined. From a callback or the model itself stop() and drain() return `would_deadlock`, and the
/// destructor lets the rest happen as soon as the callback returns; the host's executor, clock and
/// log must live until then. Futures outlive the batcher. The child of a fork() has none of the
/// threads: use no batcher of the parent there.
///
/// Thread-safety: thread-safe, but for moving and destroying. submit() blocks only with
/// `Overload::block`.
template <class Request, class Response>
class DynamicBatcher {
  using State = BatcherState<Request, Response>;

 public:
  template <BatchFunction<Request, Response> F>
  explicit DynamicBatcher(F model, const BatcherOptions& options = {}) noexcept {
    start(std::move(model), options, {});
  }
  /// With a policy of another type, for example SloPolicy.
  template <BatchFunction<Request, Response> F, std::derived_from<BatchPolicy> Policy>
  DynamicBatcher(F model, const BatcherOptions& options, Policy policy) noexcept {
    std::unique_ptr<BatchPolicy> own;
    error_ = call_guarded(ErrorCode::internal, "policy",
                          [&] { own = std::make_unique<Policy>(std::move(policy)); });
    if (error_) start(std::move(model), options, std::move(own));
  }
  /// The same with a policy chosen at run time; null = DelayPolicy.
  template <BatchFunction<Request, Response> F>
  DynamicBatcher(F model, const BatcherOptions& options,
                 std::unique_ptr<BatchPolicy> policy) noexcept {
    start(std::move(model), options, std::move(policy));
  }
  /// Errors: `invalid_argument` names the option; `out_of_memory`, also for a thread.
  template <BatchFunction<Request, Response> F>
  static Result<DynamicBatcher> create(F model, const BatcherOptions& options = {},
                                       std::unique_ptr<BatchPolicy> policy = {}) noexcept {
    DynamicBatcher batcher;
    batcher.start(std::move(model), options, std::move(policy));
    if (!batcher.error_) return batcher.error_.error();
    return batcher;
  }
  DynamicBatcher(DynamicBatcher&& other) noexcept
      : state_(std::move(other.state_)), error_(std::exchange(other.error_, moved())) {}
  DynamicBatcher& operator=(DynamicBatcher&& other) noexcept {
    if (this == &other) return *this;
    stop_now();
    state_ = std::move(other.state_);
    error_ = std::exchange(other.error_, moved());
    return *this;
  }
  ~DynamicBatcher() { stop_now(); }

  /// Ok, or why this batcher takes no requests.
  const Result<void>& status() const noexcept { return error_; }

  /// Asks for an answer. A refusal is a future that is ready with the error: `queue_full` with a
  /// hint when to try again, `oversize`, `expired`, `infeasible`, `shutting_down`,
  /// `invalid_argument`.
  Future<Response> submit(Request request, const SubmitOptions& options = {}) noexcept {
    if (!error_) return Future<Response>::failed(error_.error());
    return state_->submit(std::move(request), options);
  }
  /// When a refused caller may try again: the batches ahead at their mean time. A guess.
  Duration retry_after() const noexcept { return state_ ? state_->retry_after() : Duration::max(); }

  /// For a batcher without workers: expires what is late at `now`, then runs at most one batch on
  /// this thread. Time does not run backwards: a `now` before one given earlier counts as that one.
  /// Also allowed beside workers, and from several threads.
  RunReport run_one(TimePoint now) noexcept { return state_ ? state_->run_one(now) : RunReport(); }
  RunReport run_one() noexcept { return state_ ? run_one(state_->clock().now()) : RunReport(); }

  /// Takes nothing new, runs what waits without delay, and waits for the end of it, for good.
  /// Without workers it runs them here. Errors: `expired` when the timeout passes before, the rest
  /// then still runs on; `would_deadlock` from a callback or model.
  Result<void> drain(Duration timeout = Duration::max()) noexcept {
    if (!state_) return {};
    return state_->drain(add_saturating(state_->clock().now(), timeout));
  }
  /// Completes what waits as `shutting_down`, lets running batches end, joins the threads, drops
  /// the model. Errors: `would_deadlock` from a callback or model.
  Result<void> stop() noexcept { return state_ ? state_->stop() : Result<void>(); }

  /// Readable at any time without a lock.
  BatcherStats stats() const noexcept { return state_ ? state_->stats() : BatcherStats(); }

 private:
  DynamicBatcher() noexcept = default;
  template <class F>
  void start(F&& model, const BatcherOptions& options,
             std::unique_ptr<BatchPolicy> policy) noexcept {
    Result<void> made = call_guarded(ErrorCode::internal, "batcher", [&] {
      if (error_ = validate(options); !error_) return;
      auto form = make_batch_model<Request, Response>(std::move(model));
      state_ = Ref<State>::adopt(new State(std::move(form), options, std::move(policy)));
      error_ = state_->start();
    });
    if (!made) error_ = std::move(made);
    if (!error_) stop_now();
  }
  static Error moved() noexcept {
    return Error(ErrorCode::invalid_argument, "batcher: it was moved from");
  }
  void stop_now() noexcept {
    if (state_ && !state_->stop()) state_->stop_later();
    state_ = {};
  }

  Ref<State> state_;
  Result<void> error_;
};

}  // namespace ciuic::inline CIUIC_ABI
