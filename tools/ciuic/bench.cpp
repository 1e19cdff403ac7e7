// ciuic bench: how fast a model runs here, and what memory that takes.
//
// For each batch size: every sequence's prompt is computed (prefill, which ends with the logits of
// its last token), then all sequences generate together, one token each a step (decode). Both are
// repeated from the same positions; rates are of the median time. With --no-prompts decoding begins
// after prompts that nobody computed, where these alone would take minutes.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "command.hpp"
#include "progress.hpp"

namespace ciuic::tool {
namespace {

/// The engine's own default for the tokens of one step: longer prompts are cut, shorter ones of
/// several sequences go together.
constexpr std::int32_t kStepTokens = 2048;

struct Flags {
  ModelFlags model;
  std::string random_config;
  std::int32_t prompt_tokens = 512, gen_tokens = 128;
  std::vector<std::string> batch_lists{"1,8,32"};
  int repeat = 3;
  bool no_prompts = false;
};

/// The most memory this process has held at once since `forget_peak`, in bytes; since its start
/// where the system does not forget (Linux: /proc/self/clear_refs). 0 where it does not say.
std::uint64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return 0;
}
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// Sequences of one batch size that run through the model in lockstep.
class Run {
 public:
  Run(LanguageModel& model, std::int32_t batch, std::int32_t prompt_tokens, std::int32_t gen_tokens)
      : model_(model),
        batch_(batch),
        prompt_tokens_(prompt_tokens),
        gen_tokens_(gen_tokens),
        page_tokens_(model.limits().page_tokens),
        pages_per_sequence_((prompt_tokens + gen_tokens + page_tokens_ - 1) / page_tokens_),
        step_tokens_(std::max(batch, std::min(kStepTokens, batch * prompt_tokens))),
        pages_(static_cast<std::size_t>(batch * pages_per_sequence_)) {
    std::iota(pages_.begin(), pages_.end(), 0);
    const std::int32_t vocab = model.limits().vocab_size;
    std::uint64_t state = 1;
    for (std::int32_t i = 0; i < batch * prompt_tokens; ++i) {  // Knuth's MMIX generator
      state = state * 6364136223846793005u + 1442695040888963407u;
      prompts_.push_back(static_cast<TokenId>((state >> 33) % static_cast<std::uint64_t>(vocab)));
    }
    check(model.reserve(batch * pages_per_sequence_, step_tokens_, batch));
    next_.assign(static_cast<std::size_t>(batch), 0);
  }

  /// Touches the memory of the largest step and wakes the threads.
  void warm_up() {
    compute_prompts(0, std::min(batch_, std::max(1, step_tokens_ / prompt_tokens_)));
  }

  /// Computes all prompts, as many at a time as go into one step. Returns the tokens a second of
  /// each time: `at_least` of them, the prompts over again if need be.
  std::vector<double> prefill(std::size_t at_least) {
    const std::int32_t group = std::max(1, step_tokens_ / prompt_tokens_);
    std::vector<double> rates;
    do {
      for (std::int32_t first = 0; first < batch_; first += group) {
        const std::int32_t last = std::min(first + group, batch_);
        const auto start = std::chrono::steady_clock::now();
        compute_prompts(first, last);
        rates.push_back((last - first) * prompt_tokens_ / seconds_since(start));
      }
    } while (rates.size() < at_least);
    return rates;
  }

  /// Instead of `prefill`: computes one token of each page, so that the keys and values of each
  /// have memory of their own (but for the middle of the largest blocks). Those between are the
  /// zeros of fresh memory, see `map_all_large_memory`.
  void skip_prompts() {
    std::vector<SequenceStep> steps;
    for (std::int32_t at = 0; at < prompt_tokens_; at += page_tokens_) {
      for (std::int32_t s = 0; s < batch_; ++s) {
        steps.push_back({.tokens = std::span(prompts_).subspan(
                             static_cast<std::size_t>(s * prompt_tokens_ + at), 1),
                         .first_position = at,
                         .pages = pages_of(s)});
        owners_.push_back(s);
      }
      step(steps);
    }
  }

  /// Generates `gen_tokens` tokens of every sequence, after `prefill` or `skip_prompts`; seconds.
  double decode() {
    const std::vector<TokenId> first = next_;
    const auto start = std::chrono::steady_clock::now();
    std::vector<SequenceStep> steps;
    for (std::int32_t i = 0; i < gen_tokens_; ++i) {
      for (std::int32_t s = 0; s < batch_; ++s) {
        steps.push_back({.tokens = std::span(next_).subspan(static_cast<std::size_t>(s), 1),
                         .first_position = prompt_tokens_ + i,
                         .pages = pages_of(s)});
        owners_.push_back(s);
      }
      step(steps);
    }
    const double seconds = seconds_since(start);
    next_ = first;
    return seconds;
  }

