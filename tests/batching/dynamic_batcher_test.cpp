// The batching contract over threads: tests for each row of the table, time moved by hand.
//
// More on single rows: order_test.cpp (priorities, tenants, groups), overload_test.cpp (reject,
// block, shed), failure_test.cpp (bisection, out of memory, memory budget), deadline_test.cpp
// (infeasible, late, the final spin), stats_test.cpp; bugs of others: regressions_test.cpp.
//
// Not implemented, and so not tested: splitting a request that is too large for one batch.
#include "ciuic/batching/dynamic_batcher.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

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

/// A model whose first batch waits at a gate; later ones pass once it is open.
struct Gated {
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  std::vector<int> operator()(std::span<const int> in) const {
    gate->pass();
    return doubled(in);
  }
};

ErrorCode code_of(Future<int>& future) {
  const Result<int> answer = future.get();
  return answer ? ErrorCode::internal : answer.error().code();
}

struct Log final : LogSink {
  void write(LogLevel, std::string_view line) noexcept override {
    Lock lock(mutex);
    lines.emplace_back(line);
  }
  Mutex mutex;
  std::vector<std::string> lines;
};

}  // namespace

TEST_CASE("batch closes: at the oldest arrival plus the delay, never before (seed 004: tail)") {
  ManualClock clock;
  const TimePoint start = clock.now();
  std::vector<std::pair<TimePoint, std::size_t>> runs;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        runs.emplace_back(clock.now(), in.size());
        return doubled(in);
      },
      {.max_batch_size = 8, .max_queue_delay = 10ms, .host = {.clock = &clock}});
  Future<int> a = batcher.submit(1);
  clock.await_sleeper(start + 10ms);
  clock.advance(4ms);
  Future<int> b = batcher.submit(2);
  Future<int> c = batcher.submit(3);
  clock.advance(6ms - 1ns);
  clock.await_sleeper(start + 10ms);
  CHECK_FALSE(a.is_ready());
  clock.advance(1ns);
  CHECK(a.get().value() == 2);
  CHECK(b.get().value() == 4);
  CHECK(c.get().value() == 6);
  REQUIRE(runs.size() == 1);
  CHECK(runs[0].first == start + 10ms);
  CHECK(runs[0].second == 3);
  CHECK(batcher.stats().closed_by(CloseReason::delay) == 1);
  CHECK(batcher.stats().mean_wait() == Duration(10ms + 6ms + 6ms) / 3);
}

TEST_CASE("batch closes: full by count or by cost, the reason is counted") {
  ManualClock clock;
  DynamicBatcher<int, int> batcher(doubled, {.max_batch_size = 4,
                                             .max_batch_cost = 10,
                                             .max_queue_delay = 1h,
                                             .host = {.clock = &clock}});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 4; ++i) futures.push_back(batcher.submit(i));
  for (int i = 0; i < 4; ++i) CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
  Future<int> large = batcher.submit(5, {.cost = 6});
  Future<int> next = batcher.submit(6, {.cost = 6});
  CHECK(large.get().value() == 10);
  CHECK_FALSE(next.is_ready());
  const BatcherStats stats = batcher.stats();
  CHECK(stats.closed_by(CloseReason::full) == 1);
  CHECK(stats.closed_by(CloseReason::cost) == 1);
  CHECK(stats.mean_batch() == 2.5);
}

TEST_CASE("oversize request: refused at submit") {
  DynamicBatcher<int, int> batcher(doubled, {.max_batch_cost = 10});
  Future<int> future = batcher.submit(1, {.cost = 11});
  CHECK(future.is_ready());
  const Result<int> answer = future.get();
  CHECK(answer.error().code() == ErrorCode::oversize);
  CHECK(answer.error().message() == "cost: wanted at most max_batch_cost, 10, got 11");
  CHECK(batcher.stats().rejected[Refusal::oversize] == 1);
}

