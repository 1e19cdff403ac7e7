// Bugs that other batchers, thread pools and this library's own first texts had. Each test bears
// the name of one, and where it was reported; none may come back here. Where our design has no
// place for the bug, the nearest promise that can be seen is tested.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ciuic/batching/batches.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

using Batcher = DynamicBatcher<int, int>;
/// No test waits that long; a bug would.
constexpr Duration kHang = 20s;

int value_of(Future<int>& future) {
  REQUIRE(future.wait_for(kHang));
  return future.get().value();
}

}  // namespace

// --- the texts that this library grew from
// --------------------------------------------------------

TEST_CASE("regression: the tail of the buffer is never run (seed text)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.max_batch_size = 8, .max_queue_delay = 1ms, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 8 + 3; ++i) futures.push_back(batcher.submit(i));
  if (workers == 0) {
    while (batcher.stats().pending() > 0) batcher.run_one();
  }
  for (int i = 0; i < 8 + 3; ++i) CHECK(value_of(futures[static_cast<std::size_t>(i)]) == 2 * i);
  const std::vector<int> inputs(11, 1);
  std::size_t seen = 0;
  for (auto& batch : batches(inputs, {.max_batch_size = 8, .min_batch_size = 8}))
    seen += batch.size();
  CHECK(seen == 11);
}

TEST_CASE("regression: results come in the order of completion (seed text)") {
  Gate first;
  Batcher batcher(
      [&](std::span<const int> in) {
        if (in.front() == 0) first.pass();
        return doubled(in);
      },
      {.max_batch_size = 2, .workers = 2});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 12; ++i) futures.push_back(batcher.submit(i));
  CHECK(value_of(futures.back()) == 22);  // long before the first batch
  first.open();
  for (int i = 0; i < 11; ++i) CHECK(value_of(futures[static_cast<std::size_t>(i)]) == 2 * i);
}

// --- getting in
// -----------------------------------------------------------------------------------

TEST_CASE("regression: request arrives before the worker started (triton core#122, core#132)") {
  for (int i = 0; i < 200; ++i) {
    Batcher batcher(doubled, {.workers = 2});
    Future<int> future = batcher.submit(i);
    REQUIRE(value_of(future) == 2 * i);
  }
}

TEST_CASE("regression: the callback is attached after the execution (triton core#170)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.workers = workers});
  Future<int> future = batcher.submit(4);
  run_all(batcher, workers);
  REQUIRE(future.is_ready());
  int told = 0;
  std::move(future).on_ready([&](const Result<int>& answer) { told = *answer; });
  CHECK(told == 8);
}

TEST_CASE("regression: the queue has no bound (vllm#2901, triton server#7649, server#980)") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 4, .min_batch_size = 1, .queue_capacity = 16, .workers = workers});
  hold.occupy(batcher, 0);
  std::uint64_t refused = 0;
  for (int i = 0; i < 10000; ++i) {
    Future<int> future = batcher.submit(i);
    if (future.is_ready()) ++refused;
    future.detach();
    REQUIRE(batcher.stats().pending() <= 16 + workers);
  }
  CHECK(refused == 10000 - 16);
  CHECK(batcher.stats().rejected[Refusal::queue_full] == refused);
  hold.let_go(batcher);
}

TEST_CASE("regression: a flag that says full stays up (sglang#22518)") {
  const unsigned workers = GENERATE(0u, 1u);
  ManualClock clock;
  Hold hold(workers);
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 1, .queue_capacity = 2, .workers = workers, .host = {.clock = &clock}});
  const auto is_full = [&] {
    Future<int> probe = batcher.submit(9);
    return probe.is_ready() && code_of(probe) == ErrorCode::queue_full;
  };
  hold.occupy(batcher, 0);
  Future<int> a = batcher.submit(1);
  Future<int> b = batcher.submit(2, {.timeout = 5ms});
  CHECK(is_full());
  a.cancel();
  CHECK_FALSE(is_full());  // and the probe, dropped, gives the place back
  a = batcher.submit(3);
  CHECK(is_full());
  if (workers > 0) clock.await_sleeper(clock.now() + 5ms);
  clock.advance(5ms);
  if (workers == 0) {
    CHECK(batcher.run_one().batch_size == 1);  // expires b, then runs a
  } else {
    CHECK(code_of(b) == ErrorCode::expired);
  }
  CHECK_FALSE(is_full());
  hold.let_go(batcher);
  CHECK(a.get().value() == 6);
  CHECK_FALSE(is_full());
}

