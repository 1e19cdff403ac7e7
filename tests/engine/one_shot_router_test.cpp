// Which replica runs the next batch: the router against a plain simulation of every batch that
// waits, its waits against later looks, and whole traces in virtual time against other rules.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "ciuic/batching/simulator.hpp"
#include "ciuic/engine/replica_router.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr TimePoint kStart{1s};
Duration micros(double us) { return Duration(static_cast<Duration::rep>(us * 1000)); }

/// Runs batches there until its time is known: `fixed` + `each` per request.
void teach(ReplicaRouter& router, std::uint32_t r, Duration fixed, Duration each) {
  for (std::size_t count = 1; count <= 12; ++count) {
    const BatchShape shape{count, count, 1};
    router.occupy(r, kStart, shape);
    router.start(r, kStart, shape, false);
    router.passed(r, shape, fixed + each * static_cast<int>(count));
    router.free(r);
  }
}

/// Where the next batch goes, by dealing out every batch that waits: each to where it ends first.
/// `free_in`: of each replica, 0 = idle, negative = not to be counted on.
std::uint32_t dealt(const std::vector<double>& free_in, const std::vector<double>& takes,
                    std::uint64_t backlog) {
  std::vector<double> end = free_in;
  for (std::uint64_t batch = 0; batch < backlog; ++batch) {
    std::size_t best = end.size();
    for (std::size_t r = 0; r < end.size(); ++r) {
      if (free_in[r] < 0) continue;
      const auto key = [&](std::size_t i) { return std::pair(end[i] + takes[i], free_in[i] > 0); };
      if (best == end.size() || key(r) < key(best)) best = r;
    }
    if (best == end.size()) return kNoReplica;
    if (free_in[best] == 0) return static_cast<std::uint32_t>(best);
    end[best] += takes[best];
  }
  return kNoReplica;
}

}  // namespace

TEST_CASE("routing: the choice is that of dealing out all that waits, each to its first end") {
  std::mt19937 random(5);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  int waits = 0, starts = 0;
  for (int world = 0; world < 4000; ++world) {
    const auto n = static_cast<std::uint32_t>(1 + random() % 5);
    ReplicaRouter router(n, {.relearn_every = 0}, {});
    std::vector<double> free_in(n), takes(n);
    bool late = false;
    for (std::uint32_t r = 0; r < n; ++r) {
      teach(router, r, micros(std::exp(uniform(3, 7))), micros(std::exp(uniform(0, 4))));
    }
    const BatchShape next{1 + random() % 12, 1 + random() % 12, 1};
    const TimePoint now = kStart + 1s;
    for (std::uint32_t r = 0; r < n; ++r) {
      takes[r] = router.takes(r, next);
      const BatchShape own{1 + random() % 12, 1 + random() % 12, 1};
      switch (random() % 5) {
        case 0:
        case 1: {  // runs, in time or late
          const double share = uniform(0.05, 1.9);
          const Duration forecast(static_cast<Duration::rep>(router.takes(r, own)));
          const Duration ran(static_cast<Duration::rep>(share * router.takes(r, own)));
          router.occupy(r, now - ran, own);
          router.start(r, now - ran, own, false);
          late |= share > 1;
          free_in[r] = std::abs(static_cast<double>((forecast - ran).count()));
          break;
        }
        case 2:  // is out of service
          router.blame(r, now);
          free_in[r] = -1;
          break;
        default:
          free_in[r] = 0;
      }
    }
    const std::uint64_t backlog = random() % 3 == 0 ? 1 + random() % 40 : 1 + random() % 3;
    const RouteChoice choice = router.choose(now, next, backlog);
    CAPTURE(world, n, backlog, free_in, takes);
    REQUIRE(choice.replica == dealt(free_in, takes, backlog));
    ++(choice.replica == kNoReplica ? waits : starts);
    if (choice.replica != kNoReplica || choice.outage) continue;
    // The backlog it waits for is the least that changes the choice.
    if (choice.backlog < 10000) {
      REQUIRE(choice.backlog > backlog);
      REQUIRE(dealt(free_in, takes, choice.backlog) != kNoReplica);
      REQUIRE(dealt(free_in, takes, choice.backlog - 1) == kNoReplica);
    }
    // And until the time it gives nothing changes by itself. (It looks now and then at late ones.)
    REQUIRE(choice.when > now);
    if (choice.when == kNever || late) continue;
    for (int i = 0; i < 8; ++i) {
      const Duration later((choice.when - now) * i / 8);
      REQUIRE(router.choose(now + later, next, backlog).replica == kNoReplica);
    }
  }
  CHECK(waits > 400);
  CHECK(starts > 400);
  std::printf("figure: %d routing decisions compared\n", waits + starts);
}

