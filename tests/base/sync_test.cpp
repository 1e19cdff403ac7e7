#include "ciuic/base/sync.hpp"

#include <vector>

#include "ciuic/base/clock.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

template <class Body>
std::vector<Thread> start(int count, Body body) {
  std::vector<Thread> threads;
  for (int i = 0; i < count; ++i) {
    Result<Thread> thread = Thread::start([body] { body(); });
    REQUIRE(thread);
    threads.push_back(*std::move(thread));
  }
  return threads;
}

}  // namespace

TEST_CASE("A mutex lets one thread at a time through, also across unlock and lock") {
  struct {
    Mutex mutex;
    int count CIUIC_GUARDED_BY(mutex) = 0;
  } shared;
  for (int threads : {1, 2, 4}) {
    start(threads, [&shared] {
      for (int i = 0; i < 1000; ++i) {
        Lock lock(shared.mutex);
        ++shared.count;
        lock.unlock();
        lock.lock();
        ++shared.count;
      }
    }).clear();  // joins
  }
  Lock lock(shared.mutex);
  CHECK(shared.count == 2 * 1000 * (1 + 2 + 4));
}

TEST_CASE("Two threads take turns through one condition variable") {
  struct {
    Mutex mutex;
    CondVar changed;
    int turn CIUIC_GUARDED_BY(mutex) = 0;
  } shared;
  constexpr int kTurns = 200;
  const auto play = [&shared](int parity) {
    Lock lock(shared.mutex);
    while (shared.turn < kTurns) {
      if (shared.turn % 2 == parity) {
        ++shared.turn;
        shared.changed.notify_all();
      } else {
        shared.changed.wait(lock);
      }
    }
  };
  {
    Result<Thread> even = Thread::start([&] { play(0); });
    Result<Thread> odd = Thread::start([&] { play(1); });
    REQUIRE(even);
    REQUIRE(odd);
  }
  Lock lock(shared.mutex);
  CHECK(shared.turn == kTurns);
}

TEST_CASE("Waiting until a time that has passed returns, and keeps the mutex") {
  Mutex mutex;
  CondVar condition;
  Lock lock(mutex);
  steady_clock().wait_until(condition, lock, steady_clock().now());
  condition.wait_until(lock, TimePoint::min());
  CHECK(add_saturating(steady_clock().now(), Duration::max()) == kNever);
}

TEST_CASE("Copies of one error may come and go in many threads") {
  const Error error(ErrorCode::model_failed, {"layer 3: ", "no finite value"});
  Atomic<int> alike{0};
  start(4, [&] {
    for (int i = 0; i < 500; ++i) {
      const Error copy = error;
      if (copy.with_prefix("step: ").message() == "step: layer 3: no finite value") ++alike;
    }
  }).clear();
  CHECK(alike.load() == 2000);
}

TEST_CASE("A thread knows itself, and moving one in joins the one that was there") {
  Atomic<bool> ran{false};
  Thread thread = Thread::start([&] { ran = true; }).value();
  CHECK_FALSE(thread.is_current());
  thread = Thread();
  CHECK(ran.load());
  CHECK_FALSE(thread.joinable());
  CHECK(hardware_threads() >= 1);
}
