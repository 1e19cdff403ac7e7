// Who is served when: priorities that age, tenants that share, groups that never mix.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"
#include "support/watched_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

struct Served {
  int id;
  RequestTerms terms;
  std::size_t batch;
};

/// A batcher whose model writes down, in order, what it was shown; and a hold on its workers.
class Recorder {
 public:
  Recorder(BatcherOptions options, unsigned workers)
      : hold_(workers), batcher_(make(options, workers)) {
    hold_.occupy(batcher_, -1);
  }
  DynamicBatcher<int, int>& batcher() { return batcher_; }
  void submit(int id, const SubmitOptions& options = {}) { batcher_.submit(id, options).detach(); }
  const std::vector<Served>& let_go() {
    hold_.let_go(batcher_);
    REQUIRE(batcher_.drain());
    return served_;
  }
  std::vector<int> ids() {
    std::vector<int> ids;
    for (const Served& s : let_go()) ids.push_back(s.id);
    return ids;
  }

 private:
  DynamicBatcher<int, int> make(BatcherOptions options, unsigned workers) {
    options.workers = workers;
    options.min_batch_size = 1;
    return DynamicBatcher<int, int>(
        [this](Batch<int, int>& batch) {
          hold_.enter();
          for (std::size_t i = 0; i < batch.size(); ++i) {
            if (batch[i] >= 0) served_.push_back({batch[i], batch.terms(i), batches_});
            batch.resolve(i, 0);
          }
          ++batches_;
        },
        options);
  }
  std::size_t batches_ = 0;
  std::vector<Served> served_;
  Hold hold_;
  DynamicBatcher<int, int> batcher_;
};

}  // namespace

TEST_CASE("order: a higher priority first, and first come first served within each") {
  const unsigned workers = GENERATE(0u, 1u);
  const std::size_t batch = GENERATE(1u, 7u, 64u);
  Recorder recorder({.max_batch_size = batch, .priority_ageing = Duration::max()}, workers);
  std::mt19937 random(5);
  std::vector<std::pair<int, int>> wanted;  // stable by priority
  for (int i = 0; i < 300; ++i) {
    const int priority = static_cast<int>(random() % kPriorityLevels);
    wanted.emplace_back(-priority, i);
    recorder.submit(i, {.priority = static_cast<Priority>(priority)});
  }
  std::sort(wanted.begin(), wanted.end());
  std::vector<int> ids;
  for (const auto& [priority, id] : wanted) ids.push_back(id);
  CHECK(recorder.ids() == ids);
}

