#include "ciuic/model/language_model.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/try.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/model/llama_weight_map.hpp"
#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "model/choose.hpp"
#include "model/decoder.hpp"
#include "model/in_parallel.hpp"
#include "model/model_files.hpp"
#include "model/packed_directory.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::int32_t kPageTokens = 16;
constexpr std::size_t kScoreTokens = 256;  // positions per pass when every logit is wanted
constexpr std::int32_t kMaxDrafts = 1 << 16, kMaxTopLogprobs = 20;

Error out_of_step(std::string_view what, std::int64_t wanted, std::int64_t got) {
  return Error(
      ErrorCode::invalid_argument,
      {"step: ", what, ": wanted at most ", std::to_string(wanted), ", got ", std::to_string(got)});
}

Result<void> check_choices(const SequenceStep& step) {
  if (step.drafts < 0 || step.drafts >= std::ssize(step.tokens)) {
    return Error(
        ErrorCode::invalid_argument,
        {"step: drafts: wanted 0 to one less than its tokens, got ", std::to_string(step.drafts)});
  }
  if (step.logprobs.empty()) return {};
  const std::int64_t wanted =
      (1 + std::int64_t{step.drafts}) * (1 + std::int64_t{step.top_logprobs});
  if (step.top_logprobs < 0 || step.top_logprobs > kMaxTopLogprobs ||
      std::ssize(step.logprobs) != wanted) {
    return Error(ErrorCode::invalid_argument,
                 {"step: logprobs: wanted room for (1 + drafts) * (1 + top_logprobs <= 20) = ",
                  std::to_string(wanted), ", got ", std::to_string(step.logprobs.size())});
  }
  return {};
}

}  // namespace

struct LanguageModel::State {
  ModelConfig config;
  GenerationConfig generation;
  std::optional<Tokenizer> tokenizer;
  std::vector<TokenId> end_tokens;
  std::shared_ptr<const Backend> backend;  // outlives, by order, everything made from it
  std::unique_ptr<Queue> queue;
  DecoderWeights weights;
  std::unique_ptr<KvCache> cache;
  std::optional<DecoderWorkspace> workspace;
  std::vector<float> logits;             // [choices, vocab]
  std::vector<float> scratch;            // [vocab]
  std::vector<std::int32_t> logit_rows;  // of the step, in the order of `logits`
  std::size_t kv_bytes = 0;
  DType kv = DType::f32;

  std::int32_t pages_per_sequence() const {
    return ceil_div(config.max_position_embeddings, kPageTokens);
  }
  KvCacheShape cache_shape(std::int32_t pages) const {
    return {config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
            kPageTokens,
            pages,
            kv};
  }
};

