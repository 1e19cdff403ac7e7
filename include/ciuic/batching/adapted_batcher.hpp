// AdaptedBatcher: a DynamicBatcher whose callers submit raw requests and whose model takes arrays.
//
//   using Ids = std::int32_t;
//   ciuic::AdaptedBatcher batcher(
//       [&](const ciuic::PaddedInput<Ids>& in, ciuic::Rows<float>& out) {
//         encoder.run(in.values, in.mask, in.rows, in.length, out.resize(in.rows, 384));
//       },
//       ciuic::PaddedAdapter<Ids>({.max_length = 512}),
//       {.max_batch_size = 64, .max_batch_cost = 16384, .max_queue_delay = 2ms});
//   ciuic::Future<ciuic::Rows<float>> vector = batcher.submit({101, 7592, 102});
//
// What an adapter does is told in batch_adapter.hpp, all the rest in dynamic_batcher.hpp.
#pragma once

#include <algorithm>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/batching/batch_adapter.hpp"
#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/batching/join_pool.hpp"
#include "ciuic/batching/padded_cost_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Reads the input, writes the output; returns nothing, or Result<void>. What it writes first is
/// the output's size, for its memory comes from earlier batches.
template <class F, class Adapter>
concept AdaptedModel =
    std::invocable<F&, const typename Adapter::Input&, typename Adapter::Output&>;

/// The model of the batcher inside: items to input, model, output to answers. Inputs and outputs
/// are used again, one pair for each batch that runs at once. Thread-safety: thread-safe, as far as
/// the model is.
template <BatchAdapter Adapter, AdaptedModel<Adapter> Model>
class AdaptedBatchFunction {
  using Item = typename Adapter::Item;
  struct Workspace {
    std::vector<const Item*> items;
    typename Adapter::Input input;
    typename Adapter::Output output;
  };

 public:
  AdaptedBatchFunction(std::shared_ptr<const Adapter> adapter, Model model)
      : adapter_(std::move(adapter)), model_(std::move(model)) {}

  Result<void> operator()(Batch<Item, typename Adapter::Answer>& batch) {
    const Loan loan(*shared_);
    Workspace& work = *loan.workspace;
    work.items.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) work.items.push_back(&batch[i]);
    if (Result<void> packed = adapter_->pack(work.items, work.input); !packed) return packed;
    if constexpr (requires { work.output.clear(); }) work.output.clear();
    using Returned =
        std::invoke_result_t<Model&, const typename Adapter::Input&, typename Adapter::Output&>;
    if constexpr (std::is_same_v<Returned, Result<void>>) {
      if (Result<void> ran = model_(std::as_const(work.input), work.output); !ran) return ran;
    } else {
      model_(std::as_const(work.input), work.output);
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch.resolve_at_end(i, adapter_->unpack(work.input, work.output, i));
    }
    return {};
  }

 private:
  struct Shared {
    Mutex mutex;
    std::vector<std::unique_ptr<Workspace>> idle CIUIC_GUARDED_BY(mutex);
  };
  /// A workspace of one batch's own, given back at its end, however it ends.
  struct Loan {
    explicit Loan(Shared& from) : shared(from) {
      {
        Lock lock(shared.mutex);
        if (!shared.idle.empty()) {
          workspace = std::move(shared.idle.back());
          shared.idle.pop_back();
        }
      }
      if (!workspace) workspace = std::make_unique<Workspace>();
    }
    ~Loan() {
      static_cast<void>(call_guarded(ErrorCode::internal, "adapter", [&] {
        Lock lock(shared.mutex);
        shared.idle.push_back(std::move(workspace));
      }));
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Shared& shared;
    std::unique_ptr<Workspace> workspace;
  };

  std::shared_ptr<const Adapter> adapter_;
  Model model_;
  std::unique_ptr<Shared> shared_ = std::make_unique<Shared>();
};

