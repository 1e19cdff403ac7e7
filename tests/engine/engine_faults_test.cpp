// Models that break every promise, stops at any moment, cancels by the hundred thousand: every
// request ends once, whoever did nothing wrong with the right answer, and the engine serves on.
#include <cstdio>
#include <random>
#include <set>
#include <stdexcept>

#include "support/catch.hpp"
#include "support/engine_rig.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kShare = 20;  // of the rounds under a sanitizer, which takes its time
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr int kShare = 20;
#else
constexpr int kShare = 1;
#endif
#else
constexpr int kShare = 1;
#endif

const ToySettings kEndless{.end_token = -1};  // the toy never says it

/// A toy that fails in every way a model can, at random. A request is known by its first token.
class FaultyToy : public ToyLanguageModel {
 public:
  struct Faults {
    std::mt19937 random{1};
    unsigned one_in = 0;         // a fault in one of so many steps; 0 = none
    std::set<TokenId> culprits;  // whose requests must fail
    bool lost = false;           // the device, for the step that runs
  };
  FaultyToy(std::shared_ptr<Log> log, std::shared_ptr<Faults> faults)
      : ToyLanguageModel(std::move(log), kEndless), faults_(std::move(faults)) {}

  Result<void> step(std::span<const SequenceStep> sequences, std::span<StepResult> results) {
    Faults& f = *faults_;
    const auto whole = f.one_in == 0 ? 99u : f.random() % f.one_in;
    if (whole < 4) {
      // Of many nobody is to blame: they are tried again one by one.
      if (sequences.size() == 1) f.culprits.insert(sequences[0].history[0]);
      for (StepResult& result : results) result.token = -7;  // half written
      if (whole == 0) throw std::runtime_error("a step that throws");
      if (whole == 1) throw 42;
      if (whole == 2) return Error(ErrorCode::out_of_memory, "no room on the device");
      for (const SequenceStep& s : sequences) f.culprits.insert(s.history[0]);
      return Error(ErrorCode::device_lost, "gone");
    }
    Result<void> stepped = ToyLanguageModel::step(sequences, results);
    if (f.one_in == 0 || !stepped) return stepped;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      if (!sequences[i].sample || f.random() % f.one_in != 0) continue;
      f.culprits.insert(sequences[i].history[0]);
      StepResult& result = results[i];
      switch (f.random() % 7) {
        case 0:
          result.token = 128;
          break;
        case 1:
          result.token = -1;
          break;
        case 2:
          result.token = std::numeric_limits<TokenId>::max();
          break;
        case 3:
          result.accepted_drafts = sequences[i].drafts + 1;
          break;
        case 4:
          result.accepted_drafts = -1;
          break;
        case 5:
          result.accepted_drafts = std::numeric_limits<std::int32_t>::min();
          break;
        default:
          result.error = Error(ErrorCode::out_of_memory, "this one alone");
      }
    }
    return stepped;
  }

 private:
  std::shared_ptr<Faults> faults_;
};

/// 100 requests, each with its right answer.
template <class Engine>
bool serves(Engine& engine) {
  for (int round = 0; round < 10; ++round) {
    std::vector<TextStream> streams;
    for (int i = 0; i < 10; ++i) streams.push_back(engine.generate("serve", {.max_new_tokens = 9}));
    while (engine.run_one()) {
    }
    for (TextStream& stream : streams) {
      if (!stream.is_ready()) return false;
      const Result<Generation> answer = stream.finish();
      if (!answer || answer->text != toy_answer("serve", 9, kEndless)) return false;
    }
  }
  return true;
}

GenerateOptions random_terms(std::mt19937& random) {
  GenerateOptions options{.max_new_tokens = static_cast<std::int32_t>(1 + random() % 30)};
  options.priority = static_cast<Priority>(random() % 3);
  if (random() % 3 == 0) options.draft_tokens = 4;
  return options;
}

}  // namespace

