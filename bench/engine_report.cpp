// The generating engine under mixed traffic, on random models of real shapes.
//
//   engine_report --scene NAME [--shape bench/shapes/llama-1.1b.json] [--weights i8] [--threads 2]
//
//   pace       8 streams run; a prompt of 4,096 tokens arrives: what it costs them, and it
//   prefix     16 requests whose first 1,024 tokens are the same
//   tail       answers of very different lengths: continuous batching against fixed batches
//   batched    8 and 32 sequences, prompts of 64, answers of 24: what llama-batched-bench measures
//              with -npp 64 -ntg 24 -npl 8,32
//   drafts     text that repeats itself: guesses checked against none
//   overhead   32 sequences: the share of a step that is not the model's
//   memory     half the key/value memory that all requests together would need
//
// Tokens are counted as the reader sees them: by callbacks between steps. The models have no
// tokenizer; every token is shown as one letter.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/model/language_model.hpp"
#include "support/random_model.hpp"

namespace {

using namespace ciuic;
using SteadyClock = std::chrono::steady_clock;

double since(TimePoint start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}
double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}
double median(const std::vector<double>& values) { return quantile(values, 0.5); }

/// A language model that shows each token as a letter, borrowed by one engine after the other.
struct Lettered {
  LanguageModel* model;
  struct Stream {
    std::string_view push(TokenId) { return "x"; }
    std::string_view finish() { return {}; }
  };
  StepModelLimits limits() const { return model->limits(); }
  Result<void> reserve(std::int32_t pages, std::int32_t tokens, std::int32_t sequences,
                       std::int32_t drafts = 0) {
    return model->reserve(pages, tokens, sequences, drafts);
  }
  Result<void> step(std::span<const SequenceStep> sequences, std::span<StepResult> results) {
    return model->step(sequences, results);
  }
  Result<std::vector<TokenId>> encode(std::string_view, bool) const {
    return Error(ErrorCode::unsupported);
  }
  Stream text_stream() const { return {}; }
  std::span<const TokenId> end_tokens() const { return {}; }
};
using Engine = AsyncInferenceEngine<Lettered>;

/// When each token of one request came.
struct Record {
  TimePoint submitted = SteadyClock::now();
  std::vector<TimePoint> tokens;

  double first_token_s() const {
    return std::chrono::duration<double>(tokens.front() - submitted).count();
  }
  /// Gaps between tokens, of those that ended in [from, until).
  void add_gaps(TimePoint from, TimePoint until, std::vector<double>& gaps) const {
    for (std::size_t i = 1; i < tokens.size(); ++i) {
      if (tokens[i] < from || tokens[i] >= until) continue;
      gaps.push_back(std::chrono::duration<double>(tokens[i] - tokens[i - 1]).count());
    }
  }
};

/// The engine is driven here, so that nothing but it and the model is measured.
class Traffic {
 public:
  Traffic(LanguageModel& model, EngineOptions options) : engine_(Lettered{&model}, with(options)) {
    if (!engine_.status()) bench::fail(engine_.status().error());
  }
  /// A request; the record lives as long as this object.
  Record& submit(std::vector<TokenId> prompt, GenerateOptions options) {
    records_.push_back(std::make_unique<Record>());
    Record* record = records_.back().get();
    record->tokens.reserve(static_cast<std::size_t>(options.max_new_tokens));
    options.ignore_end_tokens = true;
    engine_.generate(std::move(prompt), std::move(options))
        .on_text([record](Result<std::optional<std::string_view>> piece) {
          // What still runs when the figures are there is stopped with the engine.
          if (!piece && piece.error().code() != ErrorCode::shutting_down) {
            bench::fail(piece.error());
          }
          if (!piece) return;
          if (!*piece) return;
          record->tokens.insert(record->tokens.end(), (*piece)->size(), SteadyClock::now());
        });
    return *record;
  }
  /// Steps until `done()` or nothing is left.
  template <class Done>
  void run_until(Done done) {
    while (!done() && engine_.run_one()) {
    }
  }
  void run() {
    run_until([] { return false; });
  }
  EngineStats stats() const { return engine_.stats(); }
  const std::vector<std::unique_ptr<Record>>& records() const { return records_; }