TEST_CASE("order: first come, first served within a priority") {
  Gated model;
  std::vector<int> seen;
  DynamicBatcher<int, int> batcher(
      [&, model](std::span<const int> in) {
        seen.insert(seen.end(), in.begin(), in.end());
        return model(in);
      },
      {.max_batch_size = 2, .min_batch_size = 1, .priority_ageing = 1h});
  std::vector<Future<int>> futures;
  futures.push_back(batcher.submit(0));
  model.gate->await_arrivals(1);
  for (int i = 1; i <= 6; ++i) {
    futures.push_back(
        batcher.submit(i, {.priority = i % 2 == 0 ? Priority::high : Priority::normal}));
  }
  model.gate->open();
  CHECK(batcher.drain());
  CHECK(seen == std::vector{0, 2, 4, 6, 1, 3, 5});
}

TEST_CASE("order of results: each future gets its own, whichever batch ends first (seed 001)") {
  Gate first;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        if (in.front() == 0) first.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 2});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(batcher.submit(i));
  CHECK(futures.back().get().value() == 38);  // the first batch still runs
  CHECK_FALSE(futures.front().is_ready());
  first.open();
  for (int i = 0; i < 19; ++i) CHECK(futures[static_cast<std::size_t>(i)].get().value() == 2 * i);
}

TEST_CASE("model throws: that batch gets the error, the next one is served") {
  int calls = 0;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        switch (++calls) {
          case 1:
            throw std::runtime_error("bad weights");
          case 2:
            throw 7;
        }
        return doubled(in);
      },
      {.max_batch_size = 2, .max_queue_delay = 1h});
  std::vector<Error> errors;
  for (int i = 0; i < 2; ++i) {
    Future<int> a = batcher.submit(1);
    Future<int> b = batcher.submit(2);
    errors.push_back(a.get().error());
    CHECK(b.get().error().code() == errors.back().code());
  }
  CHECK(errors[0].code() == ErrorCode::model_failed);
  CHECK(errors[0].message() == "model threw: bad weights");
  CHECK(errors[1].message() == "model threw something that is no std::exception");
  Future<int> a = batcher.submit(1);
  Future<int> b = batcher.submit(2);
  CHECK(b.get().value() == 4);
  CHECK(a.get().value() == 2);
  CHECK(batcher.stats().failed == 4);
  CHECK(batcher.stats().completed == 2);
}

TEST_CASE("model forms: errors as values, a result of results, a result for each item") {
  DynamicBatcher<int, int> failing([](std::span<const int>) -> Result<std::vector<int>> {
    return Error(ErrorCode::device_lost, "card fell off");
  });
  CHECK(failing.submit(1).get().error().message() == "card fell off");
  DynamicBatcher<int, int> per_item([](std::span<const int> in) {
    std::vector<Result<int>> out;
    for (int x : in) {
      out.push_back(x < 0 ? Result<int>(Error(ErrorCode::invalid_argument)) : Result<int>(x));
    }
    return out;
  });
  CHECK(per_item.submit(3).get().value() == 3);
  CHECK(per_item.submit(-3).get().error().code() == ErrorCode::invalid_argument);
  DynamicBatcher<int, void> nothing([](Batch<int, void>& batch) -> Result<void> {
    batch.resolve(0, {});
    return Error(ErrorCode::model_failed);
  });
  CHECK(nothing.submit(3).get());
}

TEST_CASE("wrong result count: contract violation for the unresolved items") {
  DynamicBatcher<int, int> convenient([](std::span<const int>) { return std::vector<int>{1}; },
                                      {.max_batch_size = 2, .max_queue_delay = 1h});
  Future<int> a = convenient.submit(1);
  Future<int> b = convenient.submit(2);
  const Result<int> answer = a.get();
  CHECK(answer.error().code() == ErrorCode::contract_violation);
  CHECK(answer.error().message() == "model: wanted 2 results, got 1");
  CHECK(code_of(b) == ErrorCode::contract_violation);

  bool as_told = false;
  DynamicBatcher<int, int> canonical(
      [&](Batch<int, int>& batch) {
        const bool first = batch.resolve(1, batch[1] * 10);
        const bool second = batch.resolve(1, 0);
        as_told = first && !second && batch.resolved(1);
      },
      {.max_batch_size = 2, .max_queue_delay = 1h});
  Future<int> c = canonical.submit(1);
  Future<int> d = canonical.submit(2);
  CHECK(code_of(c) == ErrorCode::contract_violation);
  CHECK(d.get().value() == 20);
  CHECK(as_told);
}

