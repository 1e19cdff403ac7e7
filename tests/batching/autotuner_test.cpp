// The tuner against a plain grid, on the part of the trace that neither has seen.
#include "ciuic/batching/autotuner.hpp"

#include <random>

#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

/// Bursts of up to `burst` at once, `gap` apart on average.
std::vector<TracedRequest> bursts(unsigned seed, std::size_t count, unsigned burst, Duration gap,
                                  Duration allowed) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> next(1 / static_cast<double>(gap.count()));
  std::vector<TracedRequest> trace;
  TimePoint now{};
  while (trace.size() < count) {
    now += Duration(static_cast<Duration::rep>(next(random)));
    for (unsigned i = 1 + static_cast<unsigned>(random() % burst); i > 0; --i) {
      trace.push_back({now, {.cost = 1 + random() % 20, .deadline = now + allowed}});
    }
  }
  return trace;
}
Duration affine(const BatchShape& b) { return 5ms + 20us * static_cast<Duration::rep>(b.cost); }
Duration steep(const BatchShape& b) {  // large batches are slow
  const auto n = static_cast<Duration::rep>(b.count);
  return 1ms + 30us * n * n;
}
double value(std::span<const TracedRequest> trace, const BatcherOptions& o, Objective objective,
             Duration (*law)(const BatchShape&)) {
  return score(simulate(trace, {.limits = o.limits()}, nullptr, law), trace, objective);
}

}  // namespace

TEST_CASE("tuned options are at least as good as a grid's on requests that neither has seen") {
  struct Case {
    Duration (*law)(const BatchShape&);
    Objective objective;
    Duration gap, allowed;
  };
  for (const Case c : {Case{affine, Objective::goodput, 2ms, 14ms},
                       Case{affine, Objective::mean_latency, 2ms, 200ms},
                       Case{steep, Objective::goodput, 3ms, 12ms},
                       Case{steep, Objective::p99_latency, 4ms, 500ms}}) {
    INFO("objective " << static_cast<int>(c.objective));
    const auto seen = bursts(1, 8'000, 12, c.gap, c.allowed);
    const BatcherOptions options{.max_batch_size = 64, .queue_capacity = 4096};
    const Result<BatcherOptions> tuned = tune(seen, options, c.law, c.objective);
    REQUIRE(tuned);
    REQUIRE(tuned->max_batch_size <= 64);
    REQUIRE(tuned->min_batch_size <= tuned->max_batch_size);

    BatcherOptions of_grid = options;
    double best = -1e300;
    for (const std::size_t size : {1u, 2u, 4u, 8u, 16u, 32u, 64u}) {
      for (const Duration delay : {0us, 500us, 1000us, 2000us, 4000us, 8000us}) {
        BatcherOptions o = options;
        o.max_batch_size = size;
        o.max_queue_delay = delay;
        const double v = value(seen, o, c.objective, c.law);
        if (v > best) best = v, of_grid = o;
      }
    }
    REQUIRE(value(seen, *tuned, c.objective, c.law) >= best - 0.01 * std::abs(best));
    double ours = 0, theirs = 0;  // one trace alone says little
    for (const unsigned seed : {2u, 3u, 4u, 5u, 6u}) {
      const auto unseen = bursts(seed, 8'000, 12, c.gap, c.allowed);
      ours += value(unseen, *tuned, c.objective, c.law);
      theirs += value(unseen, of_grid, c.objective, c.law);
    }
    REQUIRE(ours >= theirs - 0.03 * std::abs(theirs));
  }
}

TEST_CASE("a tuner refuses what it cannot tune") {
  const std::vector<TracedRequest> none, one{{TimePoint{}, {}}};
  REQUIRE(tune(none, BatcherOptions{}, affine, Objective::goodput).error().code() ==
          ErrorCode::invalid_argument);
  REQUIRE(tune(one, {.max_batch_size = 0}, affine, Objective::goodput).error().code() ==
          ErrorCode::invalid_argument);
  REQUIRE(tune(one, BatcherOptions{}, affine, Objective::goodput));
}

TEST_CASE("an online tuner follows a change of law, and keeps what is good enough") {
  const BatcherOptions options{.max_batch_size = 64, .queue_capacity = 4096};
  OnlineTuner tuner(options, {.window = 2000});
  REQUIRE(tuner.propose()->max_batch_size == 64);  // nothing was seen yet
  const auto trace = bursts(3, 4000, 12, 4ms, 12ms);
  for (const TracedRequest& r : trace) tuner.on_request(r.arrival, r.terms);
  const auto teach = [&](Duration (*law)(const BatchShape&)) {
    for (std::size_t i = 0; i < 300; ++i) {
      const std::size_t n = 1 + i * 7 % 40;
      const BatchShape shape{n, 10 * n, 20};
      tuner.on_finish({.shape = shape, .execution = law(shape)});
    }
  };
  teach(steep);
  const Result<BatcherOptions> small = tuner.propose();
  const auto last = std::span(trace).subspan(trace.size() - 2000);
  REQUIRE(value(last, *small, Objective::goodput, steep) >
          1.02 * value(last, options, Objective::goodput, steep));
  // Asked again it stays with it: nothing has changed.
  const Result<BatcherOptions> again = tuner.propose();
  REQUIRE(again->max_batch_size == small->max_batch_size);
  REQUIRE(again->max_queue_delay == small->max_queue_delay);
}
