// BatchCore: when a batch closes and who is in it. A pure state machine: no threads, no clock, no
// locks, no allocation after construction. The batcher, the generation engine and the simulator all
// run this object; what differs is who calls it.
//
//   BatchCore core({.max_batch_size = 8, .max_queue_delay = 2ms});
//   Admission a = core.submit(now, {.cost = 3});      // a.slot, or why not: a.refusal
//   for (;;) {
//     BatchAction action = core.poll(now, room);      // room: what this caller can take right now
//     switch (action.kind) {
//       case BatchAction::dispatch:    // run action.slots; each ends with complete() or release()
//       case BatchAction::expire:      // deadlines of action.slots passed: tell their owners
//       case BatchAction::abandon:     // after stop(): action.slots will not run
//       case BatchAction::wait_until:  // nothing before action.when, unless something is submitted
//       case BatchAction::idle:        // nothing waits and nothing is timed
//     }
//   }
//
// A slot's life: free → waiting → running → finished → free.
//   submit          free → waiting
//   poll: dispatch  waiting → running
//   poll: expire    waiting → finished; a running slot is reported once and stays running
//   poll: abandon   waiting → finished
//   cancel          waiting → finished; a running or finished slot stays as it is
//   complete        running → finished: the work is over, the answer still occupies the slot
//   release         whatever → free: the answer was taken, the slot can be used again
// Waiting slots are bounded by `queue_capacity`, all slots that are not free by `max_outstanding`.
// Whoever got a slot from poll() or took it out with cancel() owns it and must release it.
//
// A batch closes, in this order of precedence, when
//   full, cost, memory, room   one of the maxima is reached: of the limits, of what an
//   out-of-memory
//                              has taught (BatchCap), or of this call
//   what the policy says       DelayPolicy: enough wait and somebody is free, or the delay is over
//   drain                      drain() was called: nobody else will come
// and starts when the policy has a place for it (BatchPolicy::may_start); by default, at once. So
// the maxima are never exceeded. A request that fits the maxima but not this call's room stays
// first in line: later, smaller ones do not overtake it. Of every group the same is asked in turn,
// beginning with the group of the request to be served next.
//
// Who is in it: who is next in the queue (request_queue.hpp). But when the oldest request has
// waited `priority_ageing`, it is its priority's turn, whatever the others. So nothing starves:
// with one tenant, from then on only requests that came before are served before; with more, the
// tenants of that priority share.
//
// Memory: with a budget, the policy's forecast of a batch is reserved while it runs, and a batch
// that does not fit beside those that run waits for their end.
//
// Time never runs backwards inside the core: a `now` before the latest one seen counts as that one.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/error.hpp"
#include "ciuic/batching/batch_cap.hpp"
#include "ciuic/batching/batch_limits.hpp"
#include "ciuic/batching/batch_policy.hpp"
#include "ciuic/batching/deadline_heap.hpp"
#include "ciuic/batching/request_queue.hpp"
#include "ciuic/batching/request_terms.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What the caller of poll() can take at this moment, below the batch's own maxima.
struct BatchRoom {
  std::size_t max_count = std::numeric_limits<std::size_t>::max();
  std::uint64_t max_cost = kUnlimitedCost;
};

/// What to do next.
struct BatchAction {
  enum Kind : std::uint8_t { dispatch, expire, abandon, wait_until, idle };
  Kind kind = idle;
  CloseReason reason = CloseReason::full;  ///< dispatch only
  BatchShape shape{};                      ///< dispatch only: of `slots`
  std::uint64_t reserved = 0;              ///< dispatch only: memory, to be given to finish()
  std::uint32_t route = 0;                 ///< dispatch only: what BatchPolicy::route() said
  TimePoint when = kNever;                 ///< wait_until only
  /// wait_until and idle: look again when so many wait, or so much cost.
  std::size_t wake_count = 1;
  std::uint64_t wake_cost = std::numeric_limits<std::uint64_t>::max();
  std::span<const SlotHandle> slots{};  ///< valid until the next call of poll() or expire()
};

