// The batcher's concurrent parts under simulated schedules: small worlds, many interleavings.
//
// Each case below is a world of a few threads over support/ciuic_sync_simulated.hpp. Per world some
// thousand seeds choose what its threads do and how they interleave; a seed replays exactly. A lost
// wake-up shows as a deadlock, or, where time passes only when nobody can run (half of the seeds),
// as an answer that is late.
//
// How much a pass says: with n threads of together k steps, probabilistic concurrency testing hits
// a bug that needs d ordered events with probability at least 1/(n·k^(d-1)) per schedule of depth
// d. Half of the schedules have depth 2, a quarter depth 3. Each world prints its means of n and k
// and the bound on the probability of missing such a bug: (1 - 1/(n·k))^(seeds/2) for two events,
// (1 - 1/(n·k²))^(seeds/4) for three. The bounds are the worst case for one particular bug in a
// world whose threads always do the same; the random walks, the other quarter, come on top.
//
//   CIUIC_SEEDS=1000000 CIUIC_FIRST_SEED=0 build/test/tests/batching/schedule_test
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/batching/free_slots.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/simulated_world.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;
using simulated::require;

namespace {

/// Runs `world(dice, plan)` under many seeds. `steps`: of its schedules, about.
template <class World>
void explore(std::size_t steps, World world, bool refuses_threads = false) {
  const std::uint64_t first = setting("CIUIC_FIRST_SEED", 0);
  const std::uint64_t seeds = setting("CIUIC_SEEDS", 20000);
  double all_steps = 0, all_threads = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const std::string replay = "replay: CIUIC_FIRST_SEED=" + std::to_string(seed) +
                               " CIUIC_SEEDS=1 schedule_test \"" +
                               Catch::getResultCapture().getCurrentTestName() + '"';
    INFO(replay);
    simulated::Plan plan{.seed = seed, .steps = steps, .punctual = seed % 2 == 0};
    if (refuses_threads) plan.refused_thread = static_cast<int>(seed / 2 % 4);
    const simulated::Outcome outcome = simulated::run(plan, [&] {
      Dice dice(seed);
      world(dice, plan);
    });
    if (!outcome.problem.empty()) FAIL(outcome.problem);
    all_steps += static_cast<double>(outcome.steps);
    all_threads += static_cast<double>(outcome.threads);
  }
  const double n = all_threads / static_cast<double>(seeds);
  const double k = all_steps / static_cast<double>(seeds);
  const auto miss = [&](double hit, double share) {
    return std::exp(std::log1p(-hit) * share * static_cast<double>(seeds));
  };
  std::printf(
      "n %.1f threads, k %.0f steps (planned %zu), miss at depth 2 %.1e, at depth 3 %.1e: %s\n", n,
      k, steps, miss(1 / (n * k), 0.5), miss(1 / (n * k * k), 0.25),
      Catch::getResultCapture().getCurrentTestName().c_str());
  std::printf("figure: %llu simulated schedules\n", static_cast<unsigned long long>(seeds));
  SUCCEED();
}

// --- a batcher and everybody around it ----------------------------------------------------------

using Batcher = DynamicBatcher<int, int>;
using Items = Batch<int, int>;
constexpr int answer_to(int id) { return 3 * id + 1; }

/// Refuses tasks now and then; runs the others on a ThreadPool.
class MoodyExecutor final : public Executor {
 public:
  MoodyExecutor(Dice& dice, const ThreadPoolOptions& options, bool moody)
      : dice_(dice), moody_(moody), pool_(options) {}
  bool post(Function<void()>&& task) noexcept override {
    return !refuses() && pool_.post(std::move(task));
  }
  bool post_at(TimePoint when, Function<void()>&& task) noexcept override {
    return !refuses() && pool_.post_at(when, std::move(task));
  }
  bool has_threads() const noexcept { return pool_.threads() > 0; }

 private:
  bool refuses() noexcept { return moody_ && dice_.chance(3); }
  Dice& dice_;
  const bool moody_;
  ThreadPool pool_;
};

enum class Drive { workers, executor, host };
enum class Faults { none, some };
enum class Ending { drain, stop, stop_amid, drain_amid, stop_twice, destroy_amid, callback };

/// Producers, a batcher with a model that watches it, and an end.
class BatcherWorld {
 public:
  BatcherWorld(Dice& dice, const simulated::Plan& plan, Drive drive, Faults faults)
      : dice_(dice), punctual_(plan.punctual), drive_(drive), faults_(faults) {
    options_.max_batch_size = dice.pick(1, 3);
    options_.min_batch_size = dice.pick(0, options_.max_batch_size);
    options_.max_queue_delay = dice.chance(3) ? Duration{0} : micros(dice.pick(1, 8));
    options_.queue_capacity = dice.pick(1, 4);
    options_.overload = static_cast<Overload>(dice.below(3));
    options_.workers = drive == Drive::host ? 0 : static_cast<unsigned>(dice.pick(1, 2));
    options_.host.clock = &simulated_clock;
    if (dice.chance(4)) options_.max_batch_cost = 4;
    if (dice.chance(4)) options_.priority_ageing = micros(dice.pick(0, 4));
    if (dice.chance(4)) options_.max_groups = 2;
    if (dice.chance(4)) options_.max_tenants = 2;
    if (dice.chance(6)) options_.max_queue_per_tenant = 1;
    if (dice.chance(4)) options_.final_spin = micros(dice.pick(1, 3));
    few_outstanding_ = dice.chance(4);
    options_.max_outstanding = few_outstanding_ ? dice.pick(1, 3) : 64;
    if (faults == Faults::some) {
      options_.on_failure = static_cast<OnFailure>(dice.below(2));
      memory_ = dice.pick(1, 3);
    }
    submitting_ = taking_ = static_cast<int>(dice.pick(1, 3));
    ending_ = static_cast<Ending>(dice.below(drive == Drive::host ? 6 : 7));
    if (ending_ == Ending::callback) submitting_ = taking_ = 1;
  }

