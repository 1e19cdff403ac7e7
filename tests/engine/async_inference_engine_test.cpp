#include "ciuic/engine/async_inference_engine.hpp"

#include <memory>
#include <random>
#include <stdexcept>

#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"
#include "support/toy_language_model.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

using Engine = AsyncInferenceEngine<ToyLanguageModel>;

struct Toy {
  std::shared_ptr<ToyLanguageModel::Log> log = std::make_shared<ToyLanguageModel::Log>();
  ManualClock clock;
  EngineOptions host_driven() {
    EngineOptions options;
    options.host_driven = true;
    options.host.clock = &clock;
    return options;
  }
};

void run(Engine& engine) {
  while (engine.run_one()) {
  }
}

}  // namespace

TEST_CASE("A prompt is answered as it would be alone") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log));
  TextStream stream = engine.generate("hello", {.max_new_tokens = 40});
  std::string text;
  while (true) {
    const auto piece = stream.next();
    REQUIRE(piece);
    if (!*piece) break;
    text += **piece;
  }
  CHECK(text == toy_answer("hello", 40));
  const Result<Generation> answer = stream.finish();
  REQUIRE(answer);
  CHECK(answer->text == text);
  CHECK(answer->tokens == std::vector<TokenId>(text.begin(), text.end()));
  CHECK(answer->prompt_tokens == 5);
  CHECK(toy.log->broken.empty());
}

TEST_CASE("Requests join and leave between steps, and prompts share a step with generated tokens") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  TextStream first = engine.generate("first", {.max_new_tokens = 4, .ignore_end_tokens = true});
  CHECK(engine.run_one());
  TextStream second =
      engine.generate("the second", {.max_new_tokens = 2, .ignore_end_tokens = true});
  run(engine);
  CHECK(toy.log->sequences_per_step == std::vector<std::size_t>{1, 2, 2, 1});
  CHECK(toy.log->tokens_per_step == std::vector<std::size_t>{5, 11, 2, 1});
  CHECK(first.finish().value().reason == FinishReason::length);
  CHECK(second.finish().value().tokens.size() == 2);
  CHECK(engine.stats().completed == 2);
  CHECK(engine.stats().pages_used == 0);
}

TEST_CASE("A prompt larger than a step is cut into pieces and still answered right") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.max_batch_tokens = 8;
  Engine engine(ToyLanguageModel(toy.log), options);
  const std::string prompt(100, 'q');
  TextStream running = engine.generate("r", {.max_new_tokens = 50, .ignore_end_tokens = true});
  CHECK(engine.run_one());
  TextStream stream = engine.generate(prompt, {.max_new_tokens = 5});
  run(engine);
  CHECK(stream.finish().value().text == toy_answer(prompt, 5));
  CHECK(toy.log->broken.empty());
  for (std::size_t i = 1; i < 15; ++i)
    CHECK(toy.log->sequences_per_step[i] == 2);  // nobody stood still
}

TEST_CASE("Answers do not depend on the requests around them") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    Toy toy;
    EngineOptions options = toy.host_driven();
    options.max_sequences = static_cast<std::int32_t>(1 + random() % 7);
    options.max_batch_tokens = static_cast<std::int32_t>(1 + random() % 40);
    options.kv_memory = (64 + random() % 40) * 64;  // pages of 64 bytes
    Engine engine(ToyLanguageModel(toy.log), options);
    std::vector<std::string> prompts;
    std::vector<std::int32_t> lengths;
    std::vector<TextStream> streams;
    for (int i = 0; i < 30; ++i) {
      prompts.push_back(std::string(1 + random() % 60, static_cast<char>('a' + random() % 26)));
      lengths.push_back(static_cast<std::int32_t>(1 + random() % 60));
      streams.push_back(engine.generate(prompts.back(), {.max_new_tokens = lengths.back()}));
      for (std::uint32_t steps = random() % 4; steps > 0; --steps) engine.run_one();
    }
    run(engine);
    for (std::size_t i = 0; i < streams.size(); ++i) {
      REQUIRE(streams[i].is_ready());
      REQUIRE(streams[i].finish().value().text == toy_answer(prompts[i], lengths[i]));
    }
    REQUIRE(toy.log->broken.empty());
    REQUIRE(engine.stats().pages_used == 0);
  }
}

