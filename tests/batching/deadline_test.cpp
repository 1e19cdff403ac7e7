// Deadlines that a policy sees coming, deadlines that pass, and closing in time.
#include <atomic>
#include <coroutine>
#include <string>
#include <vector>

#include "ciuic/exec/thread_pool.hpp"
#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

/// Knows that a batch takes 10 ms, one after another, and gives up what cannot be in time.
struct TenMilliseconds final : BatchPolicy {
  explicit TenMilliseconds(bool resigned) : gives_up(resigned) {}
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .reason = CloseReason::policy};
  }
  TimePoint hopeless_before(TimePoint now) noexcept override { return gives_up ? now + 10ms : now; }
  TimePoint expected_finish(const QueueView& view, std::uint64_t) noexcept override {
    return view.now + 10ms * static_cast<int>(view.running_batches + view.waiting + 1);
  }
  BatchForecast forecast(const BatchShape&) noexcept override {
    return {.mean = 10ms, .upper = 10ms, .known = true};
  }
  bool gives_up;
};

}  // namespace

TEST_CASE("deadline: one that cannot be met is refused at once, and says when to try again") {
  const unsigned workers = GENERATE(0u, 1u);
  ManualClock clock;
  Hold hold(workers);
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = workers, .host = {.clock = &clock}}, TenMilliseconds(false));
  hold.occupy(batcher, 0);
  const int ahead = static_cast<int>(workers);
  Future<int> too_soon = batcher.submit(1, {.timeout = 10ms * (ahead + 1) - 1ns});
  REQUIRE(too_soon.is_ready());
  const Result<int> refused = too_soon.get();
  CHECK(refused.error().code() == ErrorCode::infeasible);
  CHECK(refused.error().message() ==
        "deadline: the answer would most likely be late; retry after 1 ms");
  Future<int> just = batcher.submit(2, {.timeout = 10ms * (ahead + 1)});
  Future<int> behind = batcher.submit(3, {.timeout = 10ms * (ahead + 2) - 1ns});
  CHECK(code_of(behind) == ErrorCode::infeasible);
  Future<int> patient = batcher.submit(4);  // has no deadline to miss
  hold.let_go(batcher);
  CHECK(just.get().value() == 4);
  CHECK(patient.get().value() == 8);
  CHECK(batcher.stats().rejected[Refusal::infeasible] == 2);
  CHECK(batcher.stats().submitted == 2 + workers);
}

TEST_CASE("deadline: what the policy holds for hopeless is expired instead of run") {
  const unsigned workers = GENERATE(0u, 1u);
  ManualClock clock;
  Hold hold(workers);
  std::vector<int> served;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        if (in[0] != 0) served.push_back(in[0]);
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = workers, .host = {.clock = &clock}}, TenMilliseconds(true));
  hold.occupy(batcher, 0);
  Future<int> doomed = batcher.submit(1, {.timeout = 35ms});
  Future<int> fine = batcher.submit(2, {.timeout = 60ms});
  clock.advance(30ms);
  hold.let_go(batcher);
  CHECK(code_of(doomed) == ErrorCode::expired);
  CHECK(fine.get().value() == 4);
  CHECK(batcher.drain());
  CHECK(served == std::vector{2});
  CHECK(batcher.stats().expired == 1);
  CHECK(batcher.stats().late == 0);
}

TEST_CASE("deadline: one that passes while the request runs is counted as late") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gate gate;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        gate.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 2, .host = {.clock = &clock}});
  Future<int> a = batcher.submit(1, {.timeout = 10ms});
  Future<int> b = batcher.submit(2, {.timeout = 1h});
  gate.await_arrivals(2);
  Future<int> waiting = batcher.submit(3, {.timeout = 10ms});
  clock.await_sleeper(start + 10ms);
  clock.advance(10ms);
  CHECK(code_of(a) == ErrorCode::expired);
  CHECK(code_of(waiting) == ErrorCode::expired);
  CHECK(batcher.stats().expired == 2);
  CHECK(batcher.stats().late == 1);
  gate.open();
  CHECK(b.get().value() == 4);
  CHECK(batcher.drain());
  CHECK(batcher.stats().completed == 1);
}

TEST_CASE("deadline: host-driven, an answer that is there before anybody looked is delivered") {
  ManualClock clock;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        clock.advance(1h);
        return doubled(in);
      },
      {.workers = 0, .host = {.clock = &clock}});
  Future<int> future = batcher.submit(1, {.timeout = 10ms});
  CHECK(batcher.run_one().batch_size == 1);
  CHECK(future.get().value() == 2);
  CHECK(batcher.stats().late == 0);
}

