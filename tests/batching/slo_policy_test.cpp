// SloPolicy: each of its rules alone, then whole runs against DelayPolicy.
#include "ciuic/batching/slo_policy.hpp"

#include <cmath>
#include <random>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/batching/simulator.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr TimePoint kStart(1h);

class FakeSignals final : public SignalSource {
 public:
  Signals read(TimePoint) noexcept override { return now; }
  Signals now{};
};

/// 4 ms and 0.1 ms a request, of cost 10 each; 1 MiB a request.
Duration affine(std::size_t n) { return 4ms + n * 100us; }
BatchShape plain(std::size_t n) { return {n, 10 * n, 10}; }

/// Has run batches of every size up to 64.
void teach(SloPolicy& policy, std::uint64_t bytes = 0, std::size_t groups = 1) {
  policy.bind(resolved({.max_batch_size = 64, .max_groups = groups}));
  for (std::size_t i = 0; i < 200; ++i) {
    const std::size_t n = 1 + i * 37 % 64;
    policy.on_start(plain(n), kStart);
    policy.on_finish(
        {.shape = plain(n), .started = kStart, .execution = affine(n), .memory_used = bytes * n});
  }
}
/// The same with batches that take between half of that and twice that.
void teach_noisily(SloPolicy& policy) {
  policy.bind(resolved({.max_batch_size = 64}));
  std::mt19937 random(5);
  for (std::size_t i = 0; i < 400; ++i) {
    const std::size_t n = 1 + i * 37 % 64;
    const double factor = std::exp2(2.0 * static_cast<double>(random()) / 4294967296.0 - 1);
    const auto time = static_cast<double>(affine(n).count());
    policy.on_start(plain(n), kStart);
    policy.on_finish({.shape = plain(n),
                      .started = kStart,
                      .execution = Duration(static_cast<Duration::rep>(factor * time))});
  }
}
QueueView waiting(std::size_t n, Duration oldest, TimePoint first_deadline, std::size_t arrived) {
  return {.now = kStart,
          .waiting = n,
          .waiting_cost = 10 * n,
          .oldest_arrival = kStart - oldest,
          .first_deadline = first_deadline,
          .arrived = arrived,
          .max_count = 64,
          .max_cost = kUnlimitedCost};
}
/// The largest batch that the policy lets grow.
std::size_t largest(SloPolicy& policy, TimePoint first_deadline = kNever) {
  std::size_t n = 1;
  while (n < 64 && policy.fits(plain(n + 1), kStart, first_deadline)) ++n;
  return n;
}
/// So many arrivals a millisecond, until kStart; the last view has `arrived` 1000.
void arrive(SloPolicy& policy, std::size_t per_ms, Duration allowed) {
  for (std::size_t i = 0; i <= 1000; ++i) {
    QueueView view = waiting(1, 0ms, kStart, i);
    view.now = kStart - std::chrono::microseconds((1000 - i) * 1000 / per_ms);
    view.oldest_arrival = view.now;
    view.first_deadline = view.now + allowed;
    policy.expected_finish(view, 10);
  }
}

}  // namespace

TEST_CASE("an SloPolicy that knows nothing yet starts small, waits for nobody, gives up nobody") {
  SloPolicy policy;
  policy.bind(resolved({.max_batch_size = 64}));
  REQUIRE(policy.decide(waiting(1, 0ms, kStart + 1ms, 1)).dispatch);
  for (std::size_t n = 4; n <= 64; n *= 4) {  // its first batches are of 4, 16, 64, …
    REQUIRE(largest(policy, kStart + 1ns) == n);
    policy.on_start(plain(n), kStart);
  }
  REQUIRE(policy.hopeless_before(kStart) == kStart);
  REQUIRE(policy.expected_finish(waiting(9, 0ms, kStart + 1ms, 9), 10) == kStart);
  REQUIRE_FALSE(policy.forecast(plain(4)).known);
}