  void run() {
    std::optional<MoodyExecutor> executor;
    if (drive_ == Drive::executor) {
      moody_ = dice_.chance(2);
      executor.emplace(dice_,
                       ThreadPoolOptions{.threads = options_.workers + 1,
                                         .queue_capacity = moody_ ? dice_.pick(1, 4) : 64,
                                         .host = {.clock = &simulated_clock}},
                       moody_);
      options_.host.executor = &*executor;
    }
    std::unique_ptr<BatchPolicy> witness;  // a policy takes another way in
    if (dice_.chance(3)) witness = std::make_unique<Witness>(*this);
    const int witnesses = witness != nullptr;
    batcher_.emplace([this, life = Life(*this)](Items& batch) { return model(batch); }, options_,
                     std::move(witness));
    witnesses_ = witnesses;
    require(bool(batcher_->status()), "the batcher did not start");
    {
      std::vector<Thread> threads;
      for (int i = 0, producers = taking_; i < producers; ++i) {
        start(threads, [this, i] { produce(static_cast<std::size_t>(i)); });
      }
      if (drive_ == Drive::host) {
        for (std::size_t i = dice_.pick(1, 2); i-- > 0;) start(threads, [this] { host(); });
      }
      if (dice_.chance(2)) {
        ++taking_;
        start(threads, [this] {
          hesitate(dice_.below(3));
          stop_source_.request_stop();
          change(taking_, -1);
        });
      }
      end();
      await([&] { return submitting_ == 0 && taking_ == 0; });
      producers_gone_ = true;
    }
    finish();
    batcher_.reset();
    executor.reset();
    // Threads that nobody joins end later.
    while (ending_ == Ending::callback && (models_ > 0 || resolved_ < expected_)) sleep_for(1us);
    require(models_ == 0, "model or slots outlive batcher, futures and executor");
    require(resolved_ == expected_, "a future was not resolved exactly once");
  }

 private:
  /// Counts the models that live.
  struct Life {
    explicit Life(BatcherWorld& w) noexcept : world(&w) { ++world->models_; }
    Life(Life&& other) noexcept : world(other.world) { ++world->models_; }
    ~Life() { --world->models_; }
    BatcherWorld* world;
  };
  /// Lives as long as all that batcher and futures share.
  class Witness final : public BatchPolicy {
   public:
    explicit Witness(BatcherWorld& world) noexcept : life_(world) {}
    void bind(const BatchLimits& limits) noexcept override { delay_.bind(limits); }
    BatchDecision decide(const QueueView& view) noexcept override { return delay_.decide(view); }

   private:
    Life life_;
    DelayPolicy delay_;
  };
  struct Fate {
    TimePoint submitted{};
    TimePoint deadline = kNever;
    int seen = 0;      // by the model
    int resolved = 0;  // by getting, or by the callback
    bool poison = false;
    bool cancelled = false;
  };

  template <class Holds>
  void await(Holds holds) {
    Lock lock(mutex_);
    while (!holds()) changed_.wait(lock);
  }
  void change(int& counter, int by) {
    Lock lock(mutex_);
    counter += by;
    changed_.notify_all();
  }

  // --- producers ---------------------------------------------------------------------------------