TEST_CASE("bounds: a full queue refuses and says when to try again") {
  Gated model;
  DynamicBatcher<int, int> batcher(
      model, {.max_batch_size = 1, .queue_capacity = 2, .max_outstanding = 4});
  std::vector<Future<int>> futures;
  futures.push_back(batcher.submit(0));
  model.gate->await_arrivals(1);
  futures.push_back(batcher.submit(1));
  futures.push_back(batcher.submit(2));
  Future<int> refused = batcher.submit(3);
  CHECK(refused.is_ready());
  const Result<int> answer = refused.get();
  CHECK(answer.error().code() == ErrorCode::queue_full);
  CHECK(answer.error().message() == "queue_capacity: all 2 are in use; retry after 1 ms");
  CHECK(batcher.retry_after() >= 1ms);
  model.gate->open();
  CHECK(futures.back().get().value() == 4);
  CHECK(batcher.stats().rejected[Refusal::queue_full] == 1);

  // Answers that nobody takes count too.
  while (!futures[1].is_ready()) yield_thread();
  futures[2] = batcher.submit(4);
  Future<int> fourth = batcher.submit(5);
  CHECK(fourth.wait_for(1h));
  CHECK(batcher.submit(6).get().error().message().starts_with("max_outstanding: all 4"));
  CHECK(futures[0].get().value() == 0);
  CHECK(batcher.submit(6).get().value() == 12);
}

TEST_CASE("bounds: a blocked submit gets room, or ends with its deadline or stop token") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1,
                                           .queue_capacity = 1,
                                           .overload = Overload::block,
                                           .host = {.clock = &clock}});
  Future<int> running = batcher.submit(0);
  model.gate->await_arrivals(1);
  Future<int> waiting = batcher.submit(1);
  Future<int> timed, stopped, served;
  std::stop_source stop;
  Thread a = *Thread::start([&] { timed = batcher.submit(2, {.timeout = 5ms}); });
  clock.await_sleeper(start + 5ms);
  clock.advance(5ms);
  a.join();
  CHECK(code_of(timed) == ErrorCode::expired);
  Thread b = *Thread::start(
      [&] { stopped = batcher.submit(3, {.timeout = 7ms, .stop_token = stop.get_token()}); });
  clock.await_sleeper(start + 12ms);
  stop.request_stop();
  b.join();
  CHECK(code_of(stopped) == ErrorCode::cancelled);
  Thread c = *Thread::start([&] { served = batcher.submit(4, {.timeout = 9ms}); });
  clock.await_sleeper(start + 14ms);
  model.gate->open();
  c.join();
  CHECK(served.get().value() == 8);
  CHECK(running.get().value() == 0);
  CHECK(waiting.get().value() == 2);
  CHECK(batcher.stats().rejected[Refusal::expired] == 1);
  CHECK(batcher.stats().rejected.cancelled == 1);
}

TEST_CASE("deadline: fires at its time even while every worker runs a model") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1, .host = {.clock = &clock}});
  Future<int> running = batcher.submit(1, {.timeout = 20ms});
  model.gate->await_arrivals(1);
  Future<int> late = batcher.submit(2, {.deadline = start + 10ms});
  Future<int> patient = batcher.submit(3);
  clock.await_sleeper(start + 10ms);
  clock.advance(10ms - 1ns);
  clock.await_sleeper(start + 10ms);
  CHECK_FALSE(late.is_ready());
  clock.advance(1ns);
  CHECK(code_of(late) == ErrorCode::expired);
  CHECK_FALSE(running.is_ready());
  clock.await_sleeper(start + 20ms);
  clock.advance(10ms);  // also for a request that runs: its result comes too late
  CHECK(code_of(running) == ErrorCode::expired);
  model.gate->open();
  CHECK(patient.get().value() == 6);
  CHECK(batcher.drain());
  CHECK(batcher.stats().expired == 2);
  CHECK(batcher.stats().batched_requests == 2);
  CHECK(batcher.submit(1, {.timeout = -1ns}).get().error().code() == ErrorCode::invalid_argument);
}

