// The rules of peers in bench/ against what the peers themselves did.
#include "../../bench/batching/peer_policies.hpp"

#include <cstdio>
#include <fstream>
#include <string>

#include "ciuic/batching/simulator.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

/// As in bench/peers/bentoml_dispatcher.py.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed) {}
  std::int64_t below(std::uint64_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int64_t>((state_ >> 33) % n);
  }

 private:
  std::uint64_t state_;
};

std::vector<TracedRequest> arrivals(std::uint64_t seed, std::size_t count, std::uint64_t gap_ns,
                                    std::uint64_t burst) {
  Draws draws(seed);
  std::vector<TracedRequest> trace;
  for (Duration now{0}; trace.size() < count;) {
    now += Duration(1 + draws.below(2 * gap_ns));
    for (std::int64_t more = 1 + draws.below(2 * burst - 1); more > 0; --more) {
      now += Duration(1 + draws.below(100'000));
      // A deadline that never comes, so that only the rule gives up.
      trace.push_back({.arrival = TimePoint(now), .terms = {.deadline = TimePoint(now + 1000h)}});
    }
  }
  trace.resize(count);
  return trace;
}

struct Batch {
  std::int64_t start_ns;
  std::size_t size;
};

}  // namespace

TEST_CASE("BentoML: our copy of its rule makes the batches that its dispatcher makes") {
  std::ifstream golden(CIUIC_SOURCE_DIR "/tests/golden/batching/bentoml.txt");
  std::size_t traces = 0, compared = 0;
  for (std::string name; std::getline(golden >> std::ws, name); ++traces) {
    CAPTURE(name);
    std::int64_t objective_us = 0, base = 0, slope = 0;
    std::size_t max_batch = 0, count = 0, batches = 0, cancelled = 0;
    std::uint64_t gap = 0, burst = 0;
    golden >> objective_us >> max_batch >> base >> slope >> count >> gap >> burst;
    golden >> batches >> cancelled;
    std::vector<Batch> wanted(batches);
    for (Batch& batch : wanted) golden >> batch.start_ns >> batch.size;
    REQUIRE(golden);
    REQUIRE(batches > 40);

    const std::vector<TracedRequest> trace = arrivals(100 + traces, count, gap, burst);
    batching_bench::BentoPolicy policy(std::chrono::microseconds(objective_us), max_batch);
    Draws draws(200 + traces);
    const Simulation ours = simulate(
        trace, {.limits = {.max_batch_size = 4096, .queue_capacity = 4096}, .record_batches = true},
        &policy, [&](const BatchShape& shape) {
          const auto n = static_cast<std::int64_t>(shape.count);
          return Duration((base + slope * n) * (900 + draws.below(200)) / 1000);
        });
    for (std::size_t i = 0; i < std::min(batches, ours.batches.size()); ++i) {
      CAPTURE(i, wanted[i].start_ns, wanted[i].size);
      const SimulatedBatch& batch = ours.batches[i];
      REQUIRE(batch.shape.count == wanted[i].size);
      // Its clock is a double of seconds.
      REQUIRE(std::chrono::abs(batch.start.time_since_epoch() - Duration(wanted[i].start_ns)) <
              1us);
      ++compared;
    }
    CHECK(ours.batches.size() == batches);
    CHECK(ours.count[SimulatedAnswer::expired] == cancelled);
  }
  CHECK(traces == 7);
  std::printf("figure: %zu batches as BentoML's dispatcher made them\n", compared);
}
