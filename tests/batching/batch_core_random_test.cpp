// BatchCore against the plainest model of its rules: lists searched from end to end, sums made
// anew.
#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "ciuic/batching/batch_core.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

/// What a policy of the tests answers; core and reference ask the same one.
struct Rules {
  Duration hopeless{0};  // before a deadline
  std::uint64_t bytes_per_cost = 0;
  std::uint64_t most_padded = kUnlimitedCost;  // of count · max_cost
  Duration per_cost{0};                        // what a request takes behind what waits
  /// Reasons of all kinds, and a few that there are not.
  Fit fits(const BatchShape& shape) const {
    if (shape.count * shape.max_cost <= most_padded) return true;
    return static_cast<CloseReason>(shape.cost % (kCloseReasons + 2));
  }
};
class RulesPolicy final : public BatchPolicy {
 public:
  explicit RulesPolicy(const Rules& rules) : rules_(rules) {}
  void bind(const BatchLimits& limits) noexcept override { delay_.bind(limits); }
  BatchDecision decide(const QueueView& view) noexcept override { return delay_.decide(view); }
  Fit fits(const BatchShape& shape, TimePoint, TimePoint) noexcept override {
    return rules_.fits(shape);
  }
  TimePoint hopeless_before(TimePoint now) noexcept override { return now + rules_.hopeless; }
  TimePoint expected_finish(const QueueView& view, std::uint64_t cost) noexcept override {
    return view.now + rules_.per_cost * static_cast<std::int64_t>(view.waiting_cost + cost);
  }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return {.memory = rules_.bytes_per_cost * shape.cost};
  }
  void on_start(const BatchShape&, TimePoint) noexcept override { ++started; }
  void on_finish(const BatchReport&) noexcept override { ++finished; }
  int started = 0, finished = 0;

 private:
  const Rules rules_;
  DelayPolicy delay_;
};

struct Request {
  SlotHandle slot;
  TimePoint arrival;
  RequestTerms terms;
  SlotState state;
  bool timed;
};
struct Tenant {
  TenantId id;
  std::uint64_t served;
};
struct Running {
  BatchShape shape;
  std::uint64_t reserved;
};
struct Wanted {
  std::vector<Request*> requests{};
  CloseReason reason = CloseReason::full;
  std::uint64_t reserved = 0;
  bool blocked = false;  // a batch closes, and not even its first request fits
};

/// Keeps every request that is not free, in order of arrival.
struct Reference {
  BatchLimits limits;
  std::optional<Rules> rules{};
  std::vector<Request> requests{};
  std::vector<Running> batches{};
  std::vector<Tenant> tenants{};  // by place
  std::uint64_t virtual_time = 0;
  std::size_t cap_count = std::numeric_limits<std::size_t>::max();
  std::uint64_t cap_cost = std::numeric_limits<std::uint64_t>::max();
  int passed = 0;
  int closing = 0;  // 1 drain, 2 stop

  template <class Which>
  std::vector<Request*> where(Which which) {
    std::vector<Request*> found;
    for (Request& r : requests) {
      if (r.state == SlotState::waiting && which(r)) found.push_back(&r);
    }
    return found;
  }
  std::size_t count(SlotState state) const {
    return static_cast<std::size_t>(std::count_if(
        requests.begin(), requests.end(), [&](const Request& r) { return r.state == state; }));
  }
  static std::uint64_t sum(const std::vector<Request*>& some) {
    std::uint64_t cost = 0;
    for (const Request* r : some) cost += r->terms.cost;
    return cost;
  }

