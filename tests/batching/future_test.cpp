// Futures and promises over a pool, without a batcher.
#include "ciuic/batching/future.hpp"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::ManualClock;

namespace {

struct Pool : CompletionPool<std::unique_ptr<int>> {
  Pool(std::size_t capacity, const HostContext& host) : CompletionPool(capacity, host) {
    want_slots(true);
  }
  void on_cancelled(std::uint64_t tag) noexcept override { cancelled.push_back(tag); }
  void on_slot_freed() noexcept override { ++freed; }
  std::vector<std::uint64_t> cancelled;
  std::atomic<int> freed{0};
};
using Value = std::unique_ptr<int>;

Ref<Pool> make_pool(std::size_t capacity, const HostContext& host = {}) {
  return Ref<Pool>::adopt(new Pool(capacity, host));
}

/// The smallest coroutine type that can await something and keep its answer.
struct Task {
  struct promise_type {
    Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> handle;
};

Task await_into(Future<Value> future, int& out) {
  Result<Value> answer = co_await std::move(future);
  out = answer ? **answer : -1;
}

struct Log final : LogSink {
  void write(LogLevel, std::string_view line) noexcept override { last = line; }
  std::string last;
};

}  // namespace

TEST_CASE("An answer given before or after the wait arrives, and the slot comes back") {
  const Ref<Pool> pool = make_pool(1);
  for (int i = 0; i < 3; ++i) {
    auto [promise, future] = *Completion<Value>::make(*pool);
    CHECK_FALSE(Completion<Value>::make(*pool));
    CHECK_FALSE(future.is_ready());
    CHECK(promise.resolve(std::make_unique<int>(i)));
    CHECK_FALSE(promise.resolve(std::make_unique<int>(99)));
    CHECK(future.is_ready());
    CHECK(*future.get().value() == i);
    CHECK(future.get().error().code() == ErrorCode::invalid_argument);
    CHECK(pool->freed == i + 1);
  }
  auto [promise, future] = *Completion<Value>::make(*pool);
  std::thread producer([&p = promise] { p.resolve(std::make_unique<int>(7)); });
  CHECK(*future.get().value() == 7);
  producer.join();
}

TEST_CASE("Exactly one of many resolvers decides") {
  const Ref<Pool> pool = make_pool(4);
  for (int round = 0; round < 200; ++round) {
    auto [promise, future] = *Completion<Value>::make(*pool);
    std::stop_source stop;
    future.cancel_on(stop.get_token());
    Promise<Value> second = promise.share();
    std::atomic<int> winners{0};
    std::thread a(
        [&, p = std::move(promise)]() mutable { winners += p.resolve(std::make_unique<int>(1)); });
    std::thread b(
        [&, p = std::move(second)]() mutable { winners += p.reject(Error(ErrorCode::expired)); });
    stop.request_stop();
    a.join();
    b.join();
    const Result<Value> answer = future.get();
    const bool cancelled = !answer && answer.error().code() == ErrorCode::cancelled;
    CHECK(winners == (cancelled ? 0 : 1));
    CHECK(pool->freed == round + 1);
  }
}

TEST_CASE("Cancel and drop are reported once with the request's tag; detach is not a cancel") {
  const Ref<Pool> pool = make_pool(4);
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    promise.set_tag(11);
    CHECK(future.cancel());
    CHECK_FALSE(future.cancel());
    CHECK(promise.cancelled());
    CHECK_FALSE(promise.resolve(std::make_unique<int>(1)));
    CHECK(future.get().error().code() == ErrorCode::cancelled);
  }
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    promise.set_tag(12);
    { Future<Value> dropped = std::move(future); }
    CHECK(promise.cancelled());
  }
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    promise.set_tag(13);
    future.detach();
    CHECK_FALSE(promise.cancelled());
    CHECK(promise.resolve(std::make_unique<int>(1)));
  }
  CHECK(pool->cancelled == std::vector<std::uint64_t>{11, 12});
  CHECK(pool->freed == 3);
}

TEST_CASE("A promise that is dropped still resolves its future") {
  const Ref<Pool> pool = make_pool(1);
  auto [promise, future] = *Completion<Value>::make(*pool);
  { Promise<Value> dropped = std::move(promise); }
  CHECK(future.get().error().code() == ErrorCode::internal);
}

