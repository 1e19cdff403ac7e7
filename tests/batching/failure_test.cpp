// Models that fail, run out of memory, or may need more than there is: who gets hurt, and how many
// runs that costs.
#include <algorithm>
#include <bit>
#include <new>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/watched_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

enum class Fault { returned, thrown, wrong_count, bad_alloc };

/// Answers a request with its double; fails, in one way or another, when a culprit is among them.
struct Fragile {
  Fault fault;
  const std::set<int>* culprits;
  int* runs;
  Result<std::vector<int>> operator()(std::span<const int> in) const {
    ++*runs;
    std::vector<int> out = doubled(in);
    if (std::none_of(in.begin(), in.end(), [&](int x) { return culprits->contains(x); }))
      return out;
    switch (fault) {
      case Fault::returned:
        return Error(ErrorCode::device_lost, "poisoned");
      case Fault::thrown:
        throw std::runtime_error("poisoned");
      case Fault::bad_alloc:
        throw std::bad_alloc();
      case Fault::wrong_count:
        out.pop_back();
    }
    return out;
  }
};
ErrorCode told_for(Fault fault) {
  switch (fault) {
    case Fault::returned:
      return ErrorCode::device_lost;
    case Fault::thrown:
      return ErrorCode::model_failed;
    case Fault::bad_alloc:
      return ErrorCode::out_of_memory;
    case Fault::wrong_count:
      break;
  }
  return ErrorCode::contract_violation;
}
int levels(std::size_t n) { return static_cast<int>(std::bit_width(n - 1)); }  // ceil(log2 n)

/// One full batch of 0 … n-1: how many answers were not as they should be.
int mistakes(DynamicBatcher<int, int>& batcher, unsigned workers, int n, Fault fault,
             const std::set<int>& culprits) {
  std::vector<Future<int>> futures;
  for (int i = 0; i < n; ++i) futures.push_back(batcher.submit(i));
  run_all(batcher, workers);
  int wrong = 0;
  for (int i = 0; i < n; ++i) {
    const Result<int> answer = futures[static_cast<std::size_t>(i)].get();
    wrong += culprits.contains(i) ? answer || answer.error().code() != told_for(fault)
                                  : !answer || *answer != 2 * i;
  }
  return wrong;
}

}  // namespace

TEST_CASE(
    "bisect: one culprit among n: the others are served, by at most 2·ceil(log2 n) more runs") {
  const unsigned workers = GENERATE(0u, 1u);
  const Fault fault =
      GENERATE(Fault::returned, Fault::thrown, Fault::wrong_count, Fault::bad_alloc);
  CAPTURE(workers, static_cast<int>(fault));
  int served = 0;
  for (const int n : {2, 3, 8, 9, 33, 64, 100, 128}) {
    std::set<int> culprits;
    int runs = 0;
    for (int culprit = 0; culprit < n; culprit += fault == Fault::bad_alloc ? n : 1) {
      // What ran out of memory lowers the cap: there a batcher serves one batch only.
      culprits = {culprit};
      DynamicBatcher<int, int> batcher(Fragile{fault, &culprits, &runs},
                                       {.max_batch_size = static_cast<std::size_t>(n),
                                        .max_queue_delay = 1h,
                                        .on_failure = OnFailure::bisect,
                                        .workers = workers});
      runs = 0;
      CAPTURE(n, culprit);
      REQUIRE(mistakes(batcher, workers, n, fault, culprits) == 0);
      REQUIRE(runs - 1 <= 2 * levels(static_cast<std::size_t>(n)));
      REQUIRE(batcher.drain());  // counts are complete when no batch is under way
      const BatcherStats stats = batcher.stats();
      REQUIRE(stats.runs == static_cast<std::uint64_t>(runs));
      REQUIRE(stats.extra_runs == static_cast<std::uint64_t>(runs - 1));
      REQUIRE(stats.failed == 1);
      REQUIRE(stats.batches() == 1);
      served += n - 1;
    }
  }
  CHECK(served > 0);
}

