// The main job on one screen: 32 prompts at once through the engine, every answer back, and what
// batching buys. Usage: ciuic_demo MODEL_DIRECTORY [--threads N]
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ciuic/ciuic.hpp"

namespace {

using Clock = std::chrono::steady_clock;

/// Prompts the shipped model was made for; anyone can check the answers.
const std::vector<std::string> kPrompts = {
    "12+30=",
    "47 + 38 = ",
    "What is 58+24?",
    "96加3等于",
    "25加49等于多少？",
    "73-28=",
    "What is 91-45?",
    "84减37等于",
    "The day after 2024-02-28 is ",
    "What day comes after 2031-12-31?",
    "2026年2月28日的第二天是",
    "The day before 2030-07-01 is ",
    "2027年3月1日的前一天是",
    "Anna has 12 apples and buys 30 more. Now Anna has ",
    "Tom has 64 eggs and sells 17. Now Tom has ",
    "There are 21 cups here and 34 cups there. How many cups are there?",
    "小明有15个苹果，又买了28个。现在小明有",
    "王芳有70个梨，卖了26个。现在王芳有",
    "An order of 3 boxes at 4 coins each costs ",
    "Lucy orders 6 books. Each costs 9 coins. Lucy pays ",
    "每个书包8元，7个书包一共",
    "Omar orders pens for 14 coins and chairs for 52 coins. The order costs ",
    "李雷订了33元的箱子和41元的闹钟，一共",
    "Order 17: ",
    "Order 5: 4 lamps at 6 coins each, ",
    "订单8：",
    "Inventory: ",
    "Inventory: 20 apples and 35 pears. ",
    "Inventory: 44 eggs, 12 coats and 8 lamps. Tom brings ",
    "库存：",
    "库存：30个苹果和25个梨。",
    "The sum of 8 and 9 is ",
};

struct Run {
  std::vector<ciuic::Generation> answers;
  std::vector<double> latencies_ms;  // from the moment all prompts were there
  double seconds = 0.0, mean_batch = 0.0;
};

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1) + 0.5)];
}

void show_progress(std::size_t done, std::size_t total) {
  if (isatty(STDERR_FILENO) == 0) return;
  const std::size_t filled = done * 32 / total;
  std::fprintf(stderr, "\r\033[K[%s%s] %zu/%zu answers", std::string(filled, '#').c_str(),
               std::string(32 - filled, ' ').c_str(), done, total);
  if (done == total) std::fprintf(stderr, "\r\033[K");
}

/// Runs all prompts, at most `group` at once; a group must end before the next one starts.
Run run(ciuic::AsyncInferenceEngine<ciuic::LanguageModel>& engine, std::size_t group,
        bool progress) {
  Run result;
  const ciuic::EngineStats before = engine.stats();
  const Clock::time_point start = Clock::now();
  for (std::size_t first = 0; first < kPrompts.size(); first += group) {
    const double waited_ms =
        std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    std::vector<ciuic::TextStream> streams;
    for (std::size_t i = first; i < std::min(first + group, kPrompts.size()); ++i) {
      streams.push_back(engine.generate(kPrompts[i], {.max_new_tokens = 128}));
    }
    for (ciuic::TextStream& stream : streams) {
      ciuic::Result<ciuic::Generation> answer = stream.finish();
      if (!answer) {
        std::fprintf(stderr, "demo: %s\n", std::string(answer.error().message()).c_str());
        std::exit(1);
      }
      result.latencies_ms.push_back(
          waited_ms + std::chrono::duration<double, std::milli>(answer->total_time).count());
      result.answers.push_back(*std::move(answer));
      if (progress) show_progress(result.answers.size(), kPrompts.size());
    }
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const ciuic::EngineStats after = engine.stats();
  result.mean_batch = static_cast<double>(after.sequence_steps - before.sequence_steps) /
                      static_cast<double>(std::max<std::uint64_t>(after.steps - before.steps, 1));
  return result;
}

void print_row(const char* name, const Run& run) {
  std::size_t tokens = 0;
  for (const ciuic::Generation& answer : run.answers) tokens += answer.tokens.size();
  std::printf("%-22s %10.0f %12.1f %12.1f %12.1f\n", name,
              static_cast<double>(tokens) / run.seconds, quantile(run.latencies_ms, 0.5),
              quantile(run.latencies_ms, 0.99), run.mean_batch);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: ciuic_demo MODEL_DIRECTORY [--threads N]\n");
    return 2;
  }
  ciuic::ModelOptions options;
  if (argc == 4 && std::strcmp(argv[2], "--threads") == 0) options.threads = std::atoi(argv[3]);
  ciuic::Result<ciuic::LanguageModel> model = ciuic::load_model(argv[1], options);
  if (!model) {
    std::fprintf(stderr, "demo: %s\n", std::string(model.error().message()).c_str());
    return 3;
  }
  ciuic::AsyncInferenceEngine engine(*std::move(model), {.max_sequences = 32});

  const Run continuous = run(engine, kPrompts.size(), /*progress=*/true);
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    std::printf("%2zu  \033[1m%s\033[0m%s\n", i + 1, kPrompts[i].c_str(),
                continuous.answers[i].text.c_str());
  }
  const Run single = run(engine, 1, false);
  const Run fixed = run(engine, 8, false);
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {  // batching must never change an answer
    if (single.answers[i].tokens != continuous.answers[i].tokens ||
        fixed.answers[i].tokens != continuous.answers[i].tokens) {
      std::fprintf(stderr, "demo: answer %zu depends on its batch\n", i + 1);
      return 1;
    }
  }
  std::printf(
      "\n%zu prompts, the same answers each way      latency from the moment all were there\n",
      kPrompts.size());
  std::printf("%-22s %10s %12s %12s %12s\n", "", "tokens/s", "p50 ms", "p99 ms", "mean batch");
  print_row("one at a time", single);
  print_row("fixed batches of 8", fixed);
  print_row("continuous", continuous);
  return 0;
}
