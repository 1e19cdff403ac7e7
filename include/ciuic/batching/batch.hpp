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

#include "ciuic/batching/future.hpp"
#include "ciuic/batching/request_terms.hpp"
#include "ciuic/batching/stats_board.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Where one accepted request lies while it waits and runs: by the slot of its completion.
template <class Request, class Response>
struct alignas(64) BatchEntry {
  std::optional<Request> request;
  RequestTerms terms{};
  TimePoint arrival{};
  Atomic<bool> has_expiry{false};  // the deadline holds the completion too: who clears it lets go
  bool answered = false;           // by the model
  bool staged = false;             // its answer is there and nobody sees it yet
  bool failed = false;             // and is an error
};

/// How often a batch that fails may be run again as a whole (Batch::run_again).
inline constexpr unsigned kMostExtraRuns = 8;

/// A view of the requests that run together, in the order they are served.
///
/// The model resolves or rejects each one, in any order, at once or as results come; what it leaves
/// unresolved gets `contract_violation`, or the model's own error. An answer is delivered when it
/// is given, callbacks run inside resolve(), but for resolve_at_end(). With `on_failure = bisect`,
/// and after an out-of-memory, unresolved requests are shown to the model again, so it must not
/// move from what it may fail on. Thread-safety: thread-compatible; different requests may be
/// resolved from different threads.
template <class Request, class Response>
class Batch {
 public:
  using Entry = BatchEntry<Request, Response>;
  Batch(CompletionPool<Response>& completions, Entry* entries,
        std::span<const std::uint32_t> tickets, StatsBoard& stats, std::uint32_t route = 0) noexcept
      : completions_(completions),
        entries_(entries),
        tickets_(tickets),
        stats_(stats),
        route_(route) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  std::size_t size() const noexcept { return tickets_.size(); }
  /// The i-th request, i below size().
  Request& operator[](std::size_t i) noexcept { return *entry(i).request; }
  const Request& operator[](std::size_t i) const noexcept { return *entry(i).request; }
  /// What it was submitted with.
  const RequestTerms& terms(std::size_t i) const noexcept { return entry(i).terms; }

  /// False when the request was resolved before, by the model, a cancel or its deadline, and when
  /// there is no i-th request.
  bool resolve(std::size_t i, Result<Response> answer) noexcept {
    if (i >= size() || !completions_.claim(tickets_[i])) return false;
    entry(i).answered = true;
    stats_.add(answer ? StatsBoard::completed : StatsBoard::failed);
    completions_.stage(tickets_[i], std::move(answer));
    completions_.publish(tickets_[i]);
    return true;
  }
  bool reject(std::size_t i, Error error) noexcept {
    return resolve(i, Result<Response>(std::move(error)));
  }
  /// resolve() for a model that answers many in a row: all these answers are delivered together
  /// when the model returns, so that a caller who waits for several of them wakes up once.
  bool resolve_at_end(std::size_t i, Result<Response> answer) noexcept {
    if (i >= size() || !completions_.claim(tickets_[i])) return false;
    Entry& e = entry(i);
    e.answered = e.staged = true;
    e.failed = !answer;
    completions_.stage(tickets_[i], std::move(answer));
    return true;
  }
  /// True when nobody wants the answer any more: cancelled or expired.
  bool cancelled(std::size_t i) const noexcept {
    return !entry(i).answered && completions_.is_claimed(tickets_[i]);
  }
  /// True when this model answered it.
  bool resolved(std::size_t i) const noexcept { return entry(i).answered; }
  /// Puts back a request that was moved from.
  void restore(std::size_t i, Request&& request) noexcept {
    entry(i).request.emplace(std::move(request));
  }
  /// Tells the policy how many bytes this batch needed.
  void report_memory(std::uint64_t bytes) noexcept { memory_ = bytes; }
  std::uint64_t reported_memory() const noexcept { return memory_; }
  /// Where the policy sends this batch (BatchPolicy::route); 0 without one.
  std::uint32_t route() const noexcept { return route_; }
  /// If this call of the model fails, what it left unresolved shall be shown to it once more as a
  /// whole, before any other rule: for a model that has another place to run it. Counts
  /// kMostExtraRuns times.
  void run_again() noexcept { run_again_ = true; }
  bool runs_again() const noexcept { return run_again_; }

 private:
  Entry& entry(std::size_t i) const noexcept { return entries_[tickets_[i]]; }
  CompletionPool<Response>& completions_;
  Entry* entries_;
  std::span<const std::uint32_t> tickets_;  // also the slots of the completions
  StatsBoard& stats_;
  std::uint64_t memory_ = 0;
  const std::uint32_t route_;
  bool run_again_ = false;
};

/// The form that every model is brought to. An error is for all requests it left unresolved.
template <class Request, class Response>
using BatchModel = Function<Result<void>(Batch<Request, Response>&)>;

/// Canonical form: resolves through the batch; returns nothing, or Result<void>.
template <class F, class Request, class Response>
concept CanonicalBatchFunction = std::is_invocable_v < F&,
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

/// The requests of a batch in one array. What is not answered goes back when this goes.
template <class Request, class Response>
class Gathered {
 public:
  explicit Gathered(Batch<Request, Response>& batch) : batch_(batch) {
    requests_.reserve(batch.size());
    for (std::size_t i = 0; i < batch.size(); ++i) requests_.push_back(std::move(batch[i]));
  }
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;
  ~Gathered() {
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (!batch_.resolved(i)) batch_.restore(i, std::move(requests_[i]));
    }
  }
  std::span<const Request> requests() const noexcept { return requests_; }

 private:
  Batch<Request, Response>& batch_;
  std::vector<Request> requests_;
};

/// Moves the requests into one array, runs `function` over it and deals the results out.
template <class Request, class Response, class F>
Result<void> run_convenience(F& function, Batch<Request, Response>& batch) {
  static_assert(!std::is_same_v<Request, bool>, "std::vector<bool> has no array of bool to show");
  const Gathered gathered(batch);
  auto returned = function(gathered.requests());
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
        batch.resolve_at_end(i++, std::move(result));
      } else {
        static_assert(std::is_convertible_v<Element&&, Response>,
                      "the model's results are no answers of this batcher");
        static_assert(!(std::is_floating_point_v<Element> && std::is_integral_v<Response>),
                      "a fraction would be cut off: convert it in the model");
        batch.resolve_at_end(i++, static_cast<Response>(std::move(result)));
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
template <class Request, class Response, BatchFunction<Request, Response> F>
BatchModel<Request, Response> make_batch_model(F function) {
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