  // Tenants.
  TenantId id_of(const Request& r) const { return limits.max_tenants == 1 ? 0 : r.terms.tenant; }
  std::size_t waiting_of(TenantId id) {
    return where([&](const Request& r) { return id_of(r) == id; }).size();
  }
  Tenant* tenant(TenantId id) {
    for (Tenant& t : tenants) {
      if (t.id == id) return &t;
    }
    return nullptr;
  }
  Tenant* idle_tenant() {
    Tenant* least = nullptr;
    for (Tenant& t : tenants) {
      if (waiting_of(t.id) == 0 && (least == nullptr || t.served < least->served)) least = &t;
    }
    return least;
  }
  bool tenant_has_room(TenantId id) {
    if (limits.max_tenants == 1) id = 0;
    if (limits.max_tenants == 1 || tenant(id) != nullptr) {
      return waiting_of(id) < limits.max_queue_per_tenant;
    }
    return tenants.size() < limits.max_tenants || idle_tenant() != nullptr;
  }
  /// To be called before the request counts.
  void join(TenantId id) {
    if (limits.max_tenants == 1) id = 0;
    Tenant* t = tenant(id);
    if (t == nullptr) {
      if (tenants.size() < limits.max_tenants) {
        tenants.push_back({});
        t = &tenants.back();
      } else {
        t = idle_tenant();
      }
      *t = {id, virtual_time};
    }
    if (waiting_of(id) == 0) t->served = std::max(t->served, virtual_time);
  }
  void charge(const Request& r) {
    if (limits.max_tenants == 1) return;
    Tenant& t = *tenant(id_of(r));
    virtual_time = std::max(virtual_time, t.served);
    t.served += std::max<std::uint64_t>(r.terms.cost, 1);
  }

  Refusal admit(TimePoint now, const RequestTerms& terms) {
    if (closing > 0) return Refusal::shutting_down;
    if (terms.cost > limits.max_batch_cost) return Refusal::oversize;
    if (terms.group >= limits.max_groups) return Refusal::unknown_group;
    if (terms.deadline <= now) return Refusal::expired;
    if (count(SlotState::waiting) >= limits.queue_capacity) return Refusal::queue_full;
    if (!tenant_has_room(terms.tenant)) return Refusal::tenant_full;
    if (requests.size() >= limits.max_outstanding) return Refusal::outstanding_full;
    if (rules && terms.deadline != kNever) {
      const auto ahead = sum(where([&](const Request& r) { return r.terms.group == terms.group; }));
      const auto work = static_cast<std::int64_t>(ahead + terms.cost);
      if (now + rules->per_cost * work > terms.deadline) return Refusal::infeasible;
    }
    return Refusal::none;
  }

  bool aged(const Request& r, TimePoint now) const {
    return r.arrival + limits.priority_ageing <= now;
  }
  /// Of some requests in order of arrival, who is served next.
  Request* next(const std::vector<Request*>& some, TimePoint now) {
    if (some.empty()) return nullptr;
    Priority level = some.front()->terms.priority;
    if (!aged(*some.front(), now)) {
      for (const Request* r : some) level = std::max(level, r->terms.priority);
    }
    Request* best = nullptr;
    for (Request* r : some) {
      if (r->terms.priority != level) continue;
      if (best == nullptr || tenant(id_of(*r))->served < tenant(id_of(*best))->served) best = r;
    }
    return best;
  }
  Request* victim(Priority priority) {
    for (int level = 0; level <= static_cast<int>(priority); ++level) {
      Request* found = nullptr;
      for (Request* r :
           where([&](const Request& x) { return static_cast<int>(x.terms.priority) == level; })) {
        if (found == nullptr || waiting_of(id_of(*r)) > waiting_of(id_of(*found))) found = r;
      }
      if (found != nullptr) return found;
    }
    return nullptr;
  }
  std::uint64_t free_memory() const {
    std::uint64_t reserved = 0;
    for (const Running& b : batches) reserved += b.reserved;
    return limits.memory_budget - std::min(limits.memory_budget, reserved);
  }