  void produce(std::size_t producer) {
    std::deque<std::tuple<int, Future<int>>> futures;
    for (std::size_t i = dice_.pick(1, 3); i-- > 0;) {
      const int id = next_id_++;
      futures.emplace_back(id, submit(id, producer));
      if (few_outstanding_ || dice_.chance(2)) {  // or it might wait for itself
        take(futures.front());
        futures.pop_front();
      }
    }
    if (ending_ == Ending::callback) destroy_from_callback(producer);
    change(submitting_, -1);
    while (!futures.empty()) {
      take(futures.front());
      futures.pop_front();
    }
    change(taking_, -1);
  }
  void destroy_from_callback(std::size_t producer) {
    const int id = next_id_++;
    ++expected_;
    submit(id, producer).on_ready([this, id](Result<int> result) {
      settle(id, result, false);
      ending_began_ = true;
      if (dice_.chance(2)) ended_ = batcher_->stop().has_value();  // no: on a worker
      batcher_.reset();
      change(destroyed_, 1);
    });
    await([&] { return destroyed_ > 0; });
  }
  Future<int> submit(int id, std::size_t producer) {
    SubmitOptions options;
    options.cost = dice_.pick(1, 3);
    options.priority = dice_.chance(3) ? static_cast<Priority>(dice_.below(3)) : Priority::normal;
    options.tenant = producer;
    if (options_.max_groups == 2) options.group = static_cast<std::uint16_t>(dice_.below(2));
    if (dice_.chance(3)) options.timeout = micros(dice_.pick(0, 6));
    if (dice_.chance(3)) options.stop_token = stop_source_.get_token();
    Fate& fate = fates_[id];
    fate.poison = faults_ == Faults::some && dice_.chance(4);
    if (options.timeout != Duration::max()) fate.deadline = simulated::now() + options.timeout;
    ++calls_;
    const auto key = std::tuple(producer, options.priority, options.group);
    orders_[id] = key;
    Future<int> future = batcher_->submit(id, options);
    fates_[id].submitted = simulated::now();
    // Whoever stops its token or sheds it may have won the request, and not yet shown the answer.
    require(!ended_ || future.is_ready() || options.stop_token.stop_requested() ||
                options_.overload == Overload::shed,
            "a request was accepted after the end");
    return future;
  }
  void take(std::tuple<int, Future<int>>& entry) {
    auto& [id, future] = entry;
    switch (dice_.below(8)) {
      case 0:
        ++dropped_;
        return;
      case 1:
        ++dropped_;
        return future.detach();
      case 2:
        if (future.cancel()) fates_[id].cancelled = true;
        break;
      case 3:
        hesitate(dice_.below(3));
        if (future.cancel()) fates_[id].cancelled = true;
        break;
      case 4:
        if (!future.wait_for(micros(dice_.below(4)))) {
          ++dropped_;
          return;
        }
        break;
      case 5: {
        ++expected_;
        std::move(future).on_ready([this, request = id](Result<int> result) {
          settle(request, result, false);
          if (may_submit_from_callback() && dice_.chance(2)) {
            ++dropped_;
            const int another = next_id_++;
            Future<int> more = submit(another, 9);
            if (dice_.chance(2)) more.detach();
          }
          if (dice_.chance(4)) throw std::runtime_error("a callback");
        });
        return;
      }
      default:
        break;
    }
    ++expected_;
    const bool waits = !future.is_ready();
    const Result<int> result = future.get();
    settle(id, result, waits);
  }
  /// `at_once`: this is the moment it was answered.
  void settle(int id, const Result<int>& result, bool at_once) {
    Fate& fate = fates_[id];
    ++resolved_;
    require(++fate.resolved == 1, "an answer was given twice");
    const TimePoint now = simulated::now();
    if (result) {
      ++answered_;
      require(*result == answer_to(id), "an answer of another request");
      require(fate.seen > 0, "an answer that no model gave");
      require(!fate.cancelled, "an answer although cancel() had won");
      require(!fate.poison, "an answer to a request that its model fails on");
      if (at_once && is_prompt()) {
        const bool waits = options_.min_batch_size != 1 && options_.max_batch_size != 1;
        const Duration allowed = waits ? options_.max_queue_delay : Duration{0};
        require(now <= fate.submitted + allowed, "an answer that is late");
      }
      return;
    }
    switch (result.error().code()) {
      case ErrorCode::expired:
        require(fate.deadline <= now, "expired before the deadline");
        if (at_once && is_prompt())
          require(now <= std::max(fate.deadline, fate.submitted), "expired late");
        return;
      case ErrorCode::model_failed:
        require(faults_ == Faults::some, "a failure that nobody caused");
        if (options_.on_failure == OnFailure::bisect) require(fate.poison, "an innocent failed");
        return;
      case ErrorCode::contract_violation:
        require(faults_ == Faults::some, "left unanswered");
        return;
      case ErrorCode::shutting_down:
        require(ended_ || ending_began_, "shutting down without reason");
        return;
      case ErrorCode::queue_full:
        require(options_.overload != Overload::block || moody_, "full although it blocks");
        return;
      case ErrorCode::shed:
        require(options_.overload == Overload::shed, "shed without leave");
        return;
      case ErrorCode::cancelled:
        return;
      default:
        simulated::fail("unexpected error: " + std::string(result.error().message()));
    }
  }
  /// Not when the batcher may be gone; nor where it would wait for its own slot: the callback of a
  /// cancel runs on a thread like any other, so there Overload::block blocks.
  bool may_submit_from_callback() const {
    if (ending_ == Ending::destroy_amid || ending_ == Ending::callback) return false;
    return !few_outstanding_ || options_.overload != Overload::block;
  }
  /// Is whoever is needed there the moment something is due?
  bool is_prompt() const { return punctual_ && drive_ != Drive::host && !moody_; }

  // --- the model and the host --------------------------------------------------------------------