TEST_CASE("routing: one batch that waits is left to the faster replica, exactly while it pays") {
  ReplicaRouter router(2, {.relearn_every = 0}, {});
  teach(router, 0, 1ms, 0ns);
  teach(router, 1, 8ms, 0ns);
  const BatchShape shape{4, 4, 1};
  const TimePoint now = kStart + 1s;
  CHECK(router.choose(now, shape, 1).replica == 0);
  router.occupy(0, now, shape);
  const RouteChoice wait = router.choose(now, shape, 1);
  CHECK(wait.replica == kNoReplica);
  CHECK_FALSE(wait.outage);
  CHECK(wait.when > now + 900us);
  CHECK(wait.when < now + 1100us);
  // By the end of a batch on the slow one, the fast one ends seven more.
  CHECK(wait.backlog >= 7);
  CHECK(wait.backlog <= 8);
  CHECK(router.choose(now, shape, wait.backlog).replica == 1);
  // It hangs: late by as much as the slow one is slower, it is not counted on any more.
  TimePoint look = now;
  int looks = 0;
  for (; router.choose(look, shape, 1).replica == kNoReplica; ++looks) {
    const TimePoint next = router.choose(look, shape, 1).when;
    REQUIRE(next > look);
    look = next;
  }
  CHECK(looks < 40);
  CHECK(look > now + 7ms);
  CHECK(look < now + 16ms);
}

TEST_CASE("routing: a replica that has passed and is not free yet is still worth waiting for") {
  ReplicaRouter router(2, {.relearn_every = 0}, {});
  teach(router, 0, 1ms, 0ms);
  teach(router, 1, 1s, 0ms);
  const BatchShape one{1, 1, 1};
  router.occupy(0, kStart, one);
  router.start(0, kStart, one, false);
  CHECK(router.choose(kStart, one, 1).replica == kNoReplica);
  router.passed(0, one, 3ms);  // later than foretold
  CHECK(router.choose(kStart + 3ms, one, 1).replica == kNoReplica);
  router.free(0);
  CHECK(router.choose(kStart + 3ms, one, 1).replica == 0);
}

TEST_CASE("routing: a slow first batch does not put a replica aside for ever") {
  ReplicaRouter router(2, {.relearn_every = 0}, {});
  const BatchShape shape{4, 4, 1};
  for (std::uint32_t r = 0; r < 2; ++r) {
    for (int batch = 0; batch < 6; ++batch) {
      router.occupy(r, kStart, shape);
      router.start(r, kStart, shape, false);
      router.passed(r, shape, batch == 0 && r == 1 ? Duration(2s) : Duration(1ms));
      router.free(r);
    }
  }
  router.occupy(0, kStart, shape);
  CHECK(router.choose(kStart, shape, 2).replica == 1);
}

TEST_CASE("routing: what is not known is found out, one batch in relearn_every") {
  ReplicaRouter router(3, {.relearn_every = 50}, {});
  const BatchShape shape{4, 4, 1};
  const TimePoint now = kStart + 1s;
  std::vector<int> runs(3);
  // In turns until each has run four times; then the slow ones only to learn whether they still
  // are.
  const std::vector<Duration> takes{1ms, 20ms, 30ms};
  for (int batch = 0; batch < 1012; ++batch) {
    const std::uint32_t r = router.choose(now, shape, 1).replica;
    REQUIRE(r < 3);
    if (batch < 12) REQUIRE(runs[r] == batch / 3);
    ++runs[r];
    router.occupy(r, now, shape);
    router.start(r, now, shape, false);
    router.passed(r, shape, takes[r]);
    router.free(r);
  }
  CHECK(runs[1] >= 4 + 18);
  CHECK(runs[1] <= 4 + 20);
  CHECK(runs[2] >= 4 + 18);
  CHECK(runs[2] <= 4 + 20);
}