  /// The next batch, its requests running; without requests when none closes now.
  Wanted batch(TimePoint now, const BatchRoom& room) {
    const std::vector<Request*> all = where([](const Request&) { return true; });
    if (all.empty()) return {};
    const Request* first = aged(*all.front(), now) ? all.front() : next(all, now);
    for (std::size_t i = 0; i < limits.max_groups; ++i) {
      Wanted wanted = batch_of((first->terms.group + i) % limits.max_groups, now, room, all.size());
      if (!wanted.requests.empty()) return wanted;
      // Nobody takes what an aged request waits for.
      if (i == 0 && wanted.blocked && aged(*all.front(), now)) return {};
    }
    return {};
  }
  Wanted batch_of(std::size_t group, TimePoint now, const BatchRoom& room, std::size_t all) {
    const auto in_group = [&](const Request& r) { return r.terms.group == group; };
    const std::vector<Request*> some = where(in_group);
    if (some.empty()) return {};
    std::size_t most = limits.max_batch_size;
    Wanted wanted;
    if (cap_count < most) most = cap_count, wanted.reason = CloseReason::memory;
    if (room.max_count < most) most = room.max_count, wanted.reason = CloseReason::room;
    const std::uint64_t cost_of_first = std::min(limits.max_batch_cost, room.max_cost);
    const std::uint64_t cost_of_all = std::min(cost_of_first, cap_cost);
    const CloseReason by_cost = cap_cost < cost_of_first                ? CloseReason::memory
                                : room.max_cost < limits.max_batch_cost ? CloseReason::room
                                                                        : CloseReason::cost;
    if (some.size() >= most || all >= limits.queue_capacity) {
      // as said
    } else if (sum(some) >= cost_of_all) {
      wanted.reason = by_cost;
    } else if (some.size() >= limits.min_batch_size) {
      wanted.reason = CloseReason::idle;
    } else if (closing > 0) {
      wanted.reason = CloseReason::drain;
    } else if (some.front()->arrival + limits.max_queue_delay <= now) {
      wanted.reason = CloseReason::delay;
    } else {
      return {};
    }
    BatchShape shape;
    while (shape.count < std::min(most, limits.max_outstanding)) {
      Request* r = next(where(in_group), now);
      if (r == nullptr) break;
      const BatchShape grown{shape.count + 1, shape.cost + r->terms.cost,
                             std::max(shape.max_cost, r->terms.cost)};
      if (grown.cost > (shape.count == 0 ? cost_of_first : cost_of_all)) {
        wanted.reason = by_cost;
        break;
      }
      std::uint64_t memory = 0;
      if (rules) {
        if (shape.count > 0 && !rules->fits(grown)) {
          const CloseReason why = rules->fits(grown).why_not;
          wanted.reason = static_cast<std::size_t>(why) < kCloseReasons ? why : CloseReason::policy;
          break;
        }
        if (limits.memory_budget > 0) memory = rules->bytes_per_cost * grown.cost;
        if (limits.memory_budget > 0 && memory > free_memory() &&
            (shape.count > 0 || !batches.empty())) {
          wanted.reason = CloseReason::memory;
          break;
        }
      }
      wanted.reserved = memory;
      shape = grown;
      wanted.requests.push_back(r);
      charge(*r);
      r->state = SlotState::running;
    }
    wanted.blocked = wanted.requests.empty();
    return wanted;
  }
  /// An out-of-memory puts the cap at what passed of it; every eighth batch that fills the cap
  /// raises it by a quarter.
  void learn(const BatchShape& shape, bool out_of_memory) {
    const auto grown = [](auto cap, auto limit) {
      const auto by = std::max<decltype(cap)>(cap / 4, 1);
      return cap >= limit || limit - cap <= by ? std::numeric_limits<decltype(cap)>::max()
                                               : cap + by;
    };
    if (out_of_memory) {
      cap_count = std::max<std::size_t>(std::min(cap_count, shape.count), 1);
      cap_cost = std::max<std::uint64_t>(std::min(cap_cost, shape.cost), 1);
      passed = 0;
    } else if (shape.count >= cap_count || shape.cost >= cap_cost) {
      if (++passed < 8) return;
      passed = 0;
      cap_count = grown(cap_count, limits.max_batch_size);
      cap_cost = grown(cap_cost, limits.max_batch_cost);
    }
  }
};

