// A batcher on the host's executor, driven by hand: what is posted, what is refused, what comes
// late.
#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::ManualClock;

namespace {

std::vector<int> doubled(std::span<const int> in) {
  std::vector<int> out(in.begin(), in.end());
  for (int& x : out) x *= 2;
  return out;
}
using Batcher = DynamicBatcher<int, int>;

/// Runs tasks when the test says so, on the test's thread; takes none while `closed`.
struct HandExecutor final : Executor {
  bool post(Function<void()>&& task) noexcept override {
    return post_at(TimePoint::min(), std::move(task));
  }
  bool post_at(TimePoint when, Function<void()>&& task) noexcept override {
    if (before_post) std::exchange(before_post, nullptr)();
    if (closed) return false;
    tasks.emplace_back(when, std::move(task));
    return true;
  }
  void run(TimePoint now) {
    for (;;) {
      const auto due = std::find_if(tasks.begin(), tasks.end(),
                                    [&](const auto& task) { return task.first <= now; });
      if (due == tasks.end()) return;
      Function<void()> task = std::move(due->second);
      tasks.erase(due);
      task();
    }
  }
  bool closed = false;
  std::function<void()> before_post;  // once
  std::vector<std::pair<TimePoint, Function<void()>>> tasks;
};

ErrorCode code_of(Future<int>& future) {
  const Result<int> answer = future.get();
  return answer ? ErrorCode::internal : answer.error().code();
}

}  // namespace

TEST_CASE("executor: a delay that passes leaves no task behind, whatever deadlines are ahead") {
  ManualClock clock;
  HandExecutor executor;
  Batcher batcher(doubled,
                  {.max_queue_delay = 1ms, .host = {.executor = &executor, .clock = &clock}});
  for (int i = 0; i < 50; ++i) {
    Future<int> future = batcher.submit(i, {.timeout = 1h});
    executor.run(clock.now());
    CHECK_FALSE(future.is_ready());
    executor.run(clock.advance(1ms));
    REQUIRE(future.is_ready());
    CHECK(future.get().value() == 2 * i);
    CHECK(executor.tasks.size() <= 1);
  }
}

TEST_CASE("executor: an earlier tick does not make a later one forgotten, nor posted twice") {
  ManualClock clock;
  HandExecutor executor;
  Batcher batcher(doubled,
                  {.max_queue_delay = 1h, .host = {.executor = &executor, .clock = &clock}});
  Future<int> third = batcher.submit(1, {.timeout = 30ms});
  Future<int> second = batcher.submit(2, {.timeout = 20ms});
  Future<int> first = batcher.submit(3, {.timeout = 10ms});
  CHECK(executor.tasks.size() == 3);
  for (Future<int>* next : {&first, &second, &third}) {
    executor.run(clock.now());
    CHECK_FALSE(next->is_ready());
    executor.run(clock.advance(10ms));
    REQUIRE(next->is_ready());
    CHECK(code_of(*next) == ErrorCode::expired);
  }
  CHECK(executor.tasks.empty());
}

TEST_CASE("executor: a batch that gets due while no task is taken runs on the tick's thread") {
  ManualClock clock;
  HandExecutor executor;
  Batcher batcher(doubled,
                  {.max_queue_delay = 1ms, .host = {.executor = &executor, .clock = &clock}});
  Future<int> future = batcher.submit(4);
  executor.closed = true;
  executor.run(clock.advance(1ms));
  REQUIRE(future.is_ready());
  CHECK(future.get().value() == 8);
}

TEST_CASE("executor: a request that relied on a task of another, refused one is handed back") {
  ManualClock clock;
  HandExecutor executor;
  executor.closed = true;
  const Duration delay = GENERATE(Duration(0ms), Duration(5ms));  // a pump, or a tick
  const unsigned workers = GENERATE(1u, 2u);
  Batcher batcher(doubled, {.max_queue_delay = delay,
                            .workers = workers,
                            .host = {.executor = &executor, .clock = &clock}});
  Future<int> second;
  ErrorCode told = ErrorCode::internal;
  executor.before_post = [&] {
    second = batcher.submit(2);
    if (second.is_ready()) return;
    std::move(second).on_ready([&](const Result<int>& answer) { told = answer.error().code(); });
  };
  Future<int> first = batcher.submit(1);
  REQUIRE(first.is_ready());
  CHECK(code_of(first) == ErrorCode::queue_full);
  if (second.valid()) told = code_of(second);
  CHECK(told == ErrorCode::queue_full);
  CHECK(batcher.stats().pending() == 0);
  CHECK(batcher.stats().failed == 2);
  executor.closed = false;
  Future<int> third = batcher.submit(3);
  executor.run(clock.advance(delay));
  REQUIRE(third.is_ready());
  CHECK(third.get().value() == 6);
}

