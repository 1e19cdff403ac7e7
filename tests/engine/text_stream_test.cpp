// Every way to wait for an answer, on every kind of engine, and every way to end the wait.
#include "ciuic/engine/text_stream.hpp"

#include <stdexcept>
#include <thread>

#include "support/catch.hpp"
#include "support/engine_rig.hpp"
#include "support/gate.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

GenerateOptions endless(std::int32_t tokens) {
  return {.max_new_tokens = tokens, .ignore_end_tokens = true};
}

}  // namespace

TEST_CASE("All ways to wait give the same text once, whoever runs the engine") {
  for (const Drive drive : kDrives) {
    EngineRig rig(drive);
    std::vector<std::shared_ptr<Seen>> all;
    for (int round = 0; round < 20; ++round) {
      for (const Wait way : kWaits) {
        const auto seen = std::make_shared<Seen>();
        TextStream stream = rig->generate("every way", {.max_new_tokens = 30});
        while (round % 2 == 1 && !stream.is_ready()) yield_thread();
        wait_by(way, std::move(stream), seen);
        all.push_back(seen);
      }
    }
    for (const auto& seen : all) {
      CHECK(seen->wait() == toy_answer("every way", 30));
      CHECK_FALSE(seen->code());
    }
    CHECK(rig->drain());
    for (const auto& seen : all) CHECK(seen->ended() == 1);
    CHECK(rig.log->broken.empty());
  }
}

TEST_CASE("A refusal is what every way to wait gives first, and at once") {
  EngineOptions options;
  options.host_driven = true;
  ToyEngine engine(ToyLanguageModel(std::make_shared<ToyLanguageModel::Log>()), options);
  for (const Wait way : kWaits) {
    const auto seen = std::make_shared<Seen>();
    wait_by(way, engine.generate("x", {.max_new_tokens = 0}), seen);
    CHECK(seen->ended() == 1);
    CHECK(seen->code() == ErrorCode::invalid_argument);
    const auto nothing = std::make_shared<Seen>();  // a stream that is none
    wait_by(way, TextStream(), nothing);
    CHECK(nothing->code() == ErrorCode::invalid_argument);
    const auto unmade = std::make_shared<Seen>();
    wait_by(way, TextStream(ErrorCode::out_of_memory), unmade);
    CHECK(unmade->code() == ErrorCode::out_of_memory);
  }
}

TEST_CASE("What callbacks and coroutines throw is counted and harms nobody") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    EngineRig rig(drive);
    Gate gate;
    rig.before_step = [&]() -> Result<void> { return gate.pass(), Result<void>(); };
    TextStream a = rig->generate("a", endless(20)), b = rig->generate("b", endless(20));
    TextStream c = rig->generate("c", endless(20)), fine = rig->generate("fine", endless(20));
    std::move(a).on_text([](auto) { throw std::runtime_error("a"); });
    std::move(b).on_ready([](auto) { throw 7; });
    [](TextStream stream) -> Eager {
      static_cast<void>(co_await stream.next_piece());
      throw std::runtime_error("c");
    }(std::move(c));
    gate.open();
    CHECK(fine.finish().value().text.size() == 20);
    CHECK(rig->drain());
    CHECK(rig->stats().callback_failures == 3);
    // The same where the answer is there already: on this thread.
    std::move(fine).on_ready([](auto) { throw std::runtime_error("late"); });
    CHECK(rig->stats().callback_failures == 4);
    CHECK(rig->stats().pages_used == 0);
  }
}

TEST_CASE("Callbacks may submit again, a hundred times over") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    EngineRig rig(drive);
    const auto seen = std::make_shared<Seen>();
    std::atomic<int> left{100};
    Function<void()> again = [&] {
      rig->generate("again", {.max_new_tokens = 2}).on_ready([&](const Result<Generation>& answer) {
        if (!answer || left.fetch_sub(1) == 1) return seen->take(answer);
        again();
      });
    };
    again();
    CHECK(seen->wait() == toy_answer("again", 2));
    CHECK(rig->drain());
    CHECK(rig->stats().completed == 100);
  }
}

TEST_CASE("Stop, drain and run_one from a callback say what they cannot do, and do no harm") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    EngineRig rig(drive);
    Gate gate;
    rig.before_step = [&]() -> Result<void> { return gate.pass(), Result<void>(); };
    const auto seen = std::make_shared<Seen>();
    std::atomic<int> deadlocks{0}, ran{0};
    TextStream other = rig->generate("other", endless(30));
    rig->generate("calls", endless(3)).on_ready([&](const Result<Generation>& answer) {
      const Result<void> stopped = rig->stop();
      deadlocks += !stopped && stopped.error().code() == ErrorCode::would_deadlock;
      ran += rig->run_one();
      const Result<void> ended = rig->drain(10s);
      deadlocks += !ended && ended.error().code() == ErrorCode::would_deadlock;
      seen->take(answer);
    });
    gate.open();
    CHECK(seen->wait().size() == 3);
    CHECK(other.finish().value().text.size() == 30);
    CHECK(deadlocks == 2);
    CHECK(ran == 0);
    CHECK(rig->drain());
    CHECK(rig->generate("late").finish().error().code() == ErrorCode::shutting_down);
  }
}