class Run {
 public:
  explicit Run(std::uint32_t seed) : random_(seed) {
    BatchLimits limits;
    limits.max_batch_size = pick(1, 6);
    limits.min_batch_size = pick(0, limits.max_batch_size);
    limits.max_batch_cost = pick(0, 1) == 0 ? kUnlimitedCost : pick(3, 12);
    limits.max_queue_delay = Duration(pick(0, 8));
    limits.queue_capacity = pick(1, 10);
    limits.max_outstanding = pick(0, 1) == 0 ? 0 : pick(1, 14);
    limits.priority_ageing = Duration(pick(0, 12));
    if (pick(0, 1) == 0) limits.max_tenants = pick(2, 4);
    if (pick(0, 2) == 0) limits.max_queue_per_tenant = pick(1, 4);
    if (pick(0, 1) == 0) limits.max_groups = pick(2, 3);
    if (pick(0, 1) == 0) {
      Rules rules;
      if (pick(0, 2) == 0) rules.hopeless = Duration(pick(0, 3));
      rules.bytes_per_cost = pick(0, 3);
      if (pick(0, 1) == 0) rules.most_padded = pick(2, 30);
      if (pick(0, 1) == 0) rules.per_cost = Duration(pick(0, 1));
      reference_.rules = rules;
      policy_ = std::make_unique<RulesPolicy>(rules);
    }
    if (pick(0, 1) == 0) limits.memory_budget = pick(5, 40);
    core_.emplace(limits, policy_.get());
    reference_.limits = core_->limits();
  }
  void step() {
    const std::size_t dice = pick(0, 109);
    if (dice < 20) {
      now_ += Duration(pick(0, 4));
      rest_.reset();
    }
    if (dice < 50) {
      submit();
    } else if (dice < 75) {
      poll();
    } else if (dice < 80) {
      check_action(core_->expire(now_), {.max_count = 0}, false);
      rest_.reset();
    } else if (dice < 98 && !reference_.requests.empty()) {
      touch(dice);
    } else if (dice == 99 && pick(0, 20) == 0) {
      const bool drains = pick(0, 1) == 0;
      reference_.closing = std::max(reference_.closing, drains ? 1 : 2);
      drains ? core_->drain() : core_->stop();
      rest_.reset();
    } else if (dice < 105 && !reference_.batches.empty()) {
      finish();
    } else if (dice == 108) {
      shed();
    } else if (dice == 109 && pick(0, 3) == 0) {
      abandon();
    }
    REQUIRE(core_->waiting() == reference_.count(SlotState::waiting));
    REQUIRE(core_->waiting_cost() ==
            reference_.sum(reference_.where([](const Request&) { return true; })));
    REQUIRE(core_->running() == reference_.count(SlotState::running));
    REQUIRE(core_->outstanding() == reference_.requests.size());
    REQUIRE(core_->closing() == (reference_.closing > 0));
    REQUIRE(core_->cap().count() == reference_.cap_count);
    REQUIRE(core_->cap().cost() == reference_.cap_cost);
    check_outlook();
  }