 private:
  static EngineOptions with(EngineOptions options) {
    options.host_driven = true;
    return options;
  }
  std::vector<std::unique_ptr<Record>> records_;
  Engine engine_;
};

struct Setting {
  LanguageModel& model;
  std::mt19937 random{1};

  std::vector<TokenId> prompt(int tokens) {
    std::vector<TokenId> prompt(static_cast<std::size_t>(tokens));
    for (TokenId& token : prompt) {
      token = static_cast<TokenId>(random() % static_cast<unsigned>(model.limits().vocab_size));
    }
    return prompt;
  }
};

void pace(Setting& setting) {
  constexpr int kStreams = 8, kLong = 4096;
  Traffic traffic(setting.model, {.max_sequences = 16, .max_batch_tokens = 512});
  std::printf("| | without | with the prompt | ratio |\n|---|---|---|---|\n");
  // Alone, and warm: what the prompt needs with nobody beside it.
  traffic.submit(setting.prompt(600), {.max_new_tokens = 2});
  traffic.run();
  const Record& alone = traffic.submit(setting.prompt(kLong), {.max_new_tokens = 1});
  traffic.run();
  std::vector<Record*> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(&traffic.submit(setting.prompt(64), {.max_new_tokens = 2000}));
  }
  const auto tokens = [&] { return streams.back()->tokens.size(); };
  traffic.run_until([&] { return tokens() >= 10; });
  const TimePoint plain_from = SteadyClock::now();
  traffic.run_until([&] { return tokens() >= 150; });
  const TimePoint plain_until = SteadyClock::now();
  const std::uint64_t steps_before = traffic.stats().steps;
  const Record& prompt = traffic.submit(setting.prompt(kLong), {.max_new_tokens = 1});
  traffic.run_until([&] { return !prompt.tokens.empty(); });
  const auto steps = static_cast<double>(traffic.stats().steps - steps_before);
  const TimePoint mixed_until = SteadyClock::now();
  traffic.run_until([&] { return tokens() >= 150 + static_cast<std::size_t>(steps) + 100; });
  std::vector<double> without, with;
  for (const Record* stream : streams) {
    stream->add_gaps(plain_from, plain_until, without);
    stream->add_gaps(mixed_until, SteadyClock::now(), without);
    stream->add_gaps(prompt.submitted, mixed_until, with);
  }
  for (const double q : {0.5, 0.99}) {
    std::printf("| inter-token p%.0f, ms | %.1f | %.1f | %.2f |\n", 100 * q,
                1e3 * quantile(without, q), 1e3 * quantile(with, q),
                quantile(with, q) / quantile(without, q));
  }
  const double floor = alone.first_token_s() + steps * median(without);
  std::printf("| time to first token of the prompt, s | %.2f alone | %.2f | %.2f |\n",
              alone.first_token_s(), prompt.first_token_s(),
              prompt.first_token_s() / alone.first_token_s());
  std::printf(
      "\nfloor: %.2f s alone + %.0f steps shared x %.1f ms = %.2f s; time to first token %.2f of "
      "it; pieces of %.0f tokens\n",
      alone.first_token_s(), steps, 1e3 * median(without), floor, prompt.first_token_s() / floor,
      kLong / steps);
}

