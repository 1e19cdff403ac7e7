// Load: every accepted request is resolved exactly once, whatever happens.
//
// A round is one batcher under 64 threads x 1,000 submits: priorities, tenants, groups, deadlines,
// cancels, drops, detached requests, stop tokens, callbacks that throw or submit, a model that
// throws, leaves requests out, runs out of memory or is poisoned by one of them, and an end in the
// middle. What else the batcher is like follows from the round's number. A ledger counts for each
// request how often it was resolved; the clients' books and the batcher's must agree.
//
// Eight rounds run always; `batching_ledger_test [deep]` runs a hundred: 6,400,000 requests.
#include <array>
#include <atomic>
#include <cstdio>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr int kThreads = 64;
constexpr int kSubmits = 1000;
constexpr int kRequests = kThreads * kSubmits;
using Batcher = DynamicBatcher<int, int>;

/// What a round is like.
struct Round {
  explicit Round(int number) {
    std::mt19937 random(static_cast<unsigned>(number));
    const auto pick = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
    overload = static_cast<Overload>(number % 3);
    on_failure = static_cast<OnFailure>(pick(2));
    workers = static_cast<unsigned>(number % 4);
    on_executor = pick(3) == 0;
    tenants = pick(2) == 0 ? 1 : 6;
    groups = pick(2) == 0 ? 1 : 3;
    final_spin = pick(3) == 0;
    ending = static_cast<Ending>(pick(4));
    end_after = kRequests / 2 + static_cast<int>(pick(kRequests / 2));
  }
  enum Ending { stop, drain, destroy, all_done };

  Overload overload;
  OnFailure on_failure;
  unsigned workers;  // 0: two of the host's threads
  bool on_executor;
  std::size_t tenants, groups;
  bool final_spin;
  Ending ending;
  int end_after;  // submits
};

/// Requests 0 … kRequests-1 are the clients', `id + kRequests` is what the callback of `id`
/// submits.
struct Ledger {
  std::vector<std::atomic<int>> resolved = std::vector<std::atomic<int>>(2 * kRequests);
  std::array<std::atomic<std::uint64_t>, 32> outcomes{};  // by error code; the last one: a value
  std::atomic<std::uint64_t> submits{0}, given_up{0}, wrong{0};

  void book(int id, const Result<int>& answer) {
    ++resolved[static_cast<std::size_t>(id)];
    ++outcomes[answer ? outcomes.size() - 1 : static_cast<std::size_t>(answer.error().code())];
    if (answer && *answer != ~id) ++wrong;
  }
  /// Nobody will hear how it ends.
  void give_up(int id) {
    ++resolved[static_cast<std::size_t>(id)];
    ++given_up;
  }
  std::uint64_t count(ErrorCode code) const { return outcomes[static_cast<std::size_t>(code)]; }
  std::uint64_t values() const { return outcomes.back(); }
  std::uint64_t booked() const {
    std::uint64_t sum = given_up;
    for (const std::atomic<std::uint64_t>& count : outcomes) sum += count;
    return sum;
  }
};

/// What one client does with the futures it holds.
class Client {
 public:
  Client(Batcher& batcher, Ledger& ledger, const Round& round, int thread)
      : batcher_(batcher), ledger_(ledger), round_(round), random_(static_cast<unsigned>(thread)) {}

  void run(int first, std::atomic<int>& done) {
    for (int id = first; id < first + kSubmits; ++id, ++done) {
      std::stop_source stop;
      SubmitOptions options{.cost = 1 + pick(4),
                            .priority = static_cast<Priority>(pick(3)),
                            .tenant = pick(8),
                            .group = static_cast<std::uint16_t>(pick(round_.groups))};
      if (pick(4) == 0) options.timeout = Duration(std::chrono::microseconds(pick(400)));
      if (pick(8) == 0) options.stop_token = stop.get_token();
      ++ledger_.submits;
      Future<int> future = batcher_.submit(id, options);
      if (options.stop_token.stop_possible()) stop.request_stop();
      switch (pick(9)) {
        case 0:
          if (future.cancel() && !future.is_ready()) ++ledger_.wrong;
          keep(id, std::move(future));
          break;
        case 1:
          std::move(future).on_ready([this, id](Result<int> answer) {
            ledger_.book(id, answer);
            if (id % 3 == 0) throw std::runtime_error("callback");
            if (id % 3 == 1) submit_more(id + kRequests);
          });
          break;
        case 2:
          ledger_.give_up(id);
          break;  // dropped here
        case 3:
          ledger_.give_up(id);
          future.detach();
          break;
        default:
          keep(id, std::move(future));
      }
      if (kept_.size() > pick(16)) take();
    }
    while (!kept_.empty()) take();
  }