TEST_CASE("a batch that may not grow says why") {
  SloPolicy policy;
  teach(policy);
  REQUIRE(policy.fits(plain(40), kStart, kStart + 6ms).why_not == CloseReason::deadline);
  REQUIRE(policy.fits({2, 1010, 1000}, kStart, kNever).why_not == CloseReason::policy);
}

TEST_CASE("a batch grows as long as its first deadline allows") {
  SloPolicy policy;
  teach(policy);
  REQUIRE(largest(policy) == 64);
  REQUIRE(largest(policy, kStart + 100ms) == 64);
  const std::size_t tight = largest(policy, kStart + 6ms);  // 4 ms + 20 · 0.1 ms
  REQUIRE(tight >= 17);
  REQUIRE(tight <= 21);
}

TEST_CASE("a long queue favours small batches for urgent work, large ones for long-running work") {
  SloPolicy policy;
  teach(policy);
  const TimePoint urgent = kStart + 6ms;
  const QueueView with = waiting(60, 1ms, urgent, 60), without = waiting(60, 1ms, kNever, 60);
  REQUIRE(policy.decide(without).dispatch);
  REQUIRE(largest(policy) == 64);
  policy.decide(with);
  REQUIRE(largest(policy, urgent) < 32);
}

TEST_CASE("a request that would pad the others more than it costs alone stays out") {
  SloPolicy policy;
  policy.bind(resolved({.max_batch_size = 64}));
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {  // 1 ms, and 10 us a padded token
    BatchShape s{1 + random() % 16};
    for (std::size_t j = 0; j < s.count; ++j) {
      const std::uint64_t cost = random() % 8 == 0 ? 1000 : 10 + random() % 10;
      s.cost += cost;
      s.max_cost = std::max(s.max_cost, cost);
    }
    policy.on_start(s, kStart);
    policy.on_finish({.shape = s,
                      .started = kStart,
                      .execution = 1ms + 10us * s.count * static_cast<Duration::rep>(s.max_cost)});
  }
  // Asked as a batch is filled: eight of 10, then one of 10 more or one of 1000.
  REQUIRE(policy.fits({2, 20, 10}, kStart, kNever));
  REQUIRE(policy.fits({3, 30, 10}, kStart, kNever));
  REQUIRE(policy.fits({4, 40, 10}, kStart, kNever));
  REQUIRE_FALSE(policy.fits({5, 1040, 1000}, kStart, kNever));
  REQUIRE(policy.fits({2, 20, 10}, kStart, kNever));
  REQUIRE_FALSE(policy.fits({2, 1010, 1000}, kStart, kNever));
  REQUIRE(policy.fits({2, 2000, 1000}, kStart, kNever));
}

TEST_CASE("nobody is waited for where nobody would be late, nor without deadlines") {
  SloPolicy policy;
  teach(policy);
  arrive(policy, 1, 50ms);
  REQUIRE(policy.decide(waiting(1, 0ms, kStart + 50ms, 1001)).dispatch);
  REQUIRE(policy.decide(waiting(1, 0ms, kNever, 1002)).dispatch);
}

TEST_CASE("company is waited for, until the last safe moment, where it would be late otherwise") {
  // 6 ms are allowed and a batch takes more than 4: whoever comes in the first 2 ms of a batch can
  // only be in time in that batch.
  SloPolicy policy;
  teach(policy);
  arrive(policy, 1, 6ms);
  const BatchDecision wait = policy.decide(waiting(1, 0ms, kStart + 6ms, 1001));
  REQUIRE_FALSE(wait.dispatch);
  REQUIRE(wait.when > kStart + 500us);
  REQUIRE(wait.when + affine(2) <= kStart + 6ms);
  // Not for one in ten seconds, and not when nobody else will come.
  QueueView draining = waiting(1, 0ms, kStart + 6ms, 1002);
  draining.draining = true;
  REQUIRE(policy.decide(draining).dispatch);
  SloPolicy lonely;
  teach(lonely);
  for (std::size_t i = 1; i <= 200; ++i) {
    QueueView view = waiting(1, 0ms, kStart, i);
    view.now = view.oldest_arrival = kStart - (200 - i) * 10s;
    view.first_deadline = view.now + 6ms;
    lonely.expected_finish(view, 10);
  }
  REQUIRE(lonely.decide(waiting(1, 0ms, kStart + 6ms, 201)).dispatch);
}