TEST_CASE("Timed waits follow the injected clock") {
  ManualClock clock;
  const Ref<Pool> pool = make_pool(1, {.clock = &clock});
  auto [promise, future] = *Completion<Value>::make(*pool);
  CHECK_FALSE(future.wait_for(0s));
  std::thread time([&] {
    clock.await_sleeper(TimePoint(1s) + 1h);
    clock.advance(1h);
  });
  CHECK_FALSE(future.wait_for(1h));
  time.join();
  std::thread producer([&p = promise] { p.resolve(std::make_unique<int>(1)); });
  CHECK(future.wait_for(Duration::max()));
  producer.join();
}

TEST_CASE("A callback gets the answer once, now or later, and may throw without harm") {
  Log log;
  const Ref<Pool> pool = make_pool(2, {.log = &log});
  int seen = 0;
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    std::move(future).on_ready([&](Result<Value> answer) { seen = **answer; });
    CHECK(seen == 0);
    promise.resolve(std::make_unique<int>(5));
    CHECK(seen == 5);
  }
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    promise.resolve(std::make_unique<int>(6));
    std::move(future).on_ready([&](Result<Value> answer) {
      seen = **answer;
      throw std::runtime_error("oh");
    });
    CHECK(seen == 6);
  }
  CHECK(pool->callbacks_failed() == 1);
  CHECK(log.last == "ciuic: a completion callback threw: oh");
  Future<Value>::failed(Error(ErrorCode::queue_full)).on_ready([&](const Result<Value>& answer) {
    seen = static_cast<int>(answer.error().code());
  });
  CHECK(seen == static_cast<int>(ErrorCode::queue_full));
  CHECK(pool->freed == 2);
}

TEST_CASE("A future can be awaited, before and after the answer, and dropped while awaited") {
  const Ref<Pool> pool = make_pool(1);
  int value = 0;
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    Task task = await_into(std::move(future), value);
    CHECK_FALSE(task.handle.done());
    promise.resolve(std::make_unique<int>(8));
    CHECK(task.handle.done());
    CHECK(value == 8);
    task.handle.destroy();
  }
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    promise.resolve(std::make_unique<int>(9));
    Task task = await_into(std::move(future), value);
    CHECK(task.handle.done());
    CHECK(value == 9);
    task.handle.destroy();
  }
  {
    auto [promise, future] = *Completion<Value>::make(*pool);
    Task task = await_into(std::move(future), value);
    task.handle.destroy();
    CHECK(promise.cancelled());
  }
  CHECK(pool->cancelled.size() == 1);
  CHECK(pool->freed == 3);
}

TEST_CASE("Futures outlive the owner of their pool") {
  std::optional<Completion<Value>> completion;
  {
    const Ref<Pool> pool = make_pool(1);
    completion = Completion<Value>::make(*pool);
  }
  completion->promise.resolve(std::make_unique<int>(3));
  CHECK(*completion->future.get().value() == 3);
}

TEST_CASE("A stop token cancels, also one that was stopped before, also a detached request") {
  const Ref<Pool> pool = make_pool(2);
  std::stop_source stop;
  auto [a, first] = *Completion<Value>::make(*pool);
  auto [b, second] = *Completion<Value>::make(*pool);
  a.set_tag(1);
  b.set_tag(2);
  first.cancel_on(stop.get_token());
  first.detach();
  stop.request_stop();
  second.cancel_on(stop.get_token());
  CHECK(pool->cancelled == std::vector<std::uint64_t>{1, 2});
  CHECK(second.get().error().code() == ErrorCode::cancelled);
}

TEST_CASE(
    "regression: a callback after a timed-out wait, given while the answer is shown, runs once") {
  const Ref<Pool> pool = make_pool(1);
  const std::uint32_t slot = pool->acquire();
  Future<Value> future{FutureSlot<Value>(*pool, slot)};
  CHECK_FALSE(future.wait_for(std::chrono::microseconds(1)));
  REQUIRE(pool->claim(slot));
  pool->stage(slot, std::make_unique<int>(7));
  const bool to_tell = pool->publish_quietly(slot);  // the consumer slept before
  CHECK(to_tell);
  int calls = 0;
  std::move(future).on_ready([&](Result<Value> answer) { calls += **answer; });
  pool->tell(slot);
  pool->let_go(slot);
  CHECK(calls == 7);
  CHECK(pool->freed == 1);
}