TEST_CASE("deadline: fires on the real clock, which wakes nobody by chance, with no worker free") {
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1, .workers = 2});
  Future<int> a = batcher.submit(1);
  Future<int> b = batcher.submit(2, {.timeout = 40ms});
  model.gate->await_arrivals(2);
  // The timer sleeps until 40 ms, or for ever once that has fired: each of these has to wake it.
  for (int i = 0; i < 4; ++i) {
    Future<int> later = batcher.submit(3, {.timeout = 30ms});
    Future<int> sooner = batcher.submit(4, {.timeout = 5ms});
    REQUIRE(sooner.wait_for(20s));
    CHECK(code_of(sooner) == ErrorCode::expired);
    REQUIRE(later.wait_for(20s));
    CHECK(code_of(later) == ErrorCode::expired);
  }
  REQUIRE(b.wait_for(20s));
  CHECK(code_of(b) == ErrorCode::expired);
  CHECK_FALSE(a.is_ready());
  model.gate->open();
  CHECK(a.get().value() == 2);
}

TEST_CASE("batch closes: on the real clock, one request after another") {
  DynamicBatcher<int, int> batcher(doubled,
                                   {.max_batch_size = 8, .max_queue_delay = 2ms, .workers = 2});
  for (int i = 0; i < 20; ++i) {
    Future<int> future = batcher.submit(i);
    REQUIRE(future.wait_for(20s));
    CHECK(future.get().value() == 2 * i);
  }
}

TEST_CASE("deadline: a free worker expires what waits for company") {
  ManualClock clock;
  const TimePoint start = clock.now();
  DynamicBatcher<int, int> batcher(
      doubled, {.max_batch_size = 8, .max_queue_delay = 1h, .host = {.clock = &clock}});
  Future<int> future = batcher.submit(1, {.timeout = 3ms});
  clock.await_sleeper(start + 3ms);
  clock.advance(3ms);
  CHECK(code_of(future) == ErrorCode::expired);
  CHECK(batcher.submit(1, {.deadline = start}).get().error().code() == ErrorCode::expired);
  CHECK(batcher.stats().rejected[Refusal::expired] == 1);
}

TEST_CASE("cancel: a waiting request frees its place now, a running one's result is discarded") {
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1, .queue_capacity = 1});
  Future<int> running = batcher.submit(1);
  model.gate->await_arrivals(1);
  Future<int> waiting = batcher.submit(2);
  CHECK(batcher.submit(3).get().error().code() == ErrorCode::queue_full);
  CHECK(waiting.cancel());
  CHECK(code_of(waiting) == ErrorCode::cancelled);
  std::stop_source stop;
  Future<int> by_token = batcher.submit(4, {.stop_token = stop.get_token()});
  stop.request_stop();
  CHECK(code_of(by_token) == ErrorCode::cancelled);
  { Future<int> dropped = batcher.submit(5); }
  batcher.submit(6).detach();
  CHECK(running.cancel());
  CHECK_FALSE(running.cancel());
  CHECK(batcher.submit(3, {.stop_token = stop.get_token()}).get().error().code() ==
        ErrorCode::cancelled);
  model.gate->open();
  CHECK(code_of(running) == ErrorCode::cancelled);
  CHECK(batcher.drain());
  const BatcherStats stats = batcher.stats();
  CHECK(stats.cancelled == 4);
  CHECK(stats.completed == 1);  // the detached one
  CHECK(stats.submitted == 5);
  CHECK(stats.rejected.cancelled == 1);
  CHECK(stats.pending() == 0);
}