TEST_CASE("Wrong requests are refused with the parameter's name") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  const auto refusal = [&](std::string_view prompt, GenerateOptions options) {
    TextStream stream = engine.generate(prompt, std::move(options));
    const Result<Generation> answer = stream.finish();
    REQUIRE_FALSE(answer);
    return std::string(to_string(answer.error().code())) + " " +
           std::string(answer.error().message());
  };
  CHECK(refusal("", {}).find("invalid_argument prompt:") == 0);
  CHECK(refusal("x", {.max_new_tokens = 0}).find("invalid_argument max_new_tokens:") == 0);
  CHECK(refusal("x", {.max_new_tokens = -5}).find("invalid_argument max_new_tokens:") == 0);
  CHECK(refusal("x", {.sampling = {.temperature = -1}}).find("invalid_argument temperature:") == 0);
  CHECK(refusal("x", {.sampling = {.temperature = NAN}}).find("invalid_argument temperature:") ==
        0);
  CHECK(refusal("x", {.sampling = {.top_p = 2}}).find("invalid_argument top_p:") == 0);
  CHECK(refusal("x", {.stop = {""}}).find("invalid_argument stop:") == 0);
  CHECK(refusal("x", {.stop = {"\xA9"}}).find("invalid_argument stop:") == 0);
  CHECK(refusal("x", {.stop = std::vector<std::string>(65, "s")}).find("invalid_argument stop:") ==
        0);
  CHECK(refusal(std::string(256, 'x'), {}).find("oversize prompt:") == 0);
  CHECK(refusal("\xFF", {}).find("invalid_argument toy:") == 0);
  CHECK(refusal("x", {.timeout = 0s}).find("expired") == 0);
  CHECK(refusal("x", {.timeout = -1s}).find("invalid_argument timeout:") == 0);
  CHECK(refusal("x", {.priority = static_cast<Priority>(200)}) ==
        "invalid_argument priority: wanted low, normal or high, got 200");
  TextStream bad_id = engine.generate(std::vector<TokenId>{1, 128}, {});
  CHECK(bad_id.finish().error().message() == "prompt: wanted token ids below 128, got 128");
  // 2^31 new tokens are cut to the context, not an overflow.
  TextStream huge = engine.generate("x", {.max_new_tokens = 0x7FFFFFFF, .ignore_end_tokens = true});
  run(engine);
  CHECK(huge.finish().value().tokens.size() == 255);
}

TEST_CASE("A model whose tokenizer throws fails that request") {
  struct Thrower : ToyLanguageModel {
    using ToyLanguageModel::ToyLanguageModel;
    Result<std::vector<TokenId>> encode(std::string_view, bool) const {
      throw std::runtime_error("no words");
    }
  };
  Toy toy;
  AsyncInferenceEngine<Thrower> engine(Thrower(toy.log), toy.host_driven());
  const Result<Generation> answer = engine.generate("x", {}).finish();
  REQUIRE_FALSE(answer);
  CHECK(answer.error().code() == ErrorCode::model_failed);
  CHECK(answer.error().message().find("no words") != std::string_view::npos);
}

TEST_CASE("Engine options that cannot work refuse every request with the reason") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), {.kv_memory = 1, .host_driven = true});
  CHECK_FALSE(engine.status());
  TextStream stream = engine.generate("x");
  CHECK(stream.finish().error().message().find("kv_memory: wanted at least one page") == 0);
  CHECK(engine.drain(0s));
  Engine crowd(ToyLanguageModel(toy.log), {.max_sequences = 1 << 25, .max_batch_tokens = 1 << 25});
  CHECK(crowd.generate("x").finish().error().message().find("max_sequences: wanted 1 to 65536") ==
        0);
}

TEST_CASE("A queue that is full says so, and a request too large for kv_memory is refused") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.queue_capacity = 2;
  options.kv_memory = 10 * 64;  // 10 pages of 4 tokens
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream oversize = engine.generate("x", {.max_new_tokens = 41});
  CHECK(oversize.finish().error().code() == ErrorCode::oversize);
  TextStream a = engine.generate("a"), b = engine.generate("b", {.max_new_tokens = 3});
  CHECK(a.finish().error().code() == ErrorCode::oversize);  // 128 tokens are more than 40 too
  TextStream c = engine.generate("c", {.max_new_tokens = 3});
  TextStream d = engine.generate("d", {.max_new_tokens = 3});
  CHECK(d.finish().error().code() == ErrorCode::queue_full);
  run(engine);
  CHECK(b.finish().value().text == toy_answer("b", 3));
  CHECK(c.finish().value().text == toy_answer("c", 3));
}

