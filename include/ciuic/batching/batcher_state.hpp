// BatcherState: what a DynamicBatcher, its threads and its futures share.
//
// It is the completion pool of the answers and the shell around the core at once, so that a future
// keeps alive all that it may have to touch. Requests lie in entries, by slot of the core. An entry
// belongs to the lock while its request waits, to the batch while it runs, and to whoever took it
// out otherwise; foreign code (models, callbacks, destructors) only runs with the lock released.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>

#include "ciuic/batching/batch.hpp"
#include "ciuic/batching/batch_shell.hpp"
#include "ciuic/batching/batcher_options.hpp"
#include "ciuic/batching/executor_pump.hpp"
#include "ciuic/batching/worker_team.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. Thread-safety: thread-safe.
template <class Request, class Response>
class BatcherState final : public CompletionPool<Response>, public BatchShell {
  using Pool = CompletionPool<Response>;
  using Entry = BatchEntry<Request, Response>;
  using Slot = std::optional<Completion<Response>>;
  static_assert(std::is_nothrow_move_constructible_v<Request>,
                "a request must move without throwing; wrap it in a std::unique_ptr");

 public:
  /// `options` must be valid.
  BatcherState(BatchModel<Request, Response> model, const BatcherOptions& options)
      : Pool(resolved(options.limits()).max_outstanding, options.host),
        BatchShell(core_limits(options), options.host, options.workers + 4),
        entries_(new Entry[core_.limits().max_outstanding]),
        model_(std::move(model)),
        overload_(options.overload),
        workers_(options.workers) {}

  /// Errors: `out_of_memory` when a thread does not start. Stop it then.
  Result<void> start() {
    if (workers_ == 0) return {};
    if (host().executor != nullptr) {
      return drive(std::make_unique<ExecutorPump>(*this, *host().executor, workers_));
    }
    return drive(std::make_unique<WorkerTeam>(*this, workers_));
  }

  void add_reference() noexcept override { Pool::add_reference(); }
  void drop_reference() noexcept override { Pool::drop_reference(); }

  Future<Response> submit(Request&& request, const SubmitOptions& options) noexcept {
    const TimePoint now = clock().now();
    if (options.timeout < Duration{0}) {
      stats_.add(StatsBoard::rejected_invalid);
      return Future<Response>::failed(
          Error(ErrorCode::invalid_argument, "timeout: wanted at least 0"));
    }
    const RequestTerms terms{options.cost, options.priority,
                             std::min(options.deadline, add_saturating(now, options.timeout))};
    Slot slot;
    Refusal why = Refusal::none;
    if (!options.stop_token.stop_requested()) {
      slot = Completion<Response>::make(*this);
      why = enter(request, terms, now, slot);
      if (is_full(why) && overload_ == Overload::block) {
        why = enter_when_there_is_room(request, terms, options.stop_token, slot, why);
      }
    }
    if (why == Refusal::none && slot) {
      slot->future.cancel_on(options.stop_token);
      return std::move(slot->future);
    }
    if (slot) discard(*slot);
    if (is_full(why) && options.stop_token.stop_requested()) why = Refusal::none;  // gave up
    return refuse(why);
  }

  BatcherStats stats() const noexcept {
    BatcherStats stats = stats_.read();
    stats.callbacks_failed = Pool::callbacks_failed();
    return stats;
  }
  Duration retry_after() const noexcept {
    const BatcherStats now = stats_.read();
    const auto ahead = now.pending() / core_.limits().max_batch_size / std::max(workers_, 1u) + 1;
    return std::max({Duration(std::chrono::milliseconds(1)), core_.limits().max_queue_delay,
                     now.mean_execution() * static_cast<std::int64_t>(ahead)});
  }

 private:
  /// The core's slots are free again at the end of a batch, answers are taken before: the pool
  /// bounds what is outstanding, the core has room for the batches in between.
  static BatchLimits core_limits(const BatcherOptions& options) noexcept {
    BatchLimits limits = resolved(options.limits());
    const std::size_t batch = std::min(limits.max_batch_size, limits.max_outstanding);
    const std::size_t batches = std::max<std::size_t>(options.workers, 1) + 1;
    limits.max_outstanding = std::min(limits.max_outstanding + batches * batch, kMaxSlots);
    return limits;
  }
  static bool is_full(Refusal why) noexcept {
    return why == Refusal::queue_full || why == Refusal::outstanding_full;
  }
  static std::uint64_t tag_of(SlotHandle slot) noexcept {
    return std::uint64_t{slot.generation} << 32 | slot.index;
  }
  static SlotHandle handle_of(std::uint64_t tag) noexcept {
    return {static_cast<std::uint32_t>(tag), static_cast<std::uint32_t>(tag >> 32)};
  }
  static void discard(Completion<Response>& slot) noexcept {
    slot.promise.let_go();
    slot.future.detach();
  }