/// The state machine described at the top of this file.
/// Thread-safety: thread-compatible; every call but construction is noexcept and allocates nothing.
class BatchCore {
 public:
  /// `limits` must pass validate(). Without a `policy`, DelayPolicy; it must outlive the core.
  explicit BatchCore(const BatchLimits& limits, BatchPolicy* policy = nullptr)
      : limits_(resolved(limits)),
        nodes_(limits_.max_outstanding),
        batch_(std::min(limits_.max_batch_size, limits_.max_outstanding)),
        queue_(limits_.max_outstanding, limits_.max_tenants, limits_.max_groups),
        arrivals_(limits_.max_outstanding),
        groups_(limits_.max_groups),
        waiting_deadlines_(limits_.max_outstanding),
        running_deadlines_(limits_.max_outstanding),
        policy_(policy) {
    assert(validate(limits));
    for (std::size_t i = nodes_.size(); i-- > 0;) push_free(static_cast<std::uint32_t>(i));
    delay_.bind(limits_);
    if (policy_ != nullptr) policy_->bind(limits_);
  }

  /// What submit() would say, without submitting.
  Refusal refusal(TimePoint now, const RequestTerms& terms) noexcept {
    advance(now);
    if (closing_ != Closing::no) return Refusal::shutting_down;
    if (terms.cost > limits_.max_batch_cost) return Refusal::oversize;
    if (terms.group >= limits_.max_groups) return Refusal::unknown_group;
    if (terms.deadline <= now_) return Refusal::expired;
    if (waiting_ >= limits_.queue_capacity) return Refusal::queue_full;
    if (!tenant_has_room(terms.tenant)) return Refusal::tenant_full;
    if (free_ == kNoSlot) return Refusal::outstanding_full;
    return expected_finish(terms) > terms.deadline ? Refusal::infeasible : Refusal::none;
  }
  /// The earliest that the policy counts on an answer to a request submitted now;
  /// `TimePoint::min()` if it cannot say.
  TimePoint expected_finish(const RequestTerms& terms) noexcept {
    if (policy_ == nullptr || terms.deadline == kNever) return TimePoint::min();
    const QueueView queue = view(terms.group, limits_.max_batch_size, limits_.max_batch_cost);
    return policy_->expected_finish(queue, terms.cost);
  }
  /// O(1) with one tenant; O(log n) with a deadline.
  Admission submit(TimePoint now, const RequestTerms& terms) noexcept {
    if (const Refusal why = refusal(now, terms); why != Refusal::none) return {{}, why};
    return {enter(now_, terms), Refusal::none};
  }
  /// submit() of a request that was accepted elsewhere, by these same rules, and came at `arrival`.
  /// A slot must be free and the tenant have a place.
  SlotHandle enter(TimePoint arrival, const RequestTerms& terms) noexcept {
    advance(arrival);
    last_arrival_ = std::max(last_arrival_, arrival);
    const std::uint32_t slot = free_;
    Node& node = nodes_[slot];
    free_ = node.next_free;
    node.arrival = last_arrival_;
    node.deadline = terms.deadline;
    node.cost = terms.cost;
    node.group = terms.group;
    node.state = SlotState::waiting;
    queue_.push(slot, terms);
    arrivals_.push_back(groups_[node.group].oldest, slot);
    if (terms.deadline != kNever) waiting_deadlines_.push(slot, terms.deadline);
    ++waiting_;
    ++outstanding_;
    ++groups_[node.group].waiting;
    ++groups_[node.group].arrived;
    waiting_cost_ += terms.cost;
    groups_[node.group].cost += terms.cost;
    return handle(slot);
  }

  /// What to do now, for a caller that can run a batch of at most `room`. Expired requests come
  /// before batches. O(batch × flows).
  BatchAction poll(TimePoint now, const BatchRoom& room = {}) noexcept {
    if (BatchAction action = expire(now); action.kind != BatchAction::idle) return action;
    if (waiting_ == 0) return idle_until(next_deadline());
    if (closing_ == Closing::stop) return abandon();
    if (policy_ != nullptr) {
      const TimePoint hopeless = policy_->hopeless_before(now_);
      if (const std::size_t n = expire_waiting(hopeless, 0); n > 0) {
        return {.kind = BatchAction::expire, .slots = {batch_.data(), n}};
      }
    }
    BatchAction rest = idle_until(next_deadline());
    rest.wake_count = rest.wake_cost = kNoWake;
    for (std::size_t i = 0, group = next_group(); i < groups_.size(); ++i, group = after(group)) {
      const Closure closure = groups_[group].waiting == 0 ? Closure{} : closes(group, room);
      if (!closure.decision.dispatch) {
        wait_for(group, closure, rest);
        continue;
      }
      // Nothing may fit: the caller comes back when it has more room, or a batch has ended.
      if (const BatchAction taken = take(group, closure); !taken.slots.empty()) return taken;
      rest.wake_count = std::min(rest.wake_count, waiting_ + 1);  // or a smaller one goes first
      if (i == 0 && has_aged(oldest())) break;  // others would keep the memory from it for ever
    }
    return rest;
  }

