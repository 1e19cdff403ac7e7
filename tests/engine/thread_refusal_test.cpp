// The system refuses a thread, at every place where one is started: what was to run on it says so,
// answers everybody, and leaves nothing behind. Under simulated schedules.
#include <memory>
#include <string>

#include "ciuic/engine/one_shot_engine.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/simulated_world.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using simulated::require;

namespace {

constexpr std::uint64_t kSeeds = 100;

/// `world` with the thread numbered `refused` missing, under many schedules.
template <class World>
void refuse(int refused, World world) {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const simulated::Plan plan{.seed = seed, .refused_thread = refused};
    const simulated::Outcome outcome = simulated::run(plan, world);
    INFO("thread " << refused << ", seed " << seed);
    if (!outcome.problem.empty()) FAIL(outcome.problem);
  }
  SUCCEED();
}

}  // namespace

TEST_CASE("A pool works with the threads that did start; without any it takes nothing") {
  for (unsigned threads = 1; threads <= 4; ++threads) {
    for (unsigned refused = 0; refused <= threads; ++refused) {
      refuse(static_cast<int>(refused), [threads, refused] {
        const auto life = std::make_shared<int>(0);
        Atomic<int> ran{0};
        {
          ThreadPool pool({.threads = threads, .host = {.clock = &simulated_clock}});
          require(pool.threads() == refused, "not the threads that were started");
          int taken = 0;
          for (int i = 0; i < 3; ++i) {
            taken += pool.post([&ran, life] { ran.fetch_add(1); });
            taken += pool.post_at(simulated::now() + micros(2), [&ran, life] { ran.fetch_add(1); });
          }
          require(taken == (refused == 0 ? 0 : 6), "tasks taken by nobody, or not taken");
          require(bool(pool.drain()), "drain");
          require(ran.load() == taken, "a task was not run exactly once");
          require(bool(pool.stop()), "stop");
        }
        require(life.use_count() == 1, "a task is left");
      });
    }
  }
}

TEST_CASE("A one-shot engine without one of its threads says so, answers all, and keeps nothing") {
  for (unsigned replicas = 1; replicas <= 4; ++replicas) {
    // One for each replica, and one for deadlines; then there is none to refuse.
    for (unsigned refused = 0; refused <= replicas + 1; ++refused) {
      refuse(static_cast<int>(refused), [replicas, refused] {
        const auto life = std::make_shared<int>(0);
        {
          Replicas<int, int> models;
          for (unsigned r = 0; r < replicas; ++r) {
            models.add([life](Batch<int, int>& batch) { batch.resolve(0, 2 * batch[0]); });
          }
          OneShotOptions options;
          options.batching.max_batch_size = 1;
          options.batching.host.clock = &simulated_clock;
          AsyncInferenceEngine<Replicas<int, int>> engine(std::move(models), options);
          const bool starts = refused == replicas + 1;
          require(bool(engine.status()) == starts, "it does not know whether it has started");
          Future<int> future = engine.submit(2);
          const Result<int> answer = future.get();
          require(bool(answer) == starts, "an answer by nobody, or none");
          if (!starts) {
            require(answer.error().code() == ErrorCode::out_of_memory, "another error");
            require(engine.status().error().code() == ErrorCode::out_of_memory, "another reason");
            require(engine.run_one().batch_size == 0, "something to run");
          }
          require(bool(engine.drain()), "drain");
          if (refused % 2 == 0) require(bool(engine.stop()), "stop");
        }
        require(life.use_count() == 1, "a model is left");
      });
    }
  }
}
