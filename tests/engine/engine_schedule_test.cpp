// The generation engine under simulated schedules: a few readers, whoever runs the steps, and an
// end, in many interleavings.
//
// Over support/ciuic_sync_simulated.hpp, as tests/batching/schedule_test.cpp, which also says how
// much a pass says: a seed chooses what the threads do and how they interleave, and replays
// exactly. A lost wake-up (a reader that goes on and does not wake a sleeping engine, a callback
// registered as the answer ends) shows as a deadlock.
//
//   CIUIC_SEEDS=1000000 CIUIC_FIRST_SEED=0 build/test/tests/engine/engine_schedule_test
#include <coroutine>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "ciuic/engine/async_inference_engine.hpp"
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
  double all_steps = 0;
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    const std::string replay = "replay: CIUIC_FIRST_SEED=" + std::to_string(seed) +
                               " CIUIC_SEEDS=1 engine_schedule_test \"" +
                               Catch::getResultCapture().getCurrentTestName() + '"';
    INFO(replay);
    simulated::Plan plan{.seed = seed, .steps = steps, .punctual = seed % 2 == 0};
    if (refuses_threads) plan.refused_thread = 0;
    const simulated::Outcome outcome = simulated::run(plan, [&] {
      Dice dice(seed);
      world(dice, plan);
    });
    if (!outcome.problem.empty()) FAIL(outcome.problem);
    all_steps += static_cast<double>(outcome.steps);
  }
  std::printf("mean %.0f steps (planned %zu): %s\n", all_steps / static_cast<double>(seeds), steps,
              Catch::getResultCapture().getCurrentTestName().c_str());
  std::printf("figure: %llu simulated schedules\n", static_cast<unsigned long long>(seeds));
  SUCCEED();
}

// --- a model whose answer tells whether it is right ---------------------------------------------

std::string answer_to(std::size_t prompt_tokens, std::size_t new_tokens) {
  std::string text;
  for (std::size_t i = 0; i < new_tokens; ++i)
    text += static_cast<char>('a' + (prompt_tokens + i) % 26);
  return text;
}

struct TinyModel {
  Atomic<int>* inside;
  StepModelLimits limits() const {
    return {.vocab_size = 128, .max_context_tokens = 64, .page_tokens = 2, .page_bytes = 1};
  }
  Result<void> reserve(std::int32_t, std::int32_t, std::int32_t) { return {}; }
  Result<void> step(std::span<const SequenceStep> steps, std::span<StepResult> results) {
    require(inside->fetch_add(1) == 0, "two steps at once");
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (!steps[i].sample) continue;
      results[i].token = static_cast<TokenId>('a' + steps[i].history.size() % 26);
    }
    inside->fetch_sub(1);
    return {};
  }
  Result<std::vector<TokenId>> encode(std::string_view text, bool) const {
    return std::vector<TokenId>(text.begin(), text.end());
  }
  struct Stream {
    char piece[1];
    std::string_view push(TokenId token) {
      piece[0] = static_cast<char>(token);
      return {piece, 1};
    }
    std::string_view finish() { return {}; }
  };
  Stream text_stream() const { return {}; }
  std::span<const TokenId> end_tokens() const { return {}; }
};
using Engine = AsyncInferenceEngine<TinyModel>;

/// A coroutine that runs at once and that nobody waits for.
struct Fiber {
  struct promise_type {
    Fiber get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() { simulated::fail("a coroutine threw"); }
  };
};

/// Runs what a ThreadPool runs, and refuses now and then.
class MoodyExecutor final : public Executor {
 public:
  MoodyExecutor(Dice& dice, const ThreadPoolOptions& options, bool moody)
      : dice_(dice), moody_(moody), pool_(options) {}
  bool post(Function<void()>&& task) noexcept override {
    return !(moody_ && dice_.chance(4)) && pool_.post(std::move(task));
  }
  bool post_at(TimePoint when, Function<void()>&& task) noexcept override {
    return pool_.post_at(when, std::move(task));
  }

 private:
  Dice& dice_;
  const bool moody_;
  ThreadPool pool_;
};

// --- an engine and everybody around it ----------------------------------------------------------

enum class Drive { thread, executor, host };
enum class Ending { drain, stop, destroy };

/// What one request may end with, and has.
struct Fate {
  std::size_t prompt = 0, wanted = 0;
  bool may_be_cancelled = false;
  TimePoint deadline = kNever;
  std::string text;
  int ended = 0;
};

class EngineWorld {
 public:
  EngineWorld(Dice& dice, const simulated::Plan& plan, Drive drive)
      : dice_(dice), punctual_(plan.punctual), drive_(drive) {}