  // --- submission -------------------------------------------------------------------------------

  Refusal enter(Request& request, const RequestTerms& terms, TimePoint now, Slot& slot) noexcept {
    Lock lock(mutex_);
    const Admission admission = admit(request, terms, now, slot);
    if (!admission) return admission.refusal;
    if (!wake(lock)) fail_unrunnable(admission.slot);
    return Refusal::none;
  }
  Refusal enter_when_there_is_room(Request& request, const RequestTerms& terms,
                                   const std::stop_token& token, Slot& slot, Refusal why) noexcept {
    const auto look_again = [this] {
      { Lock asleep(mutex_); }
      room_.notify_all();
    };
    const std::stop_callback on_stop(token, look_again);
    Lock lock(mutex_);
    if (is_active_thread()) return why;  // a worker that waits for room would wait for itself
    blocked_.fetch_add(1);
    Admission admission;
    for (;;) {
      if (!slot) slot = Completion<Response>::make(*this);
      admission = admit(request, terms, clock().now(), slot);
      if (!is_full(admission.refusal) || token.stop_requested()) break;
      clock().wait_until(room_, lock, terms.deadline);
    }
    blocked_.fetch_sub(1);
    if (admission && !wake(lock)) fail_unrunnable(admission.slot);
    return admission.refusal;
  }
  /// With the lock held.
  Admission admit(Request& request, const RequestTerms& terms, TimePoint now, Slot& slot) noexcept {
    if (!slot) {
      const Refusal why = core_.refusal(now, terms);
      return {{}, why == Refusal::none ? Refusal::outstanding_full : why};
    }
    const Admission admission = core_.submit(now, terms);
    if (!admission) return admission;
    Entry& entry = entries_[admission.slot.index];
    entry.request.emplace(std::move(request));
    slot->promise.set_tag(tag_of(admission.slot));
    if (terms.deadline != kNever) {
      entry.expiry = slot->promise.share();
      entry.has_expiry.store(true, std::memory_order_relaxed);
    }
    entry.promise = std::move(slot->promise);
    stats_.add(StatsBoard::submitted);
    return admission;
  }
  /// Leaves `lock` released.
  bool wake(Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (driver_ != nullptr) return driver_->wake(lock);
    lock.unlock();
    return true;
  }
  void fail_unrunnable(SlotHandle slot) noexcept {
    withdraw(slot, unrunnable_);
    Lock lock(mutex_);
    driver_->taken(lock);  // others may have relied on the task that was refused
  }
  Future<Response> refuse(Refusal why) noexcept {
    if (why == Refusal::none) {
      stats_.add(StatsBoard::rejected_cancelled);
      return Future<Response>::failed(Error(ErrorCode::cancelled));
    }
    stats_.add(StatsBoard::rejected + static_cast<std::size_t>(why));
    return Future<Response>::failed(refusal_error(why));
  }
  Error refusal_error(Refusal why) const noexcept {
    const BatchLimits& limits = core_.limits();
    const auto full = [&](const char* what, std::size_t bound) {
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(retry_after());
      return Error(ErrorCode::queue_full,
                   {what, ": all ", std::to_string(bound), " are in use; retry after ",
                    std::to_string(wait.count()), " ms"});
    };
    switch (why) {
      case Refusal::queue_full:
        return full("queue_capacity", limits.queue_capacity);
      case Refusal::outstanding_full:
        return full("max_outstanding", Pool::capacity());
      case Refusal::oversize:
        return Error(ErrorCode::oversize, {"cost: wanted at most max_batch_cost, ",
                                           std::to_string(limits.max_batch_cost)});
      case Refusal::expired:
        return Error(ErrorCode::expired, "deadline: already past at submission");
      case Refusal::none:
      case Refusal::shutting_down:
        break;
    }
    return shut_down_;
  }

  // --- taking back ------------------------------------------------------------------------------

  void on_cancelling() noexcept override { stats_.add(StatsBoard::cancelled); }
  void on_cancelled(std::uint64_t tag) noexcept override { withdraw(handle_of(tag), shut_down_); }
  void on_slot_freed() noexcept override {
    if (blocked_.load() == 0) return;
    { Lock asleep(mutex_); }
    room_.notify_all();
  }
  /// Takes a request out if it still waits; `error` is for whoever still expects an answer.
  void withdraw(SlotHandle slot, const Error& error) noexcept {
    Lock lock(mutex_);
    if (core_.cancel(slot) != SlotState::waiting) return;
    lock.unlock();
    answer(entries_[slot.index].promise, error, StatsBoard::failed);
    clear(entries_[slot.index]);
    lock.lock();
    core_.release(slot);
    if (blocked_.load() > 0) room_.notify_all();
    settled_.notify_all();
  }
  void answer(Promise<Response>& promise, const Error& error, std::size_t counter) noexcept {
    if (!promise.claim()) return;
    stats_.add(counter);
    promise.deliver(error);
  }
  /// Makes an entry that is ours empty again.
  static void clear(Entry& entry) noexcept {
    entry.request.reset();
    entry.promise.let_go();
    if (entry.has_expiry.exchange(false)) entry.expiry.let_go();
  }

