#include "ciuic/exec/thread_pool.hpp"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/gate.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::Gate;
using ciuic::testing::ManualClock;

TEST_CASE("A pool runs every task, in order on one thread, and drain waits for the last") {
  ThreadPool pool({.threads = 1, .queue_capacity = 64});
  std::vector<int> order;
  for (int i = 0; i < 50; ++i) REQUIRE(pool.post([&order, i] { order.push_back(i); }));
  CHECK(pool.drain());
  REQUIRE(order.size() == 50);
  for (int i = 0; i < 50; ++i) CHECK(order[static_cast<std::size_t>(i)] == i);
  CHECK_FALSE(pool.post([] {}));
}

TEST_CASE("A full pool refuses and leaves the task untouched") {
  Gate gate;
  ThreadPool pool({.threads = 1, .queue_capacity = 2});
  REQUIRE(pool.post([&] { gate.pass(); }));
  gate.await_arrivals(1);
  REQUIRE(pool.post([] {}));
  REQUIRE(pool.post_at(kNever, [] {}));
  int ran = 0;
  Function<void()> task = [&ran] { ++ran; };
  CHECK_FALSE(pool.post(std::move(task)));
  REQUIRE(task);
  task();
  CHECK(ran == 1);
  gate.open();
}

TEST_CASE("Tasks for later run at their time, equal times in order") {
  ManualClock clock;
  const TimePoint start = clock.now();
  std::vector<int> order;
  Gate gate;
  ThreadPool pool({.threads = 1, .queue_capacity = 8, .host = {.clock = &clock}});
  REQUIRE(pool.post_at(start + 20ms, [&] { order.push_back(3), gate.pass(); }));
  REQUIRE(pool.post_at(start + 10ms, [&] { order.push_back(1); }));
  REQUIRE(pool.post_at(start + 10ms, [&] { order.push_back(2), gate.pass(); }));
  clock.await_sleeper(start + 10ms);
  clock.advance(10ms);
  gate.await_arrivals(1);
  CHECK(order == std::vector{1, 2});
  gate.open();
  clock.await_sleeper(start + 20ms);
  clock.advance(10ms);
  CHECK(pool.drain());
  CHECK(order == std::vector{1, 2, 3});
}

TEST_CASE("A task that throws harms nobody; one that stops the pool is told so") {
  std::atomic<int> ran{0};
  ThreadPool pool({.threads = 2});
  REQUIRE(pool.post([] { throw std::runtime_error("oh"); }));
  REQUIRE(pool.post([&] { ran += pool.stop().error().code() == ErrorCode::would_deadlock; }));
  REQUIRE(pool.post([&] { ran += pool.drain().error().code() == ErrorCode::would_deadlock; }));
  CHECK(pool.drain());
  CHECK(ran == 2);
  CHECK(pool.failed() == 1);
}

TEST_CASE("Stop ends what runs and destroys what waits, unrun") {
  auto token = std::make_shared<int>(0);
  {
    Gate gate;
    ThreadPool pool({.threads = 1});
    REQUIRE(pool.post([&gate, token] { gate.pass(), ++*token; }));
    gate.await_arrivals(1);
    REQUIRE(pool.post([token] { *token += 100; }));
    REQUIRE(pool.post_at(kNever, [token] { *token += 100; }));
    Result<Thread> stopper = Thread::start([&] { static_cast<void>(pool.stop()); });
    while (token.use_count() > 2) yield_thread();  // only ours and the running task's are left
    gate.open();
    stopper->join();
    CHECK(*token == 1);
    CHECK(token.use_count() == 1);
  }
}

TEST_CASE("Two may stop a pool at once, and its tasks learn that they may not") {
  for (int round = 0; round < 20; ++round) {
    Gate gate;
    std::atomic<int> refused{0};
    ThreadPool pool({.threads = 2, .host = {.clock = nullptr}});
    for (int i = 0; i < 2; ++i) {
      REQUIRE(pool.post([&] {
        gate.pass();
        refused += pool.stop().error().code() == ErrorCode::would_deadlock;
      }));
    }
    gate.await_arrivals(2);
    Thread a = *Thread::start([&] { static_cast<void>(pool.stop()); });
    Thread b = *Thread::start([&] { static_cast<void>(pool.stop()); });
    gate.open();
    a.join();
    b.join();
    CHECK(refused == 2);
  }
}