TEST_CASE("final spin: a batch closes at its time, awake, and not before") {
  ManualClock clock;
  const TimePoint start = clock.now();
  std::vector<TimePoint> runs;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        runs.push_back(clock.now());
        return doubled(in);
      },
      {.max_batch_size = 4, .max_queue_delay = 10ms, .final_spin = 2ms, .host = {.clock = &clock}});
  Future<int> a = batcher.submit(1);
  clock.await_sleeper(start + 8ms);  // asleep until the spin begins
  clock.advance(9ms);
  Future<int> b = batcher.submit(2);  // one more during the spin does not end it
  CHECK_FALSE(a.is_ready());
  clock.advance(1ms);
  CHECK(a.get().value() == 2);
  CHECK(b.get().value() == 4);
  // A full batch does.
  std::vector<Future<int>> more;
  more.push_back(batcher.submit(0));
  clock.await_sleeper(start + 18ms);
  clock.advance(9ms);
  for (int i = 1; i < 4; ++i) more.push_back(batcher.submit(i));
  for (Future<int>& future : more) CHECK(future.get());
  // And so does stop().
  Future<int> last = batcher.submit(7);
  clock.await_sleeper(start + 27ms);
  clock.advance(9ms);
  CHECK(batcher.stop());
  CHECK(code_of(last) == ErrorCode::shutting_down);
  CHECK(runs == std::vector{start + 10ms, start + 19ms});
  CHECK(batcher.stats().closed_by(CloseReason::delay) == 1);
  CHECK(batcher.stats().closed_by(CloseReason::full) == 1);
}

TEST_CASE("final spin: on the real clock, an earlier deadline and a cancel are not slept over") {
  DynamicBatcher<int, int> batcher(
      doubled, {.max_batch_size = 4, .max_queue_delay = 2ms, .final_spin = 1ms, .workers = 2});
  for (int i = 0; i < 20; ++i) {
    Future<int> a = batcher.submit(i);
    Future<int> b = batcher.submit(i, {.timeout = 100us});
    Future<int> c = batcher.submit(i);
    c.cancel();
    REQUIRE(b.wait_for(20s));
    REQUIRE(a.wait_for(20s));
    CHECK(a.get().value() == 2 * i);
  }
}

namespace {

struct Task {
  struct promise_type {
    Task get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};
Task await_into(Future<int> future, std::atomic<int>& out) {
  const Result<int> answer = co_await std::move(future);
  out = answer ? *answer : -static_cast<int>(answer.error().code()) - 1;
}

}  // namespace

TEST_CASE("futures: every way to take an answer, whoever brings the threads") {
  const int driver = GENERATE(0, 1, 2);  // the host, a worker, the host's executor
  ThreadPool pool({.threads = 1});
  const unsigned workers = driver == 0 ? 0 : 1;
  BatcherOptions options{.max_batch_size = 4, .max_queue_delay = 1ms, .workers = workers};
  if (driver == 2) options.host.executor = &pool;
  DynamicBatcher<int, int> batcher(doubled, options);
  std::atomic<int> called{0}, awaited{0}, gone{0};
  std::stop_source stop;

  Future<int> got = batcher.submit(1);
  Future<int> waited = batcher.submit(2);
  batcher.submit(3).on_ready([&](Result<int> answer) { called = *answer; });
  await_into(batcher.submit(4), awaited);
  batcher.submit(5).detach();
  Future<int> stopped = batcher.submit(6, {.stop_token = stop.get_token()});
  stop.request_stop();
  { Future<int> dropped = batcher.submit(7); }
  await_into(batcher.submit(8, {.timeout = -1ns}), gone);  // refused: ready at once
  CHECK(gone == -static_cast<int>(ErrorCode::invalid_argument) - 1);
  if (driver == 0) {
    CHECK_FALSE(got.wait_for(0s));
    CHECK(batcher.drain());
  }
  CHECK(got.get().value() == 2);
  CHECK(got.get().error().message() == "future: empty, its answer was taken");
  CHECK(waited.wait_for(1h));
  CHECK(waited.wait_until(TimePoint::min()));
  CHECK(waited.get().value() == 4);
  CHECK(code_of(stopped) == ErrorCode::cancelled);
  CHECK(batcher.drain());
  CHECK(called == 6);
  CHECK(awaited == 8);
  const BatcherStats stats = batcher.stats();
  CHECK(stats.submitted == 7);
  CHECK(stats.completed + stats.cancelled == 7);
  CHECK(stats.cancelled >= 1);
  CHECK(stats.completed >= 5);
}
