// The batching contract where the host brings the threads: run_one(), and an executor.
#include <atomic>
#include <coroutine>
#include <memory>
#include <numeric>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/gate.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::Gate;
using ciuic::testing::ManualClock;

namespace {

std::vector<int> doubled(std::span<const int> in) {
  std::vector<int> out(in.begin(), in.end());
  for (int& x : out) x *= 2;
  return out;
}
using Batcher = DynamicBatcher<int, int>;

struct Task {
  struct promise_type {
    Task get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

/// Each answer is the next question.
Task chain(Batcher& batcher, int first, int steps, int& out) {
  int x = first;
  for (int i = 0; i < steps; ++i) {
    Result<int> answer = co_await batcher.submit(x);
    if (!answer) co_return;
    x = *answer;
  }
  out = x;
}

}  // namespace

TEST_CASE("host-driven: one call runs at most one batch and says when to come back") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Batcher batcher(
      doubled,
      {.max_batch_size = 2, .max_queue_delay = 10ms, .workers = 0, .host = {.clock = &clock}});
  CHECK(batcher.run_one().next_due == kNever);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 5; ++i) futures.push_back(batcher.submit(i));
  RunReport report = batcher.run_one();
  CHECK(report.batch_size == 2);
  CHECK(report.next_due == TimePoint::min());
  CHECK(futures[1].is_ready());
  CHECK_FALSE(futures[2].is_ready());
  CHECK(batcher.run_one().batch_size == 2);
  report = batcher.run_one();
  CHECK(report.batch_size == 0);
  CHECK(report.next_due == start + 10ms);
  CHECK(batcher.run_one(start + 10ms).batch_size == 1);
  for (int i = 0; i < 5; ++i) CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
}

TEST_CASE("host-driven: a deadline fires at the next run_one") {
  ManualClock clock;
  Batcher batcher(doubled, {.max_queue_delay = 1h, .workers = 0, .host = {.clock = &clock}});
  Future<int> future = batcher.submit(1, {.timeout = 5ms});
  const TimePoint deadline = clock.now() + 5ms;
  CHECK(batcher.run_one(deadline - 1ns).next_due == deadline);
  CHECK_FALSE(future.is_ready());
  batcher.run_one(deadline);
  CHECK(future.get().error().code() == ErrorCode::expired);
}

TEST_CASE("host-driven: one call hands back what is late and runs a batch as well") {
  ManualClock clock;
  Batcher batcher(doubled, {.max_queue_delay = 1ms, .workers = 0, .host = {.clock = &clock}});
  Future<int> late = batcher.submit(1, {.timeout = 500us});
  Future<int> due = batcher.submit(2);
  const RunReport report = batcher.run_one(clock.advance(1ms));
  CHECK(report.batch_size == 1);
  CHECK(late.get().error().code() == ErrorCode::expired);
  REQUIRE(due.is_ready());
  CHECK(due.get().value() == 4);
}

TEST_CASE("host-driven: drain runs what waits here; stop hands it back; a callback may not stop") {
  Batcher batcher(doubled, {.max_batch_size = 2, .max_queue_delay = 1h, .workers = 0});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 5; ++i) futures.push_back(batcher.submit(i));
  CHECK(batcher.drain(1h));
  for (Future<int>& future : futures) CHECK(future.get());

  Batcher stopped(doubled, {.max_queue_delay = 1h, .workers = 0});
  Future<int> waiting = stopped.submit(1);
  ErrorCode code = ErrorCode::internal;
  stopped.submit(2).on_ready([&](const Result<int>& answer) {
    CHECK(answer.error().code() == ErrorCode::shutting_down);
    code = stopped.stop().error().code();
  });
  CHECK(stopped.stop());
  CHECK(waiting.get().error().code() == ErrorCode::shutting_down);
  CHECK(code == ErrorCode::would_deadlock);
}

TEST_CASE("host-driven: a callback may destroy the batcher; the rest completes when it returns") {
  auto token = std::make_shared<int>();
  auto batcher = std::make_unique<Batcher>([token](std::span<const int> in) { return doubled(in); },
                                           BatcherOptions{.max_batch_size = 1, .workers = 0});
  batcher->submit(1).on_ready([&](const Result<int>&) { batcher.reset(); });
  Future<int> waiting = batcher->submit(2);
  batcher->run_one();
  CHECK(waiting.get().error().code() == ErrorCode::shutting_down);
  CHECK(token.use_count() == 1);  // the model is gone, though a future was still there
}

