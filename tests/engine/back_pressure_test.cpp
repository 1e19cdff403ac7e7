// max_unread: a reader that stops pauses its own request and nobody else's.
#include <thread>

#include "support/catch.hpp"
#include "support/engine_rig.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

const ToySettings kEndless{.end_token = -1};  // the toy never says it

std::string answer(std::string_view prompt, std::int32_t tokens) {
  return toy_answer(prompt, tokens, kEndless);
}

struct HostDriven {
  explicit HostDriven(EngineOptions options = {})
      : engine(ToyLanguageModel(log, kEndless), [&] {
          options.host_driven = true;
          options.host.clock = &clock;
          return options;
        }()) {}
  void run() {
    while (engine.run_one()) {
    }
  }
  std::shared_ptr<ToyLanguageModel::Log> log = std::make_shared<ToyLanguageModel::Log>();
  ManualClock clock;
  ToyEngine engine;
};

/// What a reader gets who takes a piece, lets the engine run on, and takes the next.
std::string read_slowly(HostDriven& host, TextStream& stream, std::size_t most) {
  std::string text;
  for (;;) {
    const auto piece = stream.try_next();
    REQUIRE(piece);
    if (!*piece) return text;
    CHECK((*piece)->size() <= most);
    text += **piece;
    host.run();
  }
}

}  // namespace

TEST_CASE("Who does not read stands still alone, and goes on with the right text when he does") {
  HostDriven host;
  TextStream slow = host.engine.generate("slow", {.max_new_tokens = 40, .max_unread = 3});
  TextStream fast = host.engine.generate("fast", {.max_new_tokens = 40});
  host.run();
  CHECK(fast.finish().value().text == answer("fast", 40));
  CHECK_FALSE(slow.is_ready());
  CHECK(host.engine.stats().paused == 1);
  CHECK_FALSE(host.engine.run_one());
  CHECK(host.engine.next_event() == kNever);
  CHECK(read_slowly(host, slow, 3) == answer("slow", 40));
  CHECK(host.engine.stats().pages_used == 0);
  CHECK(host.log->broken.empty());
}

TEST_CASE("The place in the batch and the pages of who is paused go to others") {
  // One place, and pages for one request at a time.
  for (const std::int32_t places : {1, 4}) {
    HostDriven host({.max_sequences = places, .kv_memory = 14 * 64, .prefix_cache = false});
    std::vector<TextStream> slow;
    for (const char* prompt : {"slow one", "slow two", "slow three"}) {
      slow.push_back(host.engine.generate(prompt, {.max_new_tokens = 40, .max_unread = 2}));
    }
    host.run();
    for (int i = 0; i < 10; ++i) {
      const std::string prompt = "fast " + std::to_string(i);
      TextStream fast = host.engine.generate(prompt, {.max_new_tokens = 30});
      host.run();
      REQUIRE(fast.is_ready());
      CHECK(fast.finish().value().text == answer(prompt, 30));
    }
    CHECK(host.engine.stats().preemptions >= 2);
    CHECK(read_slowly(host, slow[1], 2) == answer("slow two", 40));
    CHECK(read_slowly(host, slow[2], 2) == answer("slow three", 40));
    CHECK(read_slowly(host, slow[0], 2) == answer("slow one", 40));
    CHECK(host.engine.stats().pages_used == 0);
    CHECK(host.log->broken.empty());
  }
}

TEST_CASE("Whoever no longer reads piece by piece is no longer held up") {
  HostDriven host;
  const auto paused = [&] {
    TextStream stream = host.engine.generate("p", {.max_new_tokens = 25, .max_unread = 1});
    host.run();
    REQUIRE_FALSE(stream.is_ready());
    return stream;
  };
  const std::uint64_t before = host.engine.stats().completed;
  paused().detach();
  host.run();
  CHECK(host.engine.stats().completed == before + 1);
  TextStream waits = paused();
  CHECK_FALSE(waits.wait_for(0s));  // a look is no waiting: the reader is as slow as before
  host.run();
  CHECK(host.engine.stats().paused == 1);
  waits.detach();
  host.run();
  CHECK(host.engine.stats().completed == before + 2);
  const auto seen = std::make_shared<Seen>();
  paused().on_ready([seen](const Result<Generation>& a) { seen->take(a); });
  host.run();
  CHECK(seen->wait() == answer("p", 25));
  const auto coroutine = std::make_shared<Seen>();
  wait_by(Wait::answer, paused(), coroutine);
  host.run();
  CHECK(coroutine->wait() == answer("p", 25));
  // finish() lifts it too, while somebody else runs the steps.
  for (const Drive drive : kDrives) {
    EngineRig rig(drive, {}, kEndless);
    TextStream stream = rig->generate("p", {.max_new_tokens = 25, .max_unread = 1});
    while (rig->stats().paused == 0) yield_thread();
    CHECK(stream.finish().value().text == answer("p", 25));
  }
}

