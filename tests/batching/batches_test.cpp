#include "ciuic/batching/batches.hpp"

#include <list>
#include <numeric>
#include <sstream>
#include <string>

#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::ManualClock;

namespace {

/// Runs through `n` inputs with a model whose batch of b takes time(b); the sizes used.
template <class Time>
std::vector<std::size_t> sizes(std::size_t n, OfflineBatchOptions options, Time time) {
  ManualClock clock;
  options.clock = &clock;
  std::vector<int> inputs(n);
  std::iota(inputs.begin(), inputs.end(), 0);
  std::vector<std::size_t> out;
  std::size_t next = 0;
  for (auto& batch : batches(inputs, options)) {
    for (std::size_t i = 0; i < batch.size(); ++i, ++next) {
      REQUIRE(batch[i] == static_cast<int>(next));
      REQUIRE(batch.indices()[i] == next);
    }
    out.push_back(batch.size());
    clock.advance(time(batch.size()));
  }
  CHECK(next == n);
  return out;
}

}  // namespace

TEST_CASE("Every input is in one batch, in order, and the tail is flushed (seed 004)") {
  const auto constant = [](std::size_t) -> Duration { return 1ms; };
  CHECK(sizes(21, {.max_batch_size = 8, .min_batch_size = 8}, constant) ==
        std::vector<std::size_t>{8, 8, 5});
  CHECK(sizes(3, {.max_batch_size = 8, .min_batch_size = 8}, constant) ==
        std::vector<std::size_t>{3});
  CHECK(sizes(0, {}, constant).empty());
}

TEST_CASE("The size doubles while that pays, and is tried again later") {
  const auto fixed_cost = [](std::size_t) -> Duration { return 1ms; };
  CHECK(sizes(8 + 16 + 32 + 64 + 64, {.max_batch_size = 64, .min_batch_size = 8}, fixed_cost) ==
        std::vector<std::size_t>{8, 16, 32, 64, 64});
  const auto saturates = [](std::size_t n) -> Duration {
    return 1ms * std::max<std::size_t>(n, 4);
  };
  const std::vector<std::size_t> seen =
      sizes(400, {.max_batch_size = 64, .min_batch_size = 1}, saturates);
  const std::vector<std::size_t> climb(seen.begin(), seen.begin() + 5);
  CHECK(climb == std::vector<std::size_t>{1, 2, 4, 8, 4});
  CHECK(std::count(seen.begin(), seen.end(), 8) == 3);  // the climb, and one trial in 32 batches
  CHECK(*std::max_element(seen.begin(), seen.end()) == 8);
}

TEST_CASE("Any input range will do, and options out of range are moved into it") {
  std::istringstream words("one two three four five");
  std::string joined;
  for (auto& batch : batches(std::views::istream<std::string>(words),
                             {.max_batch_size = 2, .min_batch_size = 5})) {
    const std::span<const std::string> view = batch;
    joined += std::to_string(view.size()) + ":" + view.front() + " ";
  }
  CHECK(joined == "2:one 2:three 1:five ");
  int total = 0;
  for (auto& batch : batches(std::list<int>{1, 2, 3}, {.max_batch_size = 0})) total += batch[0];
  CHECK(total == 6);
}

TEST_CASE("Batches without a clock use the system's") {
  const std::vector<int> inputs(5);
  std::size_t seen = 0;
  for (auto& batch : batches(inputs, {.max_batch_size = 2, .clock = nullptr})) seen += batch.size();
  CHECK(seen == 5);
}
