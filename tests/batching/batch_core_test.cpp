// BatchCore by hand: each rule of batch_core.hpp alone.
#include "ciuic/batching/batch_core.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr TimePoint at(Duration since_start) { return TimePoint(1s) + since_start; }

std::vector<std::uint32_t> indices(const BatchAction& action) {
  std::vector<std::uint32_t> out;
  for (SlotHandle slot : action.slots) out.push_back(slot.index);
  return out;
}

}  // namespace

TEST_CASE("A batch closes when it is full by count, and the maximum is never exceeded") {
  BatchCore core({.max_batch_size = 3, .max_queue_delay = 10ms});
  std::vector<std::uint32_t> order;
  for (int i = 0; i < 7; ++i) order.push_back(core.submit(at(0ms), {}).slot.index);
  BatchAction action = core.poll(at(0ms));
  REQUIRE(action.kind == BatchAction::dispatch);
  CHECK(action.reason == CloseReason::full);
  CHECK(indices(action) == std::vector(order.begin(), order.begin() + 3));
  CHECK(indices(core.poll(at(0ms))) == std::vector(order.begin() + 3, order.begin() + 6));
  action = core.poll(at(0ms));
  CHECK(action.kind == BatchAction::wait_until);
  CHECK(action.when == at(10ms));
  CHECK(core.running() == 6);
}

TEST_CASE("A batch closes at the oldest arrival plus the delay, not a tick before") {
  BatchCore core({.max_batch_size = 8, .max_queue_delay = 10ms});
  REQUIRE(core.submit(at(0ms), {}));
  REQUIRE(core.submit(at(9ms), {}));
  CHECK(core.next_event() == at(10ms));
  CHECK(core.poll(at(10ms) - 1ns).kind == BatchAction::wait_until);
  const BatchAction action = core.poll(at(10ms));
  REQUIRE(action.kind == BatchAction::dispatch);
  CHECK(action.reason == CloseReason::delay);
  CHECK(action.slots.size() == 2);
}

TEST_CASE("A batch closes by cost before the budget is exceeded") {
  BatchCore core({.max_batch_size = 8, .max_batch_cost = 10, .max_queue_delay = 10ms});
  REQUIRE(core.submit(at(0ms), {.cost = 4}));
  REQUIRE(core.submit(at(0ms), {.cost = 5}));
  CHECK(core.poll(at(0ms)).kind == BatchAction::wait_until);
  REQUIRE(core.submit(at(0ms), {.cost = 2}));
  const BatchAction action = core.poll(at(0ms));
  CHECK(action.reason == CloseReason::cost);
  CHECK(action.slots.size() == 2);
  CHECK(action.shape.cost == 9);
  CHECK(core.submit(at(0ms), {.cost = 11}).refusal == Refusal::oversize);
}

TEST_CASE("A minimum is taken as soon as it waits, and waited for no longer than the delay") {
  BatchCore core({.max_batch_size = 8, .min_batch_size = 2, .max_queue_delay = 10ms});
  REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.poll(at(0ms)).when == at(10ms));
  REQUIRE(core.submit(at(1ms), {}));
  CHECK(core.poll(at(1ms)).reason == CloseReason::idle);
  REQUIRE(core.submit(at(2ms), {}));
  CHECK(core.poll(at(11ms)).kind == BatchAction::wait_until);
  CHECK(core.poll(at(12ms)).reason == CloseReason::delay);
}

TEST_CASE("The room of a call bounds its batch, and a large request is not overtaken") {
  BatchCore core({.max_batch_size = 8, .max_batch_cost = 100});
  const SlotHandle large = core.submit(at(0ms), {.cost = 50}).slot;
  REQUIRE(core.submit(at(0ms), {.cost = 1}));
  REQUIRE(core.submit(at(0ms), {.cost = 1, .deadline = at(30ms)}));
  BatchAction action = core.poll(at(0ms), {.max_count = 8, .max_cost = 20});
  CHECK(action.kind == BatchAction::wait_until);
  CHECK(action.when == at(30ms));
  CHECK(core.poll(at(0ms), {.max_count = 0}).kind == BatchAction::wait_until);
  action = core.poll(at(0ms), {.max_count = 2, .max_cost = 60});
  CHECK(action.reason == CloseReason::room);
  REQUIRE(action.slots.size() == 2);
  CHECK(action.slots[0] == large);
  CHECK(core.waiting() == 1);
}