TEST_CASE(
    "regression: the bounded queue is full when its own worker must push (tt-inference#2232)") {
  const unsigned workers = GENERATE(0u, 1u);
  const Overload overload = GENERATE(Overload::reject, Overload::block, Overload::shed);
  Hold hold(workers);
  Batcher* self = nullptr;
  std::vector<Future<int>> pushed;
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        for (int i = 0; i < 5 && in[0] == 1; ++i) pushed.push_back(self->submit(10 + i));
        return doubled(in);
      },
      {.max_batch_size = 1, .queue_capacity = 2, .overload = overload, .workers = workers});
  self = &batcher;
  hold.occupy(batcher, 0);
  batcher.submit(1).detach();
  batcher.submit(2).detach();
  hold.let_go(batcher);
  CHECK(batcher.drain(kHang));
  CHECK(pushed.size() == 5);
  int served = 0;
  for (Future<int>& future : pushed) served += future.get().has_value();
  CHECK(served == (overload == Overload::shed ? 2 : 1));
}

TEST_CASE("regression: a negative number from a client (CVE-2026-21869)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.max_batch_size = 4,
                            .max_batch_cost = 100,
                            .max_tenants = 2,
                            .max_groups = 2,
                            .workers = workers});
  const auto refused = [&](const SubmitOptions& options) {
    Future<int> future = batcher.submit(1, options);
    REQUIRE(future.is_ready());
    return code_of(future);
  };
  CHECK(refused({.timeout = -1ns}) == ErrorCode::invalid_argument);
  CHECK(refused({.timeout = Duration::min()}) == ErrorCode::invalid_argument);
  CHECK(refused({.deadline = TimePoint::min()}) == ErrorCode::expired);
  CHECK(refused({.deadline = TimePoint(-1ns)}) == ErrorCode::expired);
  CHECK(refused({.cost = static_cast<std::uint64_t>(-1)}) == ErrorCode::oversize);
  CHECK(refused({.priority = static_cast<Priority>(255)}) == ErrorCode::invalid_argument);
  CHECK(refused({.priority = static_cast<Priority>(kPriorityLevels)}) ==
        ErrorCode::invalid_argument);
  CHECK(refused({.group = static_cast<std::uint16_t>(-1)}) == ErrorCode::invalid_argument);
  Future<int> fine = batcher.submit(5, {.tenant = static_cast<TenantId>(-1)});
  run_all(batcher, workers);
  CHECK(value_of(fine) == 10);
  CHECK(batcher.stats().rejected.total() == 8);

  const auto invalid = [](const BatcherOptions& options) {
    const auto made = Batcher::create(doubled, options);
    return !made && made.error().code() == ErrorCode::invalid_argument;
  };
  CHECK(invalid({.max_batch_cost = static_cast<std::uint64_t>(-1)}));
  CHECK(invalid({.max_queue_delay = -1ns}));
  CHECK(invalid({.queue_capacity = static_cast<std::size_t>(-1)}));
  CHECK(invalid({.max_outstanding = static_cast<std::size_t>(-1)}));
  CHECK(invalid({.priority_ageing = -1ns}));
  CHECK(invalid({.max_tenants = static_cast<std::size_t>(-1)}));
  CHECK(invalid({.max_groups = static_cast<std::size_t>(-1)}));
  CHECK(invalid({.final_spin = -1ns}));
  Batcher large(doubled, {.max_batch_size = static_cast<std::size_t>(-1), .queue_capacity = 4});
  Future<int> alone = large.submit(3);
  CHECK(value_of(alone) == 6);
}

TEST_CASE("regression: a huge number of threads aborts the process (tensorflow#69701)") {
  const auto made = Batcher::create(doubled, {.workers = static_cast<unsigned>(-1)});
  REQUIRE_FALSE(made);
  CHECK(made.error().message() == "workers: wanted at most 1024");
}

TEST_CASE("regression: the same request twice kills the engine (vllm#15041)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.max_batch_size = 8, .max_queue_delay = 1ms, .workers = workers});
  const SubmitOptions same{.tenant = 1};
  std::vector<Future<int>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(batcher.submit(7, same));
  CHECK(batcher.drain(kHang));
  for (Future<int>& future : futures) CHECK(value_of(future) == 14);
}

// --- forming batches
// ------------------------------------------------------------------------------