TEST_CASE("order: an ageing of 0 makes priorities count for nothing") {
  const unsigned workers = GENERATE(0u, 1u);
  Recorder recorder({.max_batch_size = 3, .priority_ageing = 0s}, workers);
  for (int i = 0; i < 9; ++i) recorder.submit(i, {.priority = static_cast<Priority>(i % 3)});
  CHECK(recorder.ids() == std::vector{0, 1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("order: a low priority under a flood of high ones is served when it has aged") {
  ManualClock clock;
  std::vector<std::pair<int, TimePoint>> served;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        for (int x : in) served.emplace_back(x, clock.now());
        return doubled(in);
      },
      {.max_batch_size = 1, .priority_ageing = 10ms, .workers = 0, .host = {.clock = &clock}});
  const TimePoint start = clock.now();
  Future<int> low = batcher.submit(-1, {.priority = Priority::low});
  std::vector<Future<int>> flood;
  for (int i = 0; i < 40; ++i) {  // one comes, one goes: the flood alone keeps the model busy
    flood.push_back(batcher.submit(i, {.priority = Priority::high}));
    batcher.run_one();
    clock.advance(1ms);
  }
  CHECK(low.is_ready());
  const auto at = std::find_if(served.begin(), served.end(), [](auto& s) { return s.first == -1; });
  REQUIRE(at != served.end());
  CHECK(at->second == start + 10ms);
}

TEST_CASE("tenants: one that asks ten times as often for eight times as much takes no more") {
  const unsigned workers = GENERATE(0u, 1u);
  const std::size_t batch = GENERATE(1u, 5u, 32u);
  const bool eager_is_long = GENERATE(true, false);
  const std::uint64_t eager_cost = eager_is_long ? 8 : 1, modest_cost = eager_is_long ? 1 : 8;
  Recorder recorder(
      {.max_batch_size = batch, .queue_capacity = 4096, .max_tenants = 2, .max_groups = 1},
      workers);
  int id = 0, modest = 0;
  for (int i = 0; i < 100; ++i) {
    for (int j = 0; j < 10; ++j) recorder.submit(id++, {.cost = eager_cost, .tenant = 7000});
    recorder.submit(id++, {.cost = modest_cost, .tenant = 3});
  }
  std::int64_t gap = 0, least = 0, most = 0;
  for (const Served& s : recorder.let_go()) {
    const auto cost = static_cast<std::int64_t>(s.terms.cost);
    gap += s.terms.tenant == 3 ? -cost : cost;
    modest += s.terms.tenant == 3;
    least = std::min(least, gap);
    most = std::max(most, gap);
    if (modest == 100) break;  // from here on one of them has nothing waiting
  }
  CAPTURE(workers, batch, eager_is_long, least, most);
  CHECK(modest == 100);
  CHECK(most - least <= 8 + 1);  // over any stretch of time, not only from the start
}

TEST_CASE("tenants: who comes late is served at once, and has no claim on the time before") {
  const unsigned workers = GENERATE(0u, 1u);
  std::vector<TenantId> served;
  std::vector<Future<int>> late;
  Hold hold(workers);
  DynamicBatcher<int, int>* self = nullptr;
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) {
        hold.enter();
        if (batch[0] >= 0) served.push_back(batch.terms(0).tenant);
        if (served.size() == 50 && late.empty()) {
          for (int i = 0; i < 50; ++i) late.push_back(self->submit(i, {.tenant = 2}));
        }
        batch.resolve(0, 0);
      },
      {.max_batch_size = 1, .max_tenants = 2, .workers = workers});
  self = &batcher;
  hold.occupy(batcher, -1);
  for (int i = 0; i < 100; ++i) batcher.submit(i, {.tenant = 1}).detach();
  hold.let_go(batcher);
  CHECK(batcher.drain());
  REQUIRE(served.size() == 150);
  // From the 50th on they take turns: of any two in a row, one is his.
  CHECK(std::count(served.begin(), served.begin() + 50, 1u) == 50);
  for (std::size_t i = 50; i < 150; i += 2) CHECK(served[i] + served[i + 1] == 3);
}

TEST_CASE("tenants: more than may wait at once are refused until one has nothing waiting") {
  const unsigned workers = GENERATE(0u, 1u);
  const Overload overload = GENERATE(Overload::reject, Overload::shed);
  Hold hold(workers);
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.min_batch_size = 1, .overload = overload, .max_tenants = 2, .workers = workers});
  hold.occupy(batcher, 0);
  Future<int> a = batcher.submit(1, {.tenant = 11});
  Future<int> b = batcher.submit(2, {.tenant = 22});
  Future<int> third = batcher.submit(3, {.tenant = 33});
  Future<int> again = batcher.submit(4, {.tenant = 11});
  REQUIRE(third.is_ready());
  const Result<int> refused = third.get();
  CHECK(refused.error().code() == ErrorCode::queue_full);
  CHECK(refused.error().message() ==
        "tenant: max_queue_per_tenant, 1024, of it wait, or max_tenants, 2, others; retry after 1 "
        "ms");
  CHECK(batcher.stats().rejected[Refusal::tenant_full] == 1);
  hold.let_go(batcher);
  third = batcher.submit(3, {.tenant = 33});
  run_all(batcher, workers);
  CHECK(third.get().value() == 6);
  CHECK(a.get().value() == 2);
  CHECK(b.get().value() == 4);
  CHECK(again.get().value() == 8);
}

TEST_CASE("tenants: max_queue_per_tenant refuses the one that fills it, and nobody else") {
  const unsigned workers = GENERATE(0u, 1u);
  Hold hold(workers);
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 2,
       .min_batch_size = 1,
       .queue_capacity = 100,
       .max_tenants = 10,
       .max_queue_per_tenant = 3,
       .workers = workers});
  hold.occupy(batcher, 0);
  std::vector<Future<int>> futures;
  for (TenantId tenant = 0; tenant < 10; ++tenant) {
    for (int i = 0; i < 3; ++i) futures.push_back(batcher.submit(i, {.tenant = tenant}));
    Future<int> fourth = batcher.submit(4, {.tenant = tenant});
    REQUIRE(fourth.is_ready());
    CHECK(code_of(fourth) == ErrorCode::queue_full);
  }
  hold.let_go(batcher);
  for (Future<int>& future : futures) CHECK(future.get());
  CHECK(batcher.stats().rejected[Refusal::tenant_full] == 10);
}