TEST_CASE("Whatever a model does wrong, only those it was done to fail, and the engine serves on") {
  std::size_t failed = 0, right = 0;
  for (unsigned seed = 0; seed < 400 / kShare; ++seed) {
    auto log = std::make_shared<ToyLanguageModel::Log>();
    auto faults = std::make_shared<FaultyToy::Faults>();
    faults->random.seed(seed);
    faults->one_in = 30;
    std::mt19937 random(seed + 1000);
    ManualClock clock;
    EngineOptions options{.max_sequences = static_cast<std::int32_t>(1 + random() % 8),
                          .max_batch_tokens = static_cast<std::int32_t>(8 + random() % 40),
                          .kv_memory = (30 + random() % 60) * 64,
                          .host_driven = true};
    options.host.clock = &clock;
    AsyncInferenceEngine<FaultyToy> engine(FaultyToy(log, faults), options);
    struct Request {
      std::string prompt;
      std::int32_t tokens;
      TextStream stream;
    };
    std::vector<Request> requests;
    for (int i = 0; i < 40; ++i) {
      std::string prompt(1 + random() % 20, static_cast<char>('a' + random() % 3));
      prompt[0] = static_cast<char>('!' + i);
      GenerateOptions terms = random_terms(random);
      const std::int32_t tokens = terms.max_new_tokens;
      requests.push_back({prompt, tokens, engine.generate(prompt, std::move(terms))});
      for (auto steps = random() % 3; steps > 0; --steps) engine.run_one();
    }
    while (engine.run_one()) {
    }
    for (Request& request : requests) {
      REQUIRE(request.stream.is_ready());
      const Result<Generation> answer = request.stream.finish();
      INFO("seed " << seed << ", request " << request.prompt);
      if (faults->culprits.count(request.prompt[0]) != 0) {
        REQUIRE_FALSE(answer);
        const ErrorCode code = answer.error().code();
        REQUIRE((code == ErrorCode::model_failed || code == ErrorCode::out_of_memory ||
                 code == ErrorCode::device_lost || code == ErrorCode::contract_violation));
        ++failed;
      } else {
        REQUIRE(answer);
        REQUIRE(answer->text == toy_answer(request.prompt, request.tokens, kEndless));
        ++right;
      }
    }
    REQUIRE(log->broken.empty());
    faults->one_in = 0;
    REQUIRE(serves(engine));
    const EngineStats stats = engine.stats();
    REQUIRE(stats.pages_used == 0);
    REQUIRE(stats.submitted == stats.completed + stats.failed);
  }
  std::printf("%zu requests failed by their model, %zu beside them right\n", failed, right);
  CHECK(failed > right / 50);
}

TEST_CASE(
    "A stop at any of 10,000 points ends every request once, and the readers keep their text") {
  std::size_t ended = 0, complete = 0;
  for (unsigned seed = 0; seed < 10000 / kShare; ++seed) {
    std::mt19937 random(seed);
    auto log = std::make_shared<ToyLanguageModel::Log>();
    ManualClock clock;
    EngineOptions options{.max_sequences = static_cast<std::int32_t>(1 + random() % 4),
                          .max_batch_tokens = static_cast<std::int32_t>(4 + random() % 20),
                          .kv_memory = (16 + random() % 20) * 64,
                          .queue_capacity = 16,
                          .host_driven = true};
    options.host.clock = &clock;
    AsyncInferenceEngine<ToyLanguageModel> engine(ToyLanguageModel(log, kEndless), options);
    // Where the stop falls: between steps, in a step, or in a callback; the latter two must refuse.
    const auto point = random() % 40;
    std::size_t steps = 0;
    int refused = 0;
    const auto refuse = [&] {
      const Result<void> stopped = engine.stop();
      refused += !stopped && stopped.error().code() == ErrorCode::would_deadlock ? 1 : 100;
    };
    log->before_step = [&](std::span<const SequenceStep>) -> Result<void> {
      if (++steps == point && seed % 3 == 1) refuse();
      return {};
    };
    std::vector<std::shared_ptr<Seen>> all;
    std::vector<std::string> whole;
    const auto request = [&] {
      all.push_back(std::make_shared<Seen>());
      const std::string prompt(1 + random() % 15, static_cast<char>('a' + random() % 4));
      GenerateOptions terms = random_terms(random);
      if (random() % 3 == 0) terms.max_unread = 1 + random() % 4;
      if (random() % 5 == 0) terms.timeout = std::chrono::milliseconds(1 + random() % 30);
      whole.push_back(toy_answer(prompt, terms.max_new_tokens, kEndless));
      TextStream stream = engine.generate(prompt, std::move(terms));
      constexpr Wait kUnblocked[] = {Wait::on_text, Wait::on_ready, Wait::pieces, Wait::answer};
      if (seed % 3 == 2 && random() % 2 == 0) {
        std::move(stream).on_ready(
            [seen = all.back(), &refuse, &point, &steps](const Result<Generation>& answer) {
              if (steps >= point) refuse();
              seen->take(answer);
            });
      } else {
        wait_by(kUnblocked[random() % 4], std::move(stream), all.back());
      }
    };
    for (std::size_t i = 0; i < point; ++i) {
      if (random() % 4 == 0) request();
      engine.run_one();
      if (random() % 8 == 0) clock.advance(1ms);
    }
    REQUIRE(engine.stop());
    REQUIRE(refused < 100);
    request();  // too late
    for (std::size_t i = 0; i < all.size(); ++i) {
      REQUIRE(all[i]->ended() == 1);
      const std::string text = all[i]->wait();
      if (all[i]->code()) {
        REQUIRE(
            (all[i]->code() == ErrorCode::shutting_down || all[i]->code() == ErrorCode::expired));
        REQUIRE(whole[i].compare(0, text.size(), text) == 0);
      } else {
        REQUIRE(text == whole[i]);
        ++complete;
      }
      ++ended;
    }
    const EngineStats stats = engine.stats();
    REQUIRE(stats.pages_used == 0);
    REQUIRE(stats.running == 0);
    REQUIRE(stats.waiting == 0);
    REQUIRE(log->broken.empty());
  }
  std::printf("figure: %zu requests ended by or before a stop\n", ended);
  CHECK(complete > ended / 10);
}