TEST_CASE("A stop token cancels before, during and after, and no longer than the stream lives") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    EngineRig rig(drive);
    Gate gate;
    rig.before_step = [&]() -> Result<void> { return gate.pass(), Result<void>(); };
    StopSource before, during, after, gone;
    before.request_stop();
    TextStream a = rig->generate("a", endless(50));
    a.cancel_on(before.get_token());
    TextStream b = rig->generate("b", endless(50));
    b.cancel_on(StopToken());
    b.cancel_on(during.get_token());
    TextStream c = rig->generate("c", endless(5));
    c.cancel_on(after.get_token());
    TextStream d = rig->generate("d", endless(5));
    d.cancel_on(gone.get_token());
    const auto seen = std::make_shared<Seen>();
    TextStream e = rig->generate("e", endless(50));
    e.cancel_on(during.get_token());
    wait_by(Wait::on_text, std::move(e), seen);  // the token goes along
    gate.await_arrivals(1);
    during.request_stop();
    gate.open();
    CHECK(a.finish().error().code() == ErrorCode::cancelled);
    CHECK(b.finish().error().code() == ErrorCode::cancelled);
    static_cast<void>(seen->wait());
    CHECK(seen->code() == ErrorCode::cancelled);
    d.detach();
    gone.request_stop();
    CHECK(c.finish());
    after.request_stop();
    CHECK(c.finish().value().text.size() == 5);
    CHECK(rig->drain());
    CHECK(rig->stats().cancelled == 3);
    CHECK(rig->stats().completed == 2);
    CHECK(rig->stats().pages_used == 0);
  }
}

TEST_CASE("Assigning over a stream cancels what it read, moving one does not, detached ones run") {
  ManualClock clock;
  EngineOptions options{.host_driven = true};
  options.host.clock = &clock;
  ToyEngine engine(ToyLanguageModel(std::make_shared<ToyLanguageModel::Log>()), options);
  TextStream first = engine.generate("first", endless(9));
  TextStream second = engine.generate("second", endless(9));
  first = std::move(second);
  TextStream third = std::move(first);
  engine.generate("third", endless(9)).detach();
  CHECK(engine.drain());
  CHECK(third.finish().value().text.size() == 9);
  CHECK(second.next().error().code() == ErrorCode::invalid_argument);  // NOLINT: moved from
  CHECK(first.is_ready());                                             // NOLINT: moved from
  CHECK(engine.stats().cancelled == 1);
  CHECK(engine.stats().completed == 2);
}

TEST_CASE("Whatever waits when the engine goes is told so, once") {
  for (const Drive drive : kDrives) {
    INFO(name_of(drive));
    std::vector<std::shared_ptr<Seen>> all;
    std::vector<std::thread> readers;
    TextStream unread;
    {
      EngineRig rig(drive);
      for (const Wait way : kWaits) {
        for (const bool pauses : {false, true}) {
          GenerateOptions terms = endless(200);
          if (pauses) terms.max_unread = 1;
          all.push_back(std::make_shared<Seen>());
          readers.emplace_back(
              [way, seen = all.back(), stream = rig->generate("w", terms)]() mutable {
                wait_by(way, std::move(stream), seen);
              });
        }
      }
      GenerateOptions terms = endless(100);
      terms.max_unread = 1;
      unread = rig->generate("unread", terms);
      rig.reset();
    }
    for (std::thread& reader : readers) reader.join();
    for (const auto& seen : all) {
      static_cast<void>(seen->wait());
      CHECK(seen->ended() == 1);
      CHECK((!seen->code() || seen->code() == ErrorCode::shutting_down));
    }
    CHECK(unread.finish().error().code() == ErrorCode::shutting_down);
    unread.cancel();
    StopSource source;
    unread.cancel_on(source.get_token());
    source.request_stop();
    CHECK(unread.wait_for(1s));
    unread.detach();
  }
}

namespace {

/// The toy with logits to show to hooks; it does not show them.
struct HookedToy : ToyLanguageModel {
  using ToyLanguageModel::ToyLanguageModel;
  StepModelLimits limits() const {
    StepModelLimits limits = ToyLanguageModel::limits();
    limits.logits_hook = true;
    return limits;
  }
};

}  // namespace

TEST_CASE("A logits hook may own a stream of the same engine, however its request ends") {
  AsyncInferenceEngine<HookedToy> engine(HookedToy(std::make_shared<ToyLanguageModel::Log>()),
                                         {.queue_capacity = 8, .host_driven = true});
  const auto hook = [&] {
    return [held = std::make_shared<TextStream>(engine.generate("held", endless(200)))](
               std::span<const TokenId>, std::span<float>) {};
  };
  GenerateOptions ends = endless(1), refused = endless(1), cancelled = endless(90);
  ends.logits_hook = hook();
  refused.logits_hook = hook();
  cancelled.logits_hook = hook();
  TextStream a = engine.generate("a", std::move(ends));
  CHECK_FALSE(engine.generate(std::string(300, 'x'), std::move(refused)).finish());
  TextStream c = engine.generate("c", std::move(cancelled));
  c.cancel();
  while (engine.run_one()) {
  }
  CHECK(a.finish());
  CHECK(engine.stats().cancelled == 4);
  GenerateOptions stopped = endless(90);
  stopped.logits_hook = hook();
  TextStream d = engine.generate("d", std::move(stopped));
  CHECK(engine.stop());
  CHECK(d.finish().error().code() == ErrorCode::shutting_down);
}

TEST_CASE("A callback that submits to an executor that refuses is answered too") {
  EngineOptions options;
  struct Late final : Executor {
    std::vector<Function<void()>> tasks;
    bool full = false;
    bool post(Function<void()>&& task) noexcept override {
      if (full) return false;
      tasks.push_back(std::move(task));
      return true;
    }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return false; }
  } late;
  options.host.executor = &late;
  ToyEngine engine(ToyLanguageModel(std::make_shared<ToyLanguageModel::Log>()), options);
  int first = 0, second = 0;
  engine.generate("first").on_ready([&](const Result<Generation>& answer) {
    first += !answer;
    engine.generate("second").on_ready([&](const Result<Generation>& a) { second += !a; });
  });
  late.full = true;
  late.tasks.clear();  // dropped unrun
  CHECK(first == 1);
  CHECK(second == 1);
}