  void run() {
    options_.max_sequences = static_cast<std::int32_t>(dice_.pick(1, 2));
    options_.max_batch_tokens = static_cast<std::int32_t>(dice_.pick(2, 6));
    options_.kv_memory = dice_.pick(4, 8);  // pages of a byte
    options_.queue_capacity = 4;
    options_.host.clock = &simulated_clock;
    options_.host_driven = drive_ == Drive::host;
    std::optional<MoodyExecutor> executor;
    if (drive_ == Drive::executor) {
      moody_ = dice_.chance(3);
      executor.emplace(dice_,
                       ThreadPoolOptions{.threads = static_cast<unsigned>(dice_.pick(1, 2)),
                                         .queue_capacity = 16,
                                         .host = {.clock = &simulated_clock}},
                       moody_);
      options_.host.executor = &*executor;
    }
    engine_.emplace(TinyModel{&inside_}, options_);
    require(bool(engine_->status()), "the engine did not start");
    const std::size_t readers = dice_.pick(1, 3);
    std::vector<Fate> fates(readers);
    {
      std::vector<Thread> threads, hosts;
      for (Fate& fate : fates) start(threads, [this, &fate] { read(fate); });
      const auto ending = static_cast<Ending>(dice_.below(3));
      // Draining, nobody else need drive.
      if (drive_ == Drive::host && (ending != Ending::drain || dice_.chance(2))) {
        for (std::size_t i = dice_.pick(1, 2); i-- > 0;) start(hosts, [this] { host(); });
      }
      if (ending != Ending::stop) await([&] { return submitted_ == readers; });
      hesitate(dice_.below(60));
      if (ending == Ending::drain) {
        require(bool(engine_->drain()), "drain gave up");
        hosts_go_.store(true);
      } else if (ending == Ending::stop) {
        if (dice_.chance(3)) start(threads, [this] { require(bool(engine_->stop()), "stop"); });
        require(bool(engine_->stop()), "stop");
        await([&] { return submitted_ == readers; });
        hosts_go_.store(true);
      } else {
        hosts_go_.store(true);
        hosts.clear();
        engine_.reset();
      }
    }
    for (const Fate& fate : fates) require(fate.ended == 1, "a request did not end once");
    if (!engine_) return;
    require(bool(engine_->stop()), "stop");
    const EngineStats stats = engine_->stats();
    require(stats.pages_used == 0 && stats.running == 0 && stats.waiting == 0, "a place is lost");
    require(stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired,
            "the books do not add up");
    engine_.reset();
  }

 private:
  template <class Holds>
  void await(Holds holds) {
    Lock lock(mutex_);
    while (!holds()) changed_.wait(lock);
  }
  void host() {
    while (!hosts_go_.load()) {
      if (!engine_->run_one()) sleep_for(1us);
    }
  }
  void arrived() {
    const Lock lock(mutex_);
    ++submitted_;
    changed_.notify_all();
  }

  TextStream submit(Fate& fate, GenerateOptions options) {
    fate.prompt = dice_.pick(1, 5);
    fate.wanted = dice_.pick(1, 3);
    options.max_new_tokens = static_cast<std::int32_t>(fate.wanted);
    options.priority = dice_.chance(3) ? static_cast<Priority>(dice_.below(3)) : Priority::normal;
    if (options.timeout) fate.deadline = simulated::now() + *options.timeout;
    TextStream stream =
        engine_->generate(std::vector<TokenId>(fate.prompt, static_cast<TokenId>(dice_.below(2))),
                          std::move(options));
    return stream;
  }
  /// The end of a request's life, told by whoever saw it.
  void end(Fate& fate, const Result<void>& result) {
    const std::string whole = answer_to(fate.prompt, fate.wanted);
    if (result) {
      require(fate.text == whole, "another answer than alone");
    } else {
      require(whole.compare(0, fate.text.size(), fate.text) == 0, "another beginning");
      const ErrorCode code = result.error().code();
      require(code == ErrorCode::shutting_down ||
                  (code == ErrorCode::cancelled && fate.may_be_cancelled) ||
                  (code == ErrorCode::expired && simulated::now() >= fate.deadline) ||
                  (code == ErrorCode::queue_full && moody_),
              "an error nobody caused");
    }
    const Lock lock(mutex_);
    ++fate.ended;
    changed_.notify_all();
  }
  void end(Fate& fate, const Result<Generation>& answer) {
    if (!answer) return end(fate, Result<void>(answer.error()));
    fate.text = answer->text;
    end(fate, Result<void>());
  }
  /// False at the end, which has been told.
  bool take(Fate& fate, const Result<std::optional<std::string_view>>& piece) {
    if (piece && *piece) {
      fate.text += **piece;
      return true;
    }
    end(fate, piece ? Result<void>() : Result<void>(piece.error()));
    return false;
  }
  void read_on(Fate& fate, TextStream& stream) {
    while (take(fate, stream.next())) {
    }
  }