void prefix(Setting& setting) {
  constexpr int kRequests = 16, kShared = 1024, kOwn = 8;
  const auto prompts = [&] {
    const std::vector<TokenId> shared = setting.prompt(kShared);
    std::vector<std::vector<TokenId>> all;
    for (int i = 0; i < kRequests; ++i) {
      all.push_back(shared);
      for (const TokenId token : setting.prompt(kOwn)) all.back().push_back(token);
    }
    return all;
  };
  Traffic traffic(setting.model, {.max_sequences = 32, .max_batch_tokens = 2048});
  traffic.submit(setting.prompt(1100), {.max_new_tokens = 2});
  traffic.run();
  std::printf(
      "| later requests | first, s | later, median s | slowest s | ratio, median | slowest "
      "|\n|---|---|---|---|---|---|\n");
  for (const bool together : {false, true}) {
    const auto all = prompts();
    std::vector<Record*> later;
    const Record& first = traffic.submit(all[0], {.max_new_tokens = 4});
    traffic.run();
    for (int i = 1; i < kRequests; ++i) {
      later.push_back(&traffic.submit(all[static_cast<std::size_t>(i)], {.max_new_tokens = 4}));
      if (!together) traffic.run();
    }
    traffic.run();
    std::vector<double> times;
    for (const Record* record : later) times.push_back(record->first_token_s());
    std::printf("| %s | %.3f | %.3f | %.3f | %.3f | %.3f |\n",
                together ? "all at once" : "one after the other", first.first_token_s(),
                median(times), quantile(times, 1), median(times) / first.first_token_s(),
                quantile(times, 1) / first.first_token_s());
  }
}

/// Fixed batches in two ways: padded, where whoever is finished goes on computing until the last of
/// the batch is (its tokens are not counted), and leaving, where it goes at once.
void tail(Setting& setting) {
  enum Way { padded, leaving, continuous };
  constexpr int kRequests = 192, kGroup = 32;
  std::vector<std::pair<std::vector<TokenId>, std::int32_t>> requests;
  std::lognormal_distribution<double> length(3.4, 1.1);  // median 30, one in a hundred above 380
  for (int i = 0; i < kRequests; ++i) {
    const auto tokens = static_cast<std::int32_t>(std::clamp(length(setting.random), 2.0, 512.0));
    requests.emplace_back(setting.prompt(64), tokens);
  }
  std::printf(
      "| | answers | mean length | tokens/s | inter-token p50, ms | p99, ms | mean batch "
      "|\n|---|---|---|---|---|---|---|\n");
  double rates[3], steady = 0, steady_batch = 0;
  for (const Way way : {padded, leaving, continuous}) {
    Traffic traffic(setting.model, {.max_sequences = kGroup, .max_batch_tokens = 1024});
    traffic.submit(setting.prompt(600), {.max_new_tokens = 2});
    traffic.run();
    const EngineStats before = traffic.stats();
    const TimePoint start = SteadyClock::now();
    const int count = way == padded ? 2 * kGroup : kRequests;  // the slow way is shown on fewer
    double tokens = 0;
    for (int i = 0; i < count; ++i) {
      auto& [prompt, wanted] = requests[static_cast<std::size_t>(i)];
      std::int32_t made = wanted;
      for (int k = i / kGroup * kGroup; way == padded && k < (i / kGroup + 1) * kGroup; ++k) {
        made = std::max(made, requests[static_cast<std::size_t>(k)].second);
      }
      traffic.submit(prompt, {.max_new_tokens = made});
      tokens += wanted;
      if (way != continuous && (i + 1) % kGroup == 0) traffic.run();
    }
    if (way == continuous) {  // as long as there are others to take a place that becomes free
      traffic.run_until([&] { return traffic.stats().waiting == 0; });
      const EngineStats busy = traffic.stats();
      steady = static_cast<double>(busy.generated_tokens - before.generated_tokens) / since(start);
      steady_batch = static_cast<double>(busy.sequence_steps - before.sequence_steps) /
                     static_cast<double>(busy.steps - before.steps);
    }
    traffic.run();
    rates[way] = tokens / since(start);
    std::vector<double> gaps;
    for (const auto& record : traffic.records()) {
      record->add_gaps(start, SteadyClock::now(), gaps);
    }
    const EngineStats after = traffic.stats();
    std::printf("| %s | %d | %.0f | %.1f | %.1f | %.1f | %.1f |\n",
                way == padded    ? "fixed batches of 32, padded"
                : way == leaving ? "fixed batches of 32, the finished leave"
                                 : "continuous",
                count, tokens / count, rates[way], 1e3 * quantile(gaps, 0.5),
                1e3 * quantile(gaps, 0.99),
                static_cast<double>(after.sequence_steps - before.sequence_steps) /
                    static_cast<double>(after.steps - before.steps));
  }
  std::printf("\ncontinuous over padded: %.2f; over leaving: %.2f\n",
              rates[continuous] / rates[padded], rates[continuous] / rates[leaving]);
  std::printf(
      "while requests waited: %.1f tokens/s, mean batch %.1f; over padded: %.2f; over leaving: "
      "%.2f\n",
      steady, steady_batch, steady / rates[padded], steady / rates[leaving]);
}