  /// The expiring half of poll(), for a caller that cannot run anything: `expire` or `idle`.
  /// Running slots are reported too (their state stays `running`), each slot once.
  BatchAction expire(TimePoint now) noexcept {
    advance(now);
    std::size_t n = expire_waiting(now_, 0);
    for (; n < batch_.size() && !running_deadlines_.empty() &&
           running_deadlines_.first_deadline() <= now_;
         ++n) {
      batch_[n] = handle(running_deadlines_.first_slot());
      running_deadlines_.erase(batch_[n].index);
    }
    if (n == 0) return {};
    return {.kind = BatchAction::expire, .slots = {batch_.data(), n}};
  }

  /// Hands back what waits, at most a batch of it: `abandon`, without slots when nothing waits.
  /// What poll() does after stop(), for a caller that cannot get anything run.
  BatchAction abandon() noexcept {
    std::size_t n = 0;
    for (std::uint32_t slot = queue_.peek(); slot != kNoSlot && n < batch_.size();
         slot = queue_.peek()) {
      batch_[n++] = handle(slot);
      leave_queue(slot, SlotState::finished);
    }
    return {.kind = BatchAction::abandon, .slots = {batch_.data(), n}};
  }
  /// Makes room for a request of `priority`: takes out whoever matters least among those that
  /// matter no more than it. The caller owns the slot; a stale handle when there is nobody.
  SlotHandle shed(Priority priority) noexcept {
    const std::uint32_t slot = queue_.victim(priority);
    if (slot == kNoSlot) return {};
    leave_queue(slot, SlotState::finished);
    return handle(slot);
  }

  /// Dispatched requests of a tenant cost so much more than they said, or less.
  void correct_cost(TenantId tenant, std::int64_t more) noexcept {
    queue_.tenants().correct(tenant, more);
  }

  /// Takes a waiting request out: `waiting` is returned, it is the caller's to release. Otherwise
  /// nothing changes and its state is returned, `free` for a stale handle. O(1) but for a deadline.
  SlotState cancel(SlotHandle slot) noexcept {
    const SlotState before = state(slot);
    if (before == SlotState::waiting) leave_queue(slot.index, SlotState::finished);
    return before;
  }
  /// A running request is over: its deadline no longer counts, its slot stays taken.
  void complete(SlotHandle slot) noexcept {
    if (state(slot) != SlotState::running) return;
    if (nodes_[slot.index].deadline != kNever) running_deadlines_.erase(slot.index);
    nodes_[slot.index].state = SlotState::finished;
    --running_;
  }
  /// Gives a slot back, whatever its state; handles to it become stale.
  void release(SlotHandle slot) noexcept {
    if (state(slot) == SlotState::free) return;
    cancel(slot);
    complete(slot);
    nodes_[slot.index].state = SlotState::free;
    ++nodes_[slot.index].generation;
    --outstanding_;
    push_free(slot.index);
  }
  /// A batch has ended, its slots apart: teaches cap and policy, gives back what was `reserved`.
  void finish(const BatchReport& report, std::uint64_t reserved) noexcept {
    --running_batches_;
    reserved_ -= reserved;
    if (report.out_of_memory || !report.failed) {
      cap_.observe(report.shape, report.out_of_memory, limits_);
    }
    if (policy_ != nullptr) policy_->on_finish(report);
  }

  /// From now on nothing is accepted and nobody is waited for; what waits is dispatched.
  void drain() noexcept { closing_ = std::max(closing_, Closing::drain); }
  /// From now on nothing is accepted and poll() abandons what waits.
  void stop() noexcept { closing_ = Closing::stop; }
  bool closing() const noexcept { return closing_ != Closing::no; }

  /// `free` for a stale handle.
  SlotState state(SlotHandle slot) const noexcept {
    if (slot.index >= nodes_.size() || nodes_[slot.index].generation != slot.generation) {
      return SlotState::free;
    }
    return nodes_[slot.index].state;
  }
  /// When the request was submitted, and its cost. The handle must not be stale.
  TimePoint arrival(SlotHandle slot) const noexcept { return nodes_[slot.index].arrival; }
  std::uint64_t cost(SlotHandle slot) const noexcept { return nodes_[slot.index].cost; }