TEST_CASE("A deadline ends a request whether it waits or runs, and the text before it stays") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.max_sequences = 1;
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream running =
      engine.generate("run", {.max_new_tokens = 100, .ignore_end_tokens = true, .timeout = 5ms});
  TextStream waiting = engine.generate("wait", {.deadline = toy.clock.now() + 3ms});
  CHECK(engine.run_one());
  toy.clock.advance(3ms);
  CHECK(engine.run_one());
  CHECK(waiting.is_ready());
  CHECK(waiting.finish().error().code() == ErrorCode::expired);
  toy.clock.advance(2ms);
  CHECK_FALSE(engine.run_one());
  CHECK(running.next().value().value() == toy_answer("run", 2));
  CHECK(running.next().error().code() == ErrorCode::expired);
  CHECK(engine.stats().expired == 2);
  CHECK(engine.stats().pages_used == 0);
}

TEST_CASE("Dropping or cancelling a stream frees its place at the next step; detach keeps it") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.max_sequences = 2;
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream kept = engine.generate("kept", {.max_new_tokens = 3});
  {
    TextStream dropped = engine.generate("dropped", {.max_new_tokens = 99});
    CHECK(engine.run_one());
    CHECK(engine.stats().running == 2);
  }
  TextStream third = engine.generate("third", {.max_new_tokens = 2});
  CHECK(engine.run_one());
  CHECK(engine.stats().running == 2);
  TextStream cancelled = engine.generate("x");
  cancelled.cancel();
  engine.generate("detached", {.max_new_tokens = 2}).detach();
  run(engine);
  CHECK(cancelled.finish().error().code() == ErrorCode::cancelled);
  CHECK(third.finish().value().text == toy_answer("third", 2));
  CHECK(engine.stats().cancelled == 2);
  CHECK(engine.stats().completed == 3);
}

TEST_CASE("A failing or throwing step fails its requests, and the engine goes on") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  toy.log->before_step = [](auto) -> Result<void> { throw std::runtime_error("cosmic ray"); };
  TextStream first = engine.generate("first");
  run(engine);
  CHECK(first.finish().error().message() == "step: the model threw: cosmic ray");
  toy.log->before_step = [](auto) -> Result<void> { return Error(ErrorCode::device_lost, "gone"); };
  TextStream second = engine.generate("second");
  run(engine);
  CHECK(second.finish().error().code() == ErrorCode::device_lost);
  toy.log->before_step = nullptr;
  TextStream third = engine.generate("third", {.max_new_tokens = 3});
  run(engine);
  CHECK(third.finish().value().text == toy_answer("third", 3));
  CHECK(engine.stats().failed == 2);
}

TEST_CASE("A NaN in one request leaves its batch mates alone") {
  Toy toy;
  toy.log->nan_token = '!';
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  TextStream bad = engine.generate("bad!"), good = engine.generate("good", {.max_new_tokens = 9});
  run(engine);
  CHECK(bad.finish().error().code() == ErrorCode::model_failed);
  CHECK(good.finish().value().text == toy_answer("good", 9));
}

TEST_CASE("Stop ends everything once, drain lets everything end, streams outlive the engine") {
  Toy toy;
  TextStream orphan;
  {
    Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
    TextStream drained = engine.generate("drained", {.max_new_tokens = 7});
    CHECK(engine.drain());
    CHECK(drained.finish().value().text == toy_answer("drained", 7));
    TextStream late = engine.generate("late");
    CHECK(late.finish().error().code() == ErrorCode::shutting_down);
  }
  {
    Engine engine(ToyLanguageModel(toy.log));
    toy.log->before_step = nullptr;
    orphan = engine.generate("orphan", {.max_new_tokens = 200, .ignore_end_tokens = true});
  }
  const Result<Generation> answer = orphan.finish();  // finished before the stop, or ended by it
  CHECK((answer || answer.error().code() == ErrorCode::shutting_down));
  orphan.cancel();
  CHECK(TextStream().next().error().code() == ErrorCode::invalid_argument);
}