TEST_CASE("regression: what waits for a busy model stays a batch of one (triton server#3624)") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  std::vector<std::size_t> sizes;
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        sizes.push_back(in.size());
        return doubled(in);
      },
      {.max_batch_size = 64, .min_batch_size = 1, .workers = workers});
  hold.occupy(batcher, 0);
  for (int i = 0; i < 40; ++i) batcher.submit(i).detach();
  hold.let_go(batcher);
  CHECK(batcher.drain());
  CHECK(sizes.back() == 40);  // nor four times ten: triton server#7271, server#8094
  CHECK(sizes.size() == 1 + workers);
}

TEST_CASE("regression: a batch above the maximum (BentoML#3710, BentoML#3859, TGI#2241)") {
  const unsigned workers = GENERATE(0u, 1u, 2u);
  std::atomic<int> above{0};
  Batcher batcher(
      [&](Batch<int, int>& batch) {
        std::uint64_t cost = 0;
        for (std::size_t i = 0; i < batch.size(); ++i) {
          cost += batch.terms(i).cost;
          batch.resolve(i, 0);
        }
        above += batch.size() > 5 || cost > 20;
      },
      {.max_batch_size = 5, .max_batch_cost = 20, .queue_capacity = 2000, .workers = workers});
  std::vector<Future<int>> futures;
  for (int i = 0; i < 2000; ++i) {
    futures.push_back(batcher.submit(i, {.cost = static_cast<std::uint64_t>(i * i % 20 + 1)}));
  }
  CHECK(batcher.drain(kHang));
  for (Future<int>& future : futures) CHECK(future.get());
  CHECK(above == 0);
}

TEST_CASE("regression: a request above the budget is put back for ever (TEI#723, llama.cpp#7834)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.max_batch_cost = 10, .workers = workers});
  Future<int> above = batcher.submit(1, {.cost = 11});
  REQUIRE(above.is_ready());
  CHECK(code_of(above) == ErrorCode::oversize);
  Future<int> exactly = batcher.submit(2, {.cost = 10});
  run_all(batcher, workers);
  CHECK(value_of(exactly) == 4);
}

TEST_CASE("regression: the first in line can never fit and holds up all (inference-sim#1061)") {
  // Out of memory has lowered the cap below what the next request alone costs.
  const unsigned workers = GENERATE(0u, 1u);
  std::atomic<bool> tight{true};
  Batcher batcher(
      [&](Batch<int, int>& batch) -> Result<void> {
        if (tight && batch.size() > 1) return Error(ErrorCode::out_of_memory);
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 2 * batch[i]);
        return {};
      },
      {.max_batch_size = 4, .max_queue_delay = 1h, .workers = workers});
  std::vector<Future<int>> lesson;
  for (int i = 0; i < 4; ++i) lesson.push_back(batcher.submit(i));
  run_all(batcher, workers);
  for (int i = 0; i < 4; ++i) CHECK(value_of(lesson[static_cast<std::size_t>(i)]) == 2 * i);
  tight = false;
  Future<int> heavy = batcher.submit(5, {.cost = 1000});
  Future<int> behind = batcher.submit(6);
  run_all(batcher, workers);
  CHECK(value_of(heavy) == 10);
  CHECK(value_of(behind) == 12);
}

TEST_CASE("regression: equal priorities are not served in order (the heap of TF's scheduler)") {
  std::vector<int> seen;
  Batcher batcher(
      [&](std::span<const int> in) {
        seen.insert(seen.end(), in.begin(), in.end());
        return doubled(in);
      },
      {.max_batch_size = 3, .workers = 0});
  for (int i = 0; i < 100; ++i) batcher.submit(i, {.priority = Priority::high}).detach();
  CHECK(batcher.drain());
  REQUIRE(seen.size() == 100);
  for (int i = 0; i < 100; ++i) CHECK(seen[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("regression: one client's flood starves the others (llama.cpp#6607, vllm#10774)") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  std::vector<int> seen;
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        seen.push_back(in[0]);
        return doubled(in);
      },
      {.max_batch_size = 1, .max_tenants = 2, .workers = workers});
  hold.occupy(batcher, -1);
  for (int i = 0; i < 500; ++i) batcher.submit(0, {.tenant = 1}).detach();
  batcher.submit(1, {.tenant = 2}).detach();
  hold.let_go(batcher);
  CHECK(batcher.drain());
  const auto at = std::find(seen.begin(), seen.end(), 1) - seen.begin();
  CHECK(at <= 1 + static_cast<int>(workers));
}