  std::size_t waiting() const noexcept { return waiting_; }
  std::uint64_t waiting_cost() const noexcept { return waiting_cost_; }
  std::size_t running() const noexcept { return running_; }
  std::size_t outstanding() const noexcept { return outstanding_; }
  /// The limits in force, their zeros replaced.
  const BatchLimits& limits() const noexcept { return limits_; }
  /// The largest batch that memory is trusted with at the moment.
  const BatchCap& cap() const noexcept { return cap_; }
  /// The first deadline of a waiting or running request; `kNever` without one.
  TimePoint next_deadline() const noexcept {
    return std::min(waiting_deadlines_.first_deadline(), running_deadlines_.first_deadline());
  }
  /// When poll() with all the room there is will next have something to do: as poll() would say it,
  /// `TimePoint::min()` for at once. O(groups).
  BatchAction outlook() noexcept {
    BatchAction rest = idle_until(next_deadline());
    if (waiting_ == 0) return rest;
    rest.wake_count = rest.wake_cost = kNoWake;
    if (closing_ == Closing::stop) return idle_until(TimePoint::min());
    for (std::size_t i = 0, group = next_group(); i < groups_.size(); ++i, group = after(group)) {
      const Closure closure = groups_[group].waiting == 0 ? Closure{} : closes(group, {});
      if (!closure.decision.dispatch) {
        wait_for(group, closure, rest);
        continue;
      }
      if (!waits_for_memory(group)) return idle_until(TimePoint::min());
      rest.wake_count = std::min(rest.wake_count, waiting_ + 1);
      if (i == 0 && has_aged(oldest())) break;
    }
    return rest;
  }
  /// outlook().when
  TimePoint next_event() noexcept { return outlook().when; }

 private:
  enum class Closing : std::uint8_t { no, drain, stop };
  static constexpr std::size_t kNoWake = std::numeric_limits<std::size_t>::max();
  struct Node {
    TimePoint arrival{};
    TimePoint deadline = kNever;
    std::uint64_t cost = 0;
    std::uint32_t generation = 0;
    std::uint32_t next_free = kNoSlot;
    std::uint16_t group = 0;
    SlotState state = SlotState::free;
  };
  struct Group {
    SlotLinks::List oldest;
    std::size_t waiting = 0;
    std::uint64_t cost = 0;
    std::uint64_t arrived = 0;
  };
  /// The answer of closes(): the maxima that hold whatever the decision, and why they do.
  struct Closure {
    BatchDecision decision{};
    std::size_t max_count = 0;
    std::uint64_t max_cost = 0;  // for every request
    std::uint64_t cap_cost = 0;  // for all but the first
    CloseReason cost_reason = CloseReason::cost;
    bool held = false;  // closed, and has no place to run
  };

  void advance(TimePoint now) noexcept { now_ = std::max(now_, now); }
  SlotHandle handle(std::uint32_t slot) const noexcept { return {slot, nodes_[slot].generation}; }
  void push_free(std::uint32_t slot) noexcept {
    nodes_[slot].next_free = free_;
    free_ = slot;
  }
  static BatchAction idle_until(TimePoint when) noexcept {
    return {.kind = when == kNever ? BatchAction::idle : BatchAction::wait_until, .when = when};
  }
  bool tenant_has_room(TenantId id) const noexcept {
    const TenantTable& tenants = queue_.tenants();
    const std::uint32_t tenant = tenants.find(id);
    if (tenant == TenantTable::kNone) return tenants.has_room();
    return tenants.waiting(tenant) < limits_.max_queue_per_tenant;
  }
  std::size_t after(std::size_t group) const noexcept {
    return group + 1 == groups_.size() ? 0 : group + 1;
  }
  std::uint64_t memory_free() const noexcept {
    if (limits_.memory_budget == 0) return QueueView::kNoBytes;
    return limits_.memory_budget - std::min(reserved_, limits_.memory_budget);
  }
  /// What a batch will reserve; nothing without a budget.
  std::uint64_t memory_of(const BatchShape& shape) noexcept {
    if (limits_.memory_budget == 0 || policy_ == nullptr) return 0;
    return policy_->forecast(shape).memory;
  }
  /// Not even the next request of the group fits beside the batches that run.
  bool waits_for_memory(std::size_t group) noexcept {
    if (running_batches_ == 0) return false;
    const std::uint64_t cost = nodes_[next(group)].cost;
    return memory_of({1, cost, cost}) > memory_free();
  }
  QueueView view(std::size_t group, std::size_t max_count, std::uint64_t max_cost) const noexcept {
    const Group& g = groups_[group];
    return {.now = now_,
            .waiting = g.waiting,
            .waiting_cost = g.cost,
            .oldest_arrival = g.waiting == 0 ? now_ : nodes_[g.oldest.head].arrival,
            .first_deadline = waiting_deadlines_.first_deadline(),
            .arrived = g.arrived,
            .running_batches = running_batches_,
            .running = running_,
            .max_count = max_count,
            .max_cost = max_cost,
            .memory_free = memory_free(),
            .draining = closing_ != Closing::no,
            .alike = waiting_deadlines_.size() == waiting() && g.waiting == waiting() &&
                     queue_.one_priority()};
  }