TEST_CASE("Steps run on the host's executor, which may refuse or outlive the engine") {
  Toy toy;
  ThreadPool pool({.threads = 2});
  EngineOptions options;
  options.host.executor = &pool;
  std::vector<TextStream> streams;
  {
    Engine engine(ToyLanguageModel(toy.log), options);
    for (int i = 0; i < 40; ++i) {
      streams.push_back(engine.generate(std::string(static_cast<std::size_t>(1 + i), 'e'),
                                        {.max_new_tokens = 9}));
    }
    for (int i = 0; i < 40; ++i) {
      CHECK(streams[static_cast<std::size_t>(i)].finish().value().text ==
            toy_answer(std::string(static_cast<std::size_t>(1 + i), 'e'), 9));
    }
    TextStream waits = engine.generate("w", {.max_new_tokens = 200, .ignore_end_tokens = true});
    streams.push_back(std::move(waits));
  }
  const Result<Generation> last = streams.back().finish();
  CHECK((last || last.error().code() == ErrorCode::shutting_down));
  CHECK(toy.log->broken.empty());

  struct Refusing final : Executor {
    bool post(Function<void()>&&) noexcept override { return false; }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return false; }
  } refusing;
  options.host.executor = &refusing;
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream stream = engine.generate("x");
  CHECK(stream.finish().error().code() == ErrorCode::queue_full);
}

TEST_CASE("Of a failing step only the culprits end with its error") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  toy.log->before_step = [](std::span<const SequenceStep> steps) -> Result<void> {
    for (const SequenceStep& step : steps) {
      if (step.history.front() == 'X') throw std::runtime_error("bad request");
    }
    return {};
  };
  std::vector<TextStream> streams;
  for (const char* prompt : {"one", "X two", "three", "X four", "five"}) {
    streams.push_back(engine.generate(prompt, {.max_new_tokens = 6}));
  }
  run(engine);
  CHECK(streams[0].finish().value().text == toy_answer("one", 6));
  CHECK(streams[2].finish().value().text == toy_answer("three", 6));
  CHECK(streams[4].finish().value().text == toy_answer("five", 6));
  CHECK(streams[1].finish().error().message() == "step: the model threw: bad request");
  CHECK_FALSE(streams[3].finish());
  CHECK(toy.log->broken.empty());
}

TEST_CASE("A model that answers with no token, or with one beyond its vocabulary, fails alone") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  toy.log->wild_token = 128;
  TextStream wild = engine.generate("w?"), tame = engine.generate("tame", {.max_new_tokens = 4});
  run(engine);
  CHECK(wild.finish().error().code() == ErrorCode::contract_violation);
  CHECK(tame.finish().value().text == toy_answer("tame", 4));
}

TEST_CASE("Drain gives up at its timeout although steps go on") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  TextStream endless = engine.generate("e", {.max_new_tokens = 200, .ignore_end_tokens = true});
  int steps = 0;
  toy.log->before_step = [&](auto) -> Result<void> {
    toy.clock.advance(1ms);
    ++steps;
    return {};
  };
  CHECK_FALSE(engine.drain(10ms));
  CHECK(steps == 10);
  CHECK(engine.drain(10s));
  CHECK(endless.finish().value().tokens.size() == 200);
}

TEST_CASE("Stop from inside a step is diagnosed") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log));
  ErrorCode code = ErrorCode::internal;
  toy.log->before_step = [&](auto) -> Result<void> {
    const Result<void> stopped = engine.stop();
    code = stopped ? ErrorCode::internal : stopped.error().code();
    return {};
  };
  TextStream stream = engine.generate("x", {.max_new_tokens = 1});
  CHECK(stream.finish());
  CHECK(engine.stop());
  CHECK(code == ErrorCode::would_deadlock);
}

TEST_CASE("An executor that is full for a moment costs one request, not the engine") {
  struct Moody final : Executor {  // runs tasks when told to; refuses while full
    std::vector<Function<void()>> tasks;
    bool full = false;
    bool post(Function<void()>&& task) noexcept override {
      if (full) return false;
      tasks.push_back(std::move(task));
      return true;
    }
    bool post_at(TimePoint, Function<void()>&&) noexcept override { return false; }
    void run() {
      while (!tasks.empty()) {
        Function<void()> task = std::move(tasks.front());
        tasks.erase(tasks.begin());
        task();
      }
    }
  } executor;
  Toy toy;
  EngineOptions options;
  options.host.executor = &executor;
  Engine engine(ToyLanguageModel(toy.log), options);
  executor.full = true;
  TextStream refused = engine.generate("refused");
  CHECK(refused.finish().error().code() == ErrorCode::queue_full);
  executor.full = false;
  TextStream served = engine.generate("served", {.max_new_tokens = 5});
  CHECK(executor.tasks.size() == 1);
  TextStream joins = engine.generate("joins", {.max_new_tokens = 7});
  CHECK(executor.tasks.size() == 1);  // never more than one task
  executor.run();
  CHECK(served.finish().value().text == toy_answer("served", 5));
  CHECK(joins.finish().value().text == toy_answer("joins", 7));
  TextStream dropped = engine.generate("dropped");
  executor.tasks.clear();  // destroyed unrun
  CHECK(dropped.finish().error().code() == ErrorCode::queue_full);
  TextStream again = engine.generate("again", {.max_new_tokens = 2});
  executor.run();
  CHECK(again.finish().value().text == toy_answer("again", 2));
}

