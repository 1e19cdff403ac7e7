// Fixed batches of 32 against dynamic ones of 8 to 64, on one model, one thread budget and the same
// bursty arrivals.
//
//   dynamic_vs_fixed --config bench/shapes/llama-110m.json [--threads 1] [--load 0.8] [--seeds 2]
//                    [--seconds 8] [--burst 16]
//
// The model is a Llama of that shape with random weights in f32: 440 MB a batch has to read, far
// more than any cache holds. A request asks for the token that follows one token: a decoder's
// step, whose cost is mostly that read, whoever shares it. (A prompt of a hundred tokens would be
// bound by arithmetic: there a batch of 64 takes twice the time of 32, and all ways of batching are
// about as quick.) What batches of several sizes take is measured first and printed.
//
// Bursts arrive at random (exponential gaps) and hold 16 requests on average (geometric), or as
// --burst says. The loads are 0.5, 0.8 and 1.0 of what full batches of 32 reach, or as --load says;
// a request is due 4 times the time of such a batch after its arrival, and goodput counts the
// answers that are not late.
//
//   fixed 32          runs when 32 wait, and not before; knows no deadlines. What is left at the
//                     end of a trace is flushed.
//   fixed 32, expiry  the same, and drops what is late before it runs
//   dynamic 8 to 64   DynamicBatcher as it comes (DelayPolicy): at once when 8 wait, otherwise
//                     after a quarter of a batch's time; drops what is late before it runs
//   SloPolicy         DynamicBatcher with SloPolicy, batches of up to 64
//
// Latencies run from the arrival that the trace says to the answer, and are of answers only: what
// was dropped has its own column. Ways take turns on each trace; figures are medians over seeds.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/batching/adapted_batcher.hpp"
#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/slo_policy.hpp"
#include "ciuic/model/language_model.hpp"
#include "support/random_model.hpp"