  // --- what a driver's thread does ---------------------------------------------------------------

  void execute(const BatchAction& action, Activity& activity,
               Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    switch (action.kind) {
      case BatchAction::dispatch:
        note_batch(action.reason, activity.slots);
        lock.unlock();
        run(activity.slots);
        break;
      case BatchAction::expire:
        for (SlotHandle slot : activity.slots) expire(slot, lock);
        return;
      default: {  // abandon
        const bool stopped = stopping();
        lock.unlock();
        for (SlotHandle slot : activity.slots) {
          answer(entries_[slot.index].promise, stopped ? shut_down_ : unrunnable_,
                 stopped ? StatsBoard::shut_down : StatsBoard::failed);
        }
        break;
      }
    }
    for (SlotHandle slot : activity.slots) clear(entries_[slot.index]);
    lock.lock();
    for (SlotHandle slot : activity.slots) core_.release(slot);
    if (blocked_.load() > 0) room_.notify_all();
  }
  void note_batch(CloseReason reason, std::span<const SlotHandle> slots) noexcept {
    const TimePoint now = clock().now();
    Duration waited{0};
    for (SlotHandle slot : slots) waited += now - core_.arrival(slot);
    stats_.add(StatsBoard::closed + static_cast<std::size_t>(reason));
    stats_.add(StatsBoard::batched_requests, slots.size());
    stats_.add(StatsBoard::wait_ns,
               static_cast<std::uint64_t>(std::max(waited, Duration{0}).count()));
    if (blocked_.load() > 0) room_.notify_all();
  }
  void run(std::span<SlotHandle> slots) noexcept {
    std::size_t live = 0;  // what was cancelled on the way here need not be computed
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (entries_[slots[i].index].promise.cancelled()) continue;
      if (live != i) std::rotate(&slots[live], &slots[i], &slots[i] + 1);
      ++live;
    }
    if (live == 0) return;
    Batch<Request, Response> batch(entries_.get(), slots.first(live), stats_);
    const TimePoint begin = clock().now();
    Result<void> outcome;
    Result<void> guarded =
        call_guarded(ErrorCode::model_failed, "model", [&] { outcome = model_(batch); });
    if (!guarded) outcome = std::move(guarded);
    stats_.add(StatsBoard::runs);
    stats_.add(StatsBoard::execution_ns,
               static_cast<std::uint64_t>(std::max(clock().now() - begin, Duration{0}).count()));
    const Error& error = outcome ? unresolved_ : outcome.error();
    for (std::size_t i = 0; i < live; ++i) {
      if (!batch.resolved(i)) batch.reject(i, error);
    }
  }
  /// Lock held before and after.
  void expire(SlotHandle slot, Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    Entry& entry = entries_[slot.index];
    const SlotState state = core_.state(slot);
    Promise<Response> late;  // of a request that runs: its own promise is the batch's
    if (state == SlotState::running && entry.has_expiry.exchange(false)) {
      late = std::move(entry.expiry);
    }
    lock.unlock();
    answer(state == SlotState::finished ? entry.promise : late, expired_, StatsBoard::expired);
    if (state == SlotState::finished) clear(entry);
    lock.lock();
    if (state == SlotState::finished) core_.release(slot);
    if (blocked_.load() > 0) room_.notify_all();
  }
  void retire(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (!model_) return;
    BatchModel<Request, Response> model = std::move(model_);
    lock.unlock();
    model = nullptr;
    lock.lock();
  }

  const Error expired_{ErrorCode::expired, "deadline: passed before there was an answer"};
  const Error shut_down_{ErrorCode::shutting_down, "the batcher is stopping"};
  const Error unrunnable_{ErrorCode::queue_full, "the host's executor takes no more tasks"};
  const Error unresolved_{ErrorCode::contract_violation, "model: left this request unanswered"};
  std::unique_ptr<Entry[]> entries_;
  BatchModel<Request, Response> model_;
  const Overload overload_;
  const unsigned workers_;
  Atomic<unsigned> blocked_{0};  // submitters that wait for room
  StatsBoard stats_;
};

}  // namespace ciuic::inline CIUIC_ABI
