// BatcherState: what a DynamicBatcher, its threads and its futures share.
//
// It is the completion pool of the answers and the shell around the core at once, so that a future
// keeps alive all that it may have to touch. A request lies in the entry of its completion slot,
// the ticket, from submit() until all let go of that slot. An entry belongs to the producer until
// its ticket is in the inbox, to the lock while the request waits, to the batch while it runs, and
// to whoever took it out otherwise; foreign code (models, callbacks, destructors) only runs with
// the lock released. The core forgets a request before its promise lets go, so that a ticket never
// names two requests at once.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
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
  using Ticket = std::uint32_t;
  static_assert(std::is_nothrow_move_constructible_v<Request>,
                "a request must move without throwing; wrap it in a std::unique_ptr");

 public:
  /// `options` must be valid; a null `policy` is DelayPolicy.
  BatcherState(BatchModel<Request, Response> model, const BatcherOptions& options,
               std::unique_ptr<BatchPolicy> policy)
      : Pool(resolved(options.limits()).max_outstanding, options.host),
        BatchShell(options.limits(), Pool::capacity(), policy.get(), options.host,
                   options.workers + 4),
        policy_(std::move(policy)),
        entries_(new Entry[Pool::capacity()]),
        core_slots_(Pool::capacity()),
        tickets_(core_.limits().max_outstanding),
        model_(std::move(model)),
        overload_(options.overload),
        on_failure_(options.on_failure),
        workers_(options.workers),
        final_spin_(options.final_spin) {}

  /// Errors: `out_of_memory` when a thread does not start. Stop it then.
  Result<void> start() {
    if (workers_ == 0) return {};
    if (host().executor != nullptr) {
      return drive(std::make_unique<ExecutorPump>(*this, *host().executor, workers_));
    }
    return drive(std::make_unique<WorkerTeam>(*this, workers_, final_spin_));
  }

  void add_reference() noexcept override { Pool::add_reference(); }
  void drop_reference() noexcept override { Pool::drop_reference(); }

  Future<Response> submit(Request&& request, const SubmitOptions& options) noexcept {
    inbox_.expect_push();
    if (const Ticket likely = Pool::likely_slot(); likely < Pool::capacity()) expect(likely);
    const TimePoint now = clock().now();
    if (options.timeout < Duration{0}) return refuse_invalid("timeout: wanted at least 0");
    if (static_cast<int>(options.priority) >= kPriorityLevels) {
      return refuse_invalid("priority: wanted low, normal or high");
    }
    if (options.stop_token.stop_requested()) return refuse_stopped();
    const RequestTerms terms{options.cost, options.priority,
                             std::min(options.deadline, add_saturating(now, options.timeout)),
                             options.tenant, options.group};
    Future<Response> future;
    std::optional<Ticket> ticket;
    Refusal why = refusal_in_any_case(terms, now);
    if (why == Refusal::none) {
      ticket = occupy(request, terms, now, future);
      why = !ticket             ? Refusal::outstanding_full
            : needs_lock(terms) ? enter(*ticket)
                                : push(*ticket);
      if (is_full(why) && overload_ == Overload::block) {
        why = enter_when_there_is_room(request, terms, options.stop_token, ticket, future, why);
      }
    }
    if (why == Refusal::none) {
      future.cancel_on(options.stop_token);
      return future;
    }
    const bool stopped = is_full(why) && options.stop_token.stop_requested();
    Future<Response> refused = stopped ? refuse_stopped() : refuse(why, terms);
    // Last: the callback of a victim may have destroyed the batcher, and the slot kept this alive.
    if (ticket) vacate(*ticket, future);
    return refused;
  }

  BatcherStats stats() const noexcept {
    BatcherStats stats = stats_.read();
    stats.submitted = inbox_.accepted();
    stats.callbacks_failed = Pool::callbacks_failed();
    stats.max_batch_size = core_.limits().max_batch_size;
    return stats;
  }
  Duration retry_after() const noexcept {
    BatcherStats now = stats_.read_counters();
    now.submitted = inbox_.accepted();
    const auto ahead = now.pending() / core_.limits().max_batch_size / std::max(workers_, 1u) + 1;
    return std::max({Duration(std::chrono::milliseconds(1)), core_.limits().max_queue_delay,
                     now.mean_execution() * static_cast<std::int64_t>(ahead)});
  }

 private:
  static constexpr std::size_t kMostPrefetched = 256;
  // --- submission -------------------------------------------------------------------------------

  /// What no room would change.
  Refusal refusal_in_any_case(const RequestTerms& terms, TimePoint now) const noexcept {
    const BatchLimits& limits = core_.limits();
    const Refusal why = terms.cost > limits.max_batch_cost ? Refusal::oversize
                        : terms.group >= limits.max_groups ? Refusal::unknown_group
                        : terms.deadline <= now            ? Refusal::expired
                                                           : Refusal::none;
    // A good request finds out below, where it looks at the inbox anyway.
    return why != Refusal::none && inbox_.closed() ? Refusal::shutting_down : why;
  }
  /// Has somebody to look at the queue to know whether this request may enter?
  bool needs_lock(const RequestTerms& terms) const noexcept {
    return core_.limits().max_tenants > 1 ||
           core_.limits().max_queue_per_tenant < core_.limits().queue_capacity ||
           (policy_ != nullptr && terms.deadline != kNever);
  }
  /// Takes a slot and puts the request there; nothing when none is free.
  std::optional<Ticket> occupy(Request& request, const RequestTerms& terms, TimePoint now,
                               Future<Response>& future) noexcept {
    const Ticket ticket = Pool::acquire();
    if (ticket == Pool::kNone) return std::nullopt;
    Entry& entry = entries_[ticket];
    entry.request.emplace(std::move(request));
    entry.terms = terms;
    entry.arrival = now;
    entry.answered = entry.staged = false;
    if (terms.deadline != kNever) {
      Pool::hold(ticket);
      entry.has_expiry.store(true, std::memory_order_relaxed);
    }
    Pool::set_tag(ticket, ticket);
    future = Future<Response>(FutureSlot<Response>(*this, ticket));
    return ticket;
  }
  void vacate(Ticket ticket, Future<Response>& future) noexcept {
    clear(ticket);
    future.detach();
    Pool::let_go(ticket);
  }
  Refusal push(Ticket ticket) noexcept {
    const RequestTerms& terms = entries_[ticket].terms;
    switch (inbox_.push(ticket, terms.cost, terms.deadline)) {
      case Inbox::Pushed::due: {
        Lock lock(mutex_);
        absorb();
        wake_for(ticket, lock);
        return Refusal::none;
      }
      case Inbox::Pushed::full:
        return overload_ == Overload::shed ? enter(ticket) : Refusal::queue_full;
      case Inbox::Pushed::closed:
        return Refusal::shutting_down;
      case Inbox::Pushed::quietly:
        break;
    }
    return Refusal::none;
  }
  /// The careful way in, under the lock.
  Refusal enter(Ticket ticket) noexcept {
    Lock lock(mutex_);
    Refusal why = admit_now(ticket);
    while (why == Refusal::queue_full && overload_ == Overload::shed && shed_for(ticket, lock)) {
      why = admit_now(ticket);
    }
    if (why == Refusal::none) wake_for(ticket, lock);
    return why;
  }
  Refusal enter_when_there_is_room(Request& request, const RequestTerms& terms,
                                   const StopToken& token, std::optional<Ticket>& ticket,
                                   Future<Response>& future, Refusal why) noexcept {
    const auto look_again = [this] {
      { Lock asleep(mutex_); }
      room_.notify_all();
    };
    const StopCallback<decltype(look_again)> on_stop(token, look_again);
    Lock lock(mutex_);
    if (is_active_thread()) return why;  // a worker that waits for room would wait for itself
    if (blocked_++ == 0) Pool::want_slots(true);
    for (;;) {
      const TimePoint now = clock().now();
      if (!ticket) ticket = occupy(request, terms, now, future);
      if (ticket) {
        entries_[*ticket].arrival = now;
        why = admit_now(*ticket);
      } else if (inbox_.closed()) {
        why = Refusal::shutting_down;
      } else if (terms.deadline <= now) {
        why = Refusal::expired;
      }
      if (!is_full(why) || token.stop_requested()) break;
      clock().wait_until(room_, lock, terms.deadline);
    }
    if (--blocked_ == 0) Pool::want_slots(false);
    if (why == Refusal::none) wake_for(*ticket, lock);
    return why;
  }
  /// With the lock held: what the core says, and in through the inbox, which bounds the queue.
  Refusal admit_now(Ticket ticket) noexcept {
    absorb();
    const Entry& entry = entries_[ticket];
    if (inbox_.closed()) return Refusal::shutting_down;
    const Refusal why = core_.refusal(clock().now(), entry.terms);
    if (why != Refusal::none) return why;
    switch (inbox_.push(ticket, entry.terms.cost, entry.terms.deadline)) {
      case Inbox::Pushed::full:
        return Refusal::queue_full;
      case Inbox::Pushed::closed:
        return Refusal::shutting_down;
      default:
        absorb();
        return Refusal::none;
    }
  }
  void expect(Ticket ticket) const noexcept override {
    const char* entry = reinterpret_cast<const char*>(&entries_[ticket]);
    for (std::size_t at = 0; at < std::min(sizeof(Entry), kMostPrefetched); at += 64) {
      prefetch_to_write(entry + at);
    }
    Pool::expect(ticket);
  }
  void admit(Ticket ticket) noexcept override {
    Entry& entry = entries_[ticket];
    core_slots_[ticket] = core_.enter(entry.arrival, entry.terms);
    tickets_[core_slots_[ticket].index] = ticket;
    inbox_.note_cost(entry.terms.cost);
  }
  /// Completes somebody else as shed; false when all that wait matter more. Lock held before and
  /// after.
  bool shed_for(Ticket ticket, Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    const SlotHandle victim = core_.shed(entries_[ticket].terms.priority);
    if (victim.index == kNoSlot) return false;
    inbox_.set_waiting(core_.waiting());
    Ticket shed = tickets_[victim.index];
    lock.unlock();
    answer(shed, shed_, StatsBoard::shed);
    finish({&victim, 1}, {&shed, 1}, lock);
    settled_.notify_all();  // it may have been the last, if the new one comes too late
    return true;
  }
  /// A ticket was absorbed. Leaves `lock` released.
  void wake_for(Ticket ticket, Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (driver_ == nullptr) return lock.unlock();
    if (driver_->wake(lock)) return;
    withdraw(ticket, unrunnable_);
    lock.lock();
    driver_->taken(lock);  // others may have relied on the task that was refused
    lock.unlock();
  }
  Future<Response> refuse_invalid(std::string_view why) noexcept {
    stats_.add(StatsBoard::rejected_invalid);
    return Future<Response>::failed(Error(ErrorCode::invalid_argument, why));
  }
  Future<Response> refuse_stopped() noexcept {
    stats_.add(StatsBoard::rejected_cancelled);
    return Future<Response>::failed(Error(ErrorCode::cancelled));
  }
  Future<Response> refuse(Refusal why, const RequestTerms& terms) noexcept {
    stats_.add(StatsBoard::rejected + static_cast<std::size_t>(why));
    return Future<Response>::failed(refusal_error(why, terms));
  }
  Error refusal_error(Refusal why, const RequestTerms& terms) const noexcept {
    const BatchLimits& limits = core_.limits();
    const auto retry = [&](ErrorCode code, std::string what) {
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(retry_after());
      return Error(code, {what, "; retry after ", std::to_string(wait.count()), " ms"});
    };
    const auto full = [&](const char* what, std::size_t bound) {
      return retry(ErrorCode::queue_full,
                   std::string(what) + ": all " + std::to_string(bound) + " are in use");
    };
    switch (why) {
      case Refusal::queue_full:
        return full("queue_capacity", limits.queue_capacity);
      case Refusal::outstanding_full:
        return full("max_outstanding", Pool::capacity());
      case Refusal::tenant_full:
        return retry(ErrorCode::queue_full, "tenant: max_queue_per_tenant, " +
                                                std::to_string(limits.max_queue_per_tenant) +
                                                ", of it wait, or max_tenants, " +
                                                std::to_string(limits.max_tenants) + ", others");
      case Refusal::oversize:
        return Error(ErrorCode::oversize,
                     {"cost: wanted at most max_batch_cost, ",
                      std::to_string(limits.max_batch_cost), ", got ", std::to_string(terms.cost)});
      case Refusal::unknown_group:
        return Error(ErrorCode::invalid_argument,
                     {"group: wanted below max_groups, ", std::to_string(limits.max_groups),
                      ", got ", std::to_string(terms.group)});
      case Refusal::expired:
        return Error(ErrorCode::expired, "deadline: already past at submission");
      case Refusal::infeasible:
        return retry(ErrorCode::infeasible, "deadline: the answer would most likely be late");
      case Refusal::none:
      case Refusal::shutting_down:
        break;
    }
    return shut_down_;
  }

  // --- taking back ------------------------------------------------------------------------------

  void on_cancelling() noexcept override { stats_.add(StatsBoard::cancelled); }
  void on_cancelled(std::uint64_t tag) noexcept override {
    withdraw(static_cast<Ticket>(tag), shut_down_);
  }
  void on_slot_freed() noexcept override {
    { Lock asleep(mutex_); }
    room_.notify_all();
  }
  /// Takes a request out if it still waits; `error` is for whoever still expects an answer. Whoever
  /// calls holds the ticket's slot.
  void withdraw(Ticket ticket, const Error& error) noexcept {
    Lock lock(mutex_);
    absorb();
    const SlotHandle slot = core_slots_[ticket];
    if (core_.cancel(slot) != SlotState::waiting) return;
    inbox_.set_waiting(core_.waiting());
    lock.unlock();
    answer(ticket, error, StatsBoard::failed);
    finish({&slot, 1}, {&ticket, 1}, lock);
    settled_.notify_all();
  }
  /// Holds on to the slot.
  void answer(Ticket ticket, const Error& error, std::size_t counter) noexcept {
    if (!Pool::claim(ticket)) return;
    stats_.add(counter);
    Pool::stage(ticket, error);
    Pool::publish(ticket);
  }
  /// Makes an entry that is ours empty again.
  void clear(Ticket ticket) noexcept {
    Entry& entry = entries_[ticket];
    entry.request.reset();
    if (entry.terms.deadline != kNever && entry.has_expiry.exchange(false)) Pool::let_go(ticket);
  }
  /// The end of requests that are answered: entries empty, core, promises, in this order. Entered
  /// without the lock, left with it. Uses `tickets` up.
  void finish(std::span<const SlotHandle> slots, std::span<Ticket> tickets,
              Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    for (const Ticket ticket : tickets) clear(ticket);
    lock.lock();
    for (const SlotHandle slot : slots) core_.release(slot);
    lock.unlock();
    std::size_t sleepers = 0;
    // Newest first: who waits for the oldest of several finds the others there as well.
    for (std::size_t i = tickets.size(); i-- > 0;) {
      if (!entries_[tickets[i]].staged) {
        Pool::let_go(tickets[i]);
      } else if (Pool::publish_quietly(tickets[i])) {
        tickets[tickets.size() - ++sleepers] = tickets[i];
      }
    }
    for (const Ticket ticket : tickets.last(sleepers)) {
      Pool::tell(ticket);
      Pool::let_go(ticket);
    }
    lock.lock();
    if (blocked_ > 0) room_.notify_all();
  }

  // --- what a driver's thread does ---------------------------------------------------------------

  void execute(Activity& activity, Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    activity.tickets.clear();
    for (const SlotHandle slot : activity.slots) activity.tickets.push_back(tickets_[slot.index]);
    switch (activity.action.kind) {
      case BatchAction::dispatch: {
        note_batch(activity);
        const BatchForecast forecast =
            policy_ == nullptr ? BatchForecast{} : policy_->forecast(activity.action.shape);
        lock.unlock();
        const BatchReport report = run(activity);
        finish(activity.slots, activity.tickets, lock);
        core_.finish(report, activity.action.reserved);
        note_forecast(forecast, report);
        return;
      }
      case BatchAction::expire:
        for (std::size_t i = 0; i < activity.slots.size(); ++i) {
          expire(activity.slots[i], activity.tickets[i], lock);
        }
        return;
      default: {  // abandon
        const bool stopped = stopping();
        lock.unlock();
        for (const Ticket ticket : activity.tickets) {
          answer(ticket, stopped ? shut_down_ : unrunnable_,
                 stopped ? StatsBoard::shut_down : StatsBoard::failed);
        }
        return finish(activity.slots, activity.tickets, lock);
      }
    }
  }
  void note_batch(const Activity& activity) noexcept {
    const TimePoint now = clock().now();
    const BatchShape& shape = activity.action.shape;
    Duration waited{0};
    for (const SlotHandle slot : activity.slots) {
      const Duration wait = std::max(now - core_.arrival(slot), Duration{0});
      waited += wait;
      stats_.wait.add_locked(static_cast<std::uint64_t>(wait.count()));
    }
    stats_.add_locked(StatsBoard::closed + static_cast<std::size_t>(activity.action.reason));
    stats_.add_locked(StatsBoard::batched_requests, shape.count);
    stats_.add_locked(StatsBoard::batched_cost, shape.cost);
    stats_.add_locked(StatsBoard::padded_cost, shape.count * shape.max_cost);
    stats_.add_locked(StatsBoard::wait_ns, static_cast<std::uint64_t>(waited.count()));
    stats_.batch_sizes.add_locked(shape.count);
    if (blocked_ > 0) room_.notify_all();
  }
  void note_forecast(const BatchForecast& forecast, const BatchReport& report) noexcept {
    if (!forecast.known || report.failed || report.out_of_memory) return;
    const Duration error = forecast.mean - report.execution;
    stats_.add(StatsBoard::forecasts);
    stats_.add(StatsBoard::forecast_error_ns, error < Duration{0} ? -error : error);
    stats_.add(StatsBoard::forecast_actual_ns, report.execution);
  }
  BatchReport run(Activity& activity) noexcept {
    BatchReport report{
        .shape = activity.action.shape, .started = clock().now(), .route = activity.action.route};
    run(activity.tickets, report);
    report.execution = std::max(clock().now() - report.started, Duration{0});
    return report;
  }
  /// Runs what is still wanted; after a failure, again if the model asks for it, at most
  /// `runs_again` times, or in halves if that may help: `extra` runs.
  void run(std::span<Ticket> tickets, BatchReport& report, bool extra = false,
           unsigned runs_again = kMostExtraRuns) noexcept {
    tickets = front(tickets, [this](Ticket ticket) { return !Pool::is_claimed(ticket); });
    if (tickets.empty()) return;
    Batch<Request, Response> batch(*this, entries_.get(), tickets, stats_, report.route);
    const TimePoint begin = clock().now();
    Result<void> outcome;
    Result<void> guarded =
        call_guarded(ErrorCode::model_failed, "model", [&] { outcome = model_(batch); });
    if (!guarded) outcome = std::move(guarded);
    const Duration time = std::max(clock().now() - begin, Duration{0});
    stats_.add(StatsBoard::runs);
    if (extra) stats_.add(StatsBoard::extra_runs);
    stats_.add(StatsBoard::execution_ns, time);
    stats_.execution.add(static_cast<std::uint64_t>(time.count()));
    report.memory_used = std::max(report.memory_used, batch.reported_memory());

    const bool out_of_memory = !outcome && outcome.error().code() == ErrorCode::out_of_memory;
    if (out_of_memory) stats_.add(StatsBoard::out_of_memory);
    if (out_of_memory && tickets.size() > 1) {
      if (!std::exchange(report.out_of_memory, true)) report.shape = {};
    } else if (!outcome) {
      report.failed = true;
    } else if (report.out_of_memory && tickets.size() > report.shape.count) {
      report.shape = shape_of(tickets);
    }
    count_staged(tickets);
    const std::span<Ticket> all = tickets;
    tickets = front(tickets, [this](Ticket ticket) { return !entries_[ticket].answered; });
    if (tickets.empty()) return;
    if (!outcome && batch.runs_again() && runs_again > 0) {
      for (const Ticket ticket : all.subspan(tickets.size())) show(ticket);
      return run(tickets, report, true, runs_again - 1);
    }
    if (!outcome && tickets.size() > 1 && (out_of_memory || on_failure_ == OnFailure::bisect)) {
      for (const Ticket ticket : all.subspan(tickets.size())) show(ticket);
      const std::size_t half = (tickets.size() + 1) / 2;
      run(tickets.first(half), report, true, runs_again);
      return run(tickets.subspan(half), report, true, runs_again);
    }
    const Error& error = outcome ? unresolved_ : outcome.error();
    for (const Ticket ticket : tickets) {
      answer(ticket, error, StatsBoard::failed);
    }
  }
  /// Answers are counted before anybody sees them.
  void count_staged(std::span<const Ticket> tickets) noexcept {
    std::uint64_t staged = 0, failed = 0;
    for (const Ticket ticket : tickets) {
      staged += entries_[ticket].staged;
      failed += entries_[ticket].staged && entries_[ticket].failed;
    }
    if (staged > failed) stats_.add(StatsBoard::completed, staged - failed);
    if (failed > 0) stats_.add(StatsBoard::failed, failed);
  }
  /// Does not keep an answer back until the rest of its batch has been tried again.
  void show(Ticket ticket) noexcept {
    if (std::exchange(entries_[ticket].staged, false)) Pool::publish(ticket);
  }
  /// Those that `wanted` holds for, brought to the front in order.
  template <class Wanted>
  std::span<Ticket> front(std::span<Ticket> tickets, Wanted wanted) const noexcept {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      if (!wanted(tickets[i])) continue;
      std::swap(tickets[kept], tickets[i]);
      ++kept;
    }
    return tickets.first(kept);
  }
  BatchShape shape_of(std::span<const Ticket> tickets) const noexcept {
    BatchShape shape{.count = tickets.size()};
    for (const Ticket ticket : tickets) {
      shape.cost += entries_[ticket].terms.cost;
      shape.max_cost = std::max(shape.max_cost, entries_[ticket].terms.cost);
    }
    return shape;
  }
  /// Lock held before and after.
  void expire(SlotHandle slot, Ticket ticket, Lock& lock) noexcept CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    Entry& entry = entries_[ticket];
    if (core_.state(slot) == SlotState::finished) {  // it waited: it is ours
      lock.unlock();
      answer(ticket, expired_, StatsBoard::expired);
      return finish({&slot, 1}, {&ticket, 1}, lock);
    }
    // It runs, and its entry is the batch's but for this. Or the batch has ended while the lock was
    // released for another of these slots: then the slot is free, and the entry somebody else's.
    if (core_.state(slot) != SlotState::running || !entry.has_expiry.exchange(false)) return;
    lock.unlock();
    if (Pool::claim(ticket)) {
      stats_.add(StatsBoard::expired);
      stats_.add(StatsBoard::late);
      Pool::stage(ticket, expired_);
      Pool::publish(ticket);
    }
    Pool::let_go(ticket);
    lock.lock();
  }
  void retire(Lock& lock) noexcept override CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (!model_) return;
    BatchModel<Request, Response> model = std::move(model_);
    lock.unlock();
    model = nullptr;
    lock.lock();
  }

  const Error expired_{ErrorCode::expired,
                       "deadline: passed, or out of reach, before there was an answer"};
  const Error shut_down_{ErrorCode::shutting_down, "the batcher is stopping"};
  const Error shed_{ErrorCode::shed, "the queue was full and another request took the place"};
  const Error unrunnable_{ErrorCode::queue_full, "the host's executor takes no more tasks"};
  const Error unresolved_{ErrorCode::contract_violation, "model: left this request unanswered"};
  const std::unique_ptr<BatchPolicy> policy_;
  const std::unique_ptr<Entry[]> entries_;  // by ticket
  std::vector<SlotHandle> core_slots_;      // of the core, by ticket
  std::vector<Ticket> tickets_;             // by slot of the core
  BatchModel<Request, Response> model_;
  const Overload overload_;
  const OnFailure on_failure_;
  const unsigned workers_;
  const Duration final_spin_;
  unsigned blocked_ = 0;  // submitters that wait for room
  StatsBoard stats_;
};

}  // namespace ciuic::inline CIUIC_ABI
