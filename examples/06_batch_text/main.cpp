// Texts of different lengths in, one batch, single answers out: what the model would write next.
//   06_batch_text examples/models/ciuic-tiny
#include <cstdio>
#include <string>
#include <vector>

#include "ciuic/ciuic.hpp"

using ciuic::TokenId;

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  if (argc != 2) return std::fprintf(stderr, "usage: 06_batch_text MODEL_DIRECTORY\n"), 2;
  ciuic::Result<ciuic::LanguageModel> model = ciuic::load_model(argv[1]);
  if (!model || model->tokenizer() == nullptr || !model->reserve(512, 4096, 64)) return 3;
  const ciuic::Tokenizer tokenizer = *model->tokenizer();

  // The model sees the texts of a batch end to end, with `cu_seqlens`, and writes a row for each.
  auto next_token = [&](const ciuic::PackedInput<TokenId>& in, ciuic::Rows<TokenId>& out) {
    std::vector<ciuic::SequenceStep> steps(in.requests);
    std::vector<ciuic::StepResult> results(in.requests);
    std::vector<std::int32_t> pages(512);
    for (std::size_t page = 0; page < pages.size(); ++page) pages[page] = static_cast<int>(page);
    std::span<const std::int32_t> free = pages;
    const auto page_tokens = static_cast<std::size_t>(model->limits().page_tokens);
    for (std::size_t i = 0; i < in.requests; ++i) {
      const std::size_t needed = (in.sequence(i).size() + page_tokens - 1) / page_tokens;
      steps[i] = {.tokens = in.sequence(i), .pages = free.first(needed)};
      free = free.subspan(needed);
    }
    ciuic::Result<void> ran = model->step(steps, results);
    const std::span<TokenId> rows = out.resize(in.requests, 1);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = results[i].token;
    return ran;
  };
  ciuic::AdaptedBatcher batcher(
      next_token,
      ciuic::TextAdapter(ciuic::PackedAdapter<TokenId, TokenId>({.max_length = 1024}), tokenizer),
      {.max_batch_size = 64, .max_batch_cost = 4096, .max_queue_delay = 5ms});  // cost: tokens

  const std::vector<std::string> texts{"3+4=", "The day after 2024-02-28 is 2024-02-2", "40+40=",
                                       "Order 17: 2 pens at 3 coins and 1 book at 5 coins. Total"};
  std::vector<ciuic::Future<ciuic::Rows<TokenId>>> answers;
  for (const std::string& text : texts) answers.push_back(batcher.submit(text));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const ciuic::Result<ciuic::Rows<TokenId>> answer = answers[i].get();
    if (!answer) return std::fprintf(stderr, "%s\n", answer.error().message().data()), 1;
    const auto next = tokenizer.decode(answer->values());
    std::printf("%s[%s]\n", texts[i].c_str(), next ? next->c_str() : "?");
    if (i == 0 && (!next || *next != "7")) return 1;
  }
  std::printf("%.1f texts a batch\n", batcher.stats().mean_batch());
}