  Result<void> model(Items& batch) {
    ++running_;
    require(!stopped_, "the model runs after stop()");
    if (drive_ != Drive::host) {
      require(running_ <= static_cast<int>(options_.workers), "more batches than workers");
    }
    require(batch.size() >= 1 && batch.size() <= options_.max_batch_size,
            "a batch above the maximum");
    std::uint64_t cost = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const int id = batch[i];
      ++fates_[id].seen;
      cost += batch.terms(i).cost;
      require(batch.terms(i).group == batch.terms(0).group, "two groups in one batch");
      if (faults_ == Faults::some) continue;
      require(fates_[id].seen == 1, "a request ran twice");
      if (options_.workers != 1 || id < 0) continue;
      const auto key = orders_[id];
      if (std::get<0>(key) == 9) continue;  // of callbacks: on several threads
      require(last_seen_[key] <= id, "overtaken by a later request of its kind");
      last_seen_[key] = id;
    }
    require(cost <= options_.max_batch_cost, "a batch costs more than the maximum");
    hesitate(dice_.below(2));
    if (!punctual_ && dice_.chance(3)) sleep_for(micros(dice_.pick(1, 5)));
    const Result<void> outcome = answer(batch);
    --running_;
    return outcome;
  }
  Result<void> answer(Items& batch) {
    struct Leaves {
      BatcherWorld& world;
      bool threw = true;
      ~Leaves() { world.running_ -= threw; }
    } leaves{*this};
    if (faults_ == Faults::some) {
      if (batch.size() > memory_) throw std::bad_alloc();
      for (std::size_t i = 0; i < batch.size(); ++i) {
        if (!fates_[batch[i]].poison) continue;
        if (dice_.chance(2)) throw std::runtime_error("poison");
        leaves.threw = false;
        return Error(ErrorCode::model_failed, "poison");
      }
    }
    leaves.threw = false;
    const bool quietly = dice_.chance(2);
    const bool forgets = faults_ == Faults::some && dice_.chance(6);
    for (std::size_t i = forgets ? 1 : 0; i < batch.size(); ++i) {
      if (quietly) {
        batch.resolve_at_end(i, answer_to(batch[i]));
      } else {
        batch.resolve(i, answer_to(batch[i]));
      }
    }
    return {};
  }
  void host() {
    while (!producers_gone_) {
      const RunReport report = batcher_->run_one();
      if (report.batch_size > 0) continue;
      const TimePoint now = simulated::now();
      sleep_for(std::clamp(report.next_due, now + 1us, now + 3us) - now);
    }
  }

  // --- the end -----------------------------------------------------------------------------------

  void end() {
    switch (ending_) {
      case Ending::stop_amid:
      case Ending::stop_twice: {
        hesitate(dice_.below(4));
        ending_began_ = true;
        std::vector<Thread> threads;
        if (ending_ == Ending::stop_twice) start(threads, [this] { stop(); });
        return stop();
      }
      case Ending::drain_amid:
        hesitate(dice_.below(4));
        ending_began_ = true;
        return static_cast<void>(batcher_->drain(dice_.chance(2) ? Duration::max() : 3us));
      case Ending::destroy_amid:
        await([&] { return submitting_ == 0; });
        if (drive_ == Drive::host) return;  // its threads use the batcher
        ending_began_ = true;
        return batcher_.reset();
      default:
        return;
    }
  }
  void stop() {
    require(bool(batcher_->stop()), "stop() failed");
    stopped_ = ended_ = true;
    require(models_ == witnesses_, "the model outlives stop()");
    require(running_ == 0, "the model runs on after stop()");
  }
  void finish() {
    if (!batcher_) return;
    ending_began_ = true;
    if (ending_ == Ending::drain && dice_.chance(2)) {
      require(bool(batcher_->drain()), "drain() failed");
      ended_ = true;
      require(batcher_->stats().pending() == 0, "something is left after drain()");
    }
    stop();
    const BatcherStats stats = batcher_->stats();
    require(stats.pending() == 0, "outcomes do not add up to submissions");
    require(stats.submitted + stats.rejected.total() == static_cast<std::uint64_t>(calls_),
            "submissions do not add up");
    require(answered_ <= static_cast<int>(stats.completed), "more answers than completions");
    require(answered_ + dropped_ >= static_cast<int>(stats.completed), "an answer got lost");
  }

  Dice& dice_;
  const bool punctual_;
  const Drive drive_;
  const Faults faults_;
  BatcherOptions options_;
  Ending ending_ = Ending::stop;
  std::size_t memory_ = 0;
  bool few_outstanding_ = false, moody_ = false;
  StopSource stop_source_;

  Mutex mutex_;
  CondVar changed_;
  int submitting_ = 1, taking_ = 1, destroyed_ = 0;
  int next_id_ = 0, calls_ = 0, expected_ = 0, resolved_ = 0, answered_ = 0, dropped_ = 0;
  int models_ = 0, witnesses_ = 0, running_ = 0;
  bool producers_gone_ = false, ending_began_ = false, ended_ = false, stopped_ = false;
  std::map<int, Fate> fates_;
  std::map<int, std::tuple<std::size_t, Priority, std::uint16_t>> orders_;
  std::map<std::tuple<std::size_t, Priority, std::uint16_t>, int> last_seen_;
  std::optional<Batcher> batcher_;
};

// --- the parts alone ----------------------------------------------------------------------------

