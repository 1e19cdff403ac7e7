// AsyncInferenceEngine over one-shot models: single requests in, batches out to several replicas.
//
//   AsyncInferenceEngine engine(Replicas<std::string, Vector>{on_gpu, on_cpu},
//                               {.batching = {.max_batch_size = 64, .max_queue_delay = 2ms}});
//   Future<Vector> f = engine.submit("hello");
//
// It is a DynamicBatcher whose batches know where they go: when one closes and who is in it is the
// batcher's business, which replica runs it is told in replica_router.hpp, what becomes of it when
// that fails in replica_team.hpp.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/engine/one_shot.hpp"
#include "ciuic/engine/replica_policy.hpp"
#include "ciuic/engine/replica_team.hpp"

namespace ciuic::inline CIUIC_ABI {

template <class Model>
class AsyncInferenceEngine;

namespace detail {

/// The model of the batcher inside: runs a batch on its replica. Thread-safety: thread-safe.
template <class Request, class Response>
class ReplicatedModel {
  using Models = std::vector<BatchModel<Request, Response>>;

 public:
  ReplicatedModel(Models models, std::shared_ptr<ReplicaTeam> team, const Clock& clock)
      : models_(std::make_unique<Models>(std::move(models))),
        team_(std::move(team)),
        clock_(&clock) {}

  Result<void> operator()(Batch<Request, Response>& batch) noexcept {
    using Outcome = ReplicaTeam::Outcome;
    BatchShape shape{.count = batch.size()};
    TimePoint last_deadline = TimePoint::min();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      last_deadline = std::max(last_deadline, batch.terms(i).deadline);
      shape.cost += batch.terms(i).cost;
      shape.max_cost = std::max(shape.max_cost, batch.terms(i).cost);
    }
    Result<std::uint32_t> replica = team_->enter(batch.route(), shape, last_deadline);
    if (!replica) return std::move(replica).error();

    const TimePoint begin = clock_->now();
    Result<void> outcome;
    Result<void> guarded = call_guarded(ErrorCode::model_failed, "model",
                                        [&] { outcome = (*models_)[*replica](batch); });
    if (!guarded) outcome = std::move(guarded);
    std::size_t left = 0, wanted = 0;  // of those without an answer
    for (std::size_t i = 0; i < batch.size(); ++i) {
      left += !batch.resolved(i);
      wanted += !batch.resolved(i) && !batch.cancelled(i);
    }
    const bool incomplete = outcome && wanted > 0;
    if (incomplete)
      outcome = Error(ErrorCode::contract_violation, "model: left a request unanswered");

    const Duration time = std::max(clock_->now() - begin, Duration{0});
    const Outcome what = outcome                                            ? Outcome::passed
                         : outcome.error().code() == ErrorCode::device_lost ? Outcome::device_lost
                         : outcome.error().code() == ErrorCode::out_of_memory
                             ? Outcome::out_of_memory
                             : Outcome::failed;
    const Error error = outcome ? Error(ErrorCode::internal) : outcome.error();
    if (team_->leave(batch.route(), shape, left, wanted, time, what, error)) {
      batch.run_again();
    } else if (incomplete) {
      return {};  // what is left is the batcher's to fail: halves would not help
    }
    return outcome;
  }

 private:
  std::unique_ptr<Models> models_;
  std::shared_ptr<ReplicaTeam> team_;
  const Clock* clock_;
};

}  // namespace detail

/// Batches requests for several replicas of a model.
///
/// The contract is DynamicBatcher's: every accepted request is answered exactly once, whatever
/// throws, expires, is cancelled or shuts down; the same options, statistics, ways to wait and ways
/// to end. Beyond it:
/// - A replica is called by one thread at a time. A batch goes where it will end first.
/// - A batch that fails is run again on another replica, at most `health.opinions` times, so a
///   replica must have no side effects that must not be repeated. Where it passes, those on which
///   it failed are drained and tried again later; if nowhere, it fails by the rule of `on_failure`.
/// - While no replica is in service requests fail at once, with the last replica's error and the
///   time when one will be tried again.
///
/// Errors that a replica gives to single requests are theirs: they are answers, and blame nobody.
///
/// Thread-safety: as DynamicBatcher. A thread that runs a failed batch may wait for another replica
/// to become free.
template <class Request, class Response>
class AsyncInferenceEngine<Replicas<Request, Response>> {
  using Model = detail::ReplicatedModel<Request, Response>;

 public:
  /// Does not fail: an engine that could not start (no replica, bad options, no thread) answers
  /// every request with the reason, as does status(). A null `policy` is DelayPolicy.
  explicit AsyncInferenceEngine(Replicas<Request, Response> replicas,
                                const OneShotOptions& options = {},
                                std::unique_ptr<BatchPolicy> policy = {}) noexcept {
    Result<void> made = call_guarded(ErrorCode::internal, "engine", [&] {
      status_ = validate(options, replicas.size());
      if (!status_) return;
      const std::size_t size = replicas.size();
      BatcherOptions batching = options.batching;
      if (batching.workers > 0) batching.workers = static_cast<unsigned>(size);
      team_ = std::make_shared<ReplicaTeam>(size, options.routing, options.health,
                                            *batching.host.clock);
      auto routed = std::make_unique<ReplicaPolicy>(team_, std::move(policy));
      batcher_.emplace(Model(replicas.release(), team_, *batching.host.clock), batching,
                       std::unique_ptr<BatchPolicy>(std::move(routed)));
      status_ = batcher_->status();
    });
    if (!made) status_ = std::move(made);
  }

  /// Ok, or why this engine takes no requests.
  const Result<void>& status() const noexcept { return status_ ? batcher_->status() : status_; }

  /// Asks for an answer; refusals as DynamicBatcher::submit.
  Future<Response> submit(Request request, const SubmitOptions& options = {}) noexcept {
    if (!status_) return Future<Response>::failed(status_.error());
    return batcher_->submit(std::move(request), options);
  }

  // As in DynamicBatcher.
  Duration retry_after() const noexcept {
    return batcher_ ? batcher_->retry_after() : Duration::max();
  }
  RunReport run_one(TimePoint now) noexcept {
    return batcher_ ? batcher_->run_one(now) : RunReport();
  }
  RunReport run_one() noexcept { return batcher_ ? batcher_->run_one() : RunReport(); }
  Result<void> drain(Duration timeout = Duration::max()) noexcept {
    return batcher_ ? batcher_->drain(timeout) : Result<void>();
  }
  Result<void> stop() noexcept { return batcher_ ? batcher_->stop() : Result<void>(); }

  /// May throw std::bad_alloc.
  OneShotStats stats() const {
    OneShotStats stats;
    if (batcher_) stats.batching = batcher_->stats();
    if (team_) stats.replicas = team_->stats();
    return stats;
  }

 private:
  std::shared_ptr<ReplicaTeam> team_;
  std::optional<DynamicBatcher<Request, Response>> batcher_;  // empty when status_ says why
  Result<void> status_;
};

template <class Request, class Response>
AsyncInferenceEngine(Replicas<Request, Response>, const OneShotOptions& = {},
                     std::unique_ptr<BatchPolicy> = {})
    -> AsyncInferenceEngine<Replicas<Request, Response>>;

}  // namespace ciuic::inline CIUIC_ABI