TEST_CASE("regression: tenants are never forgotten (the queues of TF's batch_resource_base.h)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(doubled, {.max_batch_size = 4, .max_tenants = 4, .workers = workers});
  int refused = 0;
  for (TenantId tenant = 0; tenant < 3000; tenant += 2) {
    Future<int> a = batcher.submit(1, {.tenant = tenant});
    Future<int> b = batcher.submit(2, {.tenant = tenant * 0x9E3779B97F4A7C15u});
    run_all(batcher, workers);
    refused += !a.get() + !b.get();
  }
  CHECK(refused == 0);
}

// --- late arrivals, lost wake-ups
// -----------------------------------------------------------------

TEST_CASE(
    "regression: the queue is cleared after a batch, and late arrivals with it (cortex#1915)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher* self = nullptr;
  Future<int> late;
  Batcher batcher(
      [&](std::span<const int> in) {
        if (in[0] == 1) late = self->submit(2);  // comes while the batch runs
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = workers});
  self = &batcher;
  Future<int> first = batcher.submit(1);
  run_all(batcher, workers);
  CHECK(value_of(first) == 2);
  CHECK(value_of(late) == 4);
}

TEST_CASE("regression: nobody is told of what came while a batch ran (elasticsearch#158313)") {
  // Host-driven the word is next_due: who trusts it must not sleep over a request that waits.
  ManualClock clock;
  Batcher* self = nullptr;
  Future<int> from_model, from_callback;
  Batcher batcher(
      [&](std::span<const int> in) {
        if (in[0] == 1) from_model = self->submit(2);
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 0, .host = {.clock = &clock}});
  self = &batcher;
  batcher.submit(1).detach();
  RunReport report = batcher.run_one();
  CHECK(report.batch_size == 1);
  CHECK(report.next_due <= clock.now());
  CHECK(batcher.run_one().batch_size == 1);
  batcher.submit(3).on_ready([&](const Result<int>&) { from_callback = batcher.submit(4); });
  report = batcher.run_one();
  CHECK(report.next_due <= clock.now());
  CHECK(batcher.run_one().next_due == kNever);
  CHECK(from_model.get().value() == 4);
  CHECK(from_callback.get().value() == 8);
}

TEST_CASE("regression: ... threaded: a push between looking and falling asleep") {
  Batcher batcher(doubled, {.max_batch_size = 1, .workers = 2});
  std::vector<Thread> threads;
  std::atomic<int> lost{0};
  for (int t = 0; t < 4; ++t) {
    threads.push_back(*Thread::start([&] {
      for (int i = 0; i < 3000; ++i) {
        Future<int> future = batcher.submit(i);
        if (!future.wait_for(kHang)) ++lost;
      }
    }));
  }
  threads.clear();
  CHECK(lost == 0);
}

// --- deadlines and cancels
// ------------------------------------------------------------------------

TEST_CASE("regression: a timeout of 10 s fires after 90, when the model is done (server#7512)") {
  Gate gate;
  Batcher batcher(
      [&](std::span<const int> in) {
        gate.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .workers = 1});
  Future<int> running = batcher.submit(1);
  gate.await_arrivals(1);
  // The model is not let go before the other has heard.
  Future<int> waiting = batcher.submit(2, {.timeout = 5ms});
  REQUIRE(waiting.wait_for(kHang));
  CHECK(code_of(waiting) == ErrorCode::expired);
  CHECK_FALSE(running.is_ready());
  gate.open();
  CHECK(value_of(running) == 2);
}

TEST_CASE("regression: a cancelled member leaves the batch stuck for ever (ray#50046)") {
  const unsigned workers = GENERATE(0u, 1u);
  ManualClock clock;
  Batcher batcher(doubled, {.max_batch_size = 3,
                            .max_queue_delay = 10ms,
                            .workers = workers,
                            .host = {.clock = &clock}});
  const TimePoint start = clock.now();
  Future<int> oldest = batcher.submit(1);
  clock.advance(4ms);
  Future<int> second = batcher.submit(2);
  CHECK(oldest.cancel());  // with the one that the close time was reckoned from
  Future<int> third = batcher.submit(3);
  if (workers == 0) {
    CHECK(batcher.run_one().next_due == start + 14ms);
  } else {
    clock.await_sleeper(start + 14ms);
  }
  clock.advance(10ms);
  run_all(batcher, workers);
  CHECK(value_of(second) == 4);
  CHECK(value_of(third) == 6);
  CHECK(code_of(oldest) == ErrorCode::cancelled);
}