TEST_CASE("executor: what waits at the end of a pump with no task to follow is handed back") {
  ManualClock clock;
  HandExecutor executor;
  Future<int> next;
  Batcher* self = nullptr;
  Batcher batcher(
      [&](std::span<const int> in) {
        executor.closed = true;
        next = self->submit(2);
        return doubled(in);
      },
      {.max_queue_delay = 1ms, .host = {.executor = &executor, .clock = &clock}});
  self = &batcher;
  Future<int> future = batcher.submit(1);
  executor.run(clock.advance(1ms));
  CHECK(future.get().value() == 2);
  REQUIRE(next.is_ready());
  CHECK(code_of(next) == ErrorCode::queue_full);
  CHECK(batcher.drain());
}

TEST_CASE("executor: drain does not wait for tasks that nobody takes") {
  ManualClock clock;
  HandExecutor executor;
  Batcher batcher(doubled,
                  {.max_queue_delay = 1h, .host = {.executor = &executor, .clock = &clock}});
  Future<int> future = batcher.submit(1);
  executor.closed = true;
  executor.before_post = [&] { executor.run(kNever); };
  CHECK(batcher.drain());
  REQUIRE(future.is_ready());
}

TEST_CASE("executor: an expiry callback may destroy the batcher; what waits is resolved") {
  ManualClock clock;
  HandExecutor executor;
  auto batcher = std::make_unique<Batcher>(
      doubled,
      BatcherOptions{.max_queue_delay = 1h, .host = {.executor = &executor, .clock = &clock}});
  batcher->submit(1, {.timeout = 3ms}).on_ready([&](const Result<int>& answer) {
    CHECK(answer.error().code() == ErrorCode::expired);
    batcher.reset();
  });
  Future<int> waiting = batcher->submit(2);
  executor.run(clock.advance(3ms));
  CHECK(batcher == nullptr);
  REQUIRE(waiting.is_ready());
  CHECK(code_of(waiting) == ErrorCode::shutting_down);
}

TEST_CASE("executor: ... also while every worker runs a model") {
  ManualClock clock;
  HandExecutor executor;
  Future<int> waiting;
  bool at_once = false;
  auto batcher = std::make_unique<Batcher>(
      [&](std::span<const int> in) {
        executor.run(clock.advance(3ms));  // the tick, on what is another thread in real life
        at_once = waiting.is_ready();
        return doubled(in);
      },
      BatcherOptions{.max_batch_size = 1, .host = {.executor = &executor, .clock = &clock}});
  Future<int> running = batcher->submit(1);
  batcher->submit(2, {.timeout = 3ms}).on_ready([&](const Result<int>&) { batcher.reset(); });
  waiting = batcher->submit(3);
  executor.run(clock.now());
  CHECK(at_once);
  CHECK(code_of(waiting) == ErrorCode::shutting_down);
  CHECK(running.get().value() == 2);
}

TEST_CASE("executor: a task that runs after the batcher is gone touches nothing of the host's") {
  struct Counting final : Clock {
    TimePoint now() const noexcept override { return ++calls, TimePoint(1s); }
    void wait_until(CondVar& condition, Lock& lock, TimePoint until) const override {
      condition.wait_until(lock, until);
    }
    mutable int calls = 0;
  } clock;
  HandExecutor executor;
  auto token = std::make_shared<int>();
  {
    Batcher batcher([token](std::span<const int> in) { return doubled(in); },
                    {.max_batch_size = 2,
                     .max_queue_delay = 1h,
                     .host = {.executor = &executor, .clock = &clock}});
    batcher.submit(1, {.timeout = 1min}).detach();
    batcher.submit(1, {.timeout = 1min}).detach();
    CHECK(executor.tasks.size() == 2);  // a tick and a pump
  }
  CHECK(token.use_count() == 1);
  const int before = clock.calls;
  executor.run(kNever);
  CHECK(clock.calls == before);
}