TEST_CASE("cancel: is counted before its future is ready") {
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1});
  Future<int> running = batcher.submit(1);
  model.gate->await_arrivals(1);
  std::stop_source stop;
  std::uint64_t counted = 99;
  batcher.submit(2, {.stop_token = stop.get_token()}).on_ready([&](const Result<int>& answer) {
    CHECK(answer.error().code() == ErrorCode::cancelled);
    counted = batcher.stats().cancelled;
  });
  stop.request_stop();
  CHECK(counted == 1);
  model.gate->open();
}

TEST_CASE("order: a request that has aged goes before higher priorities") {
  ManualClock clock;
  Gated model;
  std::vector<int> seen;
  DynamicBatcher<int, int> batcher(
      [&, model](std::span<const int> in) {
        seen.insert(seen.end(), in.begin(), in.end());
        return model(in);
      },
      {.max_batch_size = 1, .priority_ageing = 10ms, .host = {.clock = &clock}});
  Future<int> first = batcher.submit(0);
  model.gate->await_arrivals(1);
  Future<int> low = batcher.submit(1, {.priority = Priority::low});
  clock.advance(10ms);
  Future<int> low_later = batcher.submit(2, {.priority = Priority::low});
  Future<int> high = batcher.submit(3, {.priority = Priority::high});
  model.gate->open();
  CHECK(batcher.drain());
  CHECK(seen == std::vector{0, 1, 3, 2});
}

TEST_CASE("cancel: a model can see that nobody wants an answer any more") {
  Gate gate;
  bool seen = false;
  DynamicBatcher<int, int> batcher([&](Batch<int, int>& batch) {
    gate.pass();
    seen = batch.cancelled(0);
  });
  Future<int> future = batcher.submit(1);
  gate.await_arrivals(1);
  CHECK(future.cancel());
  gate.open();
  CHECK(batcher.drain());
  CHECK(seen);
  CHECK(batcher.stats().failed == 0);
}

TEST_CASE("callbacks: run on a worker, may submit, may throw without harm") {
  Log log;
  Gated model;
  std::atomic<int> sum{0};
  std::atomic<bool> on_worker{true};
  const ThreadId self = this_thread_id();
  DynamicBatcher<int, int> batcher(
      model, {.max_batch_size = 1, .queue_capacity = 4, .host = {.log = &log}});
  batcher.submit(1).on_ready([&](Result<int> first) {
    on_worker = this_thread_id() != self;
    sum += *first;
    batcher.submit(10).on_ready([&](Result<int> second) {
      sum += *second;
      throw std::runtime_error("oh");
    });
    throw 1;
  });
  model.gate->open();
  while (sum < 22) yield_thread();
  CHECK(batcher.drain());
  CHECK(on_worker);
  CHECK(batcher.stats().callbacks_failed == 2);
  CHECK(log.lines.size() == 2);
  CHECK(log.lines.back() == "ciuic: a completion callback threw: oh");
}

TEST_CASE("callbacks: a submit that would block is refused: the worker would wait for itself") {
  Gated model;
  ErrorCode code = ErrorCode::internal;
  DynamicBatcher<int, int> batcher(
      model, {.max_batch_size = 1, .queue_capacity = 1, .overload = Overload::block});
  Gate done;
  batcher.submit(1).on_ready([&](const Result<int>&) {
    Future<int> fits = batcher.submit(2);
    Future<int> full = batcher.submit(3);
    code = code_of(full);
    done.open();
  });
  model.gate->open();
  done.pass();
  CHECK(code == ErrorCode::queue_full);
}

TEST_CASE("callbacks: stopping or draining from one would deadlock, and says so") {
  std::vector<ErrorCode> codes;
  Gate gate;
  DynamicBatcher<int, int> batcher([&](std::span<const int> in) {
    gate.pass();
    codes.push_back(batcher.stop().error().code());
    return doubled(in);
  });
  batcher.submit(1).on_ready([&](const Result<int>&) {
    codes.push_back(batcher.stop().error().code());
    codes.push_back(batcher.drain().error().code());
  });
  gate.open();
  CHECK(batcher.drain());
  CHECK(codes == std::vector(3, ErrorCode::would_deadlock));
}