 private:
  static double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  static void check(const Result<void>& result) {
    if (!result) throw Failure(kRequestFailed, result.error());
  }
  std::span<const std::int32_t> pages_of(std::int32_t sequence) const {
    return std::span(pages_).subspan(static_cast<std::size_t>(sequence * pages_per_sequence_),
                                     static_cast<std::size_t>(pages_per_sequence_));
  }
  /// The prompts of sequences [first, last), which fit into one step, or one that is cut into some.
  void compute_prompts(std::int32_t first, std::int32_t last) {
    for (std::int32_t at = 0; at < prompt_tokens_; at += step_tokens_) {
      const std::int32_t n = std::min(prompt_tokens_ - at, step_tokens_);
      std::vector<SequenceStep> steps;
      for (std::int32_t s = first; s < last; ++s) {
        steps.push_back(
            {.tokens = std::span(prompts_).subspan(
                 static_cast<std::size_t>(s * prompt_tokens_ + at), static_cast<std::size_t>(n)),
             .first_position = at,
             .pages = pages_of(s),
             .sample = at + n == prompt_tokens_});
        owners_.push_back(s);
      }
      step(steps);
    }
  }
  /// Runs `steps`, keeps the tokens that were chosen, and leaves an empty list.
  void step(std::vector<SequenceStep>& steps) {
    results_.resize(steps.size());
    check(model_.step(steps, results_));
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (results_[i].error) throw Failure(kRequestFailed, *results_[i].error);
      if (steps[i].sample) next_[static_cast<std::size_t>(owners_[i])] = results_[i].token;
    }
    steps.clear();
    owners_.clear();
  }

  LanguageModel& model_;
  std::int32_t batch_, prompt_tokens_, gen_tokens_, page_tokens_, pages_per_sequence_, step_tokens_;
  std::vector<std::int32_t> pages_;   // [batch, pages_per_sequence]
  std::vector<TokenId> prompts_;      // [batch, prompt_tokens]
  std::vector<TokenId> next_;         // [batch]
  std::vector<std::int32_t> owners_;  // whose each entry of a step is
  std::vector<StepResult> results_;
};

Json measure(LanguageModel& model, const Flags& flags, std::int32_t batch) {
  forget_peak();
  Run run(model, batch, flags.prompt_tokens, flags.gen_tokens);
  Json prefill;  // null: no prompts
  if (flags.no_prompts) {
    run.skip_prompts();
  } else {
    run.warm_up();
    prefill = median(run.prefill(static_cast<std::size_t>(flags.repeat)));
  }
  std::vector<double> decodes;
  for (int i = 0; i < flags.repeat; ++i) decodes.push_back(run.decode());
  return {{"batch", batch},
          {"prompt_tokens", flags.prompt_tokens},
          {"gen_tokens", flags.gen_tokens},
          {"prefill_tokens_per_s", prefill},
          {"decode_tokens_per_s", batch * flags.gen_tokens / median(decodes)},
          {"peak_memory_bytes", peak_memory_bytes()}};
}

std::vector<std::int32_t> parse_batches(const Flags& flags) {
  std::vector<std::int32_t> batches;
  for (const std::string& list : flags.batch_lists) {
    for (const std::string& item : split_list("--batch", list)) {
      std::int32_t batch = 0;
      const char* const end = item.data() + item.size();
      const auto [stop, error] = std::from_chars(item.data(), end, batch);
      if (error != std::errc() || stop != end || batch < 1 || batch > 4096) {
        throw Failure(kWrongUsage, "--batch: wanted numbers from 1 to 4096, got " + item);
      }
      batches.push_back(batch);
    }
  }
  return batches;
}

LanguageModel load(const Flags& flags) {
  if (flags.random_config.empty()) return flags.model.load();
  if (flags.model.map) {
    throw Failure(kWrongUsage, "--map: wanted a quantized directory, got --random-weights");
  }
  const std::string text = read_file(flags.random_config);
  const Result<ModelConfig> config = ModelConfig::parse(text, flags.random_config);
  if (!config) throw Failure(kBadInput, config.error());
  Result<LanguageModel> model = LanguageModel::random(*config, flags.model.options());
  if (!model) throw Failure(kBadInput, model.error());
  return *std::move(model);
}