TEST_CASE("with several groups nobody is waited for") {
  SloPolicy policy;
  teach(policy, 0, 2);
  arrive(policy, 1, 6ms);  // as above
  REQUIRE(policy.decide(waiting(1, 0ms, kStart + 6ms, 1001)).dispatch);
}

TEST_CASE("who cannot be in time is given up only when that helps others") {
  SloPolicy policy;
  teach(policy);
  arrive(policy, 1, 20ms);
  // Alone, with 1 ms left of the 4.1 ms it takes: it runs all the same.
  policy.decide(waiting(1, 19ms, kStart + 1ms, 1001));
  REQUIRE(policy.hopeless_before(kStart) <= kStart + 1ms - 1ns);
  // With another behind it, it goes; the other, with 10 ms left, stays.
  policy.decide(waiting(2, 19ms, kStart + 1ms, 1002));
  const TimePoint hopeless = policy.hopeless_before(kStart);
  REQUIRE(hopeless > kStart + 1ms);
  REQUIRE(hopeless < kStart + 10ms);
  // Without deadlines nobody goes.
  policy.decide(waiting(2, 19ms, kNever, 1003));
  REQUIRE(policy.hopeless_before(kStart) == kStart);
}

TEST_CASE("a backlog that small batches cannot serve gives up the most urgent for large ones") {
  SloPolicy policy;
  teach(policy);
  arrive(policy, 10, 12ms);
  // 50 wait; the first has 4.5 ms left, enough for a batch of 5, which is too slow for 10 a ms.
  const QueueView crowd = waiting(50, 7500us, kStart + 4500us, 1050);
  REQUIRE_FALSE(policy.decide(crowd).dispatch);
  REQUIRE(policy.hopeless_before(kStart) >= kStart + 4500us);
  // Without the crowd it would have been served.
  REQUIRE(policy.decide(waiting(3, 7500us, kStart + 4500us, 1051)).dispatch);
  REQUIRE(policy.hopeless_before(kStart) < kStart + 4500us);
}

TEST_CASE("of more than fill a batch the freshest are served, the more surely the more wait") {
  // A full batch takes 10.4 ms. 160 wait, spread over the last 30 of 40 ms that are allowed: the
  // first of them would be in time in it only if it is quick.
  SloPolicy policy;
  teach_noisily(policy);
  arrive(policy, 5, 40ms);
  const auto given_up = [&](std::size_t n, Duration slack, bool alike = true) {
    QueueView view = waiting(n, 40ms - slack, kStart + slack, 1000 + n);
    view.alike = alike;
    policy.decide(view);
    return policy.hopeless_before(kStart) - kStart;
  };
  const Duration of_two = given_up(128, 10ms), of_three = given_up(192, 10ms);
  REQUIRE(of_two > 10ms);
  REQUIRE(of_two < 20ms);
  REQUIRE(of_three > of_two);
  REQUIRE(of_three < 24ms);  // twice what a batch takes is enough for all
  // A batch has places for all, or all have time: nobody goes.
  REQUIRE(given_up(64, 16ms) < 16ms);
  REQUIRE(given_up(192, 25ms) < 25ms);
  // Nor does anybody go for others who matter less, can wait or run elsewhere,
  REQUIRE(given_up(192, 10ms, false) < of_two);
  // or while somebody else is free for the rest.
  policy.on_start(plain(64), kStart);
  policy.on_start(plain(64), kStart);
  policy.on_start(plain(64), kStart);
  REQUIRE(given_up(128, 10ms) > 10ms);
  for (int i = 0; i < 3; ++i)
    policy.on_finish({.shape = plain(64), .started = kStart, .execution = 10400us});
  REQUIRE(given_up(128, 10ms) < 10ms);
}