namespace {

using ciuic::Duration;
using ciuic::TimePoint;
using ciuic::TokenId;
using Adapter = ciuic::PackedAdapter<TokenId, TokenId>;
using Batcher = ciuic::AdaptedBatcher<Adapter>;

constexpr std::size_t kFixed = 32, kLargest = 64, kLeast = 8;
constexpr std::size_t kSizes[] = {1, 8, 16, kFixed, kLargest};

double seconds_of(Duration d) { return std::chrono::duration<double>(d).count(); }
Duration duration_of(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

/// A step over the tokens of a batch.
class Scorer {
 public:
  explicit Scorer(ciuic::LanguageModel& model) : model_(model), pages_(kLargest) {
    for (std::size_t i = 0; i < pages_.size(); ++i) pages_[i] = static_cast<std::int32_t>(i);
  }
  ciuic::Result<void> operator()(const ciuic::PackedInput<TokenId>& in, ciuic::Rows<TokenId>& out) {
    steps_.resize(in.requests);
    results_.resize(in.requests);
    for (std::size_t i = 0; i < in.requests; ++i) {
      steps_[i] = {.tokens = in.sequence(i), .pages = std::span(pages_).subspan(i, 1)};
    }
    if (auto ran = model_.step(steps_, results_); !ran) return ran;
    const auto rows = out.resize(in.requests, 1);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = results_[i].token;
    return {};
  }

 private:
  ciuic::LanguageModel& model_;
  std::vector<std::int32_t> pages_;
  std::vector<ciuic::SequenceStep> steps_;
  std::vector<ciuic::StepResult> results_;
};

int vocab_of(const ciuic::LanguageModel& model) { return model.limits().vocab_size; }

struct Request {
  double arrival_s;
  TokenId token;
};

/// `rate * seconds` requests, the last after `seconds`: the load is exact, where it falls is not.
std::vector<Request> make_trace(unsigned seed, double rate, double seconds, int mean_burst,
                                int vocab) {
  std::mt19937 random(seed);
  std::exponential_distribution<double> gap(1.0);
  std::geometric_distribution<int> more(1.0 / mean_burst);  // mean: mean_burst - 1
  std::uniform_int_distribution<TokenId> token(3, vocab - 1);
  std::vector<Request> trace(static_cast<std::size_t>(rate * seconds));
  double now = 0;
  for (std::size_t i = 0, burst_end = 0; i < trace.size(); ++i) {
    if (i == burst_end) {
      now += gap(random);
      burst_end += 1 + static_cast<std::size_t>(more(random));
    }
    trace[i] = {now, token(random)};
  }
  for (Request& request : trace) request.arrival_s *= seconds / now;
  return trace;
}

enum Way { fixed, fixed_expiry, dynamic, slo };
constexpr Way kWays[] = {fixed, fixed_expiry, dynamic, slo};
constexpr const char* kNames[] = {"fixed 32", "fixed 32, expiry", "dynamic 8 to 64", "SloPolicy"};

struct Figures {
  double answers_per_s = 0, goodput_per_s = 0, dropped = 0, p50_ms = 0, p99_ms = 0, mean_batch = 0,
         utilisation = 0, memory_mib = 0;
};

ciuic::BatcherOptions options_of(Way way, double full_batch_s) {
  if (way == fixed || way == fixed_expiry) {
    return {.max_batch_size = kFixed,
            .max_queue_delay = std::chrono::hours(1),
            .queue_capacity = 1 << 16};
  }
  return {.max_batch_size = kLargest,
          .min_batch_size = kLeast,
          .max_queue_delay = duration_of(full_batch_s / 4),
          .queue_capacity = 1 << 16};
}

void reserve(ciuic::LanguageModel& model, std::size_t batch) {
  const auto n = static_cast<std::int32_t>(batch);
  const auto reserved = model.reserve(n, n, n);
  if (!reserved) ciuic::bench::fail(reserved.error());
}

Figures run(ciuic::LanguageModel& model, const std::vector<Request>& trace, Way way,
            double full_batch_s) {
  const ciuic::BatcherOptions options = options_of(way, full_batch_s);
  reserve(model, options.max_batch_size);
  Batcher batcher(
      Scorer(model), Adapter(), options,
      way == slo ? std::make_unique<ciuic::SloPolicy>() : std::unique_ptr<ciuic::BatchPolicy>());
  const Duration due = duration_of(4 * full_batch_s);
  std::vector<double> latencies(trace.size(), -1.0);  // below 0: dropped
  const TimePoint start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < trace.size(); ++i) {
    const TimePoint arrival = start + duration_of(trace[i].arrival_s);
    std::this_thread::sleep_until(arrival);
    batcher.submit({trace[i].token}, {.deadline = way == fixed ? ciuic::kNever : arrival + due})
        .on_ready([&latency = latencies[i], arrival](const auto& answer) {
          if (answer) latency = seconds_of(std::chrono::steady_clock::now() - arrival);
        });
  }
  if (const auto drained = batcher.drain(); !drained) ciuic::bench::fail(drained.error());
  const double seconds = seconds_of(std::chrono::steady_clock::now() - start);
  const ciuic::BatcherStats stats = batcher.stats();

  std::vector<double> answered;
  double in_time = 0;
  for (const double latency : latencies) {
    if (latency < 0) continue;
    answered.push_back(latency);
    in_time += latency <= seconds_of(due);
  }
  std::sort(answered.begin(), answered.end());
  const auto quantile_ms = [&](double q) {
    return 1e3 * answered[static_cast<std::size_t>(q * static_cast<double>(answered.size() - 1))];
  };
  const ciuic::ModelMemory memory = model.memory();
  return {.answers_per_s = static_cast<double>(answered.size()) / seconds,
          .goodput_per_s = in_time / seconds,
          .dropped = 1.0 - static_cast<double>(answered.size()) / static_cast<double>(trace.size()),
          .p50_ms = quantile_ms(0.5),
          .p99_ms = quantile_ms(0.99),
          .mean_batch = stats.mean_batch(),
          .utilisation = seconds_of(stats.total_execution) / seconds,
          .memory_mib =
              static_cast<double>(memory.weights_bytes + memory.kv_bytes + memory.step_bytes) /
              (1 << 20)};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

/// Seconds of a batch of `n`, median of 15 after one to warm up.
double time_of_batch(ciuic::LanguageModel& model, std::size_t n) {
  reserve(model, n);
  Scorer scorer(model);
  ciuic::PackedInput<TokenId> in;
  ciuic::Rows<TokenId> out;
  const std::vector<Request> trace = make_trace(0, static_cast<double>(n), 1, 2, vocab_of(model));
  std::vector<std::vector<TokenId>> items;
  for (const Request& request : trace) items.push_back({request.token});
  std::vector<const std::vector<TokenId>*> pointers;
  for (const auto& item : items) pointers.push_back(&item);
  if (const auto packed = Adapter().pack(pointers, in); !packed) ciuic::bench::fail(packed.error());
  std::vector<double> seconds;
  for (int i = 0; i < 16; ++i) {
    const TimePoint start = std::chrono::steady_clock::now();
    if (const auto ran = scorer(in, out); !ran) ciuic::bench::fail(ran.error());
    if (i > 0) seconds.push_back(seconds_of(std::chrono::steady_clock::now() - start));
  }
  return median(seconds);
}

ciuic::LanguageModel make_model(const std::string& file, int threads) {
  std::ifstream in(file);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto config = ciuic::ModelConfig::parse(text, file);
  if (!config) ciuic::bench::fail(config.error());
  auto model = ciuic::LanguageModel::random(*config, {.threads = threads});
  if (!model) ciuic::bench::fail(model.error());
  return *std::move(model);
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 1, burst = 16;
  unsigned seeds = 2;
  double seconds = 8;
  std::string config = "bench/shapes/llama-110m.json";
  std::vector<double> loads{0.5, 0.8, 1.0};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--config") == 0) config = argv[i + 1];
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--load") == 0) loads = {std::atof(argv[i + 1])};
    if (std::strcmp(argv[i], "--seeds") == 0) seeds = static_cast<unsigned>(std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--seconds") == 0) seconds = std::atof(argv[i + 1]);
    if (std::strcmp(argv[i], "--burst") == 0) burst = std::atoi(argv[i + 1]);
  }
  ciuic::LanguageModel model = make_model(config, threads);
  std::printf("%s, random weights, f32, %s, %d threads\na batch of", config.c_str(),
              std::string(model.backend().isa()).c_str(), threads);
  double full_batch_s = 0;
  for (const std::size_t n : kSizes) {
    const double time = time_of_batch(model, n);
    if (n == kFixed) full_batch_s = time;
    std::printf(" %zu: %.1f ms%s", n, 1e3 * time, n == kLargest ? "\n" : ",");
  }
  const double capacity = static_cast<double>(kFixed) / full_batch_s;
  std::printf(
      "capacity in full batches of 32: %.0f/s; deadline %.0f ms; %u seeds of %.0f s, bursts of "
      "%d\n\n",
      capacity, 4e3 * full_batch_s, seeds, seconds, burst);
  std::printf(
      "| load | way | answers/s | in time/s | ratio | dropped | p50 ms | p99 ms | mean batch | "
      "utilisation | memory MiB |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const double load : loads) {
    std::vector<Figures> figures[std::size(kWays)];
    for (unsigned seed = 1; seed <= seeds; ++seed) {
      const std::vector<Request> trace =
          make_trace(seed, load * capacity, seconds, burst, vocab_of(model));
      for (const Way way : kWays) figures[way].push_back(run(model, trace, way, full_batch_s));
    }
    for (const Way way : kWays) {
      const auto field = [&](double Figures::*member, Way of) {
        std::vector<double> values;
        for (const Figures& f : figures[of]) values.push_back(f.*member);
        return median(values);
      };
      std::vector<double> ratios;  // of the same trace
      for (std::size_t i = 0; i < figures[way].size(); ++i) {
        ratios.push_back(figures[way][i].goodput_per_s / figures[fixed][i].goodput_per_s);
      }
      std::printf(
          "| %.1f | %s | %.0f | %.0f | %.2f | %.1f %% | %.0f | %.0f | %.1f | %.0f %% | %.0f |\n",
          load, kNames[way], field(&Figures::answers_per_s, way),
          field(&Figures::goodput_per_s, way), median(ratios), 100 * field(&Figures::dropped, way),
          field(&Figures::p50_ms, way), field(&Figures::p99_ms, way),
          field(&Figures::mean_batch, way), 100 * field(&Figures::utilisation, way),
          field(&Figures::memory_mib, way));
    }
    std::fflush(stdout);
  }
  std::printf("\nat the end a batch of 32 takes %.1f ms\n", 1e3 * time_of_batch(model, kFixed));
}
