// The threads behind one operation: every item is worked on exactly once, whoever comes, however
// late, and nobody's share waits for its owner.
#include "cpu/team.hpp"

#include <memory>
#include <vector>

#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using ciuic::cpu::Team;

namespace {

constexpr double kLong = 1e9;  // nanoseconds: worth everybody's help

struct Counted {
  std::vector<Atomic<int>> times;
  explicit Counted(std::size_t items) : times(items) {}
  bool each_once() const {
    for (const Atomic<int>& count : times) {
      if (count.load() != 1) return false;
    }
    return true;
  }
};

}  // namespace

TEST_CASE("Every item is worked on once, in chunks no larger than asked for") {
  ThreadPool pool({.threads = 3});
  for (Executor* executor : {static_cast<Executor*>(nullptr), static_cast<Executor*>(&pool)}) {
    for (const int threads : {1, 2, 3, 5}) {
      Team team = Team::make(threads, 16, {.executor = executor}).value();
      for (const std::size_t items : {0u, 1u, 2u, 3u, 7u, 64u, 1000u}) {
        for (const std::size_t grain : {1u, 2u, 5u, 64u, 5000u}) {
          INFO(threads << " threads, " << items << " items, grain " << grain);
          for (int repeat = 0; repeat < 20; ++repeat) {
            Counted counted(items);
            Atomic<bool> wrong{false};
            team.run(items, grain, kLong, [&](std::size_t begin, std::size_t end, float* scratch) {
              if (begin >= end || end > items || end - begin > grain) wrong.store(true);
              for (int i = 0; i < 16; ++i) scratch[i] = 1.0f;  // its own: TSan would say
              for (; begin < end; ++begin) counted.times[begin].fetch_add(1);
            });
            CHECK_FALSE(wrong.load());
            CHECK(counted.each_once());
          }
        }
      }
    }
  }
}

TEST_CASE("Others finish the share of a member that is held up") {
  for (const int threads : {2, 3}) {
    Team team = Team::make(threads, 16, {}).value();
    for (const std::size_t held_up : {std::size_t{0}, std::size_t{50}, std::size_t{99}}) {
      constexpr std::size_t kItems = 100;
      Counted counted(kItems);
      Atomic<std::size_t> others{0};
      team.run(kItems, 1, kLong, [&](std::size_t begin, std::size_t, float*) {
        counted.times[begin].fetch_add(1);
        if (begin != held_up) {
          others.fetch_add(1);
        } else {
          while (others.load() != kItems - 1) yield_thread();  // for ever, if nobody took the rest
        }
      });
      CHECK(counted.each_once());
    }
  }
}