TEST_CASE("Requests are served in order of arrival within a priority, higher ones first") {
  BatchCore core({.max_batch_size = 6});
  std::vector<std::uint32_t> by_priority[kPriorityLevels];
  for (Priority p : {Priority::normal, Priority::low, Priority::high, Priority::high, Priority::low,
                     Priority::normal}) {
    by_priority[static_cast<int>(p)].push_back(core.submit(at(0ms), {.priority = p}).slot.index);
  }
  std::vector<std::uint32_t> wanted;
  for (int p = kPriorityLevels - 1; p >= 0; --p) {
    wanted.insert(wanted.end(), by_priority[p].begin(), by_priority[p].end());
  }
  CHECK(indices(core.poll(at(0ms))) == wanted);
}

TEST_CASE("Priorities age: a low one is served although higher ones keep coming") {
  BatchCore core({.max_batch_size = 2, .priority_ageing = 10ms});
  const SlotHandle low = core.submit(at(0ms), {.priority = Priority::low}).slot;
  const SlotHandle normal = core.submit(at(1ms), {.priority = Priority::normal}).slot;
  TimePoint served_low = kNever, served_normal = kNever;
  for (int i = 1; i < 20; ++i) {
    const TimePoint now = at(i * 1ms);
    REQUIRE(core.submit(now, {.priority = Priority::high}));
    REQUIRE(core.submit(now, {.priority = Priority::high}));
    const BatchAction action = core.poll(now);
    REQUIRE(action.kind == BatchAction::dispatch);
    CHECK(action.slots.size() == 2);
    for (SlotHandle slot : action.slots) {
      if (slot == low) served_low = now;
      if (slot == normal) served_normal = now;
    }
  }
  CHECK(served_low == at(10ms));
  CHECK(served_normal == at(11ms));
}

TEST_CASE("A request that has aged goes before later ones of its own and lower priorities too") {
  BatchCore core({.max_batch_size = 3, .priority_ageing = 10ms});
  const auto low = core.submit(at(0ms), {.priority = Priority::low}).slot.index;
  const auto normal = core.submit(at(5ms), {.priority = Priority::normal}).slot.index;
  const auto high = core.submit(at(6ms), {.priority = Priority::high}).slot.index;
  CHECK(indices(core.poll(at(10ms))) == std::vector{low, high, normal});
}

TEST_CASE(
    "A deadline expires at its time: waiting requests leave, running ones are reported once") {
  BatchCore core({.max_batch_size = 1, .max_queue_delay = 1s});
  const SlotHandle running = core.submit(at(0ms), {.deadline = at(5ms)}).slot;
  REQUIRE(core.poll(at(0ms)).kind == BatchAction::dispatch);
  BatchCore& c = core;
  const SlotHandle waiting = c.submit(at(0ms), {.deadline = at(7ms)}).slot;
  CHECK(core.next_deadline() == at(5ms));
  CHECK(core.expire(at(5ms) - 1ns).kind == BatchAction::idle);
  BatchAction action = core.expire(at(5ms));
  REQUIRE(action.kind == BatchAction::expire);
  CHECK(action.slots[0] == running);
  CHECK(core.state(running) == SlotState::running);
  action = core.poll(at(8ms));
  REQUIRE(action.kind == BatchAction::expire);
  CHECK(action.slots[0] == waiting);
  CHECK(core.state(waiting) == SlotState::finished);
  CHECK(core.poll(at(8ms)).kind == BatchAction::idle);
  core.release(running);
  core.release(waiting);
  CHECK(core.outstanding() == 0);
  CHECK(core.submit(at(8ms), {.deadline = at(8ms)}).refusal == Refusal::expired);
}