TEST_CASE(
    "callbacks: destroying the batcher from one completes later, and everything is resolved") {
  struct Canary {
    ~Canary() { gone->open(); }
    Gate* gone;
  };
  Gate model_gone;
  Gated model;
  auto canary = std::make_shared<Canary>(&model_gone);
  auto batcher = std::make_unique<DynamicBatcher<int, int>>(
      [model, canary](std::span<const int> in) { return model(in); },
      BatcherOptions{.max_batch_size = 1, .workers = 2});
  canary.reset();
  Gate destroyed;
  std::move(batcher->submit(1)).on_ready([&](const Result<int>&) {
    batcher.reset();
    destroyed.open();
  });
  model.gate->await_arrivals(1);
  Future<int> also_running = batcher->submit(2);
  model.gate->await_arrivals(2);
  Future<int> waiting = batcher->submit(3);
  model.gate->open();
  destroyed.pass();
  CHECK((waiting.get() || true));  // an answer or shutting_down, depending on the other worker
  CHECK(also_running.get().value() == 4);
  model_gone.pass();
}

TEST_CASE("stop: what waits completes as shutting down, what runs ends") {
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1});
  Future<int> running = batcher.submit(1);
  model.gate->await_arrivals(1);
  Future<int> waiting = batcher.submit(2);
  std::atomic<int> stopped{0};
  Thread stopper = *Thread::start([&] { stopped += batcher.stop().has_value(); });
  CHECK(code_of(waiting) == ErrorCode::shutting_down);  // while the other still runs
  CHECK_FALSE(running.is_ready());
  Future<int> refused = batcher.submit(3);
  CHECK(code_of(refused) == ErrorCode::shutting_down);
  Thread second = *Thread::start([&] { stopped += batcher.stop().has_value(); });
  model.gate->open();
  stopper.join();
  second.join();
  CHECK(stopped == 2);
  CHECK(running.get().value() == 2);
  CHECK(batcher.stop());
  CHECK(batcher.stats().shut_down == 1);
  CHECK(batcher.stats().rejected[Refusal::shutting_down] == 1);
}

TEST_CASE("stop: waits for the end of the model, whose destructor would wait for itself") {
  struct Goodbye {
    explicit Goodbye(std::function<void()> f) : say(std::move(f)) {}
    ~Goodbye() { say(); }
    std::function<void()> say;
  };
  const bool while_running = GENERATE(false, true);
  Gated model;
  DynamicBatcher<int, int>* self = nullptr;
  std::vector<ErrorCode> codes;
  Gate leaving;
  auto goodbye = std::make_shared<Goodbye>([&] {
    codes.push_back(self->stop().error().code());
    codes.push_back(self->drain().error().code());
    leaving.pass();
  });
  DynamicBatcher<int, int> batcher([model, goodbye](std::span<const int> in) { return model(in); },
                                   {.max_batch_size = 1});
  self = &batcher;
  goodbye.reset();
  Future<int> running, waiting;
  if (while_running) {
    running = batcher.submit(1);
    model.gate->await_arrivals(1);
    waiting = batcher.submit(2);
  }
  std::atomic<bool> stopped{false};
  Thread stopper = *Thread::start([&] { stopped = batcher.stop().has_value(); });
  if (while_running) CHECK(code_of(waiting) == ErrorCode::shutting_down);
  model.gate->open();
  leaving.await_arrivals(1);
  CHECK_FALSE(stopped);
  leaving.open();
  stopper.join();
  CHECK(stopped);
  CHECK(codes == std::vector(2, ErrorCode::would_deadlock));
}

TEST_CASE("stop: a blocked submit ends") {
  Gated model;
  DynamicBatcher<int, int> batcher(
      model, {.max_batch_size = 1, .queue_capacity = 1, .overload = Overload::block});
  Future<int> running = batcher.submit(1);
  model.gate->await_arrivals(1);
  Future<int> waiting = batcher.submit(2);
  Future<int> blocked;
  Thread submitter = *Thread::start([&] { blocked = batcher.submit(3); });
  Thread stopper = *Thread::start([&] { static_cast<void>(batcher.stop()); });
  submitter.join();
  CHECK(code_of(blocked) == ErrorCode::shutting_down);
  model.gate->open();
}