TEST_CASE("regression: clients that give up leak their places (lmdeploy#1788)") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  Batcher batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 4, .min_batch_size = 1, .queue_capacity = 8, .workers = workers});
  hold.occupy(batcher, 0);
  for (int i = 0; i < 1000; ++i) {
    std::array<Future<int>, 8> futures;
    std::stop_source stop;
    for (std::size_t k = 0; k < 8; ++k) {
      futures[k] = batcher.submit(i, {.timeout = 1h, .stop_token = stop.get_token()});
      REQUIRE_FALSE(futures[k].is_ready());
    }
    futures[0].cancel();
    futures[1] = {};
    stop.request_stop();
  }
  Future<int> after = batcher.submit(21);
  hold.let_go(batcher);
  CHECK(value_of(after) == 42);
  CHECK(batcher.stats().cancelled == 8000);
}

TEST_CASE("regression: a request that is parked for memory blocks admission (vllm#53321)") {
  struct HundredBytes final : BatchPolicy {
    BatchDecision decide(const QueueView&) noexcept override { return {.dispatch = true}; }
    BatchForecast forecast(const BatchShape& shape) noexcept override {
      return {.memory = 100 * shape.cost, .known = true};
    }
  };
  Gate gate;
  Batcher batcher(
      [&](std::span<const int> in) {
        if (in[0] == 1) gate.pass();
        return doubled(in);
      },
      {.max_batch_size = 1, .max_groups = 2, .memory_budget = 1000, .workers = 2}, HundredBytes());
  Future<int> running = batcher.submit(1, {.cost = 6});
  gate.await_arrivals(1);
  Future<int> parked = batcher.submit(2, {.cost = 9});
  Future<int> other = batcher.submit(3, {.cost = 2, .group = 1});
  CHECK(value_of(other) == 6);
  CHECK_FALSE(parked.is_ready());
  gate.open();
  CHECK(value_of(parked) == 4);
  CHECK(value_of(running) == 2);
}

// --- models that fail
// -----------------------------------------------------------------------------

TEST_CASE("regression: one bad request kills everybody (vllm#17248, #17313, #19270)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher(
      [](std::span<const int> in) {
        for (int x : in) {
          if (x < 0) throw std::invalid_argument("negative");
        }
        return doubled(in);
      },
      {.max_batch_size = 16,
       .max_queue_delay = 1h,
       .on_failure = OnFailure::bisect,
       .workers = workers});
  for (int round = 0; round < 3; ++round) {
    std::vector<Future<int>> futures;
    for (int i = 0; i < 16; ++i) futures.push_back(batcher.submit(i == 11 ? -1 : i));
    run_all(batcher, workers);
    for (int i = 0; i < 16; ++i) {
      Future<int>& future = futures[static_cast<std::size_t>(i)];
      if (i == 11) {
        CHECK(future.get().error().message() == "model threw: negative");
      } else {
        CHECK(value_of(future) == 2 * i);
      }
    }
  }
}

TEST_CASE("regression: a NaN of one request reaches the others (flashinfer#2402)") {
  DynamicBatcher<float, float> batcher(
      [](std::span<const float> in) { return std::vector<float>(in.begin(), in.end()); },
      {.max_batch_size = 3, .max_queue_delay = 1h, .workers = 0});
  Future<float> a = batcher.submit(1.5f);
  Future<float> nan = batcher.submit(std::numeric_limits<float>::quiet_NaN());
  Future<float> b = batcher.submit(-2.5f);
  batcher.run_one();
  CHECK(a.get().value() == 1.5f);
  CHECK(std::isnan(nan.get().value()));
  CHECK(b.get().value() == -2.5f);
}

TEST_CASE("regression: the model's error is swallowed on the way (CTranslate2#155)") {
  const int driver = GENERATE(0, 1, 2);
  ThreadPool pool({.threads = 1});
  BatcherOptions options{.workers = driver == 0 ? 0u : 1u};
  if (driver == 2) options.host.executor = &pool;
  Batcher batcher(
      [](std::span<const int>) -> std::vector<int> { throw std::length_error("too long"); },
      options);
  Future<int> future = batcher.submit(1);
  if (driver == 0) batcher.run_one();
  REQUIRE(future.wait_for(kHang));
  CHECK(future.get().error().message() == "model threw: too long");
}