TEST_CASE("bisect: of several culprits, exactly they fail") {
  const unsigned workers = GENERATE(0u, 1u);
  const Fault fault = GENERATE(Fault::returned, Fault::thrown, Fault::wrong_count);
  std::mt19937 random(11);
  std::set<int> culprits;
  int runs = 0;
  constexpr int kN = 128;
  DynamicBatcher<int, int> batcher(Fragile{fault, &culprits, &runs},
                                   {.max_batch_size = kN,
                                    .max_queue_delay = 1h,
                                    .on_failure = OnFailure::bisect,
                                    .workers = workers});
  for (int k = 0; k <= kN; k = 2 * k + 1) {
    culprits.clear();
    while (std::ssize(culprits) < std::min(k, kN)) {
      culprits.insert(static_cast<int>(random() % kN));
    }
    runs = 0;
    CAPTURE(workers, k);
    CHECK(mistakes(batcher, workers, kN, fault, culprits) == 0);
    CHECK(runs - 1 <= std::min(2 * k * levels(kN), 2 * kN - 2));
  }
}

TEST_CASE("bisect: what was answered before the failure is not run again, nor what was cancelled") {
  const unsigned workers = GENERATE(0u, 1u);
  std::vector<int> shown(8);
  std::vector<Future<int>> futures;
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) {
        for (std::size_t i = 0; i < batch.size(); ++i) ++shown[static_cast<std::size_t>(batch[i])];
        if (batch.size() == 8) {
          for (std::size_t i = 0; i < 3; ++i) batch.resolve(i, 100 + batch[i]);
          futures[3].cancel();
        }
        for (std::size_t i = 0; i < batch.size(); ++i) {
          if (batch[i] == 6) throw std::runtime_error("six");
        }
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 100 + batch[i]);
      },
      {.max_batch_size = 8,
       .max_queue_delay = 1h,
       .on_failure = OnFailure::bisect,
       .workers = workers});
  futures.reserve(8);
  for (int i = 0; i < 7; ++i) futures.push_back(batcher.submit(i));
  futures.emplace_back();
  futures[7] = batcher.submit(7);
  run_all(batcher, workers);
  for (int i = 0; i < 8; ++i) {
    CAPTURE(i);
    if (i == 3) {
      CHECK(code_of(futures[3]) == ErrorCode::cancelled);
    } else if (i == 6) {
      CHECK(futures[6].get().error().message() == "model threw: six");
    } else {
      CHECK(futures[static_cast<std::size_t>(i)].get().value() == 100 + i);
    }
    CHECK(
        (i < 4 ? shown[static_cast<std::size_t>(i)] == 1 : shown[static_cast<std::size_t>(i)] > 1));
  }
  CHECK(batcher.drain());
  const BatcherStats stats = batcher.stats();
  CHECK(stats.cancelled == 1);
  CHECK(stats.failed == 1);
  CHECK(stats.completed == 6);
  CHECK(stats.extra_runs + 1 == stats.runs);
}

TEST_CASE("bisect: a half that nobody wants any more is no run") {
  const unsigned workers = GENERATE(0u, 1u);
  int runs = 0;
  Future<int> first, second;
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>&) -> Result<void> {
        if (++runs == 1) first.cancel();
        return Error(ErrorCode::model_failed);
      },
      {.max_batch_size = 2,
       .max_queue_delay = 1h,
       .on_failure = OnFailure::bisect,
       .workers = workers});
  first = batcher.submit(1);
  second = batcher.submit(2);
  run_all(batcher, workers);
  CHECK(code_of(second) == ErrorCode::model_failed);
  CHECK(batcher.drain());
  CHECK(runs == 2);
  CHECK(batcher.stats().runs == 2);
  CHECK(batcher.stats().extra_runs == 1);
}

