// Zero allocations per request once the batcher is made: counted by replacing operator new.
#include <array>
#include <cstdlib>
#include <new>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {
std::atomic<std::uint64_t> allocations{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted(bytes, alignof(std::max_align_t));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

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
  const std::uint64_t before = allocations;
  for (int i = 0; i < 200; ++i) round();
  const std::uint64_t after = allocations;
  CHECK(after - before == 0);
  CHECK(failures == 0);
}
