// Zero allocations per request once the batcher is made: counted by replacing operator new.
#include <array>
#include <cstdlib>
#include <new>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

TEST_CASE(
    "Requests, answers, cancels, deadlines, callbacks and refusals-by-wait allocate nothing") {
  DynamicBatcher<int, int> batcher(
      [](Batch<int, int>& batch) {
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, batch[i] + 1);
      },
      {.max_batch_size = 8, .min_batch_size = 2, .max_queue_delay = 50us, .queue_capacity = 64});
  std::stop_source stop;
  int failures = 0;
  std::atomic<int> called{0};
  const auto round = [&] {
    std::array<Future<int>, 32> futures;
    for (int i = 0; i < 32; ++i) {
      futures[static_cast<std::size_t>(i)] =
          batcher.submit(i, {.timeout = i % 3 == 0 ? Duration(10s) : Duration::max(),
                             .stop_token = i % 5 == 0 ? stop.get_token() : std::stop_token()});
    }
    futures[7].cancel();
    futures[8] = {};
    const int before = called;
    std::move(futures[9]).on_ready([&](Result<int> answer) {
      failures += *answer != 10;
      ++called;
    });
    for (int i = 10; i < 32; ++i) {
      failures += futures[static_cast<std::size_t>(i)].get().value_or(-1) != i + 1;
    }
    while (called == before) yield_thread();
  };
  round();  // the threads are up
  const std::uint64_t before = testing::allocation_count;
  for (int i = 0; i < 200; ++i) round();
  const std::uint64_t after = testing::allocation_count;
  CHECK(after - before == 0);
  CHECK(failures == 0);
}

namespace {

/// DelayPolicy's rule, with a forecast of memory, so that reserving is part of what is counted.
struct Reserving final : BatchPolicy {
  void bind(const BatchLimits& limits) noexcept override { rule.bind(limits); }
  BatchDecision decide(const QueueView& view) noexcept override { return rule.decide(view); }
  BatchForecast forecast(const BatchShape& shape) noexcept override {
    return {.memory = 10 * shape.cost, .known = true};
  }
  DelayPolicy rule;
};

}  // namespace

TEST_CASE("Bisection, splitting, shedding, expiry, tenants, groups and a policy allocate nothing") {
  const unsigned workers = GENERATE(0u, 1u);
  testing::ManualClock clock;
  DynamicBatcher<int, int> batcher(
      [](Batch<int, int>& batch) -> Result<void> {
        for (std::size_t i = 0; i < batch.size(); ++i) {
          if (batch[i] % 16 == 3) return Error(ErrorCode::model_failed);
        }
        if (batch.size() > 1 && batch[0] % 3 == 0) return Error(ErrorCode::out_of_memory);
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, batch[i] + 1);
        return {};
      },
      {.max_batch_size = 12,
       .max_queue_delay = 10ms,
       .queue_capacity = 16,
       .overload = Overload::shed,
       .on_failure = OnFailure::bisect,
       .max_tenants = 3,
       .max_groups = 2,
       .memory_budget = 10000,
       .workers = workers,
       .host = {.clock = &clock}},
      Reserving());
  std::uint64_t wrong = 0;
  std::atomic<int> called{0};
  const auto round = [&](int first) {
    std::array<Future<int>, 32> futures;
    for (std::size_t i = 0; i < 32; ++i) {
      futures[i] = batcher.submit(first + static_cast<int>(i),
                                  {.timeout = i % 5 == 0 ? Duration(5ms) : Duration::max(),
                                   .cost = 1 + i % 3,
                                   .priority = i < 16 ? Priority::low : Priority::high,
                                   .tenant = i % 3,
                                   .group = static_cast<std::uint16_t>(i % 2)});
    }
    futures[30].cancel();
    std::move(futures[31]).on_ready([&](const Result<int>&) { ++called; });
    clock.advance(10ms);
    if (workers == 0) {
      while (batcher.run_one().batch_size > 0) {
      }
    }
    for (std::size_t i = 0; i < 31; ++i) {
      const Result<int> answer = futures[i].get();
      if (answer && *answer != first + static_cast<int>(i) + 1) ++wrong;
    }
    while (batcher.stats().pending() > 0) yield_thread();
  };
  for (int i = 0; i < 20; ++i) round(32 * i);
  const std::uint64_t before = testing::allocation_count;
  for (int i = 20; i < 220; ++i) round(32 * i);
  const std::uint64_t after = testing::allocation_count;
  CHECK(batcher.drain());
  const BatcherStats stats = batcher.stats();
  CHECK(after - before == 0);
  CHECK(wrong == 0);
  CHECK(called == 220);
  // All of it has happened.
  CHECK(stats.completed > 0);
  CHECK(stats.failed > 0);
  CHECK(stats.expired > 0);
  CHECK(stats.shed > 0);
  CHECK(stats.cancelled > 0);
  CHECK(stats.extra_runs > 0);
  CHECK(stats.out_of_memory > 0);
  CHECK(stats.rejected.total() == 0);  // a refusal has words, and so allocates
}

TEST_CASE("regression: giving up what waits needs memory that there may not be (llvm#221258)") {
  const unsigned workers = GENERATE(0u, 2u);
  DynamicBatcher<int, int> batcher(
      [](Batch<int, int>&) {}, {.max_queue_delay = 1h, .queue_capacity = 64, .workers = workers});
  std::array<Future<int>, 20> futures;
  for (Future<int>& future : futures) future = batcher.submit(1);
  int told = 0;
  batcher.submit(2).on_ready([&](const Result<int>&) { ++told; });
  const std::uint64_t before = testing::allocation_count;
  const bool stopped = batcher.stop().has_value();
  int shut_down = 0;
  for (Future<int>& future : futures) {
    shut_down += future.get().error().code() == ErrorCode::shutting_down;
  }
  const std::uint64_t after = testing::allocation_count;
  CHECK(after - before == 0);
  CHECK(stopped);
  CHECK(shut_down == 20);
  CHECK(told == 1);
}