TEST_CASE("regression: an exception escapes the worker and ends the process (thread-pool#14)") {
  const unsigned workers = GENERATE(0u, 1u);
  Batcher batcher([](std::span<const int> in) -> std::vector<int> { throw in[0]; },
                  {.max_batch_size = 1, .workers = workers});
  std::atomic<int> called{0};
  for (int i = 0; i < 10; ++i) {
    batcher.submit(i).on_ready([&](const Result<int>&) {
      ++called;
      throw 1;
    });
  }
  CHECK(batcher.drain(kHang));
  CHECK(called == 10);
  CHECK(batcher.stats().callbacks_failed == 10);
}

TEST_CASE("regression: two workers load the model at once (mozilla/translations#1470)") {
  // A single worker means a model that is entered by one thread at a time.
  std::atomic<int> inside{0}, most{0};
  Batcher batcher(
      [&](std::span<const int> in) {
        const int now = ++inside;
        if (now > most) most = now;
        yield_thread();
        --inside;
        return doubled(in);
      },
      {.max_batch_size = 4, .min_batch_size = 1, .workers = 1});
  std::vector<Thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.push_back(*Thread::start([&] {
      for (int i = 0; i < 200; ++i) static_cast<void>(batcher.submit(i).get());
    }));
  }
  threads.clear();
  CHECK(most == 1);
}

// --- the end
// --------------------------------------------------------------------------------------

TEST_CASE("regression: destroying an idle pool hangs (thread-pool#93, CTranslate2#2027)") {
  for (int i = 0; i < 300; ++i) {
    Batcher batcher(doubled, {.max_queue_delay = 1h, .workers = static_cast<unsigned>(i % 4)});
    if (i % 3 == 1) batcher.submit(i).detach();
    if (i % 3 == 2) batcher.submit(i, {.timeout = 1h}).detach();
  }
}

TEST_CASE("regression: a queued task is dropped at shutdown (ClickHouse#107383)") {
  struct Dropping final : Executor {  // says yes and forgets
    bool post(Function<void()>&&) noexcept override { return true; }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return true; }
  } executor;
  std::vector<Future<int>> futures;
  {
    Batcher batcher(doubled, {.host = {.executor = &executor}});
    for (int i = 0; i < 5; ++i) futures.push_back(batcher.submit(i));
  }
  for (Future<int>& future : futures) {
    REQUIRE(future.wait_for(kHang));
    CHECK(code_of(future) == ErrorCode::shutting_down);
  }
}

TEST_CASE("regression: replies are lost at shutdown (HabanaAI/vllm-fork#1426)") {
  const unsigned workers = GENERATE(0u, 2u);
  std::vector<Future<int>> futures;
  {
    Batcher batcher(doubled, {.max_batch_size = 4, .max_queue_delay = 1h, .workers = workers});
    for (int i = 0; i < 101; ++i) futures.push_back(batcher.submit(i));
    CHECK(batcher.drain(kHang));
  }
  for (int i = 0; i < 101; ++i) CHECK(value_of(futures[static_cast<std::size_t>(i)]) == 2 * i);
}

TEST_CASE("regression: the model is unloaded while it runs (CTranslate2#613)") {
  Gate gate;
  auto weights = std::make_shared<int>(2);
  std::weak_ptr<int> alive = weights;
  std::atomic<bool> alive_in_run{false}, destroyed{false};
  auto batcher = std::make_unique<Batcher>(
      [&gate, &alive, &alive_in_run, weights = std::move(weights)](std::span<const int> in) {
        gate.pass();
        alive_in_run = !alive.expired();
        std::vector<int> out(in.begin(), in.end());
        for (int& x : out) x *= *weights;
        return out;
      });
  Future<int> running = batcher->submit(4);
  gate.await_arrivals(1);
  Thread destroyer = *Thread::start([&] {
    batcher.reset();
    destroyed = true;
  });
  Future<int> refused;
  CHECK_FALSE(alive.expired());
  CHECK_FALSE(destroyed);
  gate.open();
  destroyer.join();
  CHECK(alive_in_run);
  CHECK(alive.expired());
  CHECK(value_of(running) == 8);
}

