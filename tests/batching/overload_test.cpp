// What submit() does when there is no room: reject, block, shed.
#include <memory>
#include <optional>
#include <vector>

#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"
#include "support/watched_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

/// A batcher with a full queue of those requests, behind a held batch.
struct Full {
  Full(unsigned workers, BatcherOptions options, const std::vector<SubmitOptions>& requests)
      : hold(workers),
        batcher([this](std::span<const int> in) { return run(in); },
                with(options, workers, requests.size())) {
    hold.occupy(batcher, -1);
    for (const SubmitOptions& request : requests) {
      futures.push_back(batcher.submit(static_cast<int>(futures.size()), request));
    }
  }
  static BatcherOptions with(BatcherOptions options, unsigned workers, std::size_t capacity) {
    options.max_batch_size = options.min_batch_size = 1;
    options.queue_capacity = capacity;
    options.workers = workers;
    return options;
  }
  std::vector<int> run(std::span<const int> in) {
    hold.enter();
    if (in[0] >= 0) served.push_back(in[0]);
    return doubled(in);
  }
  /// Which of the first ones are answered, and how.
  std::optional<ErrorCode> ended(std::size_t i) {
    if (!futures[i].is_ready()) return std::nullopt;
    return code_of(futures[i]);
  }
  std::vector<int> served;
  std::vector<Future<int>> futures;
  Hold hold;
  DynamicBatcher<int, int> batcher;
};

}  // namespace

TEST_CASE("reject: retry-after is the time of the batches ahead, at their mean") {
  ManualClock clock;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        clock.advance(in[0] == 0 ? 5ms : 15ms);
        return doubled(in);
      },
      {.max_batch_size = 2, .queue_capacity = 8, .workers = 0, .host = {.clock = &clock}});
  for (int i = 0; i < 4; ++i) batcher.submit(i).detach();
  run_all(batcher, 0);  // a mean of 10 ms
  for (int i = 0; i < 8; ++i) batcher.submit(i).detach();
  const Result<int> refused = batcher.submit(8).get();
  CHECK(refused.error().code() == ErrorCode::queue_full);
  CHECK(refused.error().message() == "queue_capacity: all 8 are in use; retry after 50 ms");
  CHECK(batcher.retry_after() == 50ms);  // four that wait, and his own
}

TEST_CASE("block: host-driven, another thread's run_one() makes the room") {
  WatchedClock clock;
  const TimePoint later = clock.now() + 1h;
  Full full(0, {.overload = Overload::block, .host = {.clock = &clock}}, {{}, {}});
  Future<int> late;
  Thread blocked = *Thread::start([&] { late = full.batcher.submit(9, {.deadline = later}); });
  clock.await_sleeps(later);
  CHECK(full.batcher.run_one().batch_size == 1);
  blocked.join();
  run_all(full.batcher, 0);
  CHECK(late.get().value() == 18);
  CHECK(full.served == std::vector{0, 1, 9});
}

TEST_CASE("block: a wait for room ends with its deadline, its stop token or the batcher") {
  const unsigned workers = GENERATE(0u, 1u);
  const int how = GENERATE(0, 1, 2, 3);
  WatchedClock clock;
  const TimePoint deadline = clock.now() + (how == 0 ? Duration(20ms) : Duration(1h));
  Full full(workers, {.overload = Overload::block, .host = {.clock = &clock}}, {{}});
  Future<int> future;
  std::stop_source stop;
  Thread blocked = *Thread::start([&] {
    future = full.batcher.submit(9, {.deadline = deadline, .stop_token = stop.get_token()});
  });
  if (how != 0) clock.await_sleeps(deadline);
  if (how == 1) stop.request_stop();
  Thread closer;
  std::atomic<bool> closed{how < 2};
  if (how == 2) closer = *Thread::start([&] { closed = full.batcher.drain().has_value(); });
  if (how == 3) closer = *Thread::start([&] { closed = full.batcher.stop().has_value(); });
  if (how < 2 || workers > 0) {
    blocked.join();  // while the queue is still full
  }
  full.hold.open();
  blocked.join();
  closer.join();
  CHECK(closed);
  const ErrorCode code = code_of(future);
  CAPTURE(workers, how);
  if (how == 0) CHECK(code == ErrorCode::expired);
  if (how == 1) CHECK(code == ErrorCode::cancelled);
  if (how >= 2) CHECK(code == ErrorCode::shutting_down);
  if (how < 2) full.hold.let_go(full.batcher);
  CHECK(full.batcher.drain());
  const BatcherStats stats = full.batcher.stats();
  CHECK(stats.rejected.total() == 1);
  CHECK(stats.submitted == 1 + workers);
  CHECK(stats.pending() == 0);
}

TEST_CASE("block: whoever waits for an outstanding answer to be taken goes on when it is") {
  const unsigned workers = GENERATE(0u, 1u);
  WatchedClock clock;
  const TimePoint later = clock.now() + 1h;
  DynamicBatcher<int, int> batcher(doubled, {.max_batch_size = 1,
                                             .queue_capacity = 2,
                                             .max_outstanding = 2,
                                             .overload = Overload::block,
                                             .workers = workers,
                                             .host = {.clock = &clock}});
  Future<int> first = batcher.submit(1);
  Future<int> second = batcher.submit(2);
  run_all(batcher, workers);
  Future<int> third;
  Thread blocked = *Thread::start([&] { third = batcher.submit(3, {.deadline = later}); });
  clock.await_sleeps(later);
  CHECK(first.get().value() == 2);
  blocked.join();
  run_all(batcher, workers);
  CHECK(third.get().value() == 6);
  CHECK(second.get().value() == 4);
}