void batched(Setting& setting) {
  constexpr int kPrompt = 64, kAnswer = 24;
  std::printf(
      "| sequences | prefill tokens/s | decode tokens/s | all tokens/s |\n|---|---|---|---|\n");
  for (const int n : {8, 32}) {
    Traffic traffic(setting.model,
                    {.max_sequences = n, .max_batch_tokens = 2048, .prompt_stretch = 0});
    traffic.submit(setting.prompt(600), {.max_new_tokens = 2});
    traffic.run();
    const TimePoint start = SteadyClock::now();
    std::vector<const Record*> all;
    for (int i = 0; i < n; ++i) {
      all.push_back(&traffic.submit(setting.prompt(kPrompt), {.max_new_tokens = kAnswer}));
    }
    traffic.run_until([&] {
      return std::all_of(all.begin(), all.end(),
                         [](const Record* r) { return !r->tokens.empty(); });
    });
    const double prefilled = since(start);
    traffic.run();
    const double total = since(start);
    std::printf("| %d | %.1f | %.1f | %.1f |\n", n, n * kPrompt / prefilled,
                n * (kAnswer - 1) / (total - prefilled), n * (kPrompt + kAnswer) / total);
  }
}

void drafts(Setting& setting) {
  constexpr int kAnswer = 256;
  std::printf(
      "| sequences | guesses | tokens/s | ratio | of the guesses right | same answers "
      "|\n|---|---|---|---|---|---|\n");
  for (const int n : {1, 4}) {
    double plain = 0;
    std::vector<std::vector<TokenId>> prompts;
    for (int i = 0; i < n; ++i) {  // a phrase of 24 tokens, over and over
      const std::vector<TokenId> phrase = setting.prompt(24);
      prompts.emplace_back();
      for (int k = 0; k < 10; ++k) {
        prompts.back().insert(prompts.back().end(), phrase.begin(), phrase.end());
      }
    }
    std::vector<std::vector<TokenId>> answers[2];
    for (const int guesses : {0, 8}) {
      EngineOptions options{.max_sequences = n, .max_batch_tokens = 512};
      options.host_driven = true;
      Engine engine(Lettered{&setting.model}, options);
      std::vector<TextStream> streams;
      for (const auto& prompt : prompts) {
        streams.push_back(engine.generate(
            prompt,
            {.max_new_tokens = kAnswer, .ignore_end_tokens = true, .draft_tokens = guesses}));
      }
      while (engine.stats().generated_tokens < static_cast<std::uint64_t>(n)) engine.run_one();
      const TimePoint start = SteadyClock::now();
      while (engine.run_one()) {
      }
      const double rate = n * (kAnswer - 1) / since(start);
      if (guesses == 0) plain = rate;
      for (TextStream& stream : streams) {
        answers[guesses != 0].push_back(stream.finish().value().tokens);
      }
      const EngineStats stats = engine.stats();
      std::printf("| %d | %d | %.1f | %.2f | %.2f | %s |\n", n, guesses, rate, rate / plain,
                  stats.drafted_tokens == 0 ? 0.0
                                            : static_cast<double>(stats.accepted_drafts) /
                                                  static_cast<double>(stats.drafted_tokens),
                  guesses == 0 ? "" : (answers[0] == answers[1] ? "yes" : "NO"));
    }
  }
}

