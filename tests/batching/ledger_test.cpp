// Load: 64 threads x 1,000 submits with cancels, drops, deadlines, callbacks, a model that throws
// and a stop in the middle. A ledger counts, for each request, how often it was resolved: always
// once.
#include <array>
#include <atomic>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr int kThreads = 64;
constexpr int kSubmits = 1000;

struct Ledger {
  std::vector<std::atomic<int>> resolved = std::vector<std::atomic<int>>(kThreads * kSubmits);
  std::array<std::atomic<std::uint64_t>, 32> outcomes{};  // by error code; the last one: a value
  std::atomic<std::uint64_t> dropped{0}, wrong{0};

  void book(int id, const Result<int>& answer) {
    ++resolved[static_cast<std::size_t>(id)];
    ++outcomes[answer ? outcomes.size() - 1 : static_cast<std::size_t>(answer.error().code())];
    if (answer && *answer != ~id) ++wrong;
  }
  std::uint64_t count(ErrorCode code) const { return outcomes[static_cast<std::size_t>(code)]; }
  std::uint64_t values() const { return outcomes.back(); }
};

/// What one client does with the futures it holds.
class Client {
 public:
  Client(DynamicBatcher<int, int>& batcher, Ledger& ledger, int thread)
      : batcher_(batcher), ledger_(ledger), random_(static_cast<unsigned>(thread)) {}

  void run(int first, std::atomic<int>& done) {
    for (int id = first; id < first + kSubmits; ++id, ++done) {
      std::stop_source stop;
      SubmitOptions options{.cost = 1 + pick(4), .priority = static_cast<Priority>(pick(3))};
      if (pick(4) == 0) options.timeout = Duration(std::chrono::microseconds(pick(400)));
      if (pick(8) == 0) options.stop_token = stop.get_token();
      Future<int> future = batcher_.submit(id, options);
      if (options.stop_token.stop_possible()) stop.request_stop();
      switch (pick(8)) {
        case 0:
          if (future.cancel() && !future.is_ready()) ++ledger_.wrong;
          keep(id, std::move(future));
          break;
        case 1:
          std::move(future).on_ready([this, id](Result<int> answer) {
            ledger_.book(id, answer);
            if (id % 3 == 0) throw std::runtime_error("callback");
          });
          break;
        case 2:
          ++ledger_.dropped;
          ++ledger_.resolved[static_cast<std::size_t>(id)];
          break;  // dropped here
        default:
          keep(id, std::move(future));
      }
      if (kept_.size() > pick(16)) take();
    }
    while (!kept_.empty()) take();
  }

 private:
  unsigned pick(unsigned n) { return static_cast<unsigned>(random_() % n); }
  void keep(int id, Future<int> future) { kept_.emplace_back(id, std::move(future)); }
  void take() {
    const std::size_t i = pick(static_cast<unsigned>(kept_.size()));
    std::swap(kept_[i], kept_.back());
    ledger_.book(kept_.back().first, kept_.back().second.get());
    kept_.pop_back();
  }

  DynamicBatcher<int, int>& batcher_;
  Ledger& ledger_;
  std::mt19937 random_;
  std::vector<std::pair<int, Future<int>>> kept_;
};

void storm(Overload overload, unsigned workers) {
  Ledger ledger;
  BatcherStats stats;
  {
    std::atomic<unsigned> batches{0};
    DynamicBatcher<int, int> batcher(
        [&](Batch<int, int>& batch) {
          const unsigned n = ++batches;
          for (std::size_t i = 0; i < batch.size(); ++i) {
            if (n % 7 == 0 && i == batch.size() / 2) throw std::runtime_error("model");
            if (n % 11 == 0 && i % 2 == 0) continue;  // left unresolved
            batch.resolve(i, ~batch[i]);
          }
        },
        {.max_batch_size = 16,
         .min_batch_size = 4,
         .max_batch_cost = 40,
         .max_queue_delay = 100us,
         .queue_capacity = overload == Overload::block ? 48u : 512u,
         .max_outstanding =
             kThreads * 20,  // more than the clients hold: a blocked one could not take
         .overload = overload,
         .workers = workers});
    std::atomic<int> done{0};
    std::vector<Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.push_back(
          *Thread::start([&, t] { Client(batcher, ledger, t).run(t * kSubmits, done); }));
    }
    while (done < kThreads * kSubmits * 3 / 4) yield_thread();
    REQUIRE(batcher.stop());
    threads.clear();
    stats = batcher.stats();
  }
  int not_once = 0;
  for (const std::atomic<int>& count : ledger.resolved) not_once += count != 1;
  CHECK(not_once == 0);
  CHECK(ledger.wrong == 0);
  CHECK(stats.pending() == 0);
  CHECK(stats.submitted + stats.rejected.total() == kThreads * kSubmits);
  // The clients' books and the batcher's agree; what was dropped may have ended in any way before.
  std::uint64_t booked = ledger.values() + ledger.dropped;
  for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
    booked += ledger.count(static_cast<ErrorCode>(code));
  }
  CHECK(booked == kThreads * kSubmits);
  CHECK(ledger.values() <= stats.completed);
  CHECK(ledger.values() + ledger.dropped >= stats.completed);
  CHECK(ledger.count(ErrorCode::model_failed) + ledger.count(ErrorCode::contract_violation) <=
        stats.failed);
  CHECK(stats.completed > 0);
  CHECK(stats.failed > 0);
  CHECK(stats.cancelled > 0);
  CHECK(stats.rejected[Refusal::shutting_down] > 0);
  std::printf(
      "%d requests: %llu completed, %llu failed, %llu cancelled, %llu expired, %llu shut down, "
      "%llu rejected; %llu batches; resolved other than once: %d\n",
      kThreads * kSubmits, static_cast<unsigned long long>(stats.completed),
      static_cast<unsigned long long>(stats.failed),
      static_cast<unsigned long long>(stats.cancelled),
      static_cast<unsigned long long>(stats.expired),
      static_cast<unsigned long long>(stats.shut_down),
      static_cast<unsigned long long>(stats.rejected.total()),
      static_cast<unsigned long long>(stats.batches()), not_once);
}

}  // namespace

TEST_CASE("64 threads x 1,000 submits: every request is resolved exactly once, rejecting") {
  storm(Overload::reject, 2);
}
TEST_CASE("64 threads x 1,000 submits: every request is resolved exactly once, blocking") {
  storm(Overload::block, 1);
}