TEST_CASE("model throws: without bisection the whole batch fails, by one run") {
  const unsigned workers = GENERATE(0u, 1u);
  const std::set<int> culprits{3};
  int runs = 0;
  DynamicBatcher<int, int> batcher(
      Fragile{Fault::thrown, &culprits, &runs},
      {.max_batch_size = 8, .max_queue_delay = 1h, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(batcher.submit(i));
  run_all(batcher, workers);
  for (Future<int>& future : futures) CHECK(code_of(future) == ErrorCode::model_failed);
  CHECK(batcher.drain());
  CHECK(runs == 1);
  CHECK(batcher.stats().extra_runs == 0);
}

namespace {

/// A model that bears batches up to a cost, and remembers what came.
struct Memory {
  std::uint64_t capacity = 0;
  bool throws = false;
  std::vector<std::size_t> passed{}, refused{};
  std::size_t calls() const { return passed.size() + refused.size(); }
  /// Nothing, or what the model says.
  Result<void> run(Batch<int, int>& batch) {
    std::uint64_t need = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) need += batch.terms(i).cost;
    (need <= capacity ? passed : refused).push_back(batch.size());
    if (need > capacity && throws) throw std::bad_alloc();
    if (need > capacity) return Error(ErrorCode::out_of_memory, "card: full");
    for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 2 * batch[i]);
    return {};
  }
};

}  // namespace

TEST_CASE("out of memory: the batch is split until it fits, and nobody notices") {
  const unsigned workers = GENERATE(0u, 1u);
  Memory memory{.capacity = 10, .throws = GENERATE(false, true)};
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) { return memory.run(batch); },
      {.max_batch_size = 32, .max_queue_delay = 1h, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 32; ++i) futures.push_back(batcher.submit(i));
  run_all(batcher, workers);
  for (int i = 0; i < 32; ++i) CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
  CHECK(memory.passed == std::vector<std::size_t>{8, 8, 8, 8});
  CHECK(memory.refused == std::vector<std::size_t>{32, 16, 16});
  CHECK(batcher.drain());
  const BatcherStats stats = batcher.stats();
  CHECK(stats.out_of_memory == 3);
  CHECK(stats.extra_runs == 6);
  CHECK(stats.runs == 7);
  CHECK(stats.failed == 0);
}

TEST_CASE("out of memory: the cap comes down, and grows back when there is room again") {
  const unsigned workers = GENERATE(0u, 1u);
  Memory memory{.capacity = 10};
  std::size_t calls_when_lifted = 0;
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) {
        if (memory.calls() == 60) {
          memory.capacity = 1000;
          calls_when_lifted = memory.passed.size();
        }
        return memory.run(batch);
      },
      {.max_batch_size = 32, .max_queue_delay = 1h, .queue_capacity = 4096, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 4000; ++i) futures.push_back(batcher.submit(i));
  CHECK(batcher.drain());
  int wrong = 0;
  for (int i = 0; i < 4000; ++i) {
    wrong += futures[static_cast<std::size_t>(i)].get().value_or(-1) != 2 * i;
  }
  CHECK(wrong == 0);
  CAPTURE(memory.passed, memory.refused);
  // While there was little: one painful lesson, then a try now and then, never the whole batch.
  REQUIRE(calls_when_lifted > 0);
  CHECK(memory.refused.front() == 32);
  CHECK(std::count(memory.refused.begin(), memory.refused.end(), 32u) == 1);
  CHECK(memory.refused.size() * 4 <= 60);
  for (std::size_t i = 0; i < calls_when_lifted; ++i) CHECK(memory.passed[i] <= 10);
  // Since there is enough: never refused, and whole batches again.
  CHECK(std::count(memory.passed.begin(), memory.passed.end(), 32u) > 10);
  CHECK(batcher.stats().closed_by(CloseReason::memory) > 0);
  CHECK(batcher.stats().closed_by(CloseReason::full) > 1);
}

TEST_CASE("out of memory: whoever fills the cost that was learned wakes the sleeping worker") {
  // Nothing else limits the cost. The worker sleeps until the first deadline, half an hour from
  // now.
  WatchedClock clock;
  const TimePoint later = clock.now() + 30min;
  Memory memory{.capacity = 4};
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) { return memory.run(batch); },
      {.max_batch_size = 8, .max_queue_delay = 1h, .host = {.clock = &clock}});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(batcher.submit(i));
  for (Future<int>& future : futures) CHECK(future.get());
  CHECK(memory.passed == std::vector<std::size_t>{4, 4});

  Future<int> first = batcher.submit(8, {.deadline = later, .cost = 2});
  clock.await_sleeps(later);
  CHECK_FALSE(first.is_ready());
  Future<int> second = batcher.submit(9, {.cost = 2});
  REQUIRE(second.wait_for(20s));
  CHECK(first.get().value() == 16);
  CHECK(batcher.stats().closed_by(CloseReason::memory) == 1);
}

