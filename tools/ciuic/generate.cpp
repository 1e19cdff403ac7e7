// ciuic generate: prompts in, answers out, all at once through the engine.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>

#include "command.hpp"
#include "progress.hpp"

namespace ciuic::tool {
namespace {

struct Flags {
  ModelFlags model;
  std::string prompt, prompts_file;
  GenerateOptions request;
  bool greedy = false, chat = false;
  std::optional<float> temperature, top_p, repetition_penalty;
  std::optional<std::int32_t> top_k, max_new_tokens, draft_tokens, top_logprobs;
  std::optional<std::uint64_t> seed;
  std::int32_t max_batch_tokens = 2048;
};

struct Prompt {
  std::string text;
  GenerateOptions options;
  std::vector<TokenId> tokens;  // of the rendered conversation, with --chat
};

/// The member called `name`, with dashes or underscores; null when there is none.
const Json* member(const Json& line, std::string name) {
  auto found = line.find(name);
  if (found == line.end()) {
    std::replace(name.begin(), name.end(), '-', '_');
    found = line.find(name);
  }
  return found == line.end() ? nullptr : &*found;
}

/// A JSON number as T, or a Failure naming the line and the option.
template <class T>
void read_option(const Json& line, const std::string& name, const std::string& where,
                 std::optional<T>& to) {
  const Json* found = member(line, name);
  if (found == nullptr) return;
  const bool fits = std::is_integral_v<T> ? found->is_number_integer() : found->is_number();
  if (!fits) throw Failure(kBadInput, where + name + ": wanted a number, got " + found->dump());
  if constexpr (std::is_integral_v<T>) {
    const bool in_range = std::is_unsigned_v<T>
                              ? found->is_number_unsigned()
                              : std::in_range<std::int32_t>(found->get<std::int64_t>());
    if (!in_range) throw Failure(kBadInput, where + name + ": out of range: " + found->dump());
  }
  to = found->get<T>();
}

void read_flag(const Json& line, const std::string& name, const std::string& where, bool& to) {
  const Json* value = member(line, name);
  if (value == nullptr) return;
  if (!value->is_boolean()) {
    throw Failure(kBadInput, where + name + ": wanted true or false, got " + value->dump());
  }
  to = value->get<bool>();
}

/// One text or a list of them.
void read_stop(const Json& line, const std::string& where, std::vector<std::string>& to) {
  const Json* value = member(line, "stop");
  if (value == nullptr) return;
  to.clear();
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& text : list) {
    if (!text.is_string()) {
      throw Failure(kBadInput, where + "stop: wanted texts, got " + text.dump());
    }
    to.push_back(text.get<std::string>());
  }
}

void refuse_unknown(const Json& line, const std::string& where) {
  static constexpr std::string_view kKnown[] = {
      "prompt", "max-new-tokens",     "greedy", "temperature",   "top-k", "draft-tokens",
      "top-p",  "repetition-penalty", "seed",   "parse-special", "stop",  "top-logprobs"};
  for (const auto& [name, value] : line.items()) {
    std::string dashed = name;
    std::replace(dashed.begin(), dashed.end(), '_', '-');
    if (std::find(std::begin(kKnown), std::end(kKnown), dashed) == std::end(kKnown)) {
      throw Failure(kBadInput, where + name + ": not an option of a prompt");
    }
  }
}

/// What was asked for over what the directory recommends over greedy.
GenerateOptions resolve(const Flags& flags, const GenerationConfig& recommended) {
  GenerateOptions options = flags.request;
  SamplingOptions& sampling = options.sampling;
  // Asking for a way to sample is asking to sample.
  const bool sample = !flags.greedy && (flags.temperature || flags.top_k || flags.top_p ||
                                        flags.seed || recommended.do_sample.value_or(false));
  sampling.temperature =
      sample ? flags.temperature.value_or(static_cast<float>(recommended.temperature.value_or(1.0)))
             : 0.0f;
  sampling.top_k = flags.top_k.value_or(recommended.top_k.value_or(0));
  sampling.top_p = flags.top_p.value_or(static_cast<float>(recommended.top_p.value_or(1.0)));
  sampling.repetition_penalty = flags.repetition_penalty.value_or(
      static_cast<float>(recommended.repetition_penalty.value_or(1.0)));
  sampling.seed = flags.seed.value_or(0);
  options.max_new_tokens = flags.max_new_tokens.value_or(recommended.max_new_tokens.value_or(128));
  options.draft_tokens = flags.draft_tokens.value_or(0);
  options.top_logprobs = flags.top_logprobs.value_or(-1);
  return options;
}

std::vector<Prompt> read_prompts(const Flags& flags, const GenerationConfig& recommended) {
  if (flags.prompts_file.empty()) return {{flags.prompt, resolve(flags, recommended), {}}};
  std::vector<Prompt> prompts;
  std::istringstream lines(read_file(flags.prompts_file));
  std::size_t number = 0;
  for (std::string text; std::getline(lines, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = flags.prompts_file + ":" + std::to_string(number) + ": ";
    const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || !line.contains("prompt") || !line["prompt"].is_string()) {
      throw Failure(kBadInput, where + "wanted {\"prompt\": \"…\"}, got " + text.substr(0, 60));
    }
    Flags own = flags;
    read_option(line, "max-new-tokens", where, own.max_new_tokens);
    read_option(line, "temperature", where, own.temperature);
    read_option(line, "top-k", where, own.top_k);
    read_option(line, "top-p", where, own.top_p);
    read_option(line, "repetition-penalty", where, own.repetition_penalty);
    read_option(line, "seed", where, own.seed);
    read_option(line, "draft-tokens", where, own.draft_tokens);
    read_option(line, "top-logprobs", where, own.top_logprobs);
    if (line.contains("temperature") && own.temperature > 0.0f) own.greedy = false;
    read_flag(line, "greedy", where, own.greedy);
    read_flag(line, "parse-special", where, own.request.parse_special);
    read_stop(line, where, own.request.stop);
    refuse_unknown(line, where);
    prompts.push_back({line["prompt"].get<std::string>(), resolve(own, recommended), {}});
  }
  if (prompts.empty())
    throw Failure(kBadInput, flags.prompts_file + ": wanted at least one prompt, got none");
  return prompts;
}

/// Turns each prompt into the tokens of a conversation in which a user says it.
void render_chat(const Flags& flags, const LanguageModel& model, std::vector<Prompt>& prompts) {
  const Result<ChatFormat> chat = ChatFormat::load(flags.model.directory);
  if (!chat) throw Failure(flags.model.directory, chat.error());
  const Tokenizer* tokenizer = model.tokenizer();
  if (tokenizer == nullptr)
    throw Failure(kBadInput, flags.model.directory + ": wanted tokenizer.json for --chat");
  for (Prompt& prompt : prompts) {
    // The template's own special tokens must be parsed, so the user's text may not hold any.
    const auto own =
        tokenizer->encode(prompt.text, {.add_special_tokens = false, .parse_special = true});
    if (!own) throw Failure(kRequestFailed, own.error());
    for (TokenId id : *own) {
      if (tokenizer->is_special(id) && !flags.request.parse_special) {
        throw Failure(kBadInput, "prompt: the special token " +
                                     tokenizer->token_of(id).value_or("?") +
                                     " stands in a user's message; --parse-special allows it");
      }
    }
    const ChatMessage message{"user", prompt.text, {}};
    const Result<std::string> text = chat->apply({&message, 1});
    if (!text) throw Failure(kBadInput, text.error());
    auto tokens = tokenizer->encode(*text, {.add_special_tokens = false, .parse_special = true});
    if (!tokens) throw Failure(kRequestFailed, tokens.error());
    prompt.tokens = *std::move(tokens);
  }
}

Json to_json(const std::vector<TokenLogprobs>& logprobs) {
  Json rows = Json::array();
  for (const TokenLogprobs& token : logprobs) {
    Json top = Json::array();
    for (const TokenLogprob& other : token.top) {
      top.push_back({{"token", other.token}, {"logprob", other.logprob}});
    }
    rows.push_back({{"logprob", token.logprob}, {"top", std::move(top)}});
  }
  return rows;
}

void run(const Flags& flags) {
  LanguageModel model = flags.model.load();
  std::vector<Prompt> prompts = read_prompts(flags, model.generation_config());
  if (flags.chat) render_chat(flags, model, prompts);

  using Clock = std::chrono::steady_clock;
  // Nobody watches one answer while another's prompt is computed: steps may be as long as they get.
  AsyncInferenceEngine engine(std::move(model), {.max_batch_tokens = flags.max_batch_tokens,
                                                 .queue_capacity = prompts.size(),
                                                 .prompt_stretch = 0});
  const Clock::time_point start = Clock::now();
  std::vector<TextStream> streams;
  for (const Prompt& prompt : prompts) {
    streams.push_back(flags.chat ? engine.generate(prompt.tokens, prompt.options)
                                 : engine.generate(prompt.text, prompt.options));
  }

  // One prompt on a plain terminal is read as it is made; everything else in the order of the
  // input.
  const bool streaming = prompts.size() == 1 && !flags.model.json;
  Progress progress("generate", streaming ? 0 : prompts.size());
  Json results = Json::array();
  std::size_t prompt_tokens = 0, new_tokens = 0;
  std::string failures;  // one line each
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    while (streaming) {
      const auto piece = streams[i].next();
      if (!piece || !*piece) break;
      std::fwrite((*piece)->data(), 1, (*piece)->size(), stdout);
      std::fflush(stdout);
    }
    const Result<Generation> answer = streams[i].finish();
    progress.advance();
    Json row{{"prompt", prompts[i].text}};
    if (answer) {
      row["text"] = answer->text;
      row["tokens"] = answer->tokens;
      row["finish_reason"] = to_string(answer->reason);
      if (!answer->logprobs.empty()) row["logprobs"] = to_json(answer->logprobs);
      prompt_tokens += static_cast<std::size_t>(answer->prompt_tokens);
      new_tokens += answer->tokens.size();
    } else {
      if (!failures.empty()) failures += "\nciuic: ";
      if (prompts.size() > 1) failures += "prompt " + std::to_string(i + 1) + ": ";
      failures += answer.error().message();
      row["error"] = {{"code", to_string(answer.error().code())},
                      {"message", answer.error().message()}};
    }
    if (flags.model.json) {
      results.push_back(std::move(row));
    } else if (streaming) {
      if (answer) std::printf("\n");
    } else if (answer) {
      progress.clear();
      std::printf("%s%s\n", prompts[i].text.c_str(), answer->text.c_str());
    }
  }
  progress.clear();
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (flags.model.json) {
    const EngineStats stats = engine.stats();
    print_json({{"results", std::move(results)},
                {"stats",
                 {{"prompt_tokens", prompt_tokens},
                  {"new_tokens", new_tokens},
                  {"seconds", seconds},
                  {"new_tokens_per_s", static_cast<double>(new_tokens) / seconds},
                  {"cached_tokens", stats.cached_tokens},
                  {"drafted_tokens", stats.drafted_tokens},
                  {"accepted_drafts", stats.accepted_drafts},
                  {"steps", stats.steps},
                  {"mean_sequences_per_step", stats.mean_sequences_per_step()}}}});
  }
  if (!failures.empty()) throw Failure(kRequestFailed, failures);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("generate", "Continue prompts");
  flags->model.add_to(*command);
  auto* input = command->add_option_group("input", "what to continue");
  input->add_option("--prompt", flags->prompt, "One prompt");
  input
      ->add_option("--prompts", flags->prompts_file,
                   "One {\"prompt\": …} per line, options of the same names as these flags allowed")
      ->type_name("FILE.jsonl");
  input->require_option(1);
  constexpr double kMost = std::numeric_limits<std::int32_t>::max(), kLeast = 1e-6, kLarge = 1e6;
  command->add_option("--max-new-tokens", flags->max_new_tokens, "Cut the answer after N tokens")
      ->check(between(1, kMost));
  CLI::Option* greedy = command->add_flag("--greedy", flags->greedy, "Always the likeliest token");
  command->add_option("--temperature", flags->temperature, "Sample, with logits divided by T")
      ->excludes(greedy)
      ->check(between(0, kLarge));
  command->add_option("--top-k", flags->top_k, "Sample among the K likeliest")
      ->check(between(0, kMost));
  command
      ->add_option("--top-p", flags->top_p, "Sample among the likeliest that reach probability P")
      ->check(between(kLeast, 1));
  command
      ->add_option("--repetition-penalty", flags->repetition_penalty,
                   "More than 1 discourages repeats")
      ->check(between(kLeast, kLarge));
  command->add_option("--seed", flags->seed, "Same seed, same answer")
      ->check([](const std::string& seed) {
        return seed.starts_with('-') ? "wanted at least 0, got " + seed : std::string();
      });
  command->add_option("--stop", flags->request.stop,
                      "End the answer before this text (repeatable)");
  command
      ->add_option("--draft-tokens", flags->draft_tokens,
                   "Check up to N guesses a step: the same answer, sooner where text repeats")
      ->check(between(0, 1024));
  command
      ->add_option("--top-logprobs", flags->top_logprobs,
                   "With --json: log-probabilities of each token and of the N likeliest")
      ->check(between(0, 20));
  command->add_option("--max-batch-tokens", flags->max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--chat", flags->chat,
                    "The prompt is a user's message: apply the model's chat template");
  command->add_flag("--parse-special", flags->request.parse_special,
                    "Literals of special tokens in the prompt are those tokens");
  command->callback([flags] {
    if (flags->top_logprobs && !flags->model.json) {
      throw Failure(kWrongUsage, "generate: --top-logprobs: wanted --json beside it");
    }
    run(*flags);
  });
}

}  // namespace ciuic::tool
