// Continuous batching against one at a time and fixed batches, on one arrival trace.
//
//   continuous_batching [--threads 2] [--seed 1] [--rounds 3] [--dir DIR]
//
// The model is a random Llama of 110 M parameters (d_model 768, 12 layers, 12 heads, d_ff 2048,
// vocabulary 32,000, untied), written to DIR once. 32 requests arrive at random (exponential gaps),
// prompts of 16 to 256 tokens, answers of 16 to 128, both uniform. Time runs from the first arrival
// to the last answer; a latency runs from a request's own arrival. The three ways take turns, and
// every figure is the median over the rounds.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/engine/async_inference_engine.hpp"
#include "ciuic/model/language_model.hpp"
#include "support/random_model.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Engine = ciuic::AsyncInferenceEngine<ciuic::LanguageModel>;

struct Request {
  double arrival_s;
  std::vector<ciuic::TokenId> prompt;
  std::int32_t new_tokens;
};

std::vector<Request> make_trace(unsigned seed, double mean_gap_s) {
  std::mt19937 random(seed);
  std::exponential_distribution<double> gap(1.0 / mean_gap_s);
  std::uniform_int_distribution<int> prompt(16, 256), answer(16, 128),
      token(3, ciuic::bench::kRandomModelVocab - 1);
  std::vector<Request> trace;
  double now = 0.0;
  for (int i = 0; i < 32; ++i) {
    Request request{now, {}, answer(random)};
    for (int n = prompt(random); n > 0; --n) request.prompt.push_back(token(random));
    trace.push_back(std::move(request));
    now += gap(random);
  }
  return trace;
}

struct Figures {
  double tokens_per_s = 0, p50_s = 0, p99_s = 0, mean_batch = 0;
};

/// `group` = 0: everyone is submitted on arrival. Otherwise groups of that size are submitted when
/// complete, and the next one waits until all of a group have their answers.
Figures run(Engine& engine, const std::vector<Request>& trace, std::size_t group) {
  const ciuic::EngineStats before = engine.stats();
  const Clock::time_point start = Clock::now();
  const auto since_start = [&] {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  std::vector<double> latencies(trace.size());
  std::vector<ciuic::TextStream> streams(trace.size());
  std::vector<double> submitted(trace.size());
  std::size_t tokens = 0;
  const auto submit = [&](std::size_t i) {
    submitted[i] = since_start();
    streams[i] = engine.generate(
        trace[i].prompt, {.max_new_tokens = trace[i].new_tokens, .ignore_end_tokens = true});
  };
  const auto collect = [&](std::size_t i) {
    const auto answer = streams[i].finish();
    if (!answer) ciuic::bench::fail(answer.error());
    tokens += answer->tokens.size();
    latencies[i] = submitted[i] + std::chrono::duration<double>(answer->total_time).count() -
                   trace[i].arrival_s;
  };
  const auto wait_for_arrival = [&](std::size_t i) {
    std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(
                                              std::chrono::duration<double>(trace[i].arrival_s)));
  };
  const std::size_t step = group == 0 ? 1 : group;
  for (std::size_t first = 0; first < trace.size(); first += step) {
    const std::size_t last = std::min(first + step, trace.size());
    wait_for_arrival(last - 1);
    for (std::size_t i = first; i < last; ++i) submit(i);
    for (std::size_t i = first; group != 0 && i < last; ++i) collect(i);
  }
  for (std::size_t i = 0; group == 0 && i < trace.size(); ++i) collect(i);
  const double seconds = since_start();
  const ciuic::EngineStats after = engine.stats();
  std::sort(latencies.begin(), latencies.end());
  const auto quantile = [&](double q) {
    return latencies[static_cast<std::size_t>(
        std::lround(q * static_cast<double>(latencies.size() - 1)))];
  };
  return {static_cast<double>(tokens) / seconds, quantile(0.5), quantile(0.99),
          static_cast<double>(after.sequence_steps - before.sequence_steps) /
              static_cast<double>(after.steps - before.steps)};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int threads = 2, rounds = 3;
  unsigned seed = 1;
  std::filesystem::path directory = std::filesystem::temp_directory_path() / "ciuic-random-110m";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--seed") == 0) seed = static_cast<unsigned>(std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--dir") == 0) directory = argv[i + 1];
  }
  ciuic::bench::ensure_random_model(directory);
  auto model = ciuic::LanguageModel::load(directory, {.threads = threads});
  if (!model) ciuic::bench::fail(model.error());
  const std::string isa(model->backend().isa());
  Engine engine(*std::move(model), {.max_sequences = 32, .max_batch_tokens = 512});
  if (!engine.status()) ciuic::bench::fail(engine.status().error());

  const char* const kNames[3] = {"one at a time", "fixed batches of 8", "continuous"};
  const std::size_t kGroups[3] = {1, 8, 0};
  std::vector<Figures> figures[3];
  const std::vector<Request> trace = make_trace(seed, 0.15);
  for (int round = 0; round < rounds; ++round) {
    for (int way = 0; way < 3; ++way) figures[way].push_back(run(engine, trace, kGroups[way]));
  }
  std::printf(
      "random 110 M model, f32, %s, %d threads, seed %u, %d rounds, last arrival after %.1f s\n\n",
      isa.c_str(), threads, seed, rounds, trace.back().arrival_s);
  std::printf(
      "| way | tokens/s | ratio | p50 s | p99 s | mean batch |\n|---|---|---|---|---|---|\n");
  double baseline = 0.0;
  for (int way = 0; way < 3; ++way) {
    const auto field = [&](double Figures::*member) {
      std::vector<double> values;
      for (const Figures& f : figures[way]) values.push_back(f.*member);
      return median(values);
    };
    const double rate = field(&Figures::tokens_per_s);
    if (way == 0) baseline = rate;
    std::printf("| %s | %.1f | %.2f | %.2f | %.2f | %.1f |\n", kNames[way], rate, rate / baseline,
                field(&Figures::p50_s), field(&Figures::p99_s), field(&Figures::mean_batch));
  }
}
