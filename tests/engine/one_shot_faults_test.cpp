// The one-shot engine when two things go wrong at once: a batch finds a guest where it belongs, and
// that guest hangs; several replicas break in the same moment.
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ciuic/engine/one_shot_engine.hpp"
#include "support/catch.hpp"
#include "support/gate.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::Gate;
using ciuic::testing::ManualClock;

namespace {

using Items = Batch<int, int>;
using Engine = AsyncInferenceEngine<Replicas<int, int>>;

void answer(Items& batch) {
  for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve(i, 2 * batch[i]);
}
ErrorCode code_of(Future<int>& future) {
  const Result<int> result = future.get();
  return result ? ErrorCode::internal : result.error().code();
}

/// Calls `hook` once, in the moment between a replica being found and being given out.
class Hook final : public BatchPolicy {
 public:
  explicit Hook(std::function<void()>& hook) : hook_(hook) {}
  BatchDecision may_start(const QueueView& view) noexcept override {
    if (hook_) std::exchange(hook_, nullptr)();
    return BatchPolicy::may_start(view);
  }
  BatchDecision decide(const QueueView&) noexcept override {
    return {.dispatch = true, .reason = CloseReason::idle};
  }

 private:
  std::function<void()>& hook_;
};

/// Request 1 fails on the first replica and hangs on the last, as a guest: it comes there when
/// another request has just been sent to it.
class Crowd {
 public:
  explicit Crowd(std::size_t replicas, Duration patience = 10ms) {
    Replicas<int, int> models;
    for (std::size_t r = 0; r < replicas; ++r) {
      models.add([this, r, last = replicas - 1](Items& batch) -> Result<void> {
        if (batch[0] == 1 && r == 0) {
          fails_.pass();
          return Error(lose_device ? ErrorCode::device_lost : ErrorCode::model_failed, "one");
        }
        if (batch[0] == 1 && r == last) hangs.pass();
        if (batch[0] == 2) held.pass();
        answer(batch);
        return {};
      });
    }
    engine.emplace(
        std::move(models),
        OneShotOptions{.batching = {.max_batch_size = 1, .workers = 0, .host = {.clock = &clock}},
                       .health = {.first_backoff = 10s, .patience = patience}},
        std::make_unique<Hook>(hook_));
  }
  ~Crowd() {
    held.open();
    hangs.open();
    for (Thread& thread : threads_) thread.join();
  }
  /// Submits `request`, and runs it on a thread of its own.
  Future<int> run(int request, const SubmitOptions& options = {}) {
    Future<int> future = engine->submit(request, options);
    threads_.push_back(Thread::start([this] { engine->run_one(); }).value());
    return future;
  }
  Future<int> run_first() {
    Future<int> first = run(1);
    fails_.await_arrivals(1);
    return first;
  }
  /// Is seated where the guest hangs.
  Future<int> run_behind_guest(int request, const SubmitOptions& options = {}) {
    hook_ = [this] {
      fails_.open();
      hangs.await_arrivals(1);
    };
    return run(request, options);
  }

  ManualClock clock;
  Gate held, hangs;
  bool lose_device = false;
  std::optional<Engine> engine;

 private:
  std::function<void()> hook_;
  Gate fails_;
  std::vector<Thread> threads_;
};

}  // namespace

TEST_CASE("one-shot: behind a guest that hangs nobody waits once another replica is free") {
  Crowd crowd(3);
  Future<int> first = crowd.run_first();
  Future<int> second = crowd.run(2);
  crowd.held.await_arrivals(1);
  Future<int> third = crowd.run_behind_guest(3);
  crowd.clock.await_sleeper(crowd.clock.now() + 10ms);
  crowd.held.open();
  CHECK(second.get().value() == 4);
  CHECK(third.get().value() == 6);  // on the second replica
  CHECK_FALSE(first.is_ready());
  CHECK(crowd.engine->stats().replicas[1].batches == 2);
  crowd.hangs.open();
  CHECK(first.get().value() == 2);
  CHECK(crowd.engine->drain());
  for (const ReplicaStats& r : crowd.engine->stats().replicas) CHECK_FALSE(r.busy);
}