LanguageModel::LanguageModel(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
LanguageModel::LanguageModel(LanguageModel&&) noexcept = default;
LanguageModel& LanguageModel::operator=(LanguageModel&&) noexcept = default;
LanguageModel::~LanguageModel() = default;

Result<LanguageModel> LanguageModel::load(const std::filesystem::path& directory,
                                          const ModelOptions& options) {
  auto state = std::make_unique<State>();
  CIUIC_ASSIGN_OR_RETURN(state->config, ModelConfig::load(directory, options.limits));
  CIUIC_ASSIGN_OR_RETURN(
      state->generation,
      GenerationConfig::load(directory, state->config.vocab_size, options.limits));
  CIUIC_ASSIGN_OR_RETURN(const WeightFiles files, WeightFiles::open(directory, options.limits));
  CIUIC_TRY(is_packed(files) ? check_llama_vectors(state->config, files)
                             : check_llama_weights(state->config, files));
  // Read by the same rules as the other files of the directory: no link leads out of it.
  Result<std::string> tokenizer =
      read_model_text(directory, "tokenizer.json", TokenizerLimits().max_file_bytes);
  if (tokenizer) {
    CIUIC_ASSIGN_OR_RETURN(state->tokenizer, Tokenizer::parse(*tokenizer, "tokenizer.json"));
    tokenizer = std::string();
    if (state->tokenizer->vocab_size() > state->config.vocab_size) {
      return Error(ErrorCode::bad_model,
                   {"tokenizer.json: vocabulary: wanted ids below vocab_size ",
                    std::to_string(state->config.vocab_size), " of config.json, got ",
                    std::to_string(state->tokenizer->vocab_size() - 1)});
    }
  } else if (tokenizer.error().code() != ErrorCode::not_found) {
    return std::move(tokenizer).error();
  }
  state->end_tokens = state->generation.eos_token_ids.empty() ? state->config.eos_token_ids
                                                              : state->generation.eos_token_ids;
  return finish(std::move(state), files, options);
}

Result<LanguageModel> LanguageModel::random(const ModelConfig& config,
                                            const ModelOptions& options) {
  auto state = std::make_unique<State>();
  state->config = config;
  CIUIC_ASSIGN_OR_RETURN(const WeightFiles weights, random_llama_weights(config));
  return finish(std::move(state), weights, options);
}

/// The part of loading that takes memory: the backend, and the weights on it.
Result<LanguageModel> LanguageModel::finish(std::unique_ptr<State> state, const WeightFiles& files,
                                            const ModelOptions& options) {
  state->backend = options.backend;
  if (!state->backend) {
    CIUIC_ASSIGN_OR_RETURN(state->backend, cpu_backend({.host = options.host}));
  }
  CIUIC_ASSIGN_OR_RETURN(state->queue, state->backend->make_queue({.threads = options.threads}));
  const bool exact = options.weights == DType::f32 && !is_packed(files);
  state->kv = options.kv.value_or(exact ? DType::f32 : DType::f16);
  if (state->kv != DType::f32 && state->kv != DType::f16 && state->kv != DType::i8) {
    return Error(ErrorCode::unsupported,
                 {"load: options.kv: wanted f32, f16 or i8, got ", to_string(state->kv)});
  }
  if (state->backend->kv_page_bytes(state->cache_shape(1)) == 0) {
    return Error(
        ErrorCode::unsupported,
        {"config.json: head_dim: the ", state->backend->name(), " backend has no attention for ",
         std::to_string(state->config.head_dim), " in ", to_string(state->kv)});
  }
  CIUIC_ASSIGN_OR_RETURN(
      state->weights,
      DecoderWeights::load(state->config, files, *state->backend,
                           {.format = options.weights,
                            .rules = options.weight_rules,
                            .map = options.map_weights,
                            .threads = working_threads(options.threads, options.host)}));
  return LanguageModel(std::move(state));
}

const ModelConfig& LanguageModel::config() const noexcept { return state_->config; }
const GenerationConfig& LanguageModel::generation_config() const noexcept {
  return state_->generation;
}
const Tokenizer* LanguageModel::tokenizer() const noexcept {
  return state_->tokenizer ? &*state_->tokenizer : nullptr;
}
const Backend& LanguageModel::backend() const noexcept { return *state_->backend; }
ModelMemory LanguageModel::memory() const noexcept {
  return {state_->weights.bytes(), state_->kv_bytes,
          state_->workspace ? state_->workspace->bytes() + state_->queue->bytes() : 0};
}

Result<std::vector<TokenId>> LanguageModel::encode(std::string_view text,
                                                   bool parse_special) const {
  if (!state_->tokenizer) {
    return Error(ErrorCode::unsupported, "encode: the model directory has no tokenizer.json");
  }
  return state_->tokenizer->encode(text,
                                   {.add_special_tokens = true, .parse_special = parse_special});
}
AnswerText LanguageModel::text_stream() const { return AnswerText(tokenizer()); }
std::span<const TokenId> LanguageModel::end_tokens() const noexcept { return state_->end_tokens; }

StepModelLimits LanguageModel::limits() const noexcept {
  return {.vocab_size = state_->config.vocab_size,
          .max_context_tokens = state_->config.max_position_embeddings,
          .page_tokens = kPageTokens,
          .page_bytes = state_->backend->kv_page_bytes(state_->cache_shape(1)),
          .max_drafts = kMaxDrafts,
          .logits_hook = true,
          .max_top_logprobs = kMaxTopLogprobs};
}

Result<void> LanguageModel::reserve(std::int32_t pages, std::int32_t max_step_tokens,
                                    std::int32_t max_sequences, std::int32_t max_drafts) {
  if (pages < 1 || max_step_tokens < 1 || max_sequences < 1) {
    return Error(ErrorCode::invalid_argument,
                 "reserve: pages, tokens and sequences: wanted at least 1 each");
  }
  if (max_drafts < 0 || max_drafts > kMaxDrafts) {
    return out_of_step("reserve: drafts", kMaxDrafts, max_drafts);
  }
  State& s = *state_;
  s.workspace.reset();  // before the new: both together might not fit
  s.cache.reset();
  s.kv_bytes = 0;
  CIUIC_TRY(call_guarded(ErrorCode::internal, "reserve", [&] {
    const auto vocab = static_cast<std::size_t>(s.config.vocab_size);
    const auto choices =
        static_cast<std::size_t>(max_sequences) + static_cast<std::size_t>(max_drafts);
    s.logits = std::vector<float>(choices * vocab);
    s.scratch = std::vector<float>(vocab);
    s.logit_rows.reserve(choices);
  }));
  CIUIC_TRY(s.weights.reserve(*s.queue, max_step_tokens, max_sequences + max_drafts));
  CIUIC_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache,
                         s.backend->make_kv_cache(s.cache_shape(pages)));
  CIUIC_ASSIGN_OR_RETURN(DecoderWorkspace workspace,
                         DecoderWorkspace::create(s.config, *s.backend, max_step_tokens,
                                                  max_sequences, max_sequences + max_drafts,
                                                  std::min(pages, s.pages_per_sequence())));
  s.cache = std::move(cache);
  s.workspace.emplace(std::move(workspace));
  s.kv_bytes = static_cast<std::size_t>(pages) * limits().page_bytes;
  return {};
}