TEST_CASE("out of memory: a single request that cannot fit fails alone") {
  const unsigned workers = GENERATE(0u, 1u);
  Memory memory{.capacity = 10, .throws = GENERATE(false, true)};
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) { return memory.run(batch); },
      {.max_batch_size = 16, .max_queue_delay = 1h, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 16; ++i) futures.push_back(batcher.submit(i, {.cost = i == 5 ? 11u : 1u}));
  run_all(batcher, workers);
  for (int i = 0; i < 16; ++i) {
    const Result<int> answer = futures[static_cast<std::size_t>(i)].get();
    CAPTURE(i);
    if (i == 5) {
      REQUIRE_FALSE(answer);
      CHECK(answer.error().code() == ErrorCode::out_of_memory);
    } else {
      REQUIRE(answer);
      CHECK(*answer == 2 * i);
    }
  }
  CHECK(batcher.stats().failed == 1);
}

namespace {

/// Foretells 100 bytes for each unit of cost, and takes whatever waits.
struct HundredBytes final : BatchPolicy {
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .reason = CloseReason::policy};
  }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return {.mean = 1ms, .upper = 2ms, .memory = 100 * shape.cost, .known = true};
  }
};

}  // namespace

TEST_CASE("memory budget: a batch closes where the forecast ends the budget, and is counted so") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  std::vector<std::size_t> sizes;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        sizes.push_back(in.size());
        return doubled(in);
      },
      {.max_batch_size = 8, .memory_budget = 1000, .workers = workers}, HundredBytes());
  hold.occupy(batcher, 0);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 7; ++i) futures.push_back(batcher.submit(i, {.cost = 4}));
  futures.push_back(batcher.submit(7, {.cost = 11}));  // more than there is: runs alone
  hold.let_go(batcher);
  for (int i = 0; i < 8; ++i) CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
  sizes.erase(sizes.begin(), sizes.begin() + workers);
  CHECK(sizes == std::vector<std::size_t>{2, 2, 2, 1, 1});
  CHECK(batcher.stats().closed_by(CloseReason::memory) == 4);
}

TEST_CASE("memory budget: a batch waits for the end of those that it does not fit beside") {
  WatchedClock clock;
  const TimePoint later = clock.now() + 1h;
  Gate gate;
  std::atomic<std::uint64_t> running{0}, most{0};
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) {
        std::uint64_t cost = 0;
        for (std::size_t i = 0; i < batch.size(); ++i) cost += batch.terms(i).cost;
        const std::uint64_t now = running += cost;
        for (std::uint64_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        gate.pass();
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 2 * batch[i]);
        running -= cost;
      },
      {.max_batch_size = 8, .memory_budget = 1000, .workers = 3, .host = {.clock = &clock}},
      HundredBytes());
  std::vector<Future<int>> futures;
  futures.push_back(batcher.submit(0, {.cost = 6}));
  gate.await_arrivals(1);
  futures.push_back(batcher.submit(1, {.cost = 3}));
  gate.await_arrivals(2);
  futures.push_back(batcher.submit(2, {.cost = 6}));  // a worker is free, 100 bytes are
  futures.push_back(batcher.submit(3, {.deadline = later, .cost = 10}));
  clock.await_sleeps(later);  // the free worker
  CHECK(batcher.stats().batches() == 2);
  gate.open();
  // Nothing is submitted any more: the end of a batch has to be what lets the next one start.
  for (int i = 0; i < 4; ++i) {
    REQUIRE(futures[static_cast<std::size_t>(i)].wait_for(20s));
    CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
  }
  CHECK(most <= 10);
}