  Fiber read_pieces(Fate* fate, TextStream stream) {
    for (;;) {
      const Result<std::optional<std::string_view>> piece = co_await stream.next_piece();
      if (!take(*fate, piece)) break;
    }
  }
  Fiber read_answer(Fate* fate, TextStream stream) {
    const Result<Generation> answer = co_await std::move(stream);
    end(*fate, answer);
  }

  void read(Fate& fate) {
    GenerateOptions options;
    if (dice_.chance(2)) options.max_unread = dice_.pick(1, 2);
    if (dice_.chance(4)) options.timeout = std::chrono::microseconds(dice_.pick(1, 20));
    const std::size_t way = dice_.below(13);
    fate.may_be_cancelled = way == 0 || way == 1 || way == 2 || way == 3;
    if (way == 4) {  // nobody reads: only its deadline ends it, if it is long enough to pause
      options.max_unread = 1;
      options.timeout = 10us;
    }
    StopSource source;
    std::vector<Thread> helpers;
    if (way == 3 && dice_.chance(3)) source.request_stop();
    TextStream stream = submit(fate, std::move(options));
    arrived();
    const auto is_over = [&] { return fate.ended > 0; };
    switch (way) {
      case 0:  // cancel against finish
        hesitate(dice_.below(30));
        stream.cancel();
        if (dice_.chance(2)) stream.cancel();
        end(fate, stream.finish());
        break;
      case 1:  // read a little, then drop
        if (dice_.chance(2)) static_cast<void>(stream.next());
        hesitate(dice_.below(20));
        stream = TextStream();
        ++fate.ended;
        break;
      case 2:
      case 3:  // a token stopped by another thread, against reading and against destruction
        start(helpers, [&source, turns = dice_.below(40)] {
          hesitate(turns);
          source.request_stop();
        });
        stream.cancel_on(source.get_token());
        if (dice_.chance(2)) {
          read_on(fate, stream);
        } else if (dice_.chance(2)) {
          std::move(stream).on_ready([this, &fate](Result<Generation> a) { end(fate, a); });
          await(is_over);
        } else {
          hesitate(dice_.below(30));
          stream = TextStream();
          ++fate.ended;
        }
        break;
      case 4:
        while (!stream.is_ready()) {
          sleep_for(1us);
          require(!punctual_ || drive_ == Drive::host || simulated::now() <= fate.deadline + 1us,
                  "expired late");
        }
        end(fate, stream.finish());
        break;
      case 5:
        end(fate, stream.finish());
        break;
      case 6:
        while (!stream.wait_for(std::chrono::microseconds(dice_.below(4)))) {
          if (dice_.chance(3)) hesitate(1);
        }
        end(fate, stream.finish());
        break;
      case 7:
        std::move(stream).on_text([this, &fate](Result<std::optional<std::string_view>> piece) {
          static_cast<void>(take(fate, piece));
        });
        await(is_over);
        break;
      case 8:
        std::move(stream).on_ready([this, &fate](Result<Generation> answer) { end(fate, answer); });
        await(is_over);
        break;
      case 9:
        read_pieces(&fate, std::move(stream));
        await(is_over);
        break;
      case 10:
        read_answer(&fate, std::move(stream));
        await(is_over);
        break;
      case 11:  // reads, rests, reads
        for (;;) {
          hesitate(dice_.below(30));
          const Result<std::optional<std::string_view>> piece =
              dice_.chance(2) ? stream.next() : stream.try_next();
          if (!take(fate, piece)) break;
          if ((*piece)->empty()) sleep_for(1us);
        }
        break;
      default:
        if (dice_.chance(2)) hesitate(dice_.below(20));
        stream.detach();
        ++fate.ended;
    }
  }

  Dice& dice_;
  const bool punctual_;
  const Drive drive_;
  bool moody_ = false;
  EngineOptions options_;
  Atomic<int> inside_{0};
  Atomic<bool> hosts_go_{false};
  Mutex mutex_;
  CondVar changed_;
  std::size_t submitted_ = 0;
  std::optional<Engine> engine_;
};

template <Drive drive>
void engine_world(Dice& dice, const simulated::Plan& plan) {
  EngineWorld(dice, plan, drive).run();
}

