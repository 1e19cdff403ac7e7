// Promise: an answer is bitwise the one its request would get alone, under any mix of batching,
// chunked prompts, shared beginnings, preemption and checked guesses. Real models, random
// schedules, a clock that the schedule moves. A failing schedule prints its seed, and the seed
// replays it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/model/language_model.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

/// A model that several engines drive one after the other. Its steps take random time, and fail now
/// and then as a whole.
struct Borrowed {
  LanguageModel* model;
  ManualClock* clock;
  std::mt19937* random;
  unsigned fail_one_in = 0;

  StepModelLimits limits() const { return model->limits(); }
  Result<void> reserve(std::int32_t pages, std::int32_t tokens, std::int32_t sequences,
                       std::int32_t drafts = 0) {
    return model->reserve(pages, tokens, sequences, drafts);
  }
  Result<void> step(std::span<const SequenceStep> sequences, std::span<StepResult> results) {
    clock->advance(std::chrono::microseconds(100 + (*random)() % 2000));
    // Only a step of several: alone, it would be the request's own failure.
    if (fail_one_in != 0 && sequences.size() > 1 && (*random)() % fail_one_in == 0) {
      if ((*random)() % 2 == 0) (void)model->step(sequences, results);  // written, and yet failed
      return Error(ErrorCode::model_failed, "injected");
    }
    return model->step(sequences, results);
  }
  Result<std::vector<TokenId>> encode(std::string_view, bool) const {
    return Error(ErrorCode::unsupported);
  }
  AnswerText text_stream() const { return AnswerText(nullptr); }
  std::span<const TokenId> end_tokens() const { return model->end_tokens(); }
};
using Engine = AsyncInferenceEngine<Borrowed>;

struct Request {
  std::vector<TokenId> prompt;
  GenerateOptions options;
  Generation alone;
};

/// Requests that often begin alike, repeat themselves, and are sampled in every way there is.
std::vector<Request> make_requests(std::mt19937& random, const ModelConfig& config, int count) {
  const auto token = [&] {
    return static_cast<TokenId>(random() % static_cast<unsigned>(config.vocab_size));
  };
  std::vector<std::vector<TokenId>> beginnings(4);
  for (auto& beginning : beginnings) {
    beginning.resize(random() % 60);
    for (TokenId& t : beginning) t = token();
  }
  std::vector<Request> requests(static_cast<std::size_t>(count));
  for (Request& request : requests) {
    if (random() % 2 == 0) request.prompt = beginnings[random() % beginnings.size()];
    std::vector<TokenId> phrase(1 + random() % 6);
    for (TokenId& t : phrase) t = token();
    for (auto times = 1 + random() % 3; times > 0; --times) {
      request.prompt.insert(request.prompt.end(), phrase.begin(), phrase.end());
    }
    GenerateOptions& options = request.options;
    options.max_new_tokens = static_cast<std::int32_t>(1 + random() % 70);
    options.ignore_end_tokens = random() % 2 == 0;
    options.top_logprobs = static_cast<std::int32_t>(random() % 4) - 1;
    if (random() % 3 == 0) {
      options.sampling = {.temperature = 0.7f, .seed = random()};
      if (random() % 2 == 0) options.sampling.top_k = 5;
      if (random() % 2 == 0) options.sampling.top_p = 0.8f;
    }
    if (random() % 4 == 0) options.sampling.repetition_penalty = 1.3f;
    if (random() % 4 == 0) options.stop_tokens = {token(), token()};
    if (random() % 5 == 0) {  // a ban that depends on the last token
      options.logits_hook = [](std::span<const TokenId> context, std::span<float> logits) {
        logits[static_cast<std::size_t>(context.back())] = -1e30f;
      };
    }
  }
  return requests;
}

bool same(const Generation& a, const Generation& b) {
  if (a.tokens != b.tokens || a.reason != b.reason || a.logprobs.size() != b.logprobs.size()) {
    return false;
  }
  const auto same_bits = [](float x, float y) { return std::memcmp(&x, &y, sizeof x) == 0; };
  for (std::size_t i = 0; i < a.logprobs.size(); ++i) {
    if (!same_bits(a.logprobs[i].logprob, b.logprobs[i].logprob)) return false;
    if (!std::equal(a.logprobs[i].top.begin(), a.logprobs[i].top.end(), b.logprobs[i].top.begin(),
                    b.logprobs[i].top.end(), [&](const TokenLogprob& x, const TokenLogprob& y) {
                      return x.token == y.token && same_bits(x.logprob, y.logprob);
                    })) {
      return false;
    }
  }
  return true;
}

struct Totals {
  std::uint64_t steps = 0, preemptions = 0, cached = 0, accepted = 0, recomputed = 0, answers = 0,
                cancelled = 0, cut = 0;
};