TEST_CASE("A waiting request can be cancelled; a stale handle does nothing") {
  BatchCore core({.max_batch_size = 4, .max_queue_delay = 10ms});
  const SlotHandle a = core.submit(at(0ms), {}).slot;
  const SlotHandle b = core.submit(at(1ms), {}).slot;
  CHECK(core.cancel(a) == SlotState::waiting);
  CHECK(core.cancel(a) == SlotState::finished);
  CHECK(core.next_event() == at(11ms));  // b is the oldest now
  core.release(a);
  core.release(a);
  CHECK(core.outstanding() == 1);
  const SlotHandle reused = core.submit(at(1ms), {}).slot;
  CHECK(reused.index == a.index);
  CHECK_FALSE(reused == a);
  CHECK(core.state(SlotHandle{}) == SlotState::free);
  CHECK(core.cancel(a) == SlotState::free);
  CHECK(core.state(reused) == SlotState::waiting);
  CHECK(core.cancel(b) == SlotState::waiting);
}

TEST_CASE("Waiting and outstanding requests are bounded apart") {
  BatchCore core({.max_batch_size = 2, .queue_capacity = 3, .max_outstanding = 5});
  std::vector<SlotHandle> taken;
  for (int i = 0; i < 3; ++i) REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.submit(at(0ms), {}).refusal == Refusal::queue_full);
  for (SlotHandle slot : core.poll(at(0ms)).slots) taken.push_back(slot);
  REQUIRE(core.submit(at(0ms), {}));
  REQUIRE(core.submit(at(0ms), {}));
  for (SlotHandle slot : core.poll(at(0ms)).slots) taken.push_back(slot);
  CHECK(core.submit(at(0ms), {}).refusal == Refusal::outstanding_full);
  core.complete(taken[0]);  // over, but its answer still occupies the slot
  CHECK(core.submit(at(0ms), {}).refusal == Refusal::outstanding_full);
  CHECK(core.running() == 3);
  core.release(taken[0]);
  CHECK(core.submit(at(0ms), {}));
}

TEST_CASE("A queue smaller than the batch is full when it can grow no further") {
  BatchCore core({.max_batch_size = 32, .max_queue_delay = 1h, .queue_capacity = 4});
  REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.poll(at(0ms)).wake_count == 4);  // whoever sleeps is to be woken by the fourth
  for (int i = 0; i < 3; ++i) REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.poll(at(0ms)).reason == CloseReason::full);
}

TEST_CASE("Drain dispatches what waits without delay and stop hands it back") {
  BatchCore core({.max_batch_size = 2, .max_queue_delay = 1h});
  REQUIRE(core.submit(at(0ms), {}));
  core.drain();
  CHECK(core.next_event() == TimePoint::min());
  CHECK(core.submit(at(0ms), {}).refusal == Refusal::shutting_down);
  CHECK(core.poll(at(0ms)).reason == CloseReason::drain);

  BatchCore stopped({.max_batch_size = 2, .max_queue_delay = 1h});
  for (int i = 0; i < 3; ++i) REQUIRE(stopped.submit(at(0ms), {}));
  stopped.stop();
  stopped.drain();  // undoes nothing
  std::size_t abandoned = 0;
  while (stopped.waiting() > 0) {
    const BatchAction action = stopped.poll(at(0ms));
    REQUIRE(action.kind == BatchAction::abandon);
    abandoned += action.slots.size();
  }
  CHECK(abandoned == 3);
  CHECK(stopped.poll(at(0ms)).kind == BatchAction::idle);
}

namespace {

/// A byte for each unit of cost; closes what waits at once.
class ByteForCost final : public BatchPolicy {
 public:
  BatchDecision decide(const QueueView&) noexcept override { return {.dispatch = true}; }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return {.memory = shape.cost};
  }
};

}  // namespace

TEST_CASE("A policy is told whether all that wait are alike: deadlines, one priority, one group") {
  struct Curious final : BatchPolicy {
    BatchDecision decide(const QueueView& view) noexcept override {
      alike = view.alike;
      return {};
    }
    bool alike = false;
  };
  Curious policy;
  BatchCore core({.max_batch_size = 8, .max_groups = 2}, &policy);
  const TimePoint now{1s};
  const auto alike = [&] {
    (void)core.poll(now);
    return policy.alike;
  };
  const RequestTerms usual{.deadline = now + 1s};
  (void)core.submit(now, usual);
  (void)core.submit(now, usual);
  CHECK(alike());
  for (const RequestTerms& other :
       {RequestTerms{}, RequestTerms{.priority = Priority::high, .deadline = now + 1s},
        RequestTerms{.deadline = now + 1s, .group = 1}}) {
    const SlotHandle slot = core.submit(now, other).slot;
    CHECK_FALSE(alike());
    core.cancel(slot);
    core.release(slot);
    CHECK(alike());
  }
}