TEST_CASE(
    "regression: a thread-local or static batcher is joined on the way out (CTranslate2#2076)") {
  int answer = 0;
  Thread thread = *Thread::start([&] {
    thread_local Batcher batcher(doubled, {.workers = 2});
    answer = batcher.submit(3).get().value_or(-1);
  });
  thread.join();
  CHECK(answer == 6);
  static Batcher until_exit(doubled, {.max_queue_delay = 1h, .workers = 2});
  until_exit.submit(1).detach();
}

TEST_CASE("regression: the library installs signal handlers (vLLM RFC#24885)") {
  const auto handlers = [] {
    std::vector<void (*)(int)> all;
    for (int signal = 1; signal < 32; ++signal) {
      struct sigaction action {};
      sigaction(signal, nullptr, &action);
      all.push_back(action.sa_handler);
    }
    return all;
  };
  const auto before = handlers();
  Batcher batcher(doubled, {.workers = 2});
  Future<int> future = batcher.submit(1);
  CHECK(value_of(future) == 2);
  CHECK(handlers() == before);
}

TEST_CASE("regression: the child of a fork hangs (OpenBLAS#240, pytorch#17199)") {
  Batcher batcher(doubled, {.workers = 2});
  Future<int> before = batcher.submit(1);
  CHECK(value_of(before) == 2);
  const pid_t child = fork();
  if (child == 0) {  // has no workers of ours; there is no process-wide state to stumble over
    Batcher own(doubled, {.workers = 0});
    Future<int> future = own.submit(21);
    own.run_one();
    _exit(future.get().value_or(0) == 42 ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  Future<int> after = batcher.submit(4);
  CHECK(value_of(after) == 8);
}

TEST_CASE("regression: time is measured by a clock that can be set (Clipper)") {
  static_assert(TimePoint::clock::is_steady);
  const TimePoint before = steady_clock().now();
  CHECK(steady_clock().now() >= before);
  // And one that goes backwards all the same moves nothing back.
  ManualClock clock;
  Batcher batcher(doubled, {.max_queue_delay = 10ms, .workers = 0, .host = {.clock = &clock}});
  Future<int> future = batcher.submit(1, {.timeout = 1h});
  CHECK(batcher.run_one(clock.now() + 9ms).batch_size == 0);
  CHECK(batcher.run_one(clock.now()).next_due == clock.now() + 10ms);
  CHECK(batcher.run_one(clock.now() + 10ms).batch_size == 1);
  CHECK(future.get().value() == 2);
}

TEST_CASE("regression: a clock before its epoch is a clock like any other") {
  ManualClock clock;
  clock.advance(-2h);
  DynamicBatcher<int, int> batcher(
      [](std::span<const int> in) { return std::vector<int>(in.begin(), in.end()); },
      {.max_batch_size = 4, .max_queue_delay = 2ms, .workers = 0, .host = {.clock = &clock}});
  Future<int> answered = batcher.submit(1);
  clock.advance(3ms);
  CHECK(batcher.run_one().batch_size == 1);
  CHECK(answered.is_ready());
  Future<int> late = batcher.submit(2, {.timeout = 1ms});
  clock.advance(1ms);
  batcher.run_one();
  CHECK(late.is_ready());
}

TEST_CASE("regression: what a policy or model says out of range harms nobody") {
  struct Wild final : BatchPolicy {
    BatchDecision decide(const QueueView&) noexcept override {
      return {.dispatch = true, .reason = static_cast<CloseReason>(200)};
    }
  };
  DynamicBatcher<int, int> batcher(
      [](Batch<int, int>& batch) {
        CHECK_FALSE(batch.resolve(batch.size(), 7));
        CHECK_FALSE(batch.resolve_at_end(1000000, 7));
        batch.resolve(0, 8);
      },
      {.workers = 0}, Wild());
  Future<int> future = batcher.submit(1);
  batcher.run_one();
  CHECK(future.get().value() == 8);
  CHECK(batcher.stats().closed_by(CloseReason::policy) == 1);
}

TEST_CASE("regression: a model that throws when it is moved is an error, not the end of the host") {
  struct Heavy {
    Heavy() = default;
    Heavy(Heavy&& other) noexcept(false) : moves(other.moves + 1) {
      if (moves == 2) throw std::runtime_error("too heavy");
    }
    std::vector<int> operator()(std::span<const int> in) { return {in.begin(), in.end()}; }
    int moves = 0;
  };
  DynamicBatcher<int, int> batcher{Heavy()};
  CHECK_FALSE(batcher.status());
  CHECK_FALSE(batcher.submit(1).get());
}