/// Batches raw requests for a model of arrays.
///
/// A request that is too large for one batch is refused as `oversize`, or, where the adapter can,
/// divided: its pieces are requests of their own to the batcher (also in its limits and
/// statistics), its one future has the merged answer in order, or the first piece's error. Dropping
/// or cancelling it cancels what is left of the pieces.
///
/// Of the options, `max_batch_cost` is in the adapter's unit and `max_groups` counts the caller's
/// groups; the adapter divides each further. In SubmitOptions, `cost` is the adapter's to set. What
/// the adapter refuses does not appear in the statistics.
///
/// Thread-safety, ownership, errors: as DynamicBatcher; a batcher that could not start answers
/// every request with the reason, as does status().
template <BatchAdapter Adapter>
class AdaptedBatcher {
 public:
  using Request = typename Adapter::Request;
  using Item = typename Adapter::Item;
  using Answer = typename Adapter::Answer;

  template <AdaptedModel<Adapter> Model>
  AdaptedBatcher(Model model, Adapter adapter, const BatcherOptions& options = {},
                 std::unique_ptr<BatchPolicy> policy = {}) noexcept {
    Result<void> made = call_guarded(ErrorCode::internal, "batcher", [&] {
      status_ = start(std::move(model), std::move(adapter), options, std::move(policy));
    });
    if (!made) status_ = std::move(made);
  }
  /// With a policy of a type of one's own.
  template <AdaptedModel<Adapter> Model, std::derived_from<BatchPolicy> Policy>
  AdaptedBatcher(Model model, Adapter adapter, const BatcherOptions& options,
                 Policy policy) noexcept {
    Result<void> made = call_guarded(ErrorCode::internal, "batcher", [&] {
      status_ = start(std::move(model), std::move(adapter), options,
                      std::make_unique<Policy>(std::move(policy)));
    });
    if (!made) status_ = std::move(made);
  }

  /// Ok, or why this batcher takes no requests.
  const Result<void>& status() const noexcept { return batcher_ ? batcher_->status() : status_; }