TEST_CASE("host-driven: several threads may run one batcher") {
  std::atomic<std::size_t> running{0}, ran{0};
  Gate gate;
  Batcher batcher(
      [&](std::span<const int> in) {
        ++running;
        gate.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 0});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 8; ++i) futures.push_back(batcher.submit(i));
  std::vector<Thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.push_back(*Thread::start([&] { ran += batcher.run_one().batch_size; }));
  }
  gate.await_arrivals(8);
  CHECK(running == 8);
  gate.open();
  threads.clear();
  for (Future<int>& future : futures) CHECK(future.get());
  CHECK(ran == 8);
}

TEST_CASE("host-driven: more threads than there are workers may run a batcher beside them") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gate gate;
  Batcher batcher(
      [&](std::span<const int> in) {
        gate.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 1, .host = {.clock = &clock}});
  std::vector<Future<int>> futures;
  std::vector<Thread> threads;
  futures.push_back(batcher.submit(0));
  gate.await_arrivals(1);
  for (int i = 1; i <= 8; ++i) {
    futures.push_back(batcher.submit(i));
    threads.push_back(*Thread::start([&] { batcher.run_one(); }));
    gate.await_arrivals(i + 1);
    Future<int> late = batcher.submit(-i, {.timeout = 1ms});  // the timer is one more
    clock.await_sleeper(start + i * 1ms);
    clock.advance(1ms);
    CHECK(late.get().error().code() == ErrorCode::expired);
  }
  gate.open();
  threads.clear();
  for (Future<int>& future : futures) CHECK(future.get());
}

TEST_CASE("co_await: requests in sequence, without a thread") {
  Batcher batcher(doubled, {.workers = 0});
  int a = 0, b = 0;
  chain(batcher, 1, 5, a);
  chain(batcher, 3, 3, b);
  int runs = 0;
  while (batcher.run_one().batch_size > 0) ++runs;
  CHECK(a == 32);
  CHECK(b == 24);
  CHECK(runs == 5);  // the two chains share batches
}

TEST_CASE("executor: batches, delays and deadlines run on the host's threads") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gate gate;
  ThreadPool pool({.threads = 2, .host = {.clock = &clock}});
  {
    Batcher batcher(
        [&](std::span<const int> in) {
          if (in.front() == 7) gate.pass();
          return doubled(in);
        },
        {.max_batch_size = 2,
         .max_queue_delay = 10ms,
         .host = {.executor = &pool, .clock = &clock}});
    Future<int> a = batcher.submit(1);
    clock.await_sleeper(start + 10ms);
    CHECK_FALSE(a.is_ready());
    clock.advance(10ms);
    CHECK(a.get().value() == 2);
    Future<int> b = batcher.submit(7);
    Future<int> c = batcher.submit(8);
    gate.await_arrivals(1);
    Future<int> late = batcher.submit(9, {.timeout = 3ms});
    clock.await_sleeper(start + 13ms);
    clock.advance(3ms);
    CHECK(late.get().error().code() == ErrorCode::expired);
    gate.open();
    CHECK(b.get().value() == 14);
    CHECK(c.get().value() == 16);
    std::vector<Future<int>> many;
    for (int i = 0; i < 101; ++i) many.push_back(batcher.submit(i));
    CHECK(batcher.drain());
    for (int i = 0; i < 101; ++i) CHECK(many[static_cast<std::size_t>(i)].get().value() == 2 * i);
  }
}

TEST_CASE("executor: one that takes nothing fails the request instead of losing it") {
  struct Closed final : Executor {
    bool post(Function<void()>&&) noexcept override { return false; }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return false; }
  } closed;
  Batcher batcher(doubled, {.host = {.executor = &closed}});
  Future<int> future = batcher.submit(1);
  const Result<int> answer = future.get();
  CHECK(answer.error().code() == ErrorCode::queue_full);
  CHECK(answer.error().message() == "the host's executor takes no more tasks");
  CHECK(batcher.stats().pending() == 0);
}

TEST_CASE("host-driven: run_one at the end of time runs what waits, and expires only deadlines") {
  ManualClock clock;
  Batcher batcher(doubled, {.max_batch_size = 4, .workers = 0, .host = {.clock = &clock}});
  Future<int> without = batcher.submit(1);
  Future<int> with = batcher.submit(2, {.timeout = 1h});
  while (batcher.stats().pending() > 0) batcher.run_one(kNever);
  CHECK(without.get().value() == 2);
  CHECK(with.get().error().code() == ErrorCode::expired);
}
