// Prefill and decode of a whole model, as fractions of what the machine can do in the same minute:
// prefill over the multiply-add peak (for i8 and i4 that of the byte dot product), decode over the
// read bandwidth.
//
//   model_speed [--model DIR] [--threads 1] [--prompt-tokens 512] [--rounds 7]
//
// Without --model it is the random model of 110 M in f32. Every round probes the machine, runs
// both, and probes again; the table gives medians. Prefill counts the multiply-adds of the layers'
// matrices only (attention and norms are not counted but cost time); decode counts the bytes of
// these and of the head. "quiet": of the rounds whose prefill had its cores for itself (QuietRuns).
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "ciuic/model/language_model.hpp"
#include "support/machine_probe.hpp"
#include "support/random_model.hpp"

int main(int argc, char** argv) {
  using namespace ciuic;
  using namespace ciuic::bench;
  int threads = 1, rounds = 7, prompt_tokens = 512;
  std::filesystem::path directory;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--prompt-tokens") == 0) prompt_tokens = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--model") == 0) directory = argv[i + 1];
  }
  if (directory.empty()) {
    directory = std::filesystem::temp_directory_path() / "ciuic-random-110m";
    ensure_random_model(directory);
  }
  Result<LanguageModel> model = LanguageModel::load(directory, {.threads = threads});
  if (!model) fail(model.error());
  const std::int32_t pages = prompt_tokens / 16 + 2;
  if (const Result<void> reserved = model->reserve(pages, prompt_tokens, 1); !reserved)
    fail(reserved.error());

  std::vector<TokenId> prompt(static_cast<std::size_t>(prompt_tokens));
  for (std::size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<TokenId>(3 + i * 7919 % 31000);
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
  std::iota(table.begin(), table.end(), 0);
  const auto run = [&](std::span<const TokenId> tokens, std::int32_t position) {
    StepResult result;
    const SequenceStep step{.tokens = tokens, .first_position = position, .pages = table};
    const double start = seconds_now(threads);
    const Result<void> done = model->step({&step, 1}, {&result, 1});
    if (!done) fail(done.error());
    return seconds_now(threads) - start;
  };
  run(prompt, 0);  // warm: pages touched, threads started

  const ModelConfig& c = model->config();
  const double width = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const double d = c.hidden_size;
  const double layers = c.num_hidden_layers * d * (2.0 * (width + kv) + 3.0 * c.intermediate_size);
  const double head = d * c.vocab_size, embeddings = c.tie_word_embeddings ? 0.0 : head;
  const auto bytes = static_cast<double>(model->memory().weights_bytes);
  const double each = bytes / (layers + head + embeddings);
  const bool integers = each < 1.5 && byte_dot_gops(1) > 0.0;

  ReadProbe reads;
  std::vector<double> prefill_rate, prefill_share, decode_rate, decode_share;
  QuietRuns prefills(threads);
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> peaks, bandwidths;
    const auto probe = [&] {
      for (int i = 0; i < 5; ++i)
        peaks.push_back(integers ? byte_dot_gops(threads) : fma_gflops(threads));
      for (int i = 0; i < 5; ++i) bandwidths.push_back(reads.gigabytes_per_second(threads));
    };
    probe();
    prefills.before();
    const double prefill_s = run(prompt, 0);
    prefills.after();
    std::vector<double> steps;
    for (int i = 0; i < 9; ++i) steps.push_back(run(std::span(prompt).first(1), prompt_tokens));
    probe();
    const double decode_s = median(steps);
    prefill_rate.push_back(prompt_tokens / prefill_s);
    prefill_share.push_back(prompt_tokens * 2.0 * layers / prefill_s * 1e-9 / median(peaks));
    decode_rate.push_back(1.0 / decode_s);
    decode_share.push_back(each * (layers + head) / decode_s * 1e-9 / median(bandwidths));
  }
  const std::vector<double> quiet = prefills.of(prefill_share);
  std::printf("%s, %.0f MiB of weights, %s, %d threads, prompt of %d, %d rounds, seconds of %s\n\n",
              directory.filename().c_str(), bytes / 1048576.0,
              std::string(model->backend().isa()).c_str(), threads, prompt_tokens, rounds,
              clock_name(threads));
  std::printf("| | tokens/s | of the roof |\n|---|---|---|\n");
  std::printf("| prefill | %.0f | %.2f of the peak of %s |\n", median(prefill_rate),
              median(prefill_share), integers ? "byte dots" : "f32 multiply-adds");
  if (!quiet.empty()) {
    std::printf("| prefill, %zu quiet rounds | | %.2f |\n", quiet.size(), median(quiet));
  }
  std::printf("| decode, 1 sequence | %.1f | %.2f of read bandwidth |\n", median(decode_rate),
              median(decode_share));
}