void overhead(Setting& setting) {
  constexpr int kSequences = 32;
  Traffic traffic(setting.model, {.max_sequences = kSequences, .max_batch_tokens = 2048});
  for (int i = 0; i < kSequences; ++i) {
    traffic.submit(setting.prompt(64), {.max_new_tokens = 300});
  }
  traffic.run_until([&] { return traffic.stats().generated_tokens >= 10 * kSequences; });
  const EngineStats before = traffic.stats();
  const TimePoint start = SteadyClock::now();
  traffic.run_until([&] { return traffic.stats().generated_tokens >= 250 * kSequences; });
  const double wall = since(start);
  const EngineStats after = traffic.stats();
  const double model = std::chrono::duration<double>(after.model_time - before.model_time).count();
  const auto steps = static_cast<double>(after.steps - before.steps);
  std::printf(
      "| steps | of sequences | step, ms | of it outside the model, us | share |\n"
      "|---|---|---|---|---|\n| %.0f | %d | %.3f | %.1f | %.2f %% |\n",
      steps, kSequences, 1e3 * wall / steps, 1e6 * (wall - model) / steps,
      100 * (wall - model) / wall);
}

void memory(Setting& setting) {
  constexpr int kRequests = 32, kPrompt = 96, kAnswer = 160;
  const std::size_t page_bytes = setting.model.limits().page_bytes;
  const auto page_tokens = static_cast<int>(setting.model.limits().page_tokens);
  const auto needed =
      static_cast<std::size_t>(kRequests * ((kPrompt + kAnswer + page_tokens - 2) / page_tokens));
  std::printf(
      "| key/value memory | finished | tokens/s | preemptions | computed again | pages used "
      "at most |\n|---|---|---|---|---|---|\n");
  for (const std::size_t divisor : {std::size_t{1}, std::size_t{2}, std::size_t{4}}) {
    Traffic traffic(setting.model, {.max_sequences = kRequests,
                                    .max_batch_tokens = 1024,
                                    .kv_memory = needed / divisor * page_bytes});
    const TimePoint start = SteadyClock::now();
    for (int i = 0; i < kRequests; ++i) {
      traffic.submit(setting.prompt(kPrompt), {.max_new_tokens = kAnswer});
    }
    std::int32_t most = 0;
    traffic.run_until([&] {
      most = std::max(most, traffic.stats().pages_used);
      return false;
    });
    const EngineStats stats = traffic.stats();
    std::printf("| 1/%zu | %llu of %d | %.1f | %llu | %llu | %d of %d |\n", divisor,
                static_cast<unsigned long long>(stats.completed), kRequests,
                kRequests * kAnswer / since(start),
                static_cast<unsigned long long>(stats.preemptions),
                static_cast<unsigned long long>(stats.recomputed_tokens), most, stats.pages_total);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string scene = "pace", shape = "bench/shapes/llama-1.1b.json", weights = "i8";
  int threads = 2;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--scene") == 0) scene = argv[i + 1];
    if (std::strcmp(argv[i], "--shape") == 0) shape = argv[i + 1];
    if (std::strcmp(argv[i], "--weights") == 0) weights = argv[i + 1];
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::atoi(argv[i + 1]);
  }
  std::ifstream file(shape);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  Result<ModelConfig> config = ModelConfig::parse(text, shape);
  if (!config) bench::fail(config.error());
  config->max_position_embeddings = 8192;
  ModelOptions options;
  options.threads = threads;
  options.weights = weights == "f32"    ? DType::f32
                    : weights == "bf16" ? DType::bf16
                    : weights == "i4"   ? DType::i4
                                        : DType::i8;
  Result<LanguageModel> model = LanguageModel::random(*config, options);
  if (!model) bench::fail(model.error());
  std::printf("### %s: %s, %s, %s, %d threads\n\n", scene.c_str(),
              std::filesystem::path(shape).stem().c_str(), weights.c_str(),
              std::string(model->backend().isa()).c_str(), threads);
  Setting setting{*model};
  const struct {
    const char* name;
    void (*run)(Setting&);
  } scenes[] = {{"pace", pace},     {"prefix", prefix},     {"tail", tail},    {"batched", batched},
                {"drafts", drafts}, {"overhead", overhead}, {"memory", memory}};
  for (const auto& candidate : scenes) {
    if (scene != candidate.name) continue;
    candidate.run(setting);
    return 0;
  }
  std::fprintf(stderr, "engine_report: no such scene: %s\n", scene.c_str());
  return 2;
}
