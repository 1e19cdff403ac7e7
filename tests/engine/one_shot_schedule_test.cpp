// The one-shot engine under simulated schedules: replicas that break, requests that are poisoned,
// an end at any moment. See tests/batching/schedule_test.cpp, whose way of exploring this is.
//
//   CIUIC_SEEDS=1000000 CIUIC_FIRST_SEED=0 build/test/tests/engine/one_shot_schedule_test
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "ciuic/engine/one_shot_engine.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/simulated_world.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;
using simulated::require;

namespace {

enum class Drive { workers, executor, host };

/// Producers, an engine, and an end. At most one replica is broken for good; in half of the worlds
/// nothing else fails, and then nobody may notice. In some, the first request fails on one replica
/// and hangs on the next until all others have their answers: nobody may wait behind it.
class World {
 public:
  World(Dice& dice, const simulated::Plan& /*plan*/, Drive drive)
      : dice_(dice), drive_(drive), replicas_(dice.pick(1, 3)) {
    BatcherOptions& batching = options_.batching;
    batching.max_batch_size = dice.pick(1, 3);
    batching.max_queue_delay = dice.chance(2) ? Duration{0} : micros(dice.pick(1, 5));
    batching.queue_capacity = dice.pick(2, 6);
    batching.max_outstanding = 64;
    batching.workers = drive == Drive::host ? 0 : 1;
    batching.on_failure = static_cast<OnFailure>(dice.below(2));
    batching.host.clock = &simulated_clock;
    options_.routing.model.min_observations = dice.pick(1, 3);
    options_.routing.relearn_every = static_cast<std::uint32_t>(dice.pick(0, 4));
    options_.health = {.first_backoff = micros(dice.pick(1, 4)),
                       .max_backoff = micros(dice.pick(4, 20))};
    broken_ = replicas_ > 1 && dice.chance(2) ? dice.below(replicas_) : kNone;
    loses_device_ = dice.chance(2);
    poisons_ = dice.chance(2);
    hangs_ = replicas_ == 3 && dice.chance(3);
    flaky_ = hangs_ || dice.chance(4);
    // Threads are as slow as they please here: where nobody may notice, nobody is given up.
    options_.health.patience = flaky_ ? micros(dice.pick(0, 6)) : Duration::max();
    ending_ = static_cast<Ending>(dice.below(4));
    if (!hangs_) return;
    batching.max_batch_size = 1;  // it has no mates
    broken_ = kNone;
  }

  void run() {
    std::optional<ThreadPool> pool;
    if (drive_ == Drive::executor) {
      const std::size_t threads = dice_.pick(hangs_ ? replicas_ : 1, replicas_);
      pool.emplace(ThreadPoolOptions{.threads = static_cast<unsigned>(threads),
                                     .host = {.clock = &simulated_clock}});
      options_.batching.host.executor = &*pool;
    }
    Replicas<int, int> replicas;
    for (std::size_t r = 0; r < replicas_; ++r) {
      replicas.add([this, r](Batch<int, int>& batch) { return model(r, batch); });
    }
    engine_.emplace(std::move(replicas), options_);
    require(bool(engine_->status()), "the engine did not start");
    {
      std::vector<Thread> threads;
      const std::size_t producers = dice_.pick(1, 3);
      producing_ = static_cast<int>(producers);
      for (std::size_t i = 0; i < producers; ++i) start(threads, [this] { produce(); });
      if (drive_ == Drive::host) {
        for (std::size_t i = dice_.pick(hangs_ ? 3 : 1, 3); i-- > 0;) {
          start(threads, [this] { host(); });
        }
      }
      if (ending_ == stop_amid || ending_ == drain_amid) {
        hesitate(dice_.below(6));
        const bool stops = ending_ == stop_amid;
        ended_ = stops;
        require(bool(stops ? engine_->stop() : engine_->drain()), "the end failed");
      }
      Lock lock(mutex_);
      while (producing_ > 0) changed_.wait(lock);
      gone_ = true;
    }
    ended_ = true;
    if (ending_ == stop_last) require(bool(engine_->stop()), "stop() failed");
    if (ending_ != destroy) {
      require(bool(engine_->stop()), "stop() failed");
      const OneShotStats stats = engine_->stats();
      require(stats.batching.pending() == 0, "outcomes do not add up");
      for (const ReplicaStats& r : stats.replicas) require(!r.busy, "a replica is busy for ever");
      if (broken_ == kNone && !flaky_) {
        for (const ReplicaStats& r : stats.replicas) {
          require(r.drained == 0, "a good replica was drained");
        }
      }
    }
    engine_.reset();
    for (const int inside : inside_) require(inside == 0, "a model runs after the end");
    for (const auto& [id, fate] : fates_) {
      require(fate.resolved == fate.expected, "a request was not answered exactly once");
    }
  }

 private:
  enum Ending { stop_last, stop_amid, drain_amid, destroy };
  static constexpr std::size_t kNone = 99;
  struct Fate {
    int resolved = 0, expected = 0, seen = 0;
    bool poison = false;
  };