TEST_CASE("shed: the oldest of the lowest priority goes, and the new request takes its place") {
  const unsigned workers = GENERATE(0u, 1u);
  Full full(workers, {.priority_ageing = 1h, .overload = Overload::shed},
            {{.priority = Priority::high},
             {.priority = Priority::normal},
             {.priority = Priority::low},
             {.priority = Priority::low}});
  Future<int> normal = full.batcher.submit(4);
  CHECK(full.ended(2) == ErrorCode::shed);
  Future<int> low = full.batcher.submit(5, {.priority = Priority::low});
  CHECK(full.ended(3) == ErrorCode::shed);  // not the newcomer, who has waited less
  Future<int> high = full.batcher.submit(6, {.priority = Priority::high});
  CHECK(code_of(low) == ErrorCode::shed);
  for (std::size_t i : {0u, 1u}) CHECK_FALSE(full.futures[i].is_ready());
  full.hold.let_go(full.batcher);
  CHECK(full.batcher.drain());
  CHECK(full.served == std::vector{0, 6, 1, 4});
  CHECK(normal.get().value() == 8);
  CHECK(high.get().value() == 12);
  const BatcherStats stats = full.batcher.stats();
  CHECK(stats.shed == 3);
  CHECK(stats.rejected.total() == 0);
  CHECK(stats.pending() == 0);
}

TEST_CASE("shed: a request that matters less than all that wait is itself refused") {
  const unsigned workers = GENERATE(0u, 1u);
  Full full(workers, {.overload = Overload::shed},
            {{.priority = Priority::high}, {.priority = Priority::normal}});
  Future<int> low = full.batcher.submit(2, {.priority = Priority::low});
  REQUIRE(low.is_ready());
  const Result<int> refused = low.get();
  CHECK(refused.error().code() == ErrorCode::queue_full);
  CHECK(refused.error().message() == "queue_capacity: all 2 are in use; retry after 1 ms");
  full.hold.let_go(full.batcher);
  CHECK(full.batcher.drain());
  CHECK(full.served == std::vector{0, 1});
  CHECK(full.batcher.stats().shed == 0);
  CHECK(full.batcher.stats().rejected[Refusal::queue_full] == 1);
}

TEST_CASE("shed: the tenant that has most of them waiting gives one up") {
  const unsigned workers = GENERATE(0u, 1u);
  Full full(workers, {.overload = Overload::shed, .max_tenants = 3},
            {{.tenant = 1}, {.tenant = 2}, {.tenant = 2}, {.tenant = 2}, {.tenant = 1}});
  Future<int> newcomer = full.batcher.submit(5, {.tenant = 3});
  CHECK(full.ended(1) == ErrorCode::shed);
  for (std::size_t i : {0u, 2u, 3u, 4u}) CHECK_FALSE(full.futures[i].is_ready());
  full.hold.let_go(full.batcher);
  CHECK(newcomer.get().value() == 10);
}

TEST_CASE("shed: when answers that nobody took fill the batcher, it refuses: shedding frees none") {
  const unsigned workers = GENERATE(0u, 1u);
  DynamicBatcher<int, int> batcher(doubled, {.max_batch_size = 1,
                                             .queue_capacity = 2,
                                             .max_outstanding = 2,
                                             .overload = Overload::shed,
                                             .workers = workers});
  Future<int> first = batcher.submit(1);
  Future<int> second = batcher.submit(2);
  run_all(batcher, workers);
  Future<int> third = batcher.submit(3);
  CHECK(third.get().error().message().starts_with("max_outstanding: all 2 are in use"));
  CHECK(first.get().value() == 2);
  CHECK(second.get().value() == 4);
  CHECK(batcher.stats().rejected[Refusal::outstanding_full] == 1);
}

TEST_CASE("shed: the victim's callback may submit again, stop the batcher, or destroy it") {
  const unsigned workers = GENERATE(0u, 1u);
  const int what = GENERATE(0, 1, 2);
  Gate gate;
  auto batcher = std::make_unique<DynamicBatcher<int, int>>(
      [&](std::span<const int> in) {
        gate.pass();
        return doubled(in);
      },
      BatcherOptions{.max_batch_size = 1,
                     .queue_capacity = 1,
                     .overload = Overload::shed,
                     .workers = workers});
  Future<int> running, resubmitted;
  if (workers > 0) {
    running = batcher->submit(0);
    gate.await_arrivals(1);
  }
  gate.open();  // with workers: the victim may be served instead
  std::optional<ErrorCode> told;
  batcher->submit(1, {.priority = Priority::low}).on_ready([&](const Result<int>& answer) {
    told = answer ? ErrorCode::internal : answer.error().code();
    if (told != ErrorCode::shed) return;
    if (what == 0) resubmitted = batcher->submit(2, {.priority = Priority::low});
    if (what == 1) CHECK(batcher->stop());
    if (what == 2) batcher.reset();
  });
  Future<int> newcomer = batcher->submit(3);
  CAPTURE(workers, what);
  if (workers == 0) {
    REQUIRE(told == ErrorCode::shed);
    if (what == 0) {
      CHECK(code_of(resubmitted) == ErrorCode::shed);  // the place is the newcomer's
      run_all(*batcher, 0);
      CHECK(newcomer.get().value() == 6);
    } else {
      CHECK(code_of(newcomer) == ErrorCode::shutting_down);
    }
  } else {
    CHECK((newcomer.get() || true));
  }
}
