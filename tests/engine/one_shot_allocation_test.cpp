// What the one-shot engine asks of memory: nothing per request, also while replicas fail; and what
// it does when memory is refused while it is made.
#include <array>
#include <atomic>
#include <cstdlib>
#include <new>

#include "ciuic/engine/one_shot_engine.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {
std::atomic<std::int64_t> allocations{0};
std::atomic<std::int64_t> fails_at{-1};  // the allocation that is refused, and all after it
}  // namespace

[[gnu::noinline]] void* operator new(std::size_t n) {
  const std::int64_t count = allocations++;
  if (const std::int64_t at = fails_at; at >= 0 && count >= at) throw std::bad_alloc();
  if (void* block = std::malloc(n == 0 ? 1 : n)) return block;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  const std::int64_t count = allocations++;
  if (const std::int64_t at = fails_at; at >= 0 && count >= at) return nullptr;
  return std::malloc(n == 0 ? 1 : n);
}
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept { std::free(block); }

TEST_CASE("Requests allocate nothing, also when replicas fail, are drained, probed and come back") {
  const unsigned workers = GENERATE(0u, 1u);
  testing::ManualClock clock;
  std::atomic<int> runs{0};
  const auto flaky = [&](Batch<int, int>& batch) -> Result<void> {
    const int run = runs++;
    if (run % 5 == 4) return Error(run % 3 == 0 ? ErrorCode::device_lost : ErrorCode::model_failed);
    for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, batch[i] + 1);
    return {};
  };
  AsyncInferenceEngine engine(
      Replicas<int, int>{flaky, flaky, flaky},
      {.batching = {.max_batch_size = 4, .workers = workers, .host = {.clock = &clock}},
       .health = {.first_backoff = 1ms, .max_backoff = 4ms}});
  REQUIRE(engine.status());
  int wrong = 0, failed = 0;
  const auto round = [&] {
    std::array<Future<int>, 32> futures;
    for (int i = 0; i < 32; ++i) futures[static_cast<std::size_t>(i)] = engine.submit(i);
    while (workers == 0 && engine.run_one().batch_size > 0) {
    }
    for (int i = 0; i < 32; ++i) {
      const Result<int> answer = futures[static_cast<std::size_t>(i)].get();
      wrong += answer && *answer != i + 1;
      failed += !answer;
    }
    clock.advance(4ms);
  };
  for (int i = 0; i < 20; ++i) round();
  const std::int64_t before = allocations;
  for (int i = 0; i < 200; ++i) round();
  const std::int64_t after = allocations;
  // An outage has words for whom it hits; nothing else allocates.
  CHECK(after - before <= 2 * failed);
  CHECK(wrong == 0);
  CHECK(failed < 200 * 32 / 20);
  std::uint64_t drained = 0;
  for (const ReplicaStats& replica : engine.stats().replicas) drained += replica.drained;
  CHECK(drained > 50);
}

TEST_CASE("An engine whose memory or threads were refused says so, and answers everybody") {
  const unsigned workers = GENERATE(0u, 1u);
  const auto f = [](Batch<int, int>& batch) {
    for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, batch[i] + 1);
  };
  int refused = 0;
  for (int k = 0;; ++k) {
    Replicas<int, int> replicas{f, f};
    const OneShotOptions options{.batching = {.queue_capacity = 16, .workers = workers}};
    fails_at = allocations + k;
    AsyncInferenceEngine engine(std::move(replicas), options);
    const bool started = engine.status().has_value();
    const bool out_of_memory =
        started || engine.status().error().code() == ErrorCode::out_of_memory;
    Future<int> future;
    if (!started) future = engine.submit(1);
    fails_at = -1;
    CAPTURE(k, workers);
    REQUIRE(out_of_memory);
    if (started) {
      future = engine.submit(1);
      while (workers == 0 && engine.run_one().batch_size > 0) {
      }
      REQUIRE(future.get().value() == 2);
      break;
    }
    ++refused;
    REQUIRE(future.get().error().code() == ErrorCode::out_of_memory);
  }
  CHECK(refused > 5);
}