Result<void> LanguageModel::step(std::span<const SequenceStep> sequences,
                                 std::span<StepResult> results) {
  State& s = *state_;
  if (!s.workspace) return Error(ErrorCode::invalid_argument, "step: reserve must come first");
  if (sequences.empty()) return {};
  if (results.size() != sequences.size()) {
    return Error(ErrorCode::invalid_argument, "step: results: wanted one for each sequence");
  }
  if (std::ssize(sequences) > s.workspace->max_sequences()) {
    return out_of_step("sequences", s.workspace->max_sequences(), std::ssize(sequences));
  }
  std::int64_t tokens = 0, choices = 0;
  s.logit_rows.clear();
  for (const SequenceStep& sequence : sequences) {
    const std::int64_t end = sequence.first_position + std::ssize(sequence.tokens);
    if (sequence.tokens.empty() || sequence.first_position < 0) {
      return Error(ErrorCode::invalid_argument,
                   "step: a sequence without tokens or at a negative position");
    }
    if (end > s.config.max_position_embeddings) {
      return out_of_step("context", s.config.max_position_embeddings, end);
    }
    if (std::ssize(sequence.pages) * kPageTokens < end ||
        std::ssize(sequence.pages) > s.pages_per_sequence()) {
      return Error(
          ErrorCode::invalid_argument,
          {"step: pages: wanted ", std::to_string(ceil_div<std::int64_t>(end, kPageTokens)),
           " to cover the context, got ", std::to_string(sequence.pages.size())});
    }
    for (std::int32_t page : sequence.pages) {
      if (page < 0 || page >= s.cache->shape().pages)
        return out_of_step("page", s.cache->shape().pages - 1, page);
    }
    CIUIC_TRY(check_choices(sequence));
    tokens += std::ssize(sequence.tokens);
    if (!sequence.sample) continue;
    choices += 1 + sequence.drafts;
    if (choices > s.workspace->max_choices()) {
      return out_of_step("sequences and drafts", s.workspace->max_choices(), choices);
    }
    for (std::int64_t row = tokens - 1 - sequence.drafts; row < tokens; ++row) {
      s.logit_rows.push_back(static_cast<std::int32_t>(row));
    }
  }
  if (tokens > s.workspace->max_tokens())
    return out_of_step("tokens", s.workspace->max_tokens(), tokens);

  const auto vocab = static_cast<std::size_t>(s.config.vocab_size);
  const std::span<float> logits = std::span(s.logits).first(s.logit_rows.size() * vocab);
  CIUIC_TRY(s.workspace->forward(s.weights, *s.cache, *s.queue, {sequences, s.logit_rows}, logits));

  std::size_t at = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    results[i] = StepResult();
    if (!sequences[i].sample) continue;
    const std::size_t count = static_cast<std::size_t>(1 + sequences[i].drafts) * vocab;
    choose(sequences[i], logits.subspan(at, count), s.scratch, results[i]);
    at += count;
  }
  return {};
}