TEST_CASE("tenants: a submit blocked by its tenant's bound goes on when that has room") {
  WatchedClock clock;
  const TimePoint later = clock.now() + 1h;
  Hold hold(1);
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        hold.enter();
        return doubled(in);
      },
      {.max_batch_size = 1,
       .overload = Overload::block,
       .max_tenants = 2,
       .max_queue_per_tenant = 1,
       .host = {.clock = &clock}});
  hold.occupy(batcher, 0);
  Future<int> first = batcher.submit(1, {.tenant = 1});
  Future<int> second;
  Thread blocked =
      *Thread::start([&] { second = batcher.submit(2, {.deadline = later, .tenant = 1}); });
  clock.await_sleeps(later);
  Future<int> other = batcher.submit(3, {.tenant = 2});  // not his problem
  CHECK_FALSE(other.is_ready());
  hold.open();
  blocked.join();
  CHECK(first.get().value() == 2);
  CHECK(second.get().value() == 4);
  CHECK(other.get().value() == 6);
}

TEST_CASE("groups: requests of two groups never share a batch, whatever else they are") {
  const unsigned workers = GENERATE(0u, 1u, 3u);
  std::atomic<int> mixed{0}, batches{0};
  DynamicBatcher<int, int> batcher(
      [&](Batch<int, int>& batch) {
        ++batches;
        for (std::size_t i = 0; i < batch.size(); ++i) {
          mixed += batch.terms(i).group != batch.terms(0).group;
          batch.resolve(i, 2 * batch[i]);
        }
      },
      {.max_batch_size = 8,
       .max_queue_delay = 100us,
       .queue_capacity = 4096,
       .max_tenants = 4,
       .max_groups = 5,
       .workers = workers});
  std::mt19937 random(3);
  std::vector<Future<int>> futures;
  for (int i = 0; i < 2000; ++i) {
    futures.push_back(batcher.submit(i, {.cost = 1 + random() % 9,
                                         .priority = static_cast<Priority>(random() % 3),
                                         .tenant = random() % 4,
                                         .group = static_cast<std::uint16_t>(random() % 5)}));
    if (workers == 0 && i % 32 == 0) batcher.run_one();
  }
  CHECK(batcher.drain());
  int wrong = 0;
  for (int i = 0; i < 2000; ++i) {
    wrong += futures[static_cast<std::size_t>(i)].get().value_or(-1) != 2 * i;
  }
  CHECK(wrong == 0);
  CHECK(mixed == 0);
  CHECK(batches >= 2000 / 8);
  const Result<int> unknown = batcher.submit(1, {.group = 5}).get();
  CHECK(unknown.error().code() == ErrorCode::shutting_down);
}

TEST_CASE("groups: each closes at its own time, and one beyond the last is refused") {
  ManualClock clock;
  const TimePoint start = clock.now();
  std::vector<std::pair<TimePoint, std::vector<int>>> runs;
  const unsigned workers = GENERATE(0u, 1u);
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        runs.emplace_back(clock.now(), std::vector<int>(in.begin(), in.end()));
        return doubled(in);
      },
      {.max_batch_size = 8,
       .max_queue_delay = 10ms,
       .max_groups = 2,
       .workers = workers,
       .host = {.clock = &clock}});
  Future<int> refused = batcher.submit(0, {.group = 2});
  CHECK(refused.get().error().message() == "group: wanted below max_groups, 2, got 2");
  Future<int> a = batcher.submit(1, {.group = 1});
  clock.advance(4ms);
  Future<int> b = batcher.submit(2, {.group = 0});
  Future<int> c = batcher.submit(3, {.group = 1});
  if (workers == 0)
    CHECK(batcher.run_one().next_due == start + 10ms);
  else
    clock.await_sleeper(start + 10ms);
  clock.advance(6ms);
  run_all(batcher, 0);
  CHECK(a.get().value() == 2);
  CHECK(c.get().value() == 6);
  CHECK_FALSE(b.is_ready());
  clock.advance(4ms);
  run_all(batcher, 0);
  CHECK(b.get().value() == 4);
  REQUIRE(runs.size() == 2);
  CHECK(runs[0] == std::pair{start + 10ms, std::vector{1, 3}});
  CHECK(runs[1] == std::pair{start + 14ms, std::vector{2}});
}