TEST_CASE("who has a fair chance is neither refused nor given up for a place that costs little") {
  SloPolicy steady, noisy;
  teach(steady);
  teach_noisily(noisy);
  // Two wait and the first has 3 ms left: less than any batch takes, if it takes what it should.
  const QueueView view = waiting(2, 17ms, kStart + 3ms, 1001);
  const auto given_up = [&](SloPolicy& policy) {
    arrive(policy, 1, 20ms);
    policy.decide(view);
    return policy.hopeless_before(kStart) >= kStart + 3ms;
  };
  REQUIRE(given_up(steady));
  REQUIRE_FALSE(given_up(noisy));
  REQUIRE(noisy.fits(plain(2), kStart, kStart + 3ms));
  REQUIRE(steady.expected_finish(view, 10) > kStart + 3900us);
  REQUIRE(noisy.expected_finish(view, 10) < kStart + 3ms);
}

TEST_CASE("an answer is expected after what runs and what must be served before") {
  SloPolicy policy;
  teach(policy);
  QueueView view = waiting(0, 0ms, kNever, 1);
  REQUIRE(policy.expected_finish(view, 10) == kStart);  // an idle system refuses nobody
  policy.on_start(plain(64), kStart);                   // 10.4 ms
  view.running_batches = 1;
  const TimePoint beside = policy.expected_finish(view, 10);
  REQUIRE(std::chrono::abs(beside - (kStart + 14500us)) < 1ms);
  const TimePoint behind = policy.expected_finish(waiting(128, 0ms, kNever, 2), 10);
  REQUIRE(behind - beside > 15ms);  // two full batches
}

TEST_CASE("near the memory mark batches shrink, and grow back afterwards") {
  FakeSignals signals;
  SloPolicy policy({.memory_mark = 0.9, .signals = &signals});
  teach(policy);
  const auto run = [&](int batches) {
    for (int i = 0; i < batches; ++i) {
      policy.hopeless_before(kStart);
      const std::size_t n = largest(policy);
      policy.on_start(plain(n), kStart);
      policy.on_finish({.shape = plain(n), .started = kStart, .execution = affine(n)});
    }
  };
  signals.now = {.memory_used = 50, .memory_free = 50};
  run(3);
  REQUIRE(largest(policy) == 64);
  signals.now = {.memory_used = 95, .memory_free = 5};
  run(1);
  REQUIRE(largest(policy) == 32);
  run(10);
  REQUIRE(largest(policy) == 1);
  REQUIRE(policy.decide(waiting(40, 0ms, kNever, 40)).max_count == 1);
  REQUIRE(policy.decide(waiting(40, 0ms, kNever, 40)).reason == CloseReason::memory);
  signals.now = {.memory_used = 50, .memory_free = 50};
  run(10);
  REQUIRE(largest(policy) == 11);
}

TEST_CASE("where the model reports bytes, no batch is planned beyond the memory mark") {
  FakeSignals signals;
  SloPolicy policy({.memory_mark = 0.9, .signals = &signals});
  teach(policy, 1 << 20);
  signals.now = {.memory_used = 80 << 20, .memory_free = 20 << 20};
  policy.hopeless_before(kStart);
  REQUIRE(largest(policy) >= 8);
  REQUIRE(largest(policy) <= 10);
  REQUIRE(policy.fits(plain(64), kStart, kStart + 1h).why_not == CloseReason::memory);
}

TEST_CASE("idle capacity beside a backlog makes batches grow faster") {
  FakeSignals signals;
  SloPolicy policy({.signals = &signals});
  teach(policy);
  const auto run = [&](int batches, double utilisation) {
    for (int i = 0; i < batches; ++i) {
      signals.now = {.memory_used = 10, .memory_free = 90, .utilisation = utilisation};
      policy.decide(waiting(60, 0ms, kNever, 60));
      policy.hopeless_before(kStart);
      policy.on_start(plain(largest(policy)), kStart);
    }
    return largest(policy);
  };
  signals.now = {.memory_used = 99, .memory_free = 1};
  for (int i = 0; i < 10; ++i) policy.hopeless_before(kStart), policy.on_start(plain(1), kStart);
  REQUIRE(largest(policy) == 1);
  REQUIRE(run(8, 1.0) == 9);
  const std::size_t idle = run(8, 0.1);
  REQUIRE(idle > 24);
}