/// Producers, each of which waits until its ticket was taken, and an owner who sleeps when it can.
void inbox_world(Dice& dice, const simulated::Plan&) {
  const std::size_t producers = dice.pick(2, 4), rounds = dice.pick(1, 2);
  const std::size_t capacity = dice.pick(1, producers), trigger = dice.below(3);
  const std::size_t first_wake = dice.chance(2) ? std::min(capacity, dice.pick(1, producers)) : 1;
  std::vector<std::uint64_t> cost_of(producers);
  for (std::uint64_t& cost : cost_of) cost = dice.pick(0, 3);
  std::vector<std::uint64_t> cheapest = cost_of;
  std::sort(cheapest.begin(), cheapest.end());
  Inbox inbox(producers, capacity);
  Mutex mutex;
  CondVar bell, taken;
  std::vector<int> took(producers, 0);
  std::size_t total = 0;
  std::vector<Thread> threads;
  for (std::uint32_t me = 0; me < producers; ++me) {
    start(threads, [&, me] {
      for (int round = 1; round <= static_cast<int>(rounds); ++round) {
        const auto push = [&] {
          return inbox.push(me, cost_of[me], TimePoint(trigger == 2 ? 1us : 3us));
        };
        Inbox::Pushed pushed = push();
        Lock lock(mutex);
        while (pushed == Inbox::Pushed::full) {
          require(producers > capacity, "full below its capacity");
          pushed = push();  // under the lock nobody takes: if it is full now, a notification comes
          if (pushed == Inbox::Pushed::full) taken.wait(lock);
        }
        require(pushed != Inbox::Pushed::closed, "closed too early");
        if (pushed == Inbox::Pushed::due) bell.notify_one();
        while (took[me] < round) taken.wait(lock);
      }
    });
  }
  {
    Lock lock(mutex);
    while (total < producers * rounds) {
      std::size_t drained = 0;
      inbox.drain([](std::uint32_t) {},
                  [&](std::uint32_t ticket) {
                    ++took[ticket];
                    ++total;
                    ++drained;
                    inbox.note_cost(cost_of[ticket]);
                  });
      require(drained <= capacity, "more than the capacity");
      require(inbox.drained() == total, "the count of drained tickets is off");
      inbox.set_waiting(0);
      taken.notify_all();
      if (total == producers * rounds) break;
      // Nobody pushes twice before it was taken, so that many more come in any case.
      const std::size_t wake = total == 0 ? first_wake : 1;
      std::uint64_t wake_cost = 0;  // which so many reach, whoever they are
      for (std::size_t i = 0; i < wake; ++i) wake_cost += cheapest[i];
      const bool asleep = inbox.arm(trigger == 0 ? wake : Inbox::kNoCount,
                                    trigger == 1 ? wake_cost : Inbox::kNoCost, TimePoint(2us));
      if (asleep) bell.wait(lock);
      inbox.disarm();
    }
    inbox.close();
  }
  threads.clear();
  require(inbox.push(0, 1, kNever) == Inbox::Pushed::closed, "a closed inbox takes more");
  require(inbox.accepted() == total && inbox.empty(), "what was accepted is off");
}

struct WatchedPool final : CompletionPool<int> {
  WatchedPool(std::size_t slots, const HostContext& host) : CompletionPool(slots, host) {
    want_slots(true);
  }
  void on_cancelling() noexcept override { ++cancelling; }
  void on_cancelled(std::uint64_t tag) noexcept override {
    require(tag == 7, "the name of another request");
    ++cancelled;
  }
  void on_slot_freed() noexcept override { ++freed; }
  int cancelling = 0, cancelled = 0, freed = 0;
};

/// One request: who answers it, who gives it up and who waits, all at once.
void promise_world(Dice& dice, const simulated::Plan&) {
  WatchedPool* pool = new WatchedPool(1, {.clock = &simulated_clock});
  {
    const Ref<WatchedPool> own = Ref<WatchedPool>::adopt(pool);
    auto made = Completion<int>::make(*pool);
    require(made.has_value() && !Completion<int>::make(*pool), "one slot is one slot");
    made->promise.set_tag(7);
    StopSource source;
    int won = 0, got = 0, called = 0, value = 0;
    bool dropped = false, was_cancelled = false;
    Promise<int> first = std::move(made->promise), second;
    if (dice.chance(2)) second = first.share();
    if (dice.chance(2)) made->future.cancel_on(source.get_token());
    std::vector<Thread> threads;
    const auto resolver = [&](Promise<int>& promise, std::size_t way) {
      start(threads, [&, way] {
        Promise<int> mine = std::move(promise);
        if (way == 0) {
          won += mine.resolve(1);
        } else if (way == 1) {
          if (!mine.win()) return mine.let_go();
          ++won;
          mine.publish(1);
          mine.let_go();
        } else if (way == 2) {
          if (mine.win()) {
            ++won;
            hesitate(1);
            mine.publish(1);
          }
          mine.let_go();
        }  // or it is dropped
      });
    };
    resolver(first, dice.below(4));
    if (second.valid()) resolver(second, dice.below(4));
    if (dice.chance(2)) start(threads, [&] { source.request_stop(); });
    const auto settle = [&](const Result<int>& result) {
      ++got;
      was_cancelled = !result && result.error().code() == ErrorCode::cancelled;
      if (result) value = *result;
    };
    Future<int> future = std::move(made->future);
    bool cancelled = false;
    switch (dice.below(6)) {
      case 0:
        settle(future.get());
        break;
      case 1:
        cancelled = future.cancel();
        settle(future.get());
        require(!cancelled || was_cancelled, "cancel() had won");
        break;
      case 2:
        if (future.wait_for(2us)) {
          settle(future.get());
        } else {
          dropped = true;
        }
        break;
      case 3:
        std::move(future).on_ready([&](Result<int> result) {
          ++called;
          settle(result);
        });
        break;
      case 4:
        dropped = true;
        hesitate(dice.below(3));
        break;
      default:
        dropped = true;
        future.detach();
    }
    if (dropped) future = {};
    threads.clear();
    require(got == (dropped ? 0 : 1), "an answer was not given once");
    require(won <= 1 && called <= 1, "two have won");
    require(dropped || won == value, "whoever won gave another answer");
    require(pool->cancelling == pool->cancelled, "a cancel was announced and not made");
    require(won + pool->cancelled <= 1, "answered and cancelled");
    require(dropped || was_cancelled == (pool->cancelled == 1), "a cancel without its error");
    require(pool->freed == 1, "the slot was not freed once");
    require(Completion<int>::make(*pool).has_value(), "the slot is free and cannot be had");
  }
}