TEST_CASE("100,000 random cancels leave no page and no place behind") {
  auto log = std::make_shared<ToyLanguageModel::Log>();
  log->before_step = [&](std::span<const SequenceStep>) -> Result<void> {
    log->sequences_per_step.clear();
    log->tokens_per_step.clear();
    return {};
  };
  EngineOptions options{.max_sequences = 8, .kv_memory = 60 * 64, .queue_capacity = 32};
  options.host_driven = true;
  AsyncInferenceEngine<ToyLanguageModel> engine(ToyLanguageModel(log, kEndless), options);
  std::mt19937 random(3);
  constexpr std::size_t kCancels = 100000 / kShare;
  std::vector<TextStream> open;
  std::size_t cancels = 0, refused = 0;
  while (cancels < kCancels) {
    GenerateOptions terms = random_terms(random);
    if (random() % 4 == 0) terms.max_unread = 2;
    const std::string prompt(1 + random() % 30, static_cast<char>('a' + random() % 3));
    open.push_back(engine.generate(prompt, std::move(terms)));
    if (open.back().is_ready()) ++refused;
    if (random() % 3 == 0) engine.run_one();
    if (open.size() < 24 && random() % 5 != 0) continue;
    const std::size_t victim = random() % open.size();
    if (!open[victim].is_ready()) ++cancels;
    if (random() % 2 == 0) open[victim].cancel();
    std::swap(open[victim], open.back());
    open.pop_back();  // dropping it cancels as well
  }
  const std::uint64_t before = engine.stats().steps;
  open.clear();
  CHECK_FALSE(engine.run_one());  // all places are back at once
  const EngineStats stats = engine.stats();
  CHECK(stats.steps == before);
  CHECK(stats.pages_used == 0);
  CHECK(stats.running == 0);
  CHECK(stats.waiting == 0);
  CHECK(stats.cancelled >= kCancels);
  CHECK(stats.submitted == stats.completed + stats.cancelled);
  CHECK(stats.refused == refused);
  CHECK(log->broken.empty());
  CHECK(serves(engine));
  std::printf("figure: %llu random cancels\n", static_cast<unsigned long long>(stats.cancelled));
}

TEST_CASE("A cancel inside a long prompt frees its pages at the next step") {
  auto log = std::make_shared<ToyLanguageModel::Log>();
  EngineOptions options{.max_sequences = 4, .max_batch_tokens = 8, .host_driven = true};
  AsyncInferenceEngine<ToyLanguageModel> engine(ToyLanguageModel(log, kEndless), options);
  TextStream prompt = engine.generate(std::string(200, 'p'), {.max_new_tokens = 3});
  TextStream other = engine.generate("other", {.max_new_tokens = 30});
  for (int i = 0; i < 5; ++i) CHECK(engine.run_one());
  CHECK(engine.stats().running == 2);
  prompt.cancel();
  CHECK(engine.run_one());
  CHECK(engine.stats().running == 1);
  CHECK(engine.stats().pages_used <= 3);
  while (engine.run_one()) {
  }
  CHECK(other.finish().value().text == toy_answer("other", 30, kEndless));
}