TEST_CASE("whole runs: goodput is at least that of no delay, with and without deadlines") {
  const unsigned seed = std::random_device{}();
  for (unsigned run = 0; run < 12; ++run) {
    INFO("seed " << seed << " run " << run);
    std::mt19937_64 random(seed + run);
    const double load = std::vector{0.4, 0.8, 1.5}[run % 3];
    const bool deadlines = run < 6;
    const unsigned workers = 1 + run % 2;
    std::exponential_distribution<double> gap(load * workers * 64 / 10.4e6);
    std::vector<TracedRequest> trace;
    double now = 1;
    for (int i = 0; i < 20'000; ++i) {
      now += gap(random);
      const TimePoint t(Duration(static_cast<Duration::rep>(now)));
      trace.push_back({t, {.cost = 10, .deadline = deadlines ? t + 40ms : kNever}});
    }
    std::lognormal_distribution<double> noise(0, 0.1);
    const SimulationOptions options{
        .limits = {.max_batch_size = 64, .min_batch_size = 1, .queue_capacity = 2000},
        .workers = workers};
    const auto go = [&](BatchPolicy* policy) {
      std::mt19937_64 luck(seed);
      return simulate(trace, options, policy, [&](const BatchShape& b) {
        return Duration(
            static_cast<Duration::rep>(static_cast<double>(affine(b.count).count()) * noise(luck)));
      });
    };
    SloPolicy policy;
    const Simulation slo = go(&policy), plain_run = go(nullptr);
    REQUIRE(slo.goodput() >= 0.98 * plain_run.goodput());
    if (deadlines && load > 1) REQUIRE(slo.goodput() > 1.5 * plain_run.goodput());
    if (deadlines && load < 0.5) REQUIRE(slo.share_in_time() > 0.99);
  }
}

TEST_CASE("a model that becomes ten times slower for good does not end all service") {
  SloPolicy policy;
  std::vector<TracedRequest> trace;
  for (int i = 0; i < 20'000; ++i) {
    const TimePoint t = kStart + i * 1ms;
    trace.push_back({t, {.cost = 10, .deadline = t + 20ms}});
  }
  // From 5 s to 10 s nothing can be in time; before and after, everything can.
  int batches = 0;
  const SimulationOptions options{.limits = {.max_batch_size = 64}, .record_batches = true};
  const Simulation s = simulate(trace, options, &policy, [&](const BatchShape& b) {
    ++batches;
    const int slow = batches >= 1000 && batches < 1100 ? 10 : 1;
    return slow * affine(b.count);
  });
  std::size_t served_late_on = 0;
  for (std::size_t i = 18'000; i < trace.size(); ++i) {
    if (s.answers[i].kind == SimulatedAnswer::in_time) ++served_late_on;
  }
  REQUIRE(batches > 1100);
  REQUIRE(served_late_on > 1900);
}

TEST_CASE("a threaded batcher with an SloPolicy answers everybody") {
  DynamicBatcher<int, int> batcher(
      [](std::span<const int> in) {
        std::vector<int> out;
        for (const int i : in) out.push_back(i + 1);
        return out;
      },
      {.max_batch_size = 16, .queue_capacity = 4096, .workers = 2}, SloPolicy());
  std::vector<Future<int>> futures;
  for (int i = 0; i < 2000; ++i) futures.push_back(batcher.submit(i, {.timeout = 10min}));
  for (int i = 0; i < 2000; ++i) {
    REQUIRE(futures[static_cast<std::size_t>(i)].get().value() == i + 1);
  }
}
