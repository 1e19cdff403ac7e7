// Batch: what a model is given, and the forms that a model may have.
#pragma once

#include <concepts>
#include <cstddef>
#include <iterator>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/batching/batcher_stats.hpp"
#include "ciuic/batching/future.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Where one accepted request lies while it waits and runs.
template <class Request, class Response>
struct BatchEntry {
  std::optional<Request> request;
  Promise<Response> promise;       // the batch's
  Promise<Response> expiry;        // the deadline's, when there is one
  Atomic<bool> has_expiry{false};  // whoever clears this owns `expiry`
};

/// A view of the requests that run together, in the order they are served.
///
/// The model resolves or rejects each one, in any order, at once or as results come; what it leaves
/// unresolved gets `contract_violation`, or the model's own error. An answer is delivered when it
/// is given: callbacks run inside resolve(). Thread-safety: thread-compatible; different requests
/// may be resolved from different threads.
template <class Request, class Response>
class Batch {
 public:
  using Entry = BatchEntry<Request, Response>;
  Batch(Entry* entries, std::span<const SlotHandle> slots, StatsBoard& stats) noexcept
      : entries_(entries), slots_(slots), stats_(stats) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  std::size_t size() const noexcept { return slots_.size(); }
  /// The i-th request; the model may move from it.
  Request& operator[](std::size_t i) noexcept { return *entry(i).request; }
  const Request& operator[](std::size_t i) const noexcept { return *entry(i).request; }

  /// False when the request was resolved before: by the model, a cancel or its deadline.
  bool resolve(std::size_t i, Result<Response> answer) noexcept {
    Promise<Response>& promise = entry(i).promise;
    if (!promise.claim()) return false;
    stats_.add(answer ? StatsBoard::completed : StatsBoard::failed);
    promise.deliver(std::move(answer));
    return true;
  }
  bool reject(std::size_t i, Error error) noexcept {
    return resolve(i, Result<Response>(std::move(error)));
  }
  /// True when nobody wants the answer any more: cancelled or expired.
  bool cancelled(std::size_t i) const noexcept { return entry(i).promise.cancelled(); }
  /// True when this model answered it.
  bool resolved(std::size_t i) const noexcept { return !entry(i).promise.valid(); }

 private:
  Entry& entry(std::size_t i) const noexcept { return entries_[slots_[i].index]; }
  Entry* entries_;
  std::span<const SlotHandle> slots_;
  StatsBoard& stats_;
};

/// The form that every model is brought to. An error is for all requests it left unresolved.
template <class Request, class Response>
using BatchModel = Function<Result<void>(Batch<Request, Response>&)>;

/// Canonical form: resolves through the batch; returns nothing, or Result<void>.
template <class F, class Request, class Response>
concept CanonicalBatchFunction = std::invocable < F&,
        Batch<Request, Response>
& > ;
/// Convenience form: a range of results, one for each request in order, or a Result of one. An
/// element may be a Response or a Result<Response>.
template <class F, class Request, class Response>
concept ConvenienceBatchFunction = std::invocable<F&, std::span<const Request>>;
template <class F, class Request, class Response>
concept BatchFunction =
    CanonicalBatchFunction<F, Request, Response> || ConvenienceBatchFunction<F, Request, Response>;

namespace detail {

template <class T>
inline constexpr bool is_result = false;
template <class T>
inline constexpr bool is_result<Result<T>> = true;

/// Moves the requests into one array, runs `function` over it and deals the results out.
template <class Request, class Response, class F>
Result<void> run_convenience(F& function, Batch<Request, Response>& batch) {
  static_assert(!std::is_same_v<Request, bool>, "std::vector<bool> has no array of bool to show");
  std::vector<Request> requests;
  requests.reserve(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) requests.push_back(std::move(batch[i]));
  auto returned = function(std::span<const Request>(requests));
  auto deal = [&](auto& results) -> Result<void> {
    const auto count = static_cast<std::size_t>(std::ranges::distance(results));
    if (count != batch.size()) {  // which result belongs to whom is anybody's guess: none is used
      return Error(ErrorCode::contract_violation, {"model: wanted ", std::to_string(batch.size()),
                                                   " results, got ", std::to_string(count)});
    }
    std::size_t i = 0;
    for (auto&& result : results) {
      using Element = std::remove_cvref_t<decltype(result)>;
      if constexpr (std::is_same_v<Element, Result<Response>>) {
        batch.resolve(i++, std::move(result));
      } else {
        batch.resolve(i++, Response(std::move(result)));
      }
    }
    return {};
  };
  if constexpr (is_result<decltype(returned)>) {
    if (!returned) return std::move(returned).error();
    return deal(*returned);
  } else {
    return deal(returned);
  }
}

}  // namespace detail

/// Brings either form to the one that the batcher runs.
template <class Request, class Response, class F>
requires BatchFunction<F, Request, Response> BatchModel<Request, Response> make_batch_model(
    F function) {
  if constexpr (CanonicalBatchFunction<F, Request, Response>) {
    using Returned = std::invoke_result_t<F&, Batch<Request, Response>&>;
    return
        [function = std::move(function)](Batch<Request, Response>& batch) mutable -> Result<void> {
          if constexpr (std::is_same_v<Returned, Result<void>>) {
            return function(batch);
          } else {
            function(batch);
            return {};
          }
        };
  } else {
    return
        [function = std::move(function)](Batch<Request, Response>& batch) mutable -> Result<void> {
          return detail::run_convenience(function, batch);
        };
  }
}

}  // namespace ciuic::inline CIUIC_ABI