struct MortalPool final : CompletionPool<int> {
  MortalPool(std::size_t slots, const HostContext& host, Atomic<int>& count)
      : CompletionPool(slots, host), deaths(count) {}
  ~MortalPool() override { deaths.fetch_add(1); }
  void on_slot_freed() noexcept override { hesitate(1); }
  using CompletionPool::want_slots;
  Atomic<int>& deaths;
};

/// The owner goes while answers are given, taken and dropped: the last of them takes the pool
/// along.
void retiring_world(Dice& dice, const simulated::Plan&) {
  Atomic<int> deaths{0};
  std::vector<Thread> threads;
  {
    const std::size_t slots = 1 + dice.below(2);
    Ref<MortalPool> own =
        Ref<MortalPool>::adopt(new MortalPool(slots, {.clock = &simulated_clock}, deaths));
    if (dice.chance(2)) own->want_slots(true);
    for (std::size_t i = 0; i < slots; ++i) {
      auto made = Completion<int>::make(*own);
      require(made.has_value(), "a free slot cannot be had");
      start(threads, [promise = std::move(made->promise)]() mutable { promise.resolve(1); });
      start(threads, [future = std::move(made->future), way = dice.below(3)]() mutable {
        if (way == 0) require(future.get().has_value(), "no answer");
        if (way == 1) future.detach();
      });
    }
    if (dice.chance(2)) {
      start(threads, [pool = own] { pool->want_slots(true); });
    }
    hesitate(dice.below(4));
  }
  threads.clear();
  require(deaths.load() == 1, "the pool did not go once");
}

template <Drive drive, Faults faults>
void batcher_world(Dice& dice, const simulated::Plan& plan) {
  BatcherWorld(dice, plan, drive, faults).run();
}

/// Two requests for one place, and a drain: the second takes the first one's, or comes too late.
void shed_while_draining_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.queue_capacity = 1;
  options.overload = Overload::shed;
  options.workers = static_cast<unsigned>(dice.below(2));
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items& batch) { batch.resolve(0, 1); }, options);
  std::vector<Thread> threads;
  for (int i = 0; i < 2; ++i)
    start(threads, [&, i] { static_cast<void>(batcher.submit(i).get()); });
  require(bool(batcher.drain()), "drain() failed");
}

/// A worker that spins until a batch closes, and a request with an earlier deadline.
void deadline_in_final_spin_world(Dice&, const simulated::Plan& plan) {
  BatcherOptions options;
  options.max_batch_size = 3;
  options.queue_capacity = 4;
  options.max_queue_delay = 8us;
  options.final_spin = 4us;
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items&) {}, options);
  std::vector<Thread> threads;
  for (const TimePoint end : {simulated::now() + 4us, simulated::now() + 1us}) {
    start(threads, [&, end] {
      Future<int> future = batcher.submit(1, {.deadline = end});
      const bool waits = !future.is_ready();
      static_cast<void>(future.get());
      require(!waits || !plan.punctual || simulated::now() <= end, "expired late");
    });
  }
}

