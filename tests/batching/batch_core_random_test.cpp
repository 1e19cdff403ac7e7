// BatchCore against the plainest model of its rules: lists searched from end to end.
#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "ciuic/batching/batch_core.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

struct Request {
  SlotHandle slot;
  TimePoint arrival;
  RequestTerms terms;
  SlotState state;
  bool timed;
};

/// Keeps every request that is not free, in order of arrival.
struct Reference {
  BatchLimits limits;
  std::vector<Request> requests{};
  int closing = 0;  // 1 drain, 2 stop

  std::size_t count(SlotState state) const {
    return static_cast<std::size_t>(std::count_if(
        requests.begin(), requests.end(), [&](const Request& r) { return r.state == state; }));
  }
  Refusal admit(TimePoint now, const RequestTerms& terms) const {
    if (closing > 0) return Refusal::shutting_down;
    if (terms.cost > limits.max_batch_cost) return Refusal::oversize;
    if (terms.deadline <= now) return Refusal::expired;
    if (count(SlotState::waiting) >= limits.queue_capacity) return Refusal::queue_full;
    if (requests.size() >= limits.max_outstanding) return Refusal::outstanding_full;
    return Refusal::none;
  }
  std::vector<Request*> served(TimePoint now) {  // waiting requests, first to be served first
    std::vector<Request*> order;
    for (Request& r : requests) {
      if (r.state == SlotState::waiting) order.push_back(&r);
    }
    const auto aged = [&](const Request* r) { return r->arrival + limits.priority_ageing <= now; };
    std::sort(order.begin(), order.end(), [&](const Request* a, const Request* b) {
      if (aged(a) || aged(b)) return a < b;
      return a->terms.priority != b->terms.priority ? a->terms.priority > b->terms.priority : a < b;
    });
    return order;
  }
  /// What the next batch is; empty when none closes now.
  std::vector<Request*> batch(TimePoint now, const BatchRoom& room) {
    std::vector<Request*> order = served(now);
    if (order.empty()) return {};
    const std::size_t max_count =
        std::min({limits.max_batch_size, limits.queue_capacity, room.max_count});
    const std::uint64_t max_cost = std::min(limits.max_batch_cost, room.max_cost);
    TimePoint oldest = kNever;
    std::uint64_t total = 0;
    for (const Request* r : order) {
      oldest = std::min(oldest, r->arrival);
      total += r->terms.cost;
    }
    const bool closes = order.size() >= max_count || total >= max_cost ||
                        order.size() >= limits.min_batch_size || closing > 0 ||
                        oldest + limits.max_queue_delay <= now;
    if (!closes) return {};
    std::uint64_t cost = 0;
    std::size_t n = 0;
    while (n < order.size() && n < max_count && cost + order[n]->terms.cost <= max_cost) {
      cost += order[n++]->terms.cost;
    }
    order.resize(n);
    return order;
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
    core_.emplace(limits);
    reference_.limits = core_->limits();
  }
  void step() {
    const std::size_t dice = pick(0, 99);
    if (dice < 20) now_ += Duration(pick(0, 4));
    if (dice < 50) {
      submit();
    } else if (dice < 75) {
      poll();
    } else if (dice < 80) {
      check_action(core_->expire(now_), {.max_count = 0}, false);
    } else if (dice < 98 && !reference_.requests.empty()) {
      touch(dice);
    } else if (dice == 99 && pick(0, 20) == 0) {
      reference_.closing = static_cast<int>(pick(1, 2));
      reference_.closing == 1 ? core_->drain() : core_->stop();
    }
    REQUIRE(core_->waiting() == reference_.count(SlotState::waiting));
    REQUIRE(core_->running() == reference_.count(SlotState::running));
    REQUIRE(core_->outstanding() == reference_.requests.size());
  }

 private:
  std::size_t pick(std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(random_);
  }
  void submit() {
    RequestTerms terms{.cost = pick(1, 13), .priority = static_cast<Priority>(pick(0, 2))};
    if (pick(0, 2) == 0) terms.deadline = now_ + Duration(static_cast<int>(pick(0, 12)) - 1);
    const Refusal wanted = reference_.admit(now_, terms);
    const Admission got = core_->submit(now_, terms);
    REQUIRE(got.refusal == wanted);
    if (got) {
      reference_.requests.push_back(
          {got.slot, now_, terms, SlotState::waiting, terms.deadline != kNever});
    }
  }
  void poll() {
    BatchRoom room;
    if (pick(0, 1) == 0) room = {pick(0, 7), pick(0, 14)};
    check_action(core_->poll(now_, room), room, true);
  }
  void check_action(const BatchAction& action, const BatchRoom& room, bool may_dispatch) {
    std::vector<Request*> expired;
    TimePoint first_deadline = kNever;
    for (Request& r : reference_.requests) {
      if (!r.timed) continue;
      first_deadline = std::min(first_deadline, r.terms.deadline);
      if (r.terms.deadline <= now_) expired.push_back(&r);
    }
    if (!expired.empty()) {
      REQUIRE(action.kind == BatchAction::expire);
      REQUIRE(action.slots.size() == std::min(expired.size(), reference_.limits.max_batch_size));
      for (SlotHandle slot : action.slots) {
        Request& r = *find(slot);
        REQUIRE(r.timed);
        REQUIRE(r.terms.deadline <= now_);
        r.timed = false;
        if (r.state == SlotState::waiting) r.state = SlotState::finished;
      }
      return;
    }
    if (!may_dispatch) {
      REQUIRE(action.kind == BatchAction::idle);
      return;
    }
    if (reference_.closing == 2 && reference_.count(SlotState::waiting) > 0) {
      REQUIRE(action.kind == BatchAction::abandon);
      REQUIRE(!action.slots.empty());
      for (SlotHandle slot : action.slots) finish_or_run(slot, SlotState::finished);
      return;
    }
    const std::vector<Request*> batch = reference_.batch(now_, room);
    if (batch.empty()) {
      REQUIRE((action.kind == BatchAction::wait_until || action.kind == BatchAction::idle));
      REQUIRE(action.when > now_);
      REQUIRE(action.when <= first_deadline);
      return;
    }
    REQUIRE(action.kind == BatchAction::dispatch);
    REQUIRE(action.slots.size() == batch.size());
    for (std::size_t i = 0; i < batch.size(); ++i) REQUIRE(action.slots[i] == batch[i]->slot);
    for (SlotHandle slot : action.slots) finish_or_run(slot, SlotState::running);
  }
  void touch(std::size_t dice) {
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
  std::optional<BatchCore> core_;
  Reference reference_{};
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