TEST_CASE(
    "Drain dispatches even if the policy would rather wait; a policy's own maximum is its reason") {
  struct Stubborn final : BatchPolicy {
    BatchDecision decide(const QueueView& view) noexcept override {
      return view.waiting < 2 ? BatchDecision{} : BatchDecision{.dispatch = true, .max_cost = 5};
    }
  } policy;
  BatchCore core({.max_batch_size = 4}, &policy);
  REQUIRE(core.submit(at(0ms), {.cost = 3}));
  CHECK(core.poll(at(0ms)).kind == BatchAction::idle);
  REQUIRE(core.submit(at(0ms), {.cost = 3}));
  const BatchAction action = core.poll(at(0ms));
  CHECK(action.slots.size() == 1);
  CHECK(action.reason == CloseReason::policy);
  CHECK(core.poll(at(0ms)).kind == BatchAction::idle);
  core.drain();
  CHECK(core.poll(at(0ms)).reason == CloseReason::drain);
}

TEST_CASE("A batch waits for memory, and a request that goes first and fits is to be woken for") {
  ByteForCost policy;
  BatchCore core({.max_batch_size = 4, .memory_budget = 10}, &policy);
  REQUIRE(core.submit(at(0ms), {.cost = 7}));
  const BatchAction first = core.poll(at(0ms));
  REQUIRE(first.reserved == 7);
  REQUIRE(core.submit(at(0ms), {.cost = 4}));
  const BatchAction rest = core.poll(at(0ms));
  CHECK(rest.kind == BatchAction::idle);
  CHECK(rest.wake_count == 2);
  CHECK(core.outlook().wake_count == 2);
  REQUIRE(core.submit(at(0ms), {.cost = 3, .priority = Priority::high}));
  CHECK(core.next_event() == TimePoint::min());
  const BatchAction second = core.poll(at(0ms));
  CHECK(second.shape.cost == 3);
  CHECK(second.reason == CloseReason::memory);
  core.finish({.shape = first.shape}, first.reserved);
  CHECK(core.poll(at(0ms)).shape.cost == 4);
}

TEST_CASE("Time that runs backwards counts as the latest time seen") {
  BatchCore core({.max_batch_size = 4, .max_queue_delay = 10ms});
  CHECK(core.poll(at(100ms)).kind == BatchAction::idle);
  REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.poll(at(0ms)).when == at(110ms));
  CHECK(core.arrival(core.enter(at(105ms), {})) == at(105ms));
  CHECK(core.arrival(core.enter(at(103ms), {})) == at(105ms));  // the order is that of entering
}

TEST_CASE("A deadline that takes the place of an erased one rises above a later one") {
  DeadlineHeap heap(9);
  const std::vector<Duration> deadlines = {1ms, 10ms, 2ms, 11ms, 12ms, 3ms, 4ms};
  for (std::uint32_t slot = 0; slot < 7; ++slot) heap.push(slot, at(deadlines[slot]));
  heap.erase(3);  // 4 ms, the last, goes below 10 ms
  heap.push(7, at(20ms));
  heap.push(8, at(21ms));
  for (const Duration wanted : {1ms, 2ms, 3ms, 4ms, 10ms, 12ms, 20ms, 21ms}) {
    CHECK(heap.first_deadline() == at(wanted));
    heap.erase(heap.first_slot());
  }
  CHECK(heap.empty());
}

namespace {

/// Runs whatever waits, at once; a batch takes as many bytes as it costs.
struct CostIsMemory final : BatchPolicy {
  std::size_t max_count = 64;
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .max_count = max_count};
  }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return {.memory = shape.cost, .known = true};
  }
};

}  // namespace

