// Zero allocations per request once the batcher is made: counted by replacing operator new.
#include <array>
#include <cstdlib>
#include <new>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"

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