Result<void> LanguageModel::logits(std::span<const TokenId> tokens, LogitsReader read) {
  State& s = *state_;
  const auto vocab = static_cast<std::size_t>(s.config.vocab_size);
  if (tokens.empty()) {
    return Error(ErrorCode::invalid_argument, "logits: tokens: wanted at least one");
  }
  if (std::ssize(tokens) > s.config.max_position_embeddings) {
    return out_of_step("context", s.config.max_position_embeddings, std::ssize(tokens));
  }
  const auto pages =
      static_cast<std::int32_t>(ceil_div<std::int64_t>(std::ssize(tokens), kPageTokens));
  const auto chunk = std::min(tokens.size(), kScoreTokens);
  CIUIC_ASSIGN_OR_RETURN(const std::unique_ptr<KvCache> cache,
                         s.backend->make_kv_cache(s.cache_shape(pages)));
  CIUIC_ASSIGN_OR_RETURN(
      DecoderWorkspace work,
      DecoderWorkspace::create(s.config, *s.backend, static_cast<std::int32_t>(chunk),
                               static_cast<std::int32_t>(chunk), static_cast<std::int32_t>(chunk),
                               pages));
  std::vector<std::int32_t> table(static_cast<std::size_t>(pages)), rows(chunk);
  std::iota(table.begin(), table.end(), 0);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> logits(chunk * vocab);
  for (std::size_t at = 0; at < tokens.size();) {
    const std::size_t n = std::min(tokens.size() - at, chunk);
    const SequenceStep step{.tokens = tokens.subspan(at, n),
                            .first_position = static_cast<std::int32_t>(at),
                            .pages = table};
    const std::span<float> some = std::span(logits).first(n * vocab);
    CIUIC_TRY(
        work.forward(s.weights, *cache, *s.queue, {{&step, 1}, std::span(rows).first(n)}, some));
    CIUIC_TRY(read(static_cast<std::int64_t>(at), some));
    at += n;
  }
  return {};
}

Result<void> LanguageModel::logits(std::span<const TokenId> tokens, std::span<float> out) {
  const auto vocab = static_cast<std::size_t>(state_->config.vocab_size);
  if (out.size() != tokens.size() * vocab) {
    return Error(ErrorCode::invalid_argument,
                 {"logits: out: wanted ", std::to_string(tokens.size() * vocab), " values, got ",
                  std::to_string(out.size())});
  }
  return logits(tokens, [&](std::int64_t first, std::span<const float> rows) -> Result<void> {
    std::copy(rows.begin(), rows.end(), out.begin() + first * static_cast<std::int64_t>(vocab));
    return {};
  });
}

}  // namespace ciuic::inline CIUIC_ABI