TEST_CASE("An aged request that waits for memory is not passed by other groups for ever") {
  CostIsMemory policy;
  BatchCore core(
      {.max_batch_size = 1, .priority_ageing = 10ms, .max_groups = 2, .memory_budget = 10},
      &policy);
  REQUIRE(core.submit(at(0ms), {.cost = 6, .group = 1}));
  BatchAction running = core.poll(at(0ms));
  REQUIRE(running.slots.size() == 1);
  const SlotHandle small = running.slots[0];
  const std::uint64_t reserved = running.reserved;
  const Admission big = core.submit(at(1ms), {.cost = 10});
  REQUIRE(core.submit(at(2ms), {.cost = 4, .group = 1}));
  REQUIRE(core.poll(at(3ms)).slots.size() == 1);  // not aged yet: what fits goes
  REQUIRE(core.submit(at(20ms), {.cost = 1, .group = 1}));
  CHECK(core.poll(at(20ms)).slots.empty());
  CHECK(core.outlook().when != TimePoint::min());
  core.release(small);
  core.finish({.shape = {1, 6, 6}}, reserved);
  CHECK(core.poll(at(21ms)).slots.empty());  // the other one still runs
  core.finish({.shape = {1, 4, 4}}, 4);
  CHECK(indices(core.poll(at(22ms))) == std::vector{big.slot.index});
}

TEST_CASE("A tenant whose requests cost nothing does not keep the others waiting") {
  BatchCore core({.max_batch_size = 1, .min_batch_size = 1, .max_tenants = 2});
  for (int i = 0; i < 100; ++i) REQUIRE(core.submit(at(0ms), {.cost = 0, .tenant = 1}));
  const Admission other = core.submit(at(0ms), {.cost = 1, .tenant = 2});
  int before = 0;
  while (indices(core.poll(at(1ms))) != std::vector{other.slot.index}) ++before;
  CHECK(before <= 2);
}

TEST_CASE("A policy that asks for a batch of none gets a batch of one") {
  CostIsMemory policy;
  policy.max_count = 0;
  BatchCore core({.max_batch_size = 4}, &policy);
  REQUIRE(core.submit(at(0ms), {}));
  CHECK(core.poll(at(0ms)).slots.size() == 1);
}

TEST_CASE("Limits are checked by name") {
  CHECK(validate(BatchLimits{}));
  const auto message = [](const BatchLimits& limits) {
    const Result<void> result = validate(limits);
    REQUIRE_FALSE(result);
    CHECK(result.error().code() == ErrorCode::invalid_argument);
    return std::string(result.error().message());
  };
  CHECK(message({.max_batch_size = 0}) == "max_batch_size: wanted at least 1, got 0");
  CHECK(message({.max_batch_size = 4, .min_batch_size = 5}) ==
        "min_batch_size: wanted at most max_batch_size, got 5");
  CHECK(message({.max_batch_cost = 0}) == "max_batch_cost: wanted 1 to 2^40, got 0");
  CHECK(message({.max_queue_delay = -1ns}) == "max_queue_delay: wanted at least 0");
  CHECK(message({.priority_ageing = -1ns}) == "priority_ageing: wanted at least 0");
  CHECK(message({.queue_capacity = std::size_t{1} << 22}) ==
        "queue_capacity: wanted 1 to 2^22 - 1, got 4194304");
  CHECK(validate(BatchLimits{.queue_capacity = (std::size_t{1} << 22) - 1}));
  CHECK(message({.queue_capacity = 0}).starts_with("queue_capacity: wanted"));
  CHECK(message({.max_outstanding = kMaxSlots + 1}).starts_with("max_outstanding: wanted"));
  CHECK(message({.max_batch_cost = kUnlimitedCost + 1}).starts_with("max_batch_cost: wanted"));
  CHECK(message({.max_tenants = 0}) == "max_tenants: wanted 1 to 4096, got 0");
  CHECK(message({.max_tenants = 4097}) == "max_tenants: wanted 1 to 4096, got 4097");
  CHECK(message({.max_groups = 0}) == "max_groups: wanted 1 to 256, got 0");
  CHECK(message({.max_groups = 257}) == "max_groups: wanted 1 to 256, got 257");
}