TEST_CASE("health: back-off doubles with each blame, halves with each pass, within its bounds") {
  ReplicaHealth health({.first_backoff = 10ms, .max_backoff = 50ms});
  TimePoint now = kStart;
  for (const Duration backoff : {10ms, 20ms, 40ms, 50ms, 50ms}) {
    CHECK(health.may_serve(now));
    health.begin();
    health.blame(now);
    health.end();
    CHECK(health.state() == ReplicaState::drained);
    CHECK_FALSE(health.may_serve(now + backoff - 1ns));
    CHECK(health.retry_at() == now + backoff);
    now += backoff;
  }
  health.begin();
  CHECK(health.state() == ReplicaState::probing);
  CHECK_FALSE(health.may_serve(now + 1h));  // one batch, no more
  health.end();
  CHECK(health.may_serve(now));  // it told nothing: another
  health.begin();
  health.passed();
  CHECK(health.in_service());
  health.passed();
  health.blame(now);
  CHECK(health.retry_at() == now + 12500us);
}

TEST_CASE("routing: a replica whose back-off is over gets the next batch, and only that") {
  ReplicaRouter router(2, {.relearn_every = 0}, {.first_backoff = 10ms});
  teach(router, 0, 1ms, 0ns);
  teach(router, 1, 8ms, 0ns);
  const BatchShape shape{4, 4, 1};
  router.blame(1, kStart);
  CHECK(router.choose(kStart, shape, 1000).replica == 0);
  CHECK(router.choose(kStart + 10ms, shape, 1).replica == 1);
  router.occupy(1, kStart + 10ms, shape);
  CHECK(router.choose(kStart + 10ms, shape, 1).replica == 0);
  router.occupy(0, kStart + 10ms, shape);
  const RouteChoice wait = router.choose(kStart + 10ms, shape, 1000);
  CHECK(wait.replica == kNoReplica);
  CHECK_FALSE(wait.outage);
  router.blame(1, kStart + 11ms);
  router.free(1);
  CHECK(router.choose(kStart + 11ms, shape, 1000).when == kStart + 31ms);
}

TEST_CASE("routing: an outage is when nobody is in service, and ends with the first back-off") {
  ReplicaRouter router(2, {.relearn_every = 0}, {.first_backoff = 10ms});
  const BatchShape shape{1, 1, 1};
  router.occupy(0, kStart, shape);
  router.blame(1, kStart);
  CHECK_FALSE(router.choose(kStart, shape, 1).outage);  // the other one runs
  router.blame(0, kStart + 5ms);
  CHECK(router.choose(kStart + 5ms, shape, 1).outage);
  router.free(0);
  CHECK(router.choose(kStart + 9ms, shape, 1).outage);
  CHECK(router.choose(kStart + 10ms, shape, 1).replica == 1);
}

// --- whole traces
// ---------------------------------------------------------------------------------

namespace {

enum class Rule { any_free, head_only, routed };

/// Sends batches to replicas in virtual time, by one of three rules.
class Sending final : public BatchPolicy {
 public:
  Sending(Rule rule, std::size_t replicas)
      : rule_(rule), router_(replicas, RoutingOptions{}, HealthOptions{}) {}
  BatchDecision decide(const QueueView&) noexcept override { return {.dispatch = true}; }
  BatchDecision may_start(const QueueView& view) noexcept override {
    const std::size_t count = std::min(view.waiting, view.max_count);
    const BatchShape shape{count, count, 1};
    if (rule_ == Rule::any_free) return {.dispatch = true};  // a worker is
    const std::uint64_t backlog = rule_ == Rule::routed ? (view.waiting + count - 1) / count : 1;
    const RouteChoice choice = router_.choose(view.now, shape, backlog);
    BatchDecision decision{.dispatch = choice.replica != kNoReplica, .when = choice.when};
    if (choice.backlog < 1000) decision.wake_count = (choice.backlog - 1) * count + 1;
    return decision;
  }
  std::uint32_t route(const BatchShape& shape, TimePoint now) noexcept override {
    std::uint32_t r = router_.choose(now, shape, 1u << 30).replica;
    if (rule_ == Rule::any_free) {  // whoever has been idle longest, as threads take turns
      do {
        last_ = (last_ + 1) % static_cast<std::uint32_t>(router_.size());
      } while (router_.busy(last_));
      r = last_;
    }
    router_.occupy(r, now, shape);
    router_.start(r, now, shape, false);
    return r;
  }
  void on_finish(const BatchReport& report) noexcept override {
    router_.passed(report.route, report.shape, report.execution);
    router_.free(report.route);
  }