 private:
  std::size_t pick(std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(random_);
  }
  void submit() {
    RequestTerms terms{.cost = pick(1, 13), .priority = static_cast<Priority>(pick(0, 2))};
    if (pick(0, 2) == 0) terms.deadline = now_ + Duration(static_cast<int>(pick(0, 12)) - 1);
    terms.tenant = 1000 * pick(1, 6);
    terms.group = static_cast<std::uint16_t>(
        pick(0, 20) == 0 ? 3 : pick(0, reference_.limits.max_groups - 1));
    const Refusal wanted = reference_.admit(now_, terms);
    const Admission got = core_->submit(now_, terms);
    REQUIRE(got.refusal == wanted);
    if (got) {
      reference_.join(terms.tenant);
      reference_.requests.push_back(
          {got.slot, now_, terms, SlotState::waiting, terms.deadline != kNever});
      REQUIRE(core_->arrival(got.slot) == now_);
      REQUIRE(core_->cost(got.slot) == terms.cost);
    }
  }
  void poll() {
    BatchRoom room;
    const bool bounded = pick(0, 1) == 0;
    if (bounded) room = {pick(0, 7), pick(0, 14)};
    const BatchAction action = core_->poll(now_, room);
    check_action(action, room, true);
    rest_.reset();
    if (!bounded && action.slots.empty()) rest_ = action;
  }
  void finish() {
    const std::size_t i = pick(0, reference_.batches.size() - 1);
    const Running batch = reference_.batches[i];
    reference_.batches.erase(reference_.batches.begin() + static_cast<std::ptrdiff_t>(i));
    BatchReport report{.shape = batch.shape};
    report.failed = pick(0, 3) == 0;
    report.out_of_memory = pick(0, 7) == 0;
    if (report.out_of_memory) {
      report.shape.count /= 2;
      report.shape.cost /= 2;
    }
    core_->finish(report, batch.reserved);
    if (report.out_of_memory || !report.failed)
      reference_.learn(report.shape, report.out_of_memory);
    rest_.reset();
    if (policy_ != nullptr) {
      REQUIRE(policy_->started - policy_->finished == static_cast<int>(reference_.batches.size()));
    }
  }
  void shed() {
    const auto priority = static_cast<Priority>(pick(0, 2));
    Request* wanted = reference_.victim(priority);
    const SlotHandle got = core_->shed(priority);
    REQUIRE(got == (wanted == nullptr ? SlotHandle{} : wanted->slot));
    if (wanted != nullptr) finish_or_run(got, SlotState::finished);
    rest_.reset();
  }
  void abandon() {
    const BatchAction action = core_->abandon();
    REQUIRE(action.kind == BatchAction::abandon);
    check_abandoned(action);
    rest_.reset();
  }
  void check_abandoned(const BatchAction& action) {
    const std::size_t most =
        std::min(reference_.limits.max_batch_size, reference_.limits.max_outstanding);
    REQUIRE(action.slots.size() == std::min(most, reference_.count(SlotState::waiting)));
    for (SlotHandle slot : action.slots) finish_or_run(slot, SlotState::finished);
  }
  void check_expired(const BatchAction& action, TimePoint until, std::size_t due) {
    const std::size_t most =
        std::min(reference_.limits.max_batch_size, reference_.limits.max_outstanding);
    REQUIRE(action.kind == BatchAction::expire);
    REQUIRE(action.slots.size() == std::min(due, most));
    for (SlotHandle slot : action.slots) {
      Request& r = *find(slot);
      REQUIRE(r.timed);
      REQUIRE(r.terms.deadline <= until);
      r.timed = false;
      if (r.state == SlotState::waiting) r.state = SlotState::finished;
    }
  }
  void check_action(const BatchAction& action, const BatchRoom& room, bool may_dispatch) {
    std::size_t expired = 0, hopeless = 0;
    TimePoint first_deadline = kNever;
    const TimePoint end = now_ + (reference_.rules ? reference_.rules->hopeless : Duration{0});
    for (const Request& r : reference_.requests) {
      if (!r.timed) continue;
      first_deadline = std::min(first_deadline, r.terms.deadline);
      expired += r.terms.deadline <= now_;
      hopeless += r.terms.deadline <= end && r.state == SlotState::waiting;
    }
    REQUIRE(core_->next_deadline() >= first_deadline);
    if (expired > 0) return check_expired(action, now_, expired);
    if (!may_dispatch) {
      REQUIRE(action.kind == BatchAction::idle);
      return;
    }
    if (reference_.closing == 2 && reference_.count(SlotState::waiting) > 0) {
      REQUIRE(action.kind == BatchAction::abandon);
      return check_abandoned(action);
    }
    if (hopeless > 0) return check_expired(action, end, hopeless);
    const Wanted wanted = reference_.batch(now_, room);
    if (wanted.requests.empty()) {
      REQUIRE((action.kind == BatchAction::wait_until || action.kind == BatchAction::idle));
      REQUIRE((action.kind == BatchAction::idle) == (action.when == kNever));
      REQUIRE(action.when > now_);
      REQUIRE(action.when <= first_deadline);
      return;
    }
    REQUIRE(action.kind == BatchAction::dispatch);
    REQUIRE(action.slots.size() == wanted.requests.size());
    BatchShape shape{.count = wanted.requests.size(), .cost = reference_.sum(wanted.requests)};
    for (std::size_t i = 0; i < wanted.requests.size(); ++i) {
      REQUIRE(action.slots[i] == wanted.requests[i]->slot);
      REQUIRE(core_->state(action.slots[i]) == SlotState::running);
      shape.max_cost = std::max(shape.max_cost, wanted.requests[i]->terms.cost);
    }
    REQUIRE(action.reason == wanted.reason);
    REQUIRE(action.reserved == wanted.reserved);
    REQUIRE(action.shape.count == shape.count);
    REQUIRE(action.shape.cost == shape.cost);
    REQUIRE(action.shape.max_cost == shape.max_cost);
    reference_.batches.push_back({shape, wanted.reserved});
  }
  /// What the core says will happen next, against what the reference would do now.
  void check_outlook() {
    const BatchAction next = core_->outlook();
    TimePoint first_deadline = kNever;
    for (const Request& r : reference_.requests) {
      if (r.timed) first_deadline = std::min(first_deadline, r.terms.deadline);
    }
    REQUIRE(core_->next_deadline() == first_deadline);
    REQUIRE(next.when <= first_deadline);
    const bool waits = reference_.count(SlotState::waiting) > 0;
    Reference copy = reference_;
    const bool due = waits && (copy.closing == 2 || !copy.batch(now_, {}).requests.empty());
    REQUIRE((next.when == TimePoint::min()) == due);
    REQUIRE(core_->next_event() == next.when);
    if (!due || !rest_ || first_deadline <= now_) return;
    // Only requests came since the core said what to wait for: it must have said enough.
    REQUIRE((core_->waiting() >= rest_->wake_count || core_->waiting_cost() >= rest_->wake_cost));
  }
  void touch(std::size_t dice) {
    rest_.reset();
    const std::size_t i = pick(0, reference_.requests.size() - 1);
    Request& r = reference_.requests[i];
    if (dice < 86) {
      REQUIRE(core_->cancel(r.slot) == r.state);
      if (r.state == SlotState::waiting) finish_or_run(r.slot, SlotState::finished);
    } else if (dice < 92) {
      core_->complete(r.slot);
      if (r.state == SlotState::running) finish_or_run(r.slot, SlotState::finished);
    } else {
      const SlotHandle stale = r.slot;
      core_->release(stale);
      reference_.requests.erase(reference_.requests.begin() + static_cast<std::ptrdiff_t>(i));
      REQUIRE(core_->state(stale) == SlotState::free);
      core_->release(stale);
      REQUIRE(core_->cancel(stale) == SlotState::free);
    }
  }
  Request* find(SlotHandle slot) {
    for (Request& r : reference_.requests) {
      if (r.slot == slot) return &r;
    }
    return nullptr;
  }
  void finish_or_run(SlotHandle slot, SlotState next) {
    Request& r = *find(slot);
    r.state = next;
    if (next == SlotState::finished) r.timed = false;
    REQUIRE(core_->state(slot) == next);
  }

  std::mt19937 random_;
  std::unique_ptr<RulesPolicy> policy_;
  std::optional<BatchCore> core_;
  Reference reference_{};
  std::optional<BatchAction>
      rest_;  // what the last poll() with all the room there is said to wait for
  TimePoint now_{1s};
};

}  // namespace

TEST_CASE("BatchCore agrees with a plain reference model under random events") {
  for (std::uint32_t seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    Run run(seed);
    for (int i = 0; i < 200; ++i) run.step();
  }
}
