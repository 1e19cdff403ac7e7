// The generation engine on executors of every kind: one that runs tasks inside post(), and ones
// that lose their timers.
#include <algorithm>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/engine_rig.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

enum class Timers { refused, dropped, kept, at_once };
enum class Posts { queued, nested };

/// Runs tasks when the test says so, or inside post(); timers never when they should.
/// Thread-safety: thread-safe.
class OddExecutor final : public Executor {
 public:
  OddExecutor(Posts posts, Timers timers) : posts_(posts), timers_(timers) {}
  bool post(Function<void()>&& task) noexcept override {
    Lock lock(mutex_);
    ++posted_;
    if (posts_ == Posts::queued) {
      tasks_.push_back(std::move(task));
      return true;
    }
    deepest_ = std::max(deepest_, ++depth_);
    Function<void()> own = std::move(task);
    lock.unlock();
    own();
    own = nullptr;
    lock.lock();
    --depth_;
    return true;
  }
  bool post_at(TimePoint, Function<void()>&& task) noexcept override {
    Lock lock(mutex_);
    ++timers_set_;
    if (timers_ == Timers::refused) return false;
    if (timers_ == Timers::kept) kept_.push_back(std::move(task));
    lock.unlock();
    if (timers_ == Timers::at_once) task();
    if (timers_ == Timers::dropped) task = nullptr;
    return true;
  }
  /// The tasks, until there are none.
  void run() {
    for (;;) {
      Function<void()> task;
      {
        const Lock lock(mutex_);
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }
  int deepest() const {
    const Lock lock(mutex_);
    return deepest_;
  }
  int posted() const {
    const Lock lock(mutex_);
    return posted_;
  }
  int timers_set() const {
    const Lock lock(mutex_);
    return timers_set_;
  }

 private:
  const Posts posts_;
  const Timers timers_;
  mutable Mutex mutex_;
  std::deque<Function<void()>> tasks_ CIUIC_GUARDED_BY(mutex_);
  std::vector<Function<void()>> kept_ CIUIC_GUARDED_BY(mutex_);
  int posted_ CIUIC_GUARDED_BY(mutex_) = 0;
  int depth_ CIUIC_GUARDED_BY(mutex_) = 0;
  int deepest_ CIUIC_GUARDED_BY(mutex_) = 0;
  int timers_set_ CIUIC_GUARDED_BY(mutex_) = 0;
};

ToySettings endless() { return {.max_context_tokens = 4096, .end_token = -1}; }

}  // namespace

TEST_CASE("An executor that runs tasks inside post: the stack does not grow with the work") {
  OddExecutor executor(Posts::nested, Timers::kept);
  ManualClock clock;
  auto log = std::make_shared<ToyLanguageModel::Log>();
  ToyEngine engine(ToyLanguageModel(log, endless()),
                   {.max_sequences = 4, .host = {.executor = &executor, .clock = &clock}});
  CHECK(engine.generate("abc", {.max_new_tokens = 1000}).finish().value().text ==
        toy_answer("abc", 1000, endless()));
  CHECK(executor.posted() >= 1000);
  CHECK(executor.deepest() == 1);
  // Callbacks that submit, and readers that let a paused request go on.
  std::string chain;
  Function<void()> next;
  next = [&] {
    engine.generate("abc", {.max_new_tokens = 3}).on_ready([&](const Result<Generation>& answer) {
      chain += answer.value().text;
      if (chain.size() < 300) next();
    });
  };
  next();
  CHECK(chain.size() == 300);
  TextStream paused = engine.generate("abc", {.max_new_tokens = 500, .max_unread = 8});
  std::string text;
  while (auto piece = paused.next().value()) text += *piece;
  CHECK(text == toy_answer("abc", 500, endless()));
  CHECK(executor.deepest() == 1);
  TextStream given_up = engine.generate("abc", {.max_new_tokens = 500, .max_unread = 8});
  given_up.cancel();
  CHECK(given_up.is_ready());
  CHECK(engine.drain());
  CHECK(engine.stop());
}

TEST_CASE("An executor that loses timers: whoever comes by after a deadline notices it") {
  const Posts posts = GENERATE(Posts::queued, Posts::nested);
  const Timers timers = GENERATE(Timers::refused, Timers::dropped, Timers::kept, Timers::at_once);
  const int touch = GENERATE(0, 1, 2, 3, 4);
  CAPTURE(posts, timers, touch);
  OddExecutor executor(posts, timers);
  ManualClock clock;
  auto log = std::make_shared<ToyLanguageModel::Log>();
  ToyEngine engine(ToyLanguageModel(log, endless()),
                   {.host = {.executor = &executor, .clock = &clock}});
  TextStream done = engine.generate("x", {.max_new_tokens = 2});
  executor.run();
  // Twice: what is lost once may not keep the next from being set.
  for (std::uint64_t round = 1; round <= 2; ++round) {
    TextStream paused =
        engine.generate("abc", {.max_new_tokens = 500, .timeout = 10ms, .max_unread = 8});
    TextStream later =
        engine.generate("abd", {.max_new_tokens = 500, .timeout = 30ms, .max_unread = 8});
    executor.run();
    CHECK(engine.stats().paused == 2);
    const int set = executor.timers_set();
    CHECK(set > 0);
    CHECK(set < 20);  // it is not asked over and over
    clock.advance(10ms);
    switch (touch) {
      case 0:
        static_cast<void>(paused.is_ready());
        break;
      case 1:
        static_cast<void>(engine.stats());
        break;
      case 2:
        engine.generate("y", {.max_new_tokens = 1}).detach();
        break;
      case 3:
        static_cast<void>(done.try_next());
        break;
      default:
        static_cast<void>(later.wait_for(0ns));
        break;
    }
    executor.run();
    CHECK(engine.stats().expired == 2 * round - 1);
    clock.advance(20ms);
    CHECK(later.is_ready() == (posts == Posts::nested));
    executor.run();
    CHECK(later.is_ready());
    std::string text;
    Result<std::optional<std::string_view>> piece = paused.next();
    REQUIRE(piece);
    CHECK((*piece)->size() >= 8);  // what was made before stays readable
    CHECK(paused.next().error().code() == ErrorCode::expired);
    CHECK(executor.timers_set() > set);
  }
}

TEST_CASE("An executor that loses timers: drain ends with the last deadline") {
  struct Lossy final : Executor {
    bool post(Function<void()>&& task) noexcept override { return pool.post(std::move(task)); }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return false; }
    ThreadPool pool{{.threads = 2}};
  } executor;
  ManualClock clock;
  auto log = std::make_shared<ToyLanguageModel::Log>();
  ToyEngine engine(ToyLanguageModel(log, endless()),
                   {.host = {.executor = &executor, .clock = &clock}});
  const TimePoint start = clock.now();
  TextStream first =
      engine.generate("abc", {.max_new_tokens = 500, .timeout = 10ms, .max_unread = 8});
  TextStream second =
      engine.generate("abd", {.max_new_tokens = 500, .timeout = 20ms, .max_unread = 8});
  bool drained = false;
  Thread drainer = Thread::start([&] { drained = static_cast<bool>(engine.drain()); }).value();
  for (const Duration at : {10ms, 20ms}) {
    clock.await_sleeper(start + at);
    clock.advance(10ms);
  }
  drainer.join();
  CHECK(drained);
  CHECK(engine.stats().expired == 2);
}