/// Every worker runs a slow model while deadlines pass: of what waits and of what runs.
template <Drive drive>
void deadlines_while_running_world(Dice& dice, const simulated::Plan& plan) {
  BatcherOptions options;
  options.max_batch_size = 1;
  options.queue_capacity = 4;
  options.workers = static_cast<unsigned>(dice.pick(1, 2));
  options.host.clock = &simulated_clock;
  std::optional<ThreadPool> pool;
  if (drive == Drive::executor) {  // one thread more: for the ticks
    pool.emplace(ThreadPoolOptions{options.workers + 1, 64, {.clock = &simulated_clock}});
    options.host.executor = &*pool;
  }
  Batcher batcher(
      [&](Items& batch) {
        sleep_for(20us);
        batch.resolve(0, answer_to(batch[0]));
      },
      options);
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    start(threads, [&, i, time = micros(dice.pick(1, 9)), pause = micros(dice.below(4))] {
      for (int round = 0; round < 2; ++round) {
        sleep_for(pause + 40us * round);
        const TimePoint end = simulated::now() + time;
        Future<int> future = batcher.submit(i, {.timeout = time});
        const Result<int> result = future.get();
        if (!plan.punctual) continue;  // the model may be as late as the timer
        require(!result && result.error().code() == ErrorCode::expired, "another error");
        require(simulated::now() <= end, "expired late");
      }
    });
  }
}

/// A queue for two, and a third who blocks: he takes notice of what came while a tick was posted.
void blocked_beside_a_tick_world(Dice&, const simulated::Plan& plan) {
  BatcherOptions options;
  options.max_batch_size = options.min_batch_size = 3;
  options.max_queue_delay = 8us;
  options.queue_capacity = 2;
  options.overload = Overload::block;
  options.host.clock = &simulated_clock;
  ThreadPool pool({.threads = 2, .host = {.clock = &simulated_clock}});
  options.host.executor = &pool;
  Atomic<int> late{0};
  const TimePoint begin = simulated::now();
  Batcher batcher(
      [](Items& batch) {
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, answer_to(batch[i]));
      },
      options);
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    start(threads, [&, i] {
      static_cast<void>(batcher.submit(i).get());
      late.fetch_add(simulated::now() > begin);
    });
  }
  threads.clear();
  require(!plan.punctual || late.load() <= 1, "a full queue did not close its batch");
}

/// Deadlines of what runs, fired one after the other while the batch ends and its slots are used
/// again: the next request in such a slot has an hour.
void reused_entries_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.min_batch_size = 2;
  options.max_queue_delay = 1us;
  options.queue_capacity = 4;
  options.max_outstanding = 4;
  options.host.clock = &simulated_clock;
  Batcher batcher(
      [&](Items& batch) {
        sleep_for(micros(dice.pick(1, 3)));
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 1);
      },
      options);
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    start(threads, [&] {
      static_cast<void>(batcher.submit(1, {.timeout = 3us}).get());
      const Result<int> second = batcher.submit(2, {.timeout = 1h}).get();
      require(second || second.error().code() != ErrorCode::expired, "expired an hour early");
    });
  }
}

/// More producers than slots, each of which takes its answer before it asks again.
void few_slots_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.queue_capacity = 1;
  options.max_outstanding = dice.pick(1, 2);
  options.overload = Overload::block;
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items& batch) { batch.resolve(0, answer_to(batch[0])); }, options);
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    start(threads, [&, i] {
      for (int round = 0; round < 2; ++round) {
        const Result<int> result = batcher.submit(i).get();
        require(result && *result == answer_to(i), "refused although it blocks");
      }
    });
  }
}

/// One thread takes slots while another takes both and puts back first the one that lay on top: the
/// top is the same again, and what is below it is not.
void free_slots_world(Dice&, const simulated::Plan&) {
  struct Link {
    Atomic<std::uint32_t>* below;
    Atomic<std::uint32_t>& operator()(std::uint32_t slot) const noexcept { return below[slot]; }
  };
  using Slots = FreeSlots<Link>;
  Atomic<std::uint32_t> below[2] = {};
  Atomic<bool> held[2] = {};
  Slots slots(2, Link{below});
  const auto pop = [&] {
    const std::uint32_t slot = slots.pop();
    require(slot == Slots::kNone || !held[slot].exchange(true), "a slot is given out twice");
    return slot;
  };
  const auto push = [&](std::uint32_t slot) {
    if (slot == Slots::kNone) return;
    held[slot].store(false);
    slots.push(slot, [] {});
  };
  const auto rotate = [&] {
    const std::uint32_t top = pop(), second = pop();
    push(top);
    hesitate(30);
    push(second);
  };
  rotate();  // onto this thread's stack
  std::vector<Thread> threads;
  start(threads, [&] {
    const std::uint32_t first = pop(), second = pop();
    push(first);
    push(second);
  });
  rotate();
  threads.clear();
  require(slots.close() == 2, "a slot is lost");
}

/// The only slot comes free once, and nothing that happens later would wake who waits for it.
void last_slot_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.queue_capacity = options.max_outstanding = 1;
  options.overload = Overload::block;
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items& batch) { batch.resolve(0, answer_to(batch[0])); }, options);
  Future<int> held = batcher.submit(7);
  static_cast<void>(held.wait_for(1h));
  std::vector<Thread> threads;
  start(threads, [&] {
    const Result<int> result = batcher.submit(8).get();
    require(result && *result == answer_to(8), "refused although it blocks");
  });
  hesitate(dice.below(30));
  const Result<int> result = held.get();
  require(result && *result == answer_to(7), "the first was not answered");
}