 private:
  unsigned pick(std::size_t n) { return static_cast<unsigned>(random_() % n); }
  void keep(int id, Future<int> future) { kept_.emplace_back(id, std::move(future)); }
  void take() {
    const std::size_t i = pick(kept_.size());
    std::swap(kept_[i], kept_.back());
    ledger_.book(kept_.back().first, kept_.back().second.get());
    kept_.pop_back();
  }
  void submit_more(int id) {  // on any thread
    ++ledger_.submits;
    batcher_.submit(id).on_ready([&ledger = ledger_, id](Result<int> a) { ledger.book(id, a); });
  }

  Batcher& batcher_;
  Ledger& ledger_;
  const Round& round_;
  std::mt19937 random_;
  std::vector<std::pair<int, Future<int>>> kept_;
};

struct Trouble {
  Ledger& ledger;
  std::atomic<unsigned> batches{0};
  void operator()(Batch<int, int>& batch) {
    const unsigned n = ++batches;
    std::uint64_t cost = 0;
    bool poisoned = false;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      cost += batch.terms(i).cost;
      poisoned |= batch[i] % 97 == 0;
      if (batch.terms(i).group != batch.terms(0).group) ++ledger.wrong;
    }
    if (batch.size() > 16 || cost > 40) ++ledger.wrong;
    for (int i = 0; n % 17 == 0 && i < 500; ++i) yield_thread();  // long enough to be late
    if (n % 13 == 0) throw std::bad_alloc();
    if (poisoned) throw std::runtime_error("poison");
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (n % 7 == 0 && i == batch.size() / 2) throw std::runtime_error("model");
      if (n % 11 == 0 && i % 2 == 0) continue;  // left unresolved
      if (n % 2 == 0)
        batch.resolve(i, ~batch[i]);
      else
        batch.resolve_at_end(i, ~batch[i]);
    }
  }
};

/// True when `later` was read after `earlier`, as far as the counts tell.
bool follows(const BatcherStats& later, const BatcherStats& earlier) {
  const auto outcomes = [](const BatcherStats& s) {
    return std::array{s.submitted, s.completed, s.failed,    s.cancelled, s.expired,
                      s.shed,      s.shut_down, s.batches(), s.runs,      s.rejected.total()};
  };
  const auto before = outcomes(earlier), now = outcomes(later);
  for (std::size_t i = 0; i < now.size(); ++i) {
    if (now[i] < before[i]) return false;
  }
  return later.pending() <= later.submitted;  // never below zero
}