TEST_CASE("A prompt that was let in goes on, however many more important ones come after it") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.max_sequences = 6;
  options.max_batch_tokens = 8;
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream low =
      engine.generate(std::string(100, 'l'), {.max_new_tokens = 1, .priority = Priority::low});
  CHECK(engine.run_one());
  std::vector<TextStream> high;
  int steps = 0;
  for (; !low.is_ready() && steps < 200; ++steps) {
    while (engine.stats().running + static_cast<int>(engine.stats().waiting) < 5) {
      high.push_back(engine.generate(std::string(16, static_cast<char>('a' + high.size() % 26)),
                                     {.max_new_tokens = 1, .priority = Priority::high}));
    }
    CHECK(engine.run_one());
    toy.clock.advance(1ms);
  }
  CHECK(low.is_ready());
  CHECK(steps < 60);  // it has half of every step
}

TEST_CASE("After a lost device nothing is taken from pages that were written before") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  const std::string prompt(40, 'd');
  TextStream first = engine.generate(prompt, {.max_new_tokens = 2, .ignore_end_tokens = true});
  run(engine);
  TextStream second = engine.generate(prompt, {.max_new_tokens = 2, .ignore_end_tokens = true});
  run(engine);
  CHECK(second.finish().value().cached_tokens == 36);
  toy.log->before_step = [](auto) -> Result<void> { return Error(ErrorCode::device_lost, "gone"); };
  TextStream lost = engine.generate("x");
  run(engine);
  CHECK(lost.finish().error().code() == ErrorCode::device_lost);
  toy.log->before_step = nullptr;
  TextStream third = engine.generate(prompt, {.max_new_tokens = 2, .ignore_end_tokens = true});
  run(engine);
  CHECK(third.finish().value().cached_tokens == 0);
  CHECK(third.finish().value().text == second.finish().value().text);
}

TEST_CASE("What a failed request computed is found by nobody") {
  Toy toy;
  Engine engine(ToyLanguageModel(toy.log), toy.host_driven());
  toy.log->nan_token = '!';
  const std::string beginning(40, 'n');
  TextStream bad = engine.generate(beginning + "!");
  run(engine);
  CHECK_FALSE(bad.finish());
  TextStream good = engine.generate(beginning, {.max_new_tokens = 2});
  run(engine);
  CHECK(good.finish().value().cached_tokens == 0);
  CHECK(engine.stats().pages_used == 0);
}

TEST_CASE("The time in the queue ends with the first step, and a callback's request is a turn") {
  Toy toy;
  EngineOptions options = toy.host_driven();
  options.kv_memory = 6 * 64;  // 6 pages of 4 tokens
  Engine engine(ToyLanguageModel(toy.log), options);
  TextStream first =
      engine.generate(std::string(12, 'f'), {.max_new_tokens = 12, .ignore_end_tokens = true});
  TextStream second = engine.generate(std::string(12, 's'), {.max_new_tokens = 3});
  while (!first.is_ready()) {
    CHECK(engine.run_one());
    toy.clock.advance(10ms);
  }
  run(engine);
  CHECK(second.finish().value().queue_time >= 100ms);

  bool submitted = false;
  TextStream cancelled = engine.generate("c");
  cancelled.cancel();
  std::move(cancelled).on_ready([&](auto) {
    engine.generate("from a callback", {.max_new_tokens = 2}).detach();
    submitted = true;
  });
  const std::uint64_t before = engine.stats().completed;
  run(engine);
  CHECK(submitted);
  CHECK(engine.stats().completed == before + 1);
}