  /// The oldest waiting request of all.
  std::uint32_t oldest() const noexcept {
    std::uint32_t found = kNoSlot;
    for (const Group& group : groups_) {
      const std::uint32_t head = group.oldest.head;
      if (head != kNoSlot && (found == kNoSlot || queue_.came_before(head, found))) found = head;
    }
    return found;
  }
  bool has_aged(std::uint32_t slot) const noexcept {
    return add_saturating(nodes_[slot].arrival, limits_.priority_ageing) <= now_;
  }
  /// The group of the request to serve next; something must wait.
  std::size_t next_group() const noexcept {
    const std::uint32_t first = oldest();
    return nodes_[has_aged(first) ? first : queue_.peek()].group;
  }
  /// The request of a group to serve next; `kNoSlot` when none waits.
  std::uint32_t next(std::size_t group) const noexcept {
    const std::uint32_t first = groups_[group].oldest.head;
    const bool aged = first != kNoSlot && has_aged(first);
    return aged ? queue_.peek_beside(first, group) : queue_.peek(group);
  }

  /// Does a batch of this group close now, and within which bounds?
  Closure closes(std::size_t group, const BatchRoom& room) noexcept {
    const Group& g = groups_[group];
    Closure closure;
    CloseReason count_reason = CloseReason::full;
    closure.max_count = limits_.max_batch_size;
    if (cap_.count() < closure.max_count) {
      closure.max_count = cap_.count();
      count_reason = CloseReason::memory;
    }
    if (room.max_count < closure.max_count) {
      closure.max_count = room.max_count;
      count_reason = CloseReason::room;
    }
    closure.max_cost = std::min(limits_.max_batch_cost, room.max_cost);
    closure.cap_cost = std::min(closure.max_cost, cap_.cost());
    if (room.max_cost < limits_.max_batch_cost) closure.cost_reason = CloseReason::room;
    if (closure.cap_cost < closure.max_cost) closure.cost_reason = CloseReason::memory;

    BatchDecision& decision = closure.decision;
    if (g.waiting >= closure.max_count || waiting_ >= limits_.queue_capacity) {
      decision = {.dispatch = true, .reason = count_reason};
    } else if (g.cost >= closure.cap_cost) {
      decision = {.dispatch = true, .reason = closure.cost_reason};
    } else {
      const QueueView queue = view(group, closure.max_count, closure.cap_cost);
      decision = policy_ != nullptr ? policy_->decide(queue) : delay_.decide(queue);
      if (!decision.dispatch && closing_ != Closing::no) {
        decision = {.dispatch = true, .reason = CloseReason::drain};
      }
    }
    if (decision.dispatch && policy_ != nullptr) {
      const BatchDecision start =
          policy_->may_start(view(group, closure.max_count, closure.cap_cost));
      if (!start.dispatch) {
        decision = start;
        closure.held = true;
      }
    }
    return closure;
  }

  /// Notes in `rest` what to wait for in this group.
  void wait_for(std::size_t group, const Closure& closure, BatchAction& rest) const noexcept {
    const Group& g = groups_[group];
    std::size_t more = 1;
    if (closure.held) {
      more = std::max(closure.decision.wake_count, g.waiting + 1) - g.waiting;
    } else if (g.waiting > 0) {
      more = std::max(std::min(closure.decision.wake_count, closure.max_count), g.waiting + 1) -
             g.waiting;
      rest.wake_cost = std::min(rest.wake_cost, waiting_cost_ + (closure.cap_cost - g.cost));
    }
    const std::size_t full = std::max(limits_.queue_capacity, waiting_ + 1);  // closes any batch
    more = std::min(more, kNoWake - waiting_);
    rest.wake_count = std::min({rest.wake_count, waiting_ + more, full});
    rest.when = std::min(rest.when, closure.decision.when);
    if (rest.when != kNever) rest.kind = BatchAction::wait_until;
  }

