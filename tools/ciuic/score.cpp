// ciuic score: log-probabilities and perplexity of a text.
#include <cmath>
#include <cstdio>
#include <memory>

#include "ciuic/model/safetensors.hpp"
#include "command.hpp"

namespace ciuic::tool {
namespace {

struct Flags {
  ModelFlags model;
  std::string text_file, logits_file;
  bool parse_special = false;
};

/// log softmax(row)[token], in double.
double log_probability(std::span<const float> row, TokenId token) {
  double largest = -INFINITY, sum = 0.0;
  for (float logit : row) largest = std::max(largest, static_cast<double>(logit));
  for (float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return static_cast<double>(row[static_cast<std::size_t>(token)]) - largest - std::log(sum);
}

void run(const Flags& flags) {
  const std::string text = read_file(flags.text_file);
  if (text.empty()) throw Failure(kBadInput, flags.text_file + ": wanted text, got none");
  LanguageModel model = flags.model.load();
  const auto tokens = model.encode(text, flags.parse_special);
  if (!tokens) throw Failure(kRequestFailed, tokens.error());
  if (tokens->empty()) throw Failure(kBadInput, flags.text_file + ": wanted text, got none");
  const std::int32_t context = model.config().max_position_embeddings;
  if (std::ssize(*tokens) > context) {
    throw Failure(kBadInput, flags.text_file + ": wanted at most the model's context of " +
                                 std::to_string(context) + " tokens, got " +
                                 std::to_string(tokens->size()));
  }
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  std::vector<float> all;  // only when they are to be written
  std::vector<double> logprobs;
  double total = 0.0;
  const Result<void> scored =
      model.logits(*tokens, [&](std::int64_t first, std::span<const float> rows) -> Result<void> {
        if (!flags.logits_file.empty()) all.insert(all.end(), rows.begin(), rows.end());
        auto next = static_cast<std::size_t>(first) + 1;
        for (std::size_t at = 0; at < rows.size() && next < tokens->size(); at += vocab, ++next) {
          logprobs.push_back(log_probability(rows.subspan(at, vocab), (*tokens)[next]));
          if (std::isnan(logprobs.back())) {
            return Error(ErrorCode::model_failed,
                         {"logits after token ", std::to_string(next - 1), ": not a number"});
          }
          total += logprobs.back();
        }
        return {};
      });
  if (!scored) throw Failure(kRequestFailed, scored.error());
  const double perplexity =
      logprobs.empty() ? NAN : std::exp(-total / static_cast<double>(logprobs.size()));
  if (!flags.logits_file.empty()) {
    const Shape shape{static_cast<std::int64_t>(tokens->size()), static_cast<std::int64_t>(vocab)};
    const NamedTensor tensor{"logits", {std::as_bytes(std::span(all)).data(), DType::f32, shape}};
    const Result<void> written = write_safetensors(flags.logits_file, {&tensor, 1});
    if (!written) throw Failure(kRequestFailed, flags.logits_file, written.error());
  }
  if (flags.model.json) {
    return print_json({{"tokens", *tokens},
                       {"logprobs", logprobs},
                       {"perplexity", logprobs.empty() ? Json() : Json(perplexity)}});
  }
  if (logprobs.empty()) {
    std::printf("1 token, which nothing comes before: no perplexity\n");
  } else {
    std::printf("%zu tokens, perplexity %.4f\n", tokens->size(), perplexity);
  }
}

}  // namespace

void add_score(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("score", "Log-probability of each token of a text, and perplexity");
  flags->model.add_to(*command);
  command->add_option("--text-file", flags->text_file, "Text to score")
      ->required()
      ->type_name("FILE");
  command->add_option("--logits", flags->logits_file, "Write all logits there")
      ->type_name("OUT.safetensors");
  command->add_flag("--parse-special", flags->parse_special,
                    "Literals of special tokens are those tokens");
  command->callback([flags] { run(*flags); });
}

}  // namespace ciuic::tool