  Result<void> model(std::size_t r, Batch<int, int>& batch) {
    struct Inside {
      explicit Inside(int& n) : count(n) { require(++count == 1, "two threads in one replica"); }
      ~Inside() { --count; }
      int& count;
    } inside(inside_[r]);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      require(!batch.resolved(i), "an answered request is run again");
      ++fates_[batch[i]].seen;
    }
    if (hangs_ && batch[0] == 0) {
      if (fates_[0].seen == 1) return Error(ErrorCode::model_failed, "first");
      Lock lock(mutex_);
      while (producing_ > 0) changed_.wait(lock);
    }
    hesitate(dice_.below(3));
    if (dice_.chance(3)) sleep_for(micros(dice_.pick(1, 6)));
    const bool fails = r == broken_ || (flaky_ && dice_.chance(3));
    if (fails && loses_device_) return Error(ErrorCode::device_lost, "lost");
    if (fails && dice_.chance(3)) return Error(ErrorCode::out_of_memory, "little memory");
    if (fails && dice_.chance(2)) batch.resolve(0, 3 * batch[0]);
    if (fails && dice_.chance(2)) return {};  // the others are left out
    if (fails) throw std::runtime_error("broken");
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (fates_[batch[i]].poison) return Error(ErrorCode::model_failed, "poison");
    }
    for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 3 * batch[i]);
    return {};
  }
  void produce() {
    std::vector<std::pair<int, Future<int>>> futures;
    for (std::size_t n = dice_.pick(1, 4); n-- > 0;) {
      const int id = next_id_++;
      Fate& fate = fates_[id];
      fate.poison = poisons_ && dice_.chance(4);
      SubmitOptions options;
      if (dice_.chance(5)) options.timeout = micros(dice_.pick(0, 6));
      Future<int> future = engine_->submit(id, options);
      switch (hangs_ && id == 0 ? 2 : dice_.below(6)) {
        case 0:
          future.cancel();
          break;
        case 1:
          future.detach();
          continue;
        case 2:
          ++fates_[id].expected;
          std::move(future).on_ready([this, id](const Result<int>& result) { settle(id, result); });
          continue;
        default:
          break;
      }
      ++fates_[id].expected;
      futures.emplace_back(id, std::move(future));
      hesitate(dice_.below(3));
    }
    for (auto& [id, future] : futures) settle(id, future.get());
    Lock lock(mutex_);
    --producing_;
    changed_.notify_all();
  }
  void settle(int id, const Result<int>& result) {
    Fate& fate = fates_[id];
    require(++fate.resolved == 1, "an answer was given twice");
    if (result) {
      require(*result == 3 * id && fate.seen > 0, "an answer that no model gave");
      return;
    }
    const bool bisects = options_.batching.on_failure == OnFailure::bisect;
    switch (result.error().code()) {
      case ErrorCode::model_failed:
        if (broken_ == kNone && !flaky_) {
          require(poisons_, "a failure that nobody caused");
          require(!bisects || fate.poison, "an innocent failed");
        }
        [[fallthrough]];
      case ErrorCode::device_lost:
      case ErrorCode::out_of_memory:
      case ErrorCode::contract_violation:
        // One broken replica, and nothing else: another one takes over, always.
        require(poisons_ || flaky_, "a broken replica was noticed");
        return;
      case ErrorCode::shutting_down:
        require(ended_ || ending_ == drain_amid, "shutting down without reason");
        return;
      case ErrorCode::queue_full:
      case ErrorCode::cancelled:
      case ErrorCode::expired:
        return;
      default:
        simulated::fail("unexpected error: " + std::string(result.error().message()));
    }
  }
  void host() {
    while (!gone_) {
      const RunReport report = engine_->run_one();
      if (report.batch_size > 0) continue;
      const TimePoint now = simulated::now();
      sleep_for(std::clamp(report.next_due, now + 1us, now + 3us) - now);
    }
  }

  Dice& dice_;
  const Drive drive_;
  const std::size_t replicas_;
  OneShotOptions options_;
  std::size_t broken_ = kNone;
  bool loses_device_ = false, poisons_ = false, flaky_ = false, hangs_ = false;
  Ending ending_ = stop_last;
  Mutex mutex_;
  CondVar changed_;
  int producing_ = 0, next_id_ = 0;
  bool gone_ = false, ended_ = false;
  std::array<int, 3> inside_{};
  std::map<int, Fate> fates_;
  std::optional<AsyncInferenceEngine<Replicas<int, int>>> engine_;
};

void explore(Drive drive) {
  const std::uint64_t first = setting("CIUIC_FIRST_SEED", 0);
  const std::uint64_t seeds = setting("CIUIC_SEEDS", 10000);
  double steps = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const std::string replay =
        "replay: CIUIC_FIRST_SEED=" + std::to_string(seed) + " CIUIC_SEEDS=1";
    INFO(replay);
    const simulated::Plan plan{.seed = seed, .steps = 350, .punctual = seed % 2 == 0};
    const simulated::Outcome outcome = simulated::run(plan, [&] {
      Dice dice(seed);
      World(dice, plan, drive).run();
    });
    if (!outcome.problem.empty()) FAIL(outcome.problem);
    steps += static_cast<double>(outcome.steps);
  }
  std::printf("%.0f steps a schedule\nfigure: %llu simulated schedules\n",
              steps / static_cast<double>(seeds), static_cast<unsigned long long>(seeds));
  SUCCEED();
}

}  // namespace

TEST_CASE("Workers: one broken replica is not noticed, every request is answered once") {
  explore(Drive::workers);
}
TEST_CASE("Executor: the same on the host's threads") { explore(Drive::executor); }
TEST_CASE("Host-driven: the same with threads that call run_one()") { explore(Drive::host); }