  /// What a policy says, if it is a reason at all.
  static CloseReason known(CloseReason reason) noexcept {
    return static_cast<std::size_t>(reason) < kCloseReasons ? reason : CloseReason::policy;
  }
  BatchAction take(std::size_t group, const Closure& closure) noexcept {
    const BatchDecision& decision = closure.decision;
    const std::size_t max_count =
        std::min({closure.max_count, std::max<std::size_t>(decision.max_count, 1), batch_.size()});
    const std::uint64_t free_memory = memory_free();
    CloseReason reason = known(decision.reason);
    BatchShape shape;
    std::uint64_t reserve = 0;
    TimePoint first_deadline = kNever;
    for (std::uint32_t slot = next(group); slot != kNoSlot && shape.count < max_count;
         slot = next(group)) {
      const Node& node = nodes_[slot];
      const std::uint64_t most =
          shape.count == 0 ? closure.max_cost : std::min(closure.cap_cost, decision.max_cost);
      if (shape.cost > most || node.cost > most - shape.cost) {  // the budget ends first
        if (most != decision.max_cost) reason = closure.cost_reason;
        break;
      }
      const BatchShape grown{shape.count + 1, shape.cost + node.cost,
                             std::max(shape.max_cost, node.cost)};
      const TimePoint deadline = std::min(first_deadline, node.deadline);
      std::uint64_t reserve_grown = 0;
      if (policy_ != nullptr) {
        const Fit fit = shape.count == 0 ? Fit(true) : policy_->fits(grown, now_, deadline);
        if (!fit) {
          reason = known(fit.why_not);
          break;
        }
        reserve_grown = memory_of(grown);
        if (reserve_grown > free_memory && (shape.count > 0 || running_batches_ > 0)) {
          reason = CloseReason::memory;
          break;
        }
      }
      shape = grown;
      reserve = reserve_grown;
      first_deadline = deadline;
      batch_[shape.count - 1] = handle(slot);
      queue_.charge(slot, node.cost);
      leave_queue(slot, SlotState::running);
    }
    std::uint32_t route = 0;
    if (shape.count > 0) {
      ++running_batches_;
      reserved_ += reserve;
      if (policy_ != nullptr) {
        route = policy_->route(shape, now_);
        policy_->on_start(shape, now_);
      }
    }
    return {.kind = BatchAction::dispatch,
            .reason = reason,
            .shape = shape,
            .reserved = reserve,
            .route = route,
            .slots = {batch_.data(), shape.count}};
  }

  /// Expires waiting requests whose deadline is at `until` or before; `n` are reported already.
  std::size_t expire_waiting(TimePoint until, std::size_t n) noexcept {
    for (; n < batch_.size() && !waiting_deadlines_.empty() &&
           waiting_deadlines_.first_deadline() <= until;
         ++n) {
      const std::uint32_t slot = waiting_deadlines_.first_slot();
      batch_[n] = handle(slot);
      leave_queue(slot, SlotState::finished);
    }
    return n;
  }
  void leave_queue(std::uint32_t slot, SlotState next) noexcept {
    Node& node = nodes_[slot];
    Group& group = groups_[node.group];
    queue_.erase(slot);
    arrivals_.erase(group.oldest, slot);
    if (node.deadline != kNever) waiting_deadlines_.erase(slot);
    if (next == SlotState::running) {
      ++running_;
      if (node.deadline != kNever) running_deadlines_.push(slot, node.deadline);
    }
    node.state = next;
    --waiting_;
    --group.waiting;
    waiting_cost_ -= node.cost;
    group.cost -= node.cost;
  }

  BatchLimits limits_;
  std::vector<Node> nodes_;
  std::vector<SlotHandle> batch_;  // what the last poll() reported
  RequestQueue queue_;             // waiting slots in the order they are served
  SlotLinks arrivals_;             // waiting slots of each group in the order they came
  std::vector<Group> groups_;
  DeadlineHeap waiting_deadlines_, running_deadlines_;
  BatchCap cap_;
  DelayPolicy delay_;
  BatchPolicy* policy_;
  TimePoint now_ = TimePoint::min();
  TimePoint last_arrival_ = TimePoint::min();
  std::uint32_t free_ = kNoSlot;
  std::size_t waiting_ = 0;
  std::size_t running_ = 0;
  std::size_t running_batches_ = 0;
  std::size_t outstanding_ = 0;
  std::uint64_t waiting_cost_ = 0;
  std::uint64_t reserved_ = 0;
  Closing closing_ = Closing::no;
};

}  // namespace ciuic::inline CIUIC_ABI