/// One schedule: an engine with random options, random requests at random times.
void run_schedule(LanguageModel& model, const std::vector<Request>& requests, unsigned seed,
                  Totals& totals) {
  std::mt19937 random(seed);
  ManualClock clock;
  const std::size_t page_bytes = model.limits().page_bytes;
  const std::int32_t page_tokens = model.limits().page_tokens;
  EngineOptions options;
  options.max_sequences = static_cast<std::int32_t>(1 + random() % 6);
  options.max_batch_tokens = static_cast<std::int32_t>(1 + random() % 60);
  options.kv_memory = (7 + random() % 8) * page_bytes;  // the longest needs 7
  options.prompt_stretch = random() % 2 == 0 ? 0.0 : 1.0 + static_cast<double>(random() % 30) / 10;
  options.prefix_cache = random() % 4 != 0;
  options.max_draft_tokens = static_cast<std::int32_t>(random() % 20);
  options.host_driven = true;
  options.host.clock = &clock;
  Engine engine(Borrowed{&model, &clock, &random,
                         random() % 3 == 0 ? 2u + static_cast<unsigned>(random() % 9) : 0u},
                options);
  REQUIRE(engine.status());

  struct Running {
    const Request* request;
    TextStream stream;
    bool cancelled = false;
  };
  std::vector<Running> all;
  for (auto n = 2 + random() % 10; n > 0; --n) {
    const Request& request = requests[random() % requests.size()];
    GenerateOptions asked = request.options;
    asked.draft_tokens = random() % 2 == 0 ? 0 : static_cast<std::int32_t>(random() % 9);
    asked.priority = static_cast<Priority>(random() % 3);
    all.push_back({&request, engine.generate(request.prompt, asked)});
    for (auto steps = random() % 6; steps > 0; --steps) engine.run_one();
    if (random() % 8 == 0) {
      Running& victim = all[random() % all.size()];
      victim.stream.cancel();
      victim.cancelled = true;
    }
  }
  while (engine.run_one()) {
    REQUIRE(engine.stats().pages_used <= engine.stats().pages_total);
  }
  for (Running& running : all) {
    REQUIRE(running.stream.is_ready());
    const Result<Generation> answer = running.stream.finish();
    if (!answer) {
      REQUIRE(running.cancelled);
      REQUIRE(answer.error().code() == ErrorCode::cancelled);
      ++totals.cancelled;
      continue;
    }
    ++totals.answers;
    REQUIRE(same(*answer, running.request->alone));
  }
  const EngineStats stats = engine.stats();
  REQUIRE(stats.pages_used == 0);
  REQUIRE(static_cast<std::size_t>(stats.pages_total) * page_bytes <= options.kv_memory);
  REQUIRE(stats.cached_tokens % static_cast<std::uint64_t>(page_tokens) == 0);
  totals.steps += stats.steps;
  totals.preemptions += stats.preemptions;
  totals.cached += stats.cached_tokens;
  totals.accepted += stats.accepted_drafts;
  totals.recomputed += stats.recomputed_tokens;
}

void explore(LanguageModel model, const char* name, unsigned schedules) {
  std::mt19937 random(17);
  std::vector<Request> requests = make_requests(random, model.config(), 60);
  for (Request& request : requests) {  // alone, one step at a time, nothing shared
    ManualClock clock;
    EngineOptions options{.max_sequences = 1,
                          .prompt_stretch = 0,
                          .prefix_cache = false,
                          .max_draft_tokens = 0,
                          .host_driven = true};
    options.host.clock = &clock;
    Engine engine(Borrowed{&model, &clock, &random}, options);
    TextStream stream = engine.generate(request.prompt, request.options);
    while (engine.run_one()) {
    }
    const Result<Generation> answer = stream.finish();
    REQUIRE(answer);
    request.alone = *answer;
  }
  const char* const only = std::getenv("CIUIC_SCHEDULE_SEED");
  if (const char* most = std::getenv("CIUIC_SCHEDULES")) {
    schedules = static_cast<unsigned>(std::strtoul(most, nullptr, 10));
  }
  const unsigned fresh = std::random_device{}();
  Totals totals;
  for (unsigned i = 0; i < schedules; ++i) {
    // Half of them as always, half of them new.
    const unsigned seed = only != nullptr ? static_cast<unsigned>(std::strtoul(only, nullptr, 10))
                                          : (i % 2 == 0 ? i : fresh + i);
    INFO(name << ": CIUIC_SCHEDULE_SEED=" << seed);
    run_schedule(model, requests, seed, totals);
    if (only != nullptr) break;
  }
  std::printf(
      "%s: %u schedules, %llu answers bitwise as alone, %llu cancelled, %llu steps, %llu "
      "preemptions, %llu tokens computed again, %llu found in shared pages, %llu guesses right\n",
      name, schedules, static_cast<unsigned long long>(totals.answers),
      static_cast<unsigned long long>(totals.cancelled),
      static_cast<unsigned long long>(totals.steps),
      static_cast<unsigned long long>(totals.preemptions),
      static_cast<unsigned long long>(totals.recomputed),
      static_cast<unsigned long long>(totals.cached),
      static_cast<unsigned long long>(totals.accepted));
  if (only != nullptr) return;
  CHECK(totals.preemptions > schedules / 10);  // else the schedules have lost their point
  CHECK(totals.recomputed > schedules);
  CHECK(totals.cached > schedules);
  CHECK(totals.accepted > schedules / 10);
}

/// Two layers, 4 heads on 2, contexts of up to 112 tokens: 7 pages.
LanguageModel small_model(DType weights, std::optional<DType> kv) {
  TempDirectory directory;
  write_tiny_llama(directory.path());
  std::string config = tiny_llama_config();
  const std::string positions = "\"max_position_embeddings\":64";
  config.replace(config.find(positions), positions.size(), "\"max_position_embeddings\":112");
  write_file(directory / "config.json", config);
  ModelOptions options;
  options.weights = weights;
  options.kv = kv;
  options.threads = 1;
  return LanguageModel::load(directory.path(), options).value();
}

}  // namespace

TEST_CASE("Answers are bitwise those of the request alone: f32") {
  explore(small_model(DType::f32, DType::f32), "f32", 6'000);
}
TEST_CASE("Answers are bitwise those of the request alone: i8, keys and values in i8") {
  explore(small_model(DType::i8, DType::i8), "i8", 4'000);
}