/// What the weights are held as: what was asked for, or "packed" where a quantized directory has
/// its own say.
std::string held_as(const Flags& flags) {
  if (flags.random_config.empty() && is_quantized(flags.model.directory)) return "packed";
  return flags.model.weights.value_or("f32");
}

/// Keys and values are memory that nobody writes first: from the system it comes as zeros, from the
/// heap as anything, a NaN included. So let all of it come from the system.
void map_all_large_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 64 << 10);
#endif
}

void run(const Flags& flags) {
  const std::vector<std::int32_t> batches = parse_batches(flags);
  if (flags.no_prompts) map_all_large_memory();
  const auto start = std::chrono::steady_clock::now();
  LanguageModel model = load(flags);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;
  const std::uint64_t load_peak = peak_memory_bytes();
  if (flags.prompt_tokens + flags.gen_tokens > model.limits().max_context_tokens) {
    throw Failure(kWrongUsage, "--prompt-tokens and --gen-tokens: wanted at most " +
                                   std::to_string(model.limits().max_context_tokens) +
                                   " together, got " +
                                   std::to_string(flags.prompt_tokens + flags.gen_tokens));
  }
  const std::int64_t most = *std::ranges::max_element(batches);
  if (most * (flags.prompt_tokens + flags.gen_tokens) > std::numeric_limits<std::int32_t>::max()) {
    throw Failure(kWrongUsage, "--batch: wanted fewer than 2^31 tokens in all, got more");
  }
  Json runs = Json::array();
  Progress progress("measuring", batches.size());
  for (const std::int32_t batch : batches) {
    runs.push_back(measure(model, flags, batch));
    progress.advance();
  }
  progress.clear();
  const int threads = flags.model.threads > 0
                          ? flags.model.threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (flags.model.json) {
    return print_json({{"weights", held_as(flags)},
                       {"threads", threads},
                       {"isa", model.backend().isa()},
                       {"load_s", load_time.count()},
                       {"weights_bytes", model.memory().weights_bytes},
                       {"load_peak_memory_bytes", load_peak},
                       {"runs", std::move(runs)}});
  }
  constexpr double kMiB = 1024.0 * 1024.0;
  std::printf("weights %s, %d threads, %s; loaded in %.2f s: weights %.1f MiB, peak %.1f MiB\n\n",
              held_as(flags).c_str(), threads, std::string(model.backend().isa()).c_str(),
              load_time.count(), static_cast<double>(model.memory().weights_bytes) / kMiB,
              static_cast<double>(load_peak) / kMiB);
  std::printf("%8s %8s %8s %18s %18s %10s\n", "batch", "prompt", "new", "prefill tokens/s",
              "decode tokens/s", "peak MiB");
  for (const Json& row : runs) {
    char prefill[32] = "-";
    if (const Json& rate = row["prefill_tokens_per_s"]; !rate.is_null())
      std::snprintf(prefill, sizeof(prefill), "%.1f", rate.get<double>());
    std::printf("%8d %8d %8d %18s %18.1f %10.1f\n", row["batch"].get<int>(),
                row["prompt_tokens"].get<int>(), row["gen_tokens"].get<int>(), prefill,
                row["decode_tokens_per_s"].get<double>(),
                row["peak_memory_bytes"].get<double>() / kMiB);
  }
}

}  // namespace

void add_bench(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure prefill and decode speed, and memory, of a model");
  flags->model.add_to(*command);
  CLI::Option* model = command->get_option("--model")->required(false);
  CLI::Option* random = command->add_option("--random-weights", flags->random_config,
                                            "A config.json: its shape with random weights");
  random->type_name("CONFIG.json")->excludes(model);
  constexpr std::int32_t kMost = 1 << 20;
  command->add_option("--prompt-tokens", flags->prompt_tokens, "Tokens of each prompt")
      ->check(CLI::Range(1, kMost));
  command->add_option("--gen-tokens", flags->gen_tokens, "Tokens each sequence generates")
      ->check(CLI::Range(1, kMost));
  command->add_option("--batch", flags->batch_lists, "Numbers of sequences at once, one run each")
      ->type_name("N,…");
  command->add_flag("--no-prompts", flags->no_prompts,
                    "Decode as if after prompts, without computing them (prefill: null)");
  command->add_option("--repeat", flags->repeat, "Passes of which the median counts")
      ->check(CLI::Range(1, 1000));
  command->callback([flags, model, random] {
    if (model->count() + random->count() == 0) {
      throw Failure(kWrongUsage, "bench: wanted --model or --random-weights, got neither");
    }
    run(*flags);
  });
}

}  // namespace ciuic::tool
