// LanguageModel: a Hugging Face directory that can be stepped, scored and spoken to.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "ciuic/base/function.hpp"
#include "ciuic/base/generation.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/model/generation_config.hpp"
#include "ciuic/model/load_limits.hpp"
#include "ciuic/model/model_config.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/mixed_precision.hpp"
#include "ciuic/text/tokenizer.hpp"

namespace ciuic::inline CIUIC_ABI {

class WeightFiles;

struct ModelOptions {
  /// What matrices are held as. From a quantized directory (`quantize_directory`) they are taken as
  /// they lie there, whatever is said here.
  MatrixFormat weights = DType::f32;
  /// Exceptions: the first rule whose pattern matches a matrix's name decides, for example
  /// {"*.down_proj", DType::i8}. Names: `model.embed_tokens`, `lm_head`, and of layer N
  /// `model.layers.N.` with `self_attn.qkv_proj`, `self_attn.o_proj`, `mlp.gate_up_proj` or
  /// `mlp.down_proj`. A pattern that matches no matrix is an error.
  std::vector<FormatRule> weight_rules{};
  /// Use the weights of a quantized directory where they lie in the file, without reading them:
  /// for files that nobody changes meanwhile. One that is cut short while it is in use ends the
  /// process with a signal.
  bool map_weights = false;
  /// What keys and values are kept as: f32, f16 or i8. Unset: f32 beside weights of f32, else f16,
  /// as for a quantized directory.
  std::optional<DType> kv{};
  std::shared_ptr<const Backend> backend{};  ///< null: this machine's CPU
  /// CPU threads of a step; 0 = all. As many load, unless `host` brings an executor or memory.
  int threads = 0;
  LoadLimits limits{};  ///< what a directory may ask for before it is refused
  HostContext host{};
};

/// Text of an answer while it is made, never half a character; silent when the model has no
/// tokenizer. Thread-safety: thread-compatible.
class AnswerText {
 public:
  explicit AnswerText(const Tokenizer* tokenizer) {
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
  }
  /// Views are valid until the next call.
  std::string_view push(TokenId token) {
    return decoder_ ? decoder_->push(token) : std::string_view();
  }
  std::string_view finish() { return decoder_ ? decoder_->finish() : std::string_view(); }

 private:
  std::optional<StreamDecoder> decoder_;
};

/// Bytes a model takes and will take.
struct ModelMemory {
  std::size_t weights_bytes = 0;  ///< packed weights on the device
  std::size_t kv_bytes = 0;       ///< key/value pages reserved
  std::size_t step_bytes = 0;     ///< what the largest step works with: it takes no more
};

/// A decoder of the Llama family with its tokenizer, loaded from a Hugging Face directory
/// (`config.json`, `*.safetensors`, `tokenizer.json`). Satisfies `TextModel`, so an
/// `AsyncInferenceEngine` can drive it.
///
/// Thread-safety: thread-compatible; `encode`, `text_stream` and the accessors may run beside a
/// step.
class CIUIC_API LanguageModel {
 public:
  /// Validates the whole directory before any weight memory is taken. A directory without
  /// `tokenizer.json` loads, and speaks token ids only.
  /// Errors: `not_found`, `bad_model`, `unsupported` naming file and field; `unsupported` for a
  /// `weights` or `kv` that the backend does not have; `invalid_argument` for a rule that matches
  /// no matrix; `io_error`, `out_of_memory`.
  static Result<LanguageModel> load(const std::filesystem::path& directory,
                                    const ModelOptions& options = {});
  /// A model of that shape with random weights and no tokenizer: it takes the time and memory of a
  /// trained one, and is for measuring them. `LoadLimits` do not apply.
  /// Errors: `unsupported`, `out_of_memory`.
  static Result<LanguageModel> random(const ModelConfig& config, const ModelOptions& options = {});
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();

  const ModelConfig& config() const noexcept;
  const GenerationConfig& generation_config() const noexcept;  ///< the directory's, or defaults
  const Tokenizer* tokenizer() const noexcept;                 ///< null when the directory has none
  const Backend& backend() const noexcept;
  ModelMemory memory() const noexcept;

  // --- text --------------------------------------------------------------------------------------
  /// The ids of a prompt, with beginning-of-text where the tokenizer adds it. Literals of special
  /// tokens in `text` are plain text unless `parse_special`.
  Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special = false) const;
  AnswerText text_stream() const;
  std::span<const TokenId> end_tokens() const noexcept;

  // --- steps -------------------------------------------------------------------------------------
  StepModelLimits limits() const noexcept;
  /// Takes memory for `pages` key/value pages and for steps of up to `max_step_tokens` tokens over
  /// `max_sequences` sequences, `max_drafts` of the tokens being guesses. Earlier contents are
  /// gone. Errors: `out_of_memory`.
  Result<void> reserve(std::int32_t pages, std::int32_t max_step_tokens, std::int32_t max_sequences,
                       std::int32_t max_drafts = 0);
  /// Errors: `invalid_argument` for steps outside what was reserved; what the device reports.
  Result<void> step(std::span<const SequenceStep> sequences, std::span<StepResult> results);

  /// Takes logits [n, vocab_size] of the positions first … first + n - 1. An error ends the pass.
  using LogitsReader = Function<Result<void>(std::int64_t first, std::span<const float> rows)>;
  /// Logits of every position of one sequence, f32 on the host, in order and a few hundred
  /// positions at a time. Uses memory of its own for the call; pages of `reserve` are untouched.
  Result<void> logits(std::span<const TokenId> tokens, LogitsReader read);
  /// The same at once: out [tokens, vocab_size].
  Result<void> logits(std::span<const TokenId> tokens, std::span<float> out);

 private:
  struct State;
  explicit LanguageModel(std::unique_ptr<State> state) noexcept;
  static Result<LanguageModel> finish(std::unique_ptr<State> state, const WeightFiles& files,
                                      const ModelOptions& options);
  std::unique_ptr<State> state_;
};

}  // namespace ciuic::inline CIUIC_ABI
