// The simulator: every request ends once, and simple queues have the answers one works out by hand.
#include "ciuic/batching/simulator.hpp"

#include <cmath>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

TimePoint at(Duration t) { return TimePoint(t); }

/// Dispatches, waits, closes early and gives up at random.
class Whimsical final : public BatchPolicy {
 public:
  explicit Whimsical(unsigned seed) : random_(seed) {}
  BatchDecision decide(const QueueView& view) noexcept override {
    if (random_() % 2 == 0) return {.dispatch = true, .max_count = 1 + random_() % 8};
    return {.when = view.now + Duration(1 + random_() % 1000), .wake_count = random_() % 8};
  }
  Fit fits(const BatchShape&, TimePoint, TimePoint) noexcept override { return random_() % 8 > 0; }
  TimePoint hopeless_before(TimePoint now) noexcept override {
    return now + Duration(random_() % 200);
  }
  TimePoint expected_finish(const QueueView& view, std::uint64_t) noexcept override {
    return view.now + Duration(random_() % 400);
  }

 private:
  std::mt19937 random_;
};

}  // namespace

TEST_CASE("every request of a trace ends exactly once, whatever the policy does") {
  const unsigned seed = std::random_device{}();
  for (unsigned run = 0; run < 60; ++run) {
    INFO("seed " << seed << " run " << run);
    std::mt19937 random(seed + run);
    std::vector<TracedRequest> trace;
    TimePoint now{};
    for (int i = 0; i < 500; ++i) {
      now += Duration(random() % 100);
      const auto priority = static_cast<Priority>(random() % kPriorityLevels);
      trace.push_back({now,
                       {.cost = 1 + random() % 12,
                        .priority = priority,
                        .deadline = random() % 3 == 0 ? kNever : now + Duration(random() % 2000),
                        .tenant = random() % 3,
                        .group = static_cast<std::uint16_t>(random() % 3)}});
    }
    const SimulationOptions options{.limits = {.max_batch_size = 1 + random() % 8,
                                               .max_batch_cost = 10,
                                               .max_queue_delay = Duration(random() % 300),
                                               .queue_capacity = 1 + random() % 20,
                                               .max_tenants = 1 + random() % 3,
                                               .max_groups = 2},
                                    .workers = static_cast<unsigned>(1 + random() % 3),
                                    .record_batches = true};
    Whimsical policy(seed + run);
    const Simulation s = simulate(trace, options, run % 2 == 0 ? &policy : nullptr,
                                  [&](const BatchShape&) { return Duration(random() % 300); });
    std::size_t served = 0, in_batches = 0;
    for (std::size_t i = 0; i < trace.size(); ++i) {
      const SimulatedAnswer& answer = s.answers[i];
      REQUIRE(answer.kind != SimulatedAnswer::none);
      REQUIRE(answer.end >= trace[i].arrival);
      REQUIRE((answer.kind == SimulatedAnswer::refused) == (answer.refusal != Refusal::none));
      if (answer.kind == SimulatedAnswer::in_time) REQUIRE(answer.end <= trace[i].terms.deadline);
      if (answer.kind == SimulatedAnswer::late) REQUIRE(answer.end > trace[i].terms.deadline);
      if (answer.kind == SimulatedAnswer::refused && trace[i].terms.cost > 10) {
        REQUIRE(answer.refusal == Refusal::oversize);
      }
      served += answer.kind >= SimulatedAnswer::late ? 1 : 0;
    }
    std::size_t total = 0;
    for (const std::size_t n : s.count) total += n;
    REQUIRE(total == trace.size());
    Duration busy{0};
    for (std::size_t i = 0; i < s.batches.size(); ++i) {
      const SimulatedBatch& batch = s.batches[i];
      in_batches += batch.shape.count;
      busy += batch.execution;
      std::ptrdiff_t beside = 0;  // at no time more batches run than there are workers
      for (std::size_t j = 0; j < i; ++j) {
        beside += s.batches[j].start + s.batches[j].execution > batch.start ? 1 : 0;
      }
      REQUIRE(beside < static_cast<std::ptrdiff_t>(options.workers));
    }
    REQUIRE(in_batches == served);
    REQUIRE(s.batches.size() == s.batch_count);
    REQUIRE(busy == s.busy);
  }
}

TEST_CASE("a queue of one worker has the waiting times one works out by hand") {
  // Each takes 10 ms; they come at 0, 1, 2 and 30 ms.
  std::vector<TracedRequest> trace;
  for (const Duration t : {0ms, 1ms, 2ms, 30ms})
    trace.push_back({at(t), {.deadline = at(t + 25ms)}});
  const SimulationOptions alone{.limits = {.max_batch_size = 1, .min_batch_size = 1}};
  const auto law = [](const BatchShape&) { return 10ms; };
  Simulation s = simulate(trace, alone, nullptr, law);
  REQUIRE(s.answers[0].end == at(10ms));
  REQUIRE(s.answers[1].end == at(20ms));
  REQUIRE(s.answers[2].kind == SimulatedAnswer::late);  // 28 ms after it came
  REQUIRE(s.answers[2].end == at(30ms));
  REQUIRE(s.answers[3].end == at(40ms));
  REQUIRE(s.busy == 40ms);
  REQUIRE(s.share_in_time() == 0.75);
  REQUIRE(s.latencies(trace) == (std::vector<Duration>{10ms, 10ms, 19ms, 28ms}));

  // Two workers: the first two start at once.
  s = simulate(trace, {.limits = alone.limits, .workers = 2}, nullptr, law);
  REQUIRE(s.answers[1].end == at(11ms));
  REQUIRE(s.answers[2].end == at(20ms));
  REQUIRE(s.count[SimulatedAnswer::in_time] == 4);

  // A batch waits for its delay, and what nobody would ever wake ends all the same.
  s = simulate(trace, {.limits = {.max_batch_size = 8, .max_queue_delay = 5ms}}, nullptr, law);
  REQUIRE(s.answers[0].end == at(15ms));
  REQUIRE(s.answers[2].end == at(15ms));
  REQUIRE(s.answers[3].end == at(45ms));
  for (TracedRequest& request : trace) request.terms.deadline = kNever;
  s = simulate(trace, {.limits = {.max_batch_size = 8, .max_queue_delay = Duration::max()}},
               nullptr, law);
  REQUIRE(s.count[SimulatedAnswer::in_time] == 4);
}

TEST_CASE("random arrivals at one worker wait as long as queueing theory says") {
  // M/D/1 at load 0.7: the mean wait is 0.7 / (2 · 0.3) of a service.
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(0.7 / 1e6);
  std::vector<TracedRequest> trace;
  double now = 0;
  for (int i = 0; i < 400'000; ++i) {
    now += gap(random);
    trace.push_back({at(Duration(static_cast<Duration::rep>(now))), {}});
  }
  const Simulation s = simulate(trace, {.limits = {.max_batch_size = 1, .queue_capacity = 100'000}},
                                nullptr, [](const BatchShape&) { return 1ms; });
  double wait = 0;
  for (const Duration d : s.latencies(trace)) wait += static_cast<double>(d.count()) / 1e6 - 1;
  REQUIRE(std::abs(wait / 400'000 - 0.7 / 0.6) < 0.08);
}
