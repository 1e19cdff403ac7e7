// What an adapter allocates in steady state: the answers that callers keep, and nothing else.
#include <array>
#include <vector>

#include "ciuic/batching/adapted_batcher.hpp"
#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/padded_adapter.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"

using namespace ciuic;

TEST_CASE("Packing and unpacking allocate one block for each answer, and nothing else") {
  int failures = 0;
  const auto count = [&](auto batcher) {
    std::vector<std::vector<int>> requests;
    const auto make = [&] {
      requests.clear();
      for (std::size_t i = 0; i < 64; ++i) requests.emplace_back(1 + i % 7, 1);
    };
    std::array<Future<Rows<int>>, 64> futures;
    const auto round = [&] {
      for (std::size_t i = 0; i < 64; ++i) futures[i] = batcher.submit(std::move(requests[i]));
      while (batcher.run_one().batch_size > 0) {
      }
      for (auto& future : futures) failures += !future.get();
    };
    make();
    round();
    make();
    const std::uint64_t before = testing::allocation_count;
    round();
    return testing::allocation_count - before;
  };
  const BatcherOptions options{.max_batch_size = 16, .min_batch_size = 1, .workers = 0};
  const auto padded = [](const PaddedInput<int>& in, Rows<int>& out) { out.resize(in.rows, 4); };
  CHECK(count(AdaptedBatcher(padded, PaddedAdapter<int, int>(), options)) == 64);
  CHECK(count(AdaptedBatcher(padded, BucketedAdapter<int, int>({4, 8}), options)) == 64);
  CHECK(count(AdaptedBatcher(
            [](const PackedInput<int>& in, Rows<int>& out) { out.resize(in.requests, 4); },
            PackedAdapter<int, int>(), options)) == 64);
  CHECK(failures == 0);
}