TEST_CASE("one-shot: behind a guest that hangs the replica that it failed on is there in the end") {
  Crowd crowd(2);
  Future<int> first = crowd.run_first();
  Future<int> second = crowd.run_behind_guest(3);
  crowd.clock.await_sleeper(crowd.clock.now() + 10ms);
  CHECK_FALSE(second.is_ready());
  crowd.clock.advance(10ms);
  CHECK(second.get().value() == 6);
  CHECK_FALSE(first.is_ready());
  CHECK(crowd.engine->stats().replicas[0].batches == 2);
  crowd.hangs.open();
  CHECK(first.get().value() == 2);
  CHECK(crowd.engine->drain());
  for (const ReplicaStats& r : crowd.engine->stats().replicas) CHECK_FALSE(r.busy);
}

TEST_CASE("one-shot: behind a guest that hangs nobody waits longer than its deadline") {
  Crowd crowd(2, Duration::max());
  crowd.lose_device = true;  // so that there is nowhere else to go
  Future<int> first = crowd.run_first();
  const TimePoint start = crowd.clock.now();
  Future<int> second = crowd.run_behind_guest(3, {.timeout = 50ms});
  crowd.clock.await_sleeper(start + 50ms);
  crowd.clock.advance(50ms);
  CHECK(code_of(second) == ErrorCode::expired);
  CHECK_FALSE(first.is_ready());
  crowd.hangs.open();
  CHECK(first.get().value() == 2);
  CHECK(crowd.engine->drain());
  CHECK(crowd.engine->stats().replicas[0].state == ReplicaState::drained);
  CHECK_FALSE(crowd.engine->stats().replicas[1].busy);
}

namespace {

/// What each of some replicas does, and how often it was asked.
struct Faults {
  explicit Faults(std::size_t replicas, const HealthOptions& health = {}) : fails(replicas) {
    Replicas<int, int> models;
    for (std::size_t r = 0; r < replicas; ++r) {
      models.add([this, r](Items& batch) -> Result<void> {
        clock.advance(1ms);
        if (fails[r]) return fails[r](batch);
        answer(batch);
        return {};
      });
    }
    engine.emplace(std::move(models),
                   OneShotOptions{.batching = {.workers = 0, .host = {.clock = &clock}},
                                  .routing = {.relearn_every = 0},
                                  .health = health});
  }
  /// All replicas have passed some batches.
  void learn() {
    for (std::size_t i = 0; i < 6 * fails.size(); ++i) {
      engine->submit(2).detach();
      run();
    }
  }
  void run() {
    while (engine->run_one().batch_size > 0) {
    }
  }
  ReplicaStats stats(std::size_t r) { return engine->stats().replicas[r]; }
  std::uint64_t runs() {
    std::uint64_t runs = 0;
    for (const ReplicaStats& r : engine->stats().replicas) runs += r.batches;
    return runs;
  }

  ManualClock clock;
  std::vector<std::function<Result<void>(Items&)>> fails;
  std::optional<Engine> engine;
};
Result<void> broken(Items&) { throw std::runtime_error("broken"); }
Result<void> lost(Items&) { return Error(ErrorCode::device_lost, "fell off the bus"); }
Result<void> full(Items&) { throw std::bad_alloc(); }

}  // namespace

TEST_CASE("health: two replicas break in the same moment, and nobody notices") {
  const bool known = GENERATE(false, true);
  const auto first = GENERATE(broken, lost), second = GENERATE(broken, lost);
  const std::size_t good = GENERATE(0u, 1u, 2u);
  CAPTURE(known, good);
  Faults faults(3);
  if (known) faults.learn();
  faults.fails[(good + 1) % 3] = first;
  faults.fails[(good + 2) % 3] = second;
  for (int i = 0; i < 20; ++i) {
    std::vector<Future<int>> futures;
    for (int k = 0; k < 3; ++k) futures.push_back(faults.engine->submit(k));
    faults.run();
    for (int k = 0; k < 3; ++k) {
      CHECK(futures[static_cast<std::size_t>(k)].get().value() == 2 * k);
    }
  }
  CHECK(faults.stats(good).state == ReplicaState::in_service);
  CHECK(faults.stats(good).drained == 0);
  CHECK(faults.engine->stats().batching.failed == 0);
}