TEST_CASE("drain: runs what waits without delay, or says what is left when the time is over") {
  ManualClock clock;
  const TimePoint start = clock.now();
  Gated model;
  DynamicBatcher<int, int> batcher(
      model, {.max_batch_size = 8, .max_queue_delay = 1h, .host = {.clock = &clock}});
  Future<int> future = batcher.submit(1);
  Thread time = *Thread::start([&] {
    model.gate->await_arrivals(1);
    clock.await_sleeper(start + 5ms);
    clock.advance(5ms);
  });
  const Result<void> drained = batcher.drain(5ms);
  time.join();
  REQUIRE_FALSE(drained);
  CHECK(drained.error().code() == ErrorCode::expired);
  CHECK(drained.error().message() == "drain: 1 requests are left");
  CHECK(batcher.submit(2).get().error().code() == ErrorCode::shutting_down);
  model.gate->open();
  CHECK(batcher.drain());
  CHECK(future.is_ready());
  CHECK(future.get().value() == 2);
  CHECK(batcher.stats().closed_by(CloseReason::drain) == 1);
}

TEST_CASE("futures outlive the batcher") {
  std::vector<Future<std::unique_ptr<int>>> futures;
  {
    DynamicBatcher<int, std::unique_ptr<int>> batcher(
        [](std::span<const int> in) {
          std::vector<std::unique_ptr<int>> out;
          for (int x : in) out.push_back(std::make_unique<int>(x));
          return out;
        },
        {.max_batch_size = 2, .max_queue_delay = 1h});
    for (int i = 0; i < 3; ++i) futures.push_back(batcher.submit(i));
    CHECK(futures[1].wait_for(1h));
  }
  CHECK(*futures[0].get().value() == 0);
  CHECK(*futures[1].get().value() == 1);
  CHECK(futures[2].get().error().code() == ErrorCode::shutting_down);
}

TEST_CASE("workers: as many batches run at once as there are workers") {
  Gated model;
  DynamicBatcher<int, int> batcher(model, {.max_batch_size = 1, .workers = 3});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 3; ++i) futures.push_back(batcher.submit(i));
  model.gate->await_arrivals(3);
  model.gate->open();
  for (Future<int>& future : futures) CHECK(future.get());
}

TEST_CASE("options: a batcher that cannot start says why, at once or with each request") {
  const auto made = DynamicBatcher<int, int>::create(doubled, {.max_batch_size = 0});
  REQUIRE_FALSE(made);
  CHECK(made.error().message() == "max_batch_size: wanted at least 1, got 0");
  DynamicBatcher<int, int> broken(doubled, {.workers = 5000});
  CHECK_FALSE(broken.status());
  CHECK(broken.submit(1).get().error().message() == "workers: wanted at most 1024");
  CHECK(broken.drain());
  auto good = DynamicBatcher<int, int>::create(doubled);
  REQUIRE(good);
  DynamicBatcher<int, int> moved = *std::move(good);
  CHECK(moved.submit(2).get().value() == 4);
  CHECK(good->submit(2).get().error().message() == "batcher: it was moved from");
}

TEST_CASE("stats: a table for people") {
  DynamicBatcher<int, int> batcher(doubled, {.max_batch_size = 2, .max_queue_delay = 1h});
  Future<int> a = batcher.submit(1);
  Future<int> b = batcher.submit(2);
  CHECK(b.get());
  CHECK(batcher.drain());
  const std::string table = std::regex_replace(to_string(batcher.stats()), std::regex(" +"), " ");
  CAPTURE(table);
  CHECK(table.find(" submitted 2\n") != std::string::npos);
  CHECK(table.find(" by full 1\n") != std::string::npos);
  CHECK(table.find(" mean size 2.000 requests\n") != std::string::npos);
  CHECK(table.find(" fill 100.000 %\n") != std::string::npos);
}