 private:
  Rule rule_;
  ReplicaRouter router_;
  std::uint32_t last_ = 0;
};

struct Traffic {
  double mean_ms, p99_ms, makespan_ms;
};
/// A fast replica and one that takes `slower` times as long; Poisson arrivals.
Traffic traffic(Rule rule, double slower, double per_ms, int requests) {
  std::mt19937 random(17);
  std::exponential_distribution<double> gap(per_ms);
  std::vector<TracedRequest> trace;
  double at = 0;
  for (int i = 0; i < requests; ++i) trace.push_back({kStart + micros(1000 * (at += gap(random)))});
  Sending policy(rule, 2);
  std::lognormal_distribution<double> noise(0, 0.05);
  const Simulation s = simulate(
      trace, {.limits = resolved({.max_batch_size = 8, .queue_capacity = 1u << 16}), .workers = 2},
      &policy, [&](const BatchShape& shape, std::uint32_t route) {
        const double us = 1000 + 50 * static_cast<double>(shape.count);
        return micros(us * (route == 0 ? 1 : slower) * noise(random));
      });
  REQUIRE(s.count[SimulatedAnswer::in_time] == trace.size());
  const std::vector<Duration> sorted = s.latencies(trace);
  double sum = 0;
  const auto ms = [](Duration d) { return std::chrono::duration<double, std::milli>(d).count(); };
  for (const Duration d : sorted) sum += ms(d);
  return {sum / static_cast<double>(sorted.size()), ms(quantile_of(sorted, 0.99)),
          ms(s.end - s.begin)};
}

}  // namespace

TEST_CASE("routing: with room, latency is the fast replica's; under overload, all of them help") {
  struct Row {
    double slower, per_ms;
    const char* load;
  };
  for (const Row row : {Row{1, 2, "equal replicas"}, Row{4, 1, "light"}, Row{10, 1, "light"},
                        Row{10, 3, "middling"}, Row{4, 9, "overload"}, Row{2.5, 12, "overload"}}) {
    const Traffic any = traffic(Rule::any_free, row.slower, row.per_ms, 20000);
    const Traffic head = traffic(Rule::head_only, row.slower, row.per_ms, 20000);
    const Traffic routed = traffic(Rule::routed, row.slower, row.per_ms, 20000);
    std::printf(
        "%4.1f times slower, %-14s any free: mean %7.2f p99 %7.2f ms, all %6.0f ms; head only: "
        "%7.2f %7.2f %6.0f; routed: %7.2f %7.2f %6.0f\n",
        row.slower, row.load, any.mean_ms, any.p99_ms, any.makespan_ms, head.mean_ms, head.p99_ms,
        head.makespan_ms, routed.mean_ms, routed.p99_ms, routed.makespan_ms);
    CAPTURE(row.slower, row.per_ms);
    CHECK(routed.mean_ms < 1.03 * any.mean_ms);
    CHECK(routed.p99_ms < 1.05 * any.p99_ms);
    CHECK(routed.makespan_ms < 1.01 * any.makespan_ms);
    CHECK(routed.mean_ms < 1.03 * head.mean_ms);
    CHECK(routed.makespan_ms < 1.01 * head.makespan_ms);
    if (row.slower == 10) CHECK(routed.mean_ms < 0.85 * any.mean_ms);
    if (row.slower == 10) CHECK(routed.p99_ms < 0.3 * any.p99_ms);
    if (row.slower == 2.5) CHECK(routed.makespan_ms < 0.85 * head.makespan_ms);
  }
}