/// Somebody blocks beside nobody but the one who stops him, at any moment.
void stopped_while_blocked_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.queue_capacity = options.max_outstanding = 1;
  options.overload = Overload::block;
  options.workers = 0;
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items& batch) { batch.resolve(0, 1); }, options);
  const Future<int> held = batcher.submit(0);
  StopSource source;
  std::vector<Thread> threads;
  start(threads, [&] {
    const ErrorCode code =
        batcher.submit(1, {.stop_token = source.get_token()}).get().error().code();
    require(code == ErrorCode::cancelled, "another error");
  });
  hesitate(dice.below(40));
  source.request_stop();
}

/// Somebody blocks for room that nobody will make: only the end wakes him.
void blocked_at_the_end_world(Dice& dice, const simulated::Plan&) {
  BatcherOptions options;
  options.max_batch_size = options.queue_capacity = options.max_outstanding = 1;
  options.overload = Overload::block;
  options.host.clock = &simulated_clock;
  Batcher batcher([](Items& batch) { batch.resolve(0, 1); }, options);
  Future<int> held = batcher.submit(0);
  StopSource source;
  std::vector<Thread> threads;
  const std::size_t way = dice.below(4);
  start(threads, [&] {
    SubmitOptions terms{.stop_token = source.get_token()};
    if (way == 3) terms.timeout = 5us;
    const ErrorCode code = batcher.submit(1, terms).get().error().code();
    require(code == (way == 2   ? ErrorCode::cancelled
                     : way == 3 ? ErrorCode::queue_full
                                : ErrorCode::shutting_down) ||
                (way == 3 && code == ErrorCode::expired),
            "another error");
  });
  hesitate(dice.below(20));
  if (way == 0) require(bool(batcher.drain()), "drain() failed");
  if (way == 1) require(bool(batcher.stop()), "stop() failed");
  if (way == 2) source.request_stop();
  threads.clear();
  require(way == 1 || held.get().has_value(), "the first was not answered");
}

}  // namespace

TEST_CASE("Inbox: the bell rings for whoever sleeps, and nothing is lost or taken twice") {
  explore(70, inbox_world);
}
TEST_CASE("Promise and future: whoever resolves, cancels, drops or waits, one answer is given") {
  explore(35, promise_world);
}

TEST_CASE("Completions: the owner goes at any moment, the last answer takes the pool along") {
  explore(35, retiring_world);
}
TEST_CASE("Workers: every request is resolved once and in time, nothing is lost, stop is the end") {
  explore(300, batcher_world<Drive::workers, Faults::none>);
}
TEST_CASE("Workers: a model that throws, runs out of memory or forgets harms only whom it must") {
  explore(300, batcher_world<Drive::workers, Faults::some>);
}
TEST_CASE("Executor: the same on the host's threads, also when tasks are refused") {
  explore(300, batcher_world<Drive::executor, Faults::none>);
}
TEST_CASE("Executor: failing models") {
  explore(300, batcher_world<Drive::executor, Faults::some>);
}
TEST_CASE("Host-driven: the same with threads that call run_one()") {
  explore(260, batcher_world<Drive::host, Faults::some>);
}
TEST_CASE("A batcher whose threads do not all start says so, and answers everybody") {
  explore(
      60,
      [](Dice& dice, const simulated::Plan& plan) {
        BatcherOptions options;
        options.workers = 3;
        options.queue_capacity = 2;
        options.max_batch_size = 2;
        options.host.clock = &simulated_clock;
        Batcher batcher([](Items&) {}, options);
        require(!batcher.status(), "it says it has started");
        require(plan.refused_thread >= 0, "the plan refuses a thread");
        Future<int> future = batcher.submit(static_cast<int>(dice.below(9)));
        require(future.get().error().code() == ErrorCode::out_of_memory, "another error");
      },
      true);
}
TEST_CASE("Drain ends although its last request is shed for one that comes too late") {
  explore(90, shed_while_draining_world);
}
TEST_CASE("The final spin before a close time sees a request with an earlier deadline") {
  explore(180, deadline_in_final_spin_world);
}
TEST_CASE("Workers: deadlines fire at their time although every worker runs a model") {
  explore(550, deadlines_while_running_world<Drive::workers>);
}
TEST_CASE("Executor: deadlines fire at their time although every pump runs a model") {
  explore(550, deadlines_while_running_world<Drive::executor>);
}
TEST_CASE(
    "Executor: what came while a tick was posted is seen, though somebody blocked took note") {
  explore(300, blocked_beside_a_tick_world);
}
TEST_CASE("Whoever blocks for room is woken by drain, stop, his stop token and his deadline") {
  explore(230, blocked_at_the_end_world);
}
TEST_CASE("Whoever blocks hears of his stop token, whenever that comes") {
  explore(140, stopped_while_blocked_world);
}
TEST_CASE("Whoever blocks for a slot gets it as soon as an answer is taken") {
  explore(470, few_slots_world);
}
TEST_CASE("Whoever blocks for the only slot gets it, whenever it comes free") {
  explore(290, last_slot_world);
}
TEST_CASE("Free slots: no slot is given out twice, and none is lost") {
  explore(130, free_slots_world);
}
TEST_CASE("A deadline that fires late expires nobody who has taken over the slot") {
  explore(350, reused_entries_world);
}