  /// Asks for an answer. With `Overload::shed` the callback of a victim runs in here: it must not
  /// destroy this object. A refusal is a future that is ready with the error: the adapter's, or as
  /// DynamicBatcher::submit.
  Future<Answer> submit(Request request, SubmitOptions options = {}) noexcept {
    if (!status()) return Future<Answer>::failed(status().error());
    Future<Answer> future;
    const Result<void> done = call_guarded(ErrorCode::model_failed, "adapter", [&] {
      Result<Item> item = adapter_->prepare(std::move(request));
      future = item ? submit_item(*std::move(item), options)
                    : Future<Answer>::failed(std::move(item).error());
    });
    return done ? std::move(future) : Future<Answer>::failed(done.error());
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
  BatcherStats stats() const noexcept { return batcher_ ? batcher_->stats() : BatcherStats(); }

 private:
  using Batcher = DynamicBatcher<Item, Answer>;

  template <class Model>
  Result<void> start(Model model, Adapter adapter, BatcherOptions options,
                     std::unique_ptr<BatchPolicy> policy) {
    adapter_ = std::make_shared<const Adapter>(std::move(adapter));
    if (Result<void> valid = ciuic::validate(options); !valid) return valid;
    if constexpr (requires { adapter_->validate(options.max_batch_cost); }) {
      if (Result<void> valid = adapter_->validate(options.max_batch_cost); !valid) return valid;
    } else if constexpr (requires { adapter_->validate(); }) {
      if (Result<void> valid = adapter_->validate(); !valid) return valid;
    }
    const std::size_t own = adapter_->groups();
    if (own == 0 || own > 256 || own * options.max_groups > 256) {
      return Error(ErrorCode::invalid_argument,
                   {"max_groups: wanted 1 to 256 with those of the adapter, got ",
                    std::to_string(options.max_groups), " times ", std::to_string(own)});
    }
    limits_ = resolved(options.limits());
    clock_ = options.host.clock;
    options.max_groups *= own;
    if constexpr (PadsToLongest<Adapter>) {
      if (options.max_batch_cost < kUnlimitedCost) {
        policy = std::make_unique<PaddedCostPolicy>(std::move(policy));
      }
    }
    if constexpr (SplittingAdapter<Adapter>) {
      joins_ =
          Ref<JoinPool<Answer>>::adopt(new JoinPool<Answer>(limits_.max_outstanding, options.host));
    }
    batcher_.emplace(AdaptedBatchFunction<Adapter, Model>(adapter_, std::move(model)), options,
                     std::move(policy));
    return {};
  }

  Future<Answer> submit_item(Item item, const SubmitOptions& options) {
    if constexpr (SplittingAdapter<Adapter>) {
      const Result<std::size_t> pieces = adapter_->pieces(item, limits_.max_batch_cost);
      if (!pieces) return Future<Answer>::failed(pieces.error());
      if (*pieces > 1) return submit_split(item, *pieces, options);
    }
    return submit_whole(std::move(item), options);
  }
  Future<Answer> submit_whole(Item item, SubmitOptions options) {
    if (options.group >= limits_.max_groups) {
      return Future<Answer>::failed(
          Error(ErrorCode::invalid_argument,
                {"group: wanted below max_groups, ", std::to_string(limits_.max_groups), ", got ",
                 std::to_string(options.group)}));
    }
    const std::size_t own = adapter_->compatible(item);
    if (own >= adapter_->groups()) {
      return Future<Answer>::failed(
          Error(ErrorCode::contract_violation,
                {"adapter: wanted compatible() below groups(), ",
                 std::to_string(adapter_->groups()), ", got ", std::to_string(own)}));
    }
    options.cost = adapter_->cost(item);
    options.group = static_cast<std::uint16_t>(options.group * adapter_->groups() + own);
    return batcher_->submit(std::move(item), options);
  }
  Future<Answer> submit_split(const Item& item, std::size_t count, SubmitOptions options) {
    if (count > limits_.queue_capacity) {
      return Future<Answer>::failed(
          Error(ErrorCode::oversize,
                {"request: wanted at most queue_capacity, ", std::to_string(limits_.queue_capacity),
                 ", pieces, got ", std::to_string(count)}));
    }
    if (options.timeout >= Duration{0}) {  // one deadline for all pieces
      options.deadline = std::min(options.deadline, add_saturating(clock_->now(), options.timeout));
      options.timeout = Duration::max();
    }
    std::vector<Item> pieces = adapter_->split(item, limits_.max_batch_cost);
    if (pieces.size() != count) {
      return Future<Answer>::failed(
          Error(ErrorCode::contract_violation, {"adapter: wanted ", std::to_string(count),
                                                " pieces, got ", std::to_string(pieces.size())}));
    }
    const std::stop_token stop = std::exchange(options.stop_token, {});
    if (stop.stop_requested()) return Future<Answer>::failed(Error(ErrorCode::cancelled));
    Future<Answer> future = joins_->join(
        pieces.size(),
        [adapter = adapter_](std::span<Answer> answers) { return adapter->merge(answers); },
        [&](std::size_t i, std::stop_token stop_pieces) {
          options.stop_token = std::move(stop_pieces);
          return submit_whole(std::move(pieces[i]), options);
        });
    future.cancel_on(stop);
    return future;
  }

  struct None {};
  using Joins = std::conditional_t<SplittingAdapter<Adapter>, Ref<JoinPool<Answer>>, None>;

  std::shared_ptr<const Adapter> adapter_;
  BatchLimits limits_;  // the caller's: groups before the adapter divides them
  const Clock* clock_ = nullptr;
  Joins joins_;
  std::optional<Batcher> batcher_;  // empty when status_ says why
  Result<void> status_;
};

}  // namespace ciuic::inline CIUIC_ABI