/// Nobody drives but a drain, nobody reads but one thread that rests: the drain goes on when the
/// reader does.
void drain_beside_a_slow_reader_world(Dice& dice, const simulated::Plan&) {
  Atomic<int> inside{0};
  EngineOptions options{.max_sequences = 2, .host_driven = true};
  options.host.clock = &simulated_clock;
  Engine engine(TinyModel{&inside}, options);
  TextStream stream =
      engine.generate(std::vector<TokenId>{1}, {.max_new_tokens = 3, .max_unread = 1});
  std::vector<Thread> threads;
  for (std::size_t i = dice.pick(1, 2); i-- > 0;) {
    start(threads, [&] { require(bool(engine.drain()), "drain gave up"); });
  }
  hesitate(dice.below(60));
  if (dice.chance(3)) return stream.cancel();
  std::string text;
  for (;;) {
    const Result<std::optional<std::string_view>> piece = stream.next();
    require(piece.has_value(), "an error");
    if (!*piece) break;
    text += **piece;
    hesitate(dice.below(20));
  }
  require(text == answer_to(1, 3), "another answer");
}

/// A callback that submits again, while the engine stops: the second request ends as well.
template <Drive drive>
void resubmitting_world(Dice& dice, const simulated::Plan&) {
  Atomic<int> inside{0}, ended{0};
  std::optional<MoodyExecutor> executor;
  EngineOptions options{.max_sequences = 1, .host_driven = drive == Drive::host};
  options.host.clock = &simulated_clock;
  if (drive == Drive::executor) {
    executor.emplace(dice,
                     ThreadPoolOptions{.threads = static_cast<unsigned>(dice.pick(1, 2)),
                                       .queue_capacity = 8,
                                       .host = {.clock = &simulated_clock}},
                     true);
    options.host.executor = &*executor;
  }
  Engine engine(TinyModel{&inside}, options);
  std::vector<Thread> threads;
  for (std::size_t i = dice.pick(1, 2); i-- > 0;) {
    start(threads, [&] {
      TextStream first = engine.generate(std::vector<TokenId>{1, 2}, {.max_new_tokens = 1});
      if (dice.chance(3)) first.cancel();
      std::move(first).on_ready([&](const Result<Generation>&) {
        engine.generate(std::vector<TokenId>{1, 2, 3}, {.max_new_tokens = 1})
            .on_ready([&](const Result<Generation>&) { ended.fetch_add(1); });
        ended.fetch_add(1);
      });
    });
  }
  const int expected = 2 * static_cast<int>(threads.size());
  Atomic<bool> go{false};
  std::vector<Thread> hosts;
  if (drive == Drive::host) {
    start(hosts, [&] {
      while (!go.load()) {
        if (!engine.run_one()) sleep_for(1us);
      }
    });
  }
  if (dice.chance(2)) {
    hesitate(dice.below(80));
    require(bool(engine.stop()), "stop");
  }
  threads.clear();
  while (ended.load() < expected) yield_thread();
  go.store(true);
  hosts.clear();
  require(ended.load() == expected, "called twice");
}

}  // namespace

TEST_CASE("A thread of its own: readers, cancels, pauses, deadlines and the end, in any order") {
  explore(260, engine_world<Drive::thread>);
}
TEST_CASE("An executor, also one that refuses: the same") {
  explore(330, engine_world<Drive::executor>);
}
TEST_CASE("Host-driven, by several threads: the same") { explore(300, engine_world<Drive::host>); }
TEST_CASE("A host-driven drain goes on when a slow reader does") {
  explore(120, drain_beside_a_slow_reader_world);
}
TEST_CASE("A request that a callback submits ends, whatever else ends") {
  explore(160, resubmitting_world<Drive::thread>);
}
TEST_CASE("On an executor that refuses tasks, too") {
  explore(180, resubmitting_world<Drive::executor>);
}
TEST_CASE("And host-driven") { explore(180, resubmitting_world<Drive::host>); }
TEST_CASE("An engine whose thread does not start says so, and answers everybody") {
  explore(
      30,
      [](Dice&, const simulated::Plan&) {
        Atomic<int> inside{0};
        EngineOptions options;
        options.host.clock = &simulated_clock;
        Engine engine(TinyModel{&inside}, options);
        require(!engine.status(), "it says it has started");
        TextStream stream = engine.generate(std::vector<TokenId>{1});
        require(stream.next().error().code() == ErrorCode::out_of_memory, "another error");
        require(bool(engine.drain()), "drain");
        require(bool(engine.stop()), "stop");
      },
      true);
}