TEST_CASE("health: as many replicas may break at once as opinions are asked") {
  const unsigned opinions = GENERATE(1u, 2u, 4u, 7u);
  CAPTURE(opinions);
  Faults faults(8, {.opinions = opinions});
  faults.learn();
  for (std::size_t r = 0; r < opinions; ++r) faults.fails[r] = broken;
  Future<int> future = faults.engine->submit(2);
  faults.run();
  CHECK(future.get().value() == 4);
  for (std::size_t r = 0; r < 8; ++r) {
    CHECK((faults.stats(r).state == ReplicaState::drained) == (r < opinions));
  }
}

TEST_CASE("health: a bad batch costs as many runs more as opinions are asked, and no replica") {
  const unsigned opinions = GENERATE(1u, 2u, 4u);
  CAPTURE(opinions);
  Faults faults(8, {.opinions = opinions});
  faults.learn();
  for (auto& fails : faults.fails) {
    fails = [](Items& batch) {
      return batch[0] == 3 ? Error(ErrorCode::model_failed, "three")
                           : (answer(batch), Result<void>());
    };
  }
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t before = faults.runs();
    Future<int> bad = faults.engine->submit(3);
    faults.run();
    CHECK(code_of(bad) == ErrorCode::model_failed);
    CHECK(faults.runs() == before + 1 + opinions);
    Future<int> good = faults.engine->submit(4);
    faults.run();
    CHECK(good.get().value() == 8);
  }
  for (std::size_t r = 0; r < 8; ++r) CHECK(faults.stats(r).drained == 0);
}

TEST_CASE("health: who left between two opinions leaves those before unblamed") {
  Faults faults(4, {.opinions = 3});
  faults.learn();
  Future<int> bad = faults.engine->submit(3), good = faults.engine->submit(4);
  const auto not_three = [&](Items& batch) -> Result<void> {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (batch[i] == 3) return Error(ErrorCode::model_failed, "three");
    }
    answer(batch);
    return {};
  };
  faults.fails[0] = not_three;
  faults.fails[1] = [&](Items& batch) {
    bad.cancel();
    return not_three(batch);
  };
  faults.fails[2] = broken;
  faults.run();
  CHECK(good.get().value() == 8);
  CHECK(faults.stats(0).drained == 0);
  CHECK(faults.stats(1).drained == 0);
  CHECK(faults.stats(2).drained == 1);  // failed on what passed elsewhere
}

TEST_CASE("health: a replica out of memory is not blamed for what others have memory for") {
  Faults faults(3);
  faults.learn();
  faults.fails[0] = full;
  faults.fails[1] = broken;
  Future<int> future = faults.engine->submit(2);
  faults.run();
  CHECK(future.get().value() == 4);
  CHECK(faults.stats(0).drained == 0);
  CHECK(faults.stats(1).drained == 1);
}

TEST_CASE("one-shot: a batch that has answered all and then fails asks no other replica") {
  ManualClock clock;
  Gate held;
  Replicas<int, int> models;
  for (int r = 0; r < 2; ++r) {
    models.add([&](Items& batch) {
      if (batch[0] == 2) held.pass();
      for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve_at_end(i, 2 * batch[i]);
      if (batch[0] == 1) throw std::runtime_error("too late to matter");
    });
  }
  Engine engine(
      std::move(models),
      OneShotOptions{.batching = {.max_batch_size = 1, .workers = 0, .host = {.clock = &clock}}});
  Future<int> second = engine.submit(2);
  Thread busy = Thread::start([&] { engine.run_one(); }).value();
  held.await_arrivals(1);
  Future<int> first = engine.submit(1);
  engine.run_one();  // would wait for the busy replica
  CHECK(first.get().value() == 2);
  held.open();
  busy.join();
  CHECK(second.get().value() == 4);
}