/// Adds what the batcher counted to `sum`.
void run(int number, BatcherStats& sum, std::uint64_t& submits, std::uint64_t& not_once) {
  const Round round(number);
  Ledger ledger;
  Trouble trouble{ledger};
  ThreadPool pool({.threads = round.on_executor ? 2u : 1u});
  BatcherOptions options{
      .max_batch_size = 16,
      .min_batch_size = 4,
      .max_batch_cost = 40,
      .max_queue_delay = 100us,
      .queue_capacity = round.overload == Overload::reject ? 512u : 48u,
      .max_outstanding = kThreads * 20,  // more than the clients hold: a blocked one cannot take
      .priority_ageing = 1ms,
      .overload = round.overload,
      .on_failure = round.on_failure,
      .max_tenants = round.tenants,
      .max_queue_per_tenant = round.tenants > 1 ? 20u : 0u,
      .max_groups = round.groups,
      .final_spin = round.final_spin ? Duration(20us) : Duration(0),
      .workers = round.workers};
  if (round.on_executor && round.workers > 0) options.host.executor = &pool;
  auto batcher =
      std::make_unique<Batcher>([&trouble](Batch<int, int>& batch) { trouble(batch); }, options);
  std::vector<std::unique_ptr<Client>> clients;  // callbacks may come when their thread has ended
  std::vector<Thread> threads;
  std::atomic<int> done{0};
  std::atomic<bool> over{false};
  for (int t = 0; t < kThreads; ++t) {
    clients.push_back(std::make_unique<Client>(*batcher, ledger, round, t));
    threads.push_back(*Thread::start([&done, client = clients.back().get(), first = t * kSubmits] {
      client->run(first, done);
    }));
  }
  std::vector<Thread> host;
  for (unsigned i = 0; i < (round.workers == 0 ? 2u : 0u); ++i) {
    host.push_back(*Thread::start([&] {
      while (!over) {
        if (batcher->run_one().batch_size == 0) yield_thread();
      }
    }));
  }
  Thread reader = *Thread::start([&] {
    BatcherStats last;
    while (!over) {
      const BatcherStats now = batcher->stats();
      if (!follows(now, last)) ++ledger.wrong;
      last = now;
      yield_thread();
    }
  });
  bool ended = true;
  if (round.ending == Round::stop || round.ending == Round::drain) {
    while (done < round.end_after) yield_thread();
    ended = (round.ending == Round::stop ? batcher->stop() : batcher->drain()).has_value();
  }
  threads.clear();
  over = true;
  host.clear();
  reader.join();
  if (round.ending != Round::destroy) ended &= batcher->drain().has_value();
  const BatcherStats at_end = batcher->stats();
  batcher.reset();  // the rest is handed back, to callbacks too

  CAPTURE(number, static_cast<int>(round.overload), static_cast<int>(round.on_failure),
          round.workers, round.on_executor, round.tenants, round.groups,
          static_cast<int>(round.ending));
  std::uint64_t missed = 0;
  for (std::size_t i = 0; i < ledger.resolved.size(); ++i) {
    const int count = ledger.resolved[i];
    if (i < kRequests ? count != 1 : count > 1) ++missed;
  }
  CHECK(ended);
  CHECK(missed == 0);
  CHECK(ledger.wrong == 0);
  CHECK(ledger.booked() == ledger.submits);
  if (round.ending != Round::destroy) {
    const BatcherStats& stats = at_end;
    CHECK(stats.pending() == 0);
    CHECK(stats.submitted + stats.rejected.total() == ledger.submits);
    // What was given up may have ended in any way.
    const auto agree = [&](std::uint64_t booked, std::uint64_t counted) {
      return booked <= counted && counted <= booked + ledger.given_up;
    };
    CHECK(agree(ledger.values(), stats.completed));
    CHECK(agree(ledger.count(ErrorCode::model_failed) + ledger.count(ErrorCode::out_of_memory) +
                    ledger.count(ErrorCode::contract_violation),
                stats.failed));
    CHECK(agree(ledger.count(ErrorCode::shed), stats.shed));
    CHECK(agree(ledger.count(ErrorCode::cancelled), stats.cancelled + stats.rejected.cancelled));
    CHECK(
        agree(ledger.count(ErrorCode::expired), stats.expired + stats.rejected[Refusal::expired]));
    CHECK(agree(ledger.count(ErrorCode::shutting_down),
                stats.shut_down + stats.rejected[Refusal::shutting_down]));
    CHECK(stats.batched_requests >= stats.batches());
    CHECK(stats.extra_runs <= stats.runs);
    CHECK(stats.late <= stats.expired);
    CHECK(stats.wait_ns.total() == stats.batched_requests);
    CHECK(stats.batch_sizes.total() == stats.batches());
    CHECK(stats.execution_ns.total() == stats.runs);
  }
  submits += ledger.submits;
  not_once += missed;
  sum.completed += at_end.completed;
  sum.failed += at_end.failed;
  sum.cancelled += at_end.cancelled;
  sum.expired += at_end.expired;
  sum.late += at_end.late;
  sum.shed += at_end.shed;
  sum.shut_down += at_end.shut_down;
  sum.rejected.invalid += at_end.rejected.total();
  sum.extra_runs += at_end.extra_runs;
  sum.out_of_memory += at_end.out_of_memory;
}

void run(int first, int last) {
  BatcherStats sum;
  std::uint64_t submits = 0, not_once = 0;
  for (int number = first; number < last; ++number) run(number, sum, submits, not_once);
  for (const auto count :
       {sum.completed, sum.failed, sum.cancelled, sum.expired, sum.late, sum.shed, sum.shut_down,
        sum.rejected.total(), sum.extra_runs, sum.out_of_memory}) {
    CHECK(count > 0);  // each of these has happened
  }
  const auto number = [](std::uint64_t n) { return static_cast<unsigned long long>(n); };
  std::printf(
      "figure: %llu requests, each resolved once (%llu were not)\n"
      "%llu completed, %llu failed, %llu cancelled, %llu expired (%llu of them late), %llu shed, "
      "%llu "
      "shut down, %llu rejected\n",
      number(submits), number(not_once), number(sum.completed), number(sum.failed),
      number(sum.cancelled), number(sum.expired), number(sum.late), number(sum.shed),
      number(sum.shut_down), number(sum.rejected.total()));
}

}  // namespace

TEST_CASE("ledger: 64 threads, every request is resolved exactly once") { run(0, 8); }
TEST_CASE("ledger: 6,400,000 requests", "[.deep]") { run(8, 108); }