TEST_CASE("A slow reader always wakes the engine that sleeps, whoever runs it") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    EngineRig rig(drive, {.max_sequences = 2, .kv_memory = 20 * 64}, kEndless);
    std::vector<std::thread> readers;
    std::atomic<int> right{0};
    for (int i = 0; i < 4; ++i) {
      readers.emplace_back([&, i] {
        for (int round = 0; round < 20; ++round) {
          const std::string prompt = std::to_string(i) + " reads " + std::to_string(round);
          TextStream stream = rig->generate(prompt, {.max_new_tokens = 30, .max_unread = 1});
          std::string text;
          for (;;) {
            const auto piece = stream.next();
            if (!piece || !*piece) break;
            text += **piece;
          }
          right += text == answer(prompt, 30);
        }
      });
    }
    for (std::thread& reader : readers) reader.join();
    CHECK(right == 80);
    CHECK(rig->drain());
    CHECK(rig->stats().pages_used == 0);
    CHECK(rig.log->broken.empty());
  }
}

TEST_CASE("The deadline of a paused request fires at its time, with nobody else about") {
  for (const Drive drive : {Drive::thread, Drive::executor}) {
    INFO(name_of(drive));
    ManualClock clock;
    EngineOptions options;
    options.host.clock = &clock;
    EngineRig rig(drive, options, kEndless);
    TextStream stream = rig->generate("p", {.max_new_tokens = 25, .timeout = 7ms, .max_unread = 4});
    clock.await_sleeper(clock.now() + 7ms);
    CHECK(rig->stats().paused == 1);
    clock.advance(7ms);
    while (!stream.is_ready()) yield_thread();
    CHECK(stream.next().value().value() == answer("p", 4));
    CHECK(stream.next().error().code() == ErrorCode::expired);
    CHECK(rig->drain());
    CHECK(rig->stats().pages_used == 0);
  }
  HostDriven host;
  TextStream stream =
      host.engine.generate("p", {.max_new_tokens = 25, .timeout = 7ms, .max_unread = 4});
  host.run();
  CHECK(host.engine.next_event() == host.clock.now() + 7ms);
  host.clock.advance(7ms);
  CHECK_FALSE(host.engine.run_one());
  CHECK(stream.is_ready());
  CHECK(host.engine.next_event() == kNever);
}

TEST_CASE("A drain beside a reader who rests gives up at its time, and a stop ends him") {
  for (const Drive drive : {Drive::thread, Drive::executor, Drive::host}) {
    INFO(name_of(drive));
    ManualClock clock;
    EngineOptions options;
    options.host.clock = &clock;
    options.host_driven = drive == Drive::host;
    std::optional<ThreadPool> pool;
    if (drive == Drive::executor) {
      pool.emplace(ThreadPoolOptions{.threads = 1, .host = {.clock = &clock}});
      options.host.executor = &*pool;
    }
    ToyEngine engine(ToyLanguageModel(std::make_shared<ToyLanguageModel::Log>(), kEndless),
                     options);
    TextStream stream = engine.generate("p", {.max_new_tokens = 25, .max_unread = 4});
    const TimePoint until = clock.now() + 5ms;
    std::atomic<int> drained{-1};
    std::thread drainer([&] { drained = engine.drain(5ms).has_value(); });
    clock.await_sleeper(until);
    CHECK(drained == -1);
    clock.advance(5ms);
    drainer.join();
    CHECK(drained == 0);
    const Result<void> again = engine.drain(0s);
    REQUIRE_FALSE(again);
    CHECK(again.error().code() == ErrorCode::expired);
    CHECK(again.error().message() == "drain: 1 requests are left");
    // A second one, for ever, ends when the reader reads: host-driven, it runs the steps itself.
    if (drive == Drive::host) {
      std::thread second([&] { drained = engine.drain().has_value(); });
      std::string text;
      for (;;) {
        const auto piece = stream.next();
        if (!piece || !*piece) break;
        text += **piece;
      }
      second.join();
      CHECK(drained == 1);
      CHECK(text == answer("p", 25));
    } else {
      CHECK(engine.stop());
      std::string text;
      Result<std::optional<std::string_view>> piece = stream.next();
      for (; piece && *piece; piece = stream.next()) text += **piece;
      REQUIRE_FALSE(piece);
      CHECK(piece.error().code() == ErrorCode::shutting_down);
      CHECK(answer("p", 25).compare(0, text.size(), text) == 0);
    }
  }
}

TEST_CASE("A host-driven drain expires a paused request at its time") {
  ManualClock clock;
  EngineOptions options{.host_driven = true};
  options.host.clock = &clock;
  ToyEngine engine(ToyLanguageModel(std::make_shared<ToyLanguageModel::Log>(), kEndless), options);
  TextStream stream = engine.generate("p", {.max_new_tokens = 25, .timeout = 3ms, .max_unread = 1});
  const TimePoint deadline = clock.now() + 3ms;
  std::atomic<bool> drained{false};
  std::thread drainer([&] { drained = engine.drain().has_value(); });
  clock.await_sleeper(deadline);
  clock.advance(3ms);
  drainer.join();
  CHECK(drained);
  CHECK(stream.next());
  CHECK(stream.next().error().code() == ErrorCode::expired);
}
