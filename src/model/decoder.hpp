// The forward pass of a Llama decoder as calls to a Queue. Private: LanguageModel is the public
// face.
//
//   x = embed(ids)
//   per layer:  x += W_o attention(rope(W_qkv norm(x)))
//               x += W_down (silu(W_gate norm(x)) * W_up norm(x))
//   logits = W_head norm(x)      for the rows that were asked for
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ciuic/base/generation.hpp"
#include "ciuic/model/model_config.hpp"
#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/mixed_precision.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What one forward pass computes, on the host side.
struct ForwardBatch {
  std::span<const SequenceStep> sequences;
  std::span<const std::int32_t> logit_rows;  ///< rows of the packed batch whose logits are wanted
};

/// How weights are held. A quantized directory has said so itself: of this only `map` and
/// `threads` matter to it.
struct WeightOptions {
  MatrixFormat format{};
  std::span<const FormatRule> rules{};  ///< by the names of decoder_matrices
  bool map = false;                     ///< use the bytes of a quantized directory in place
  int threads = 1;                      ///< that load; 0 = all
};

/// Weights on a device. Immutable after loading.
class DecoderWeights {
 public:
  /// Matrices are read a few rows at a time, so that never much more than the result is held.
  static Result<DecoderWeights> load(const ModelConfig& config, const WeightFiles& files,
                                     const Backend& backend, const WeightOptions& options);
  std::size_t bytes() const noexcept { return bytes_; }
  /// Takes what `queue` needs for steps of so many tokens and logits. Errors: `out_of_memory`.
  Result<void> reserve(Queue& queue, std::int32_t max_tokens, std::int32_t max_logits) const;

 private:
  friend class DecoderWorkspace;
  struct Layer {
    DeviceBuffer attention_norm, mlp_norm;                     // [d_model]
    DeviceBuffer qkv_bias, out_bias, gate_up_bias, down_bias;  // empty when the model has none
    std::unique_ptr<PackedMatrix> qkv;      // [(heads + 2 kv_heads) * head_dim, d_model]
    std::unique_ptr<PackedMatrix> out;      // [d_model, heads * head_dim]
    std::unique_ptr<PackedMatrix> gate_up;  // gated [2 * d_ff, d_model]
    std::unique_ptr<PackedMatrix> down;     // [d_model, d_ff]
  };
  std::unique_ptr<PackedMatrix> embedding_;  // [vocab, d_model]
  std::unique_ptr<PackedMatrix> head_;       // null when tied to the embedding
  DeviceBuffer final_norm_, rope_frequencies_;
  std::vector<Layer> layers_;
  std::size_t bytes_ = 0;
};

/// Everything a step needs besides weights and the cache: activations and the staging of indices,
/// sized once for the largest step. Thread-compatible.
class DecoderWorkspace {
 public:
  static Result<DecoderWorkspace> create(const ModelConfig& config, const Backend& backend,
                                         std::int32_t max_tokens, std::int32_t max_sequences,
                                         std::int32_t max_choices,
                                         std::int32_t max_pages_per_sequence);
  std::size_t bytes() const noexcept { return bytes_; }
  std::int32_t max_tokens() const noexcept { return max_tokens_; }
  std::int32_t max_sequences() const noexcept { return max_sequences_; }
  /// Rows whose logits one pass can give.
  std::int32_t max_choices() const noexcept { return max_choices_; }

  /// Runs `batch` and waits for it. Logits of the wanted rows, [logit_rows, vocab], land in
  /// `logits`.
  Result<void> forward(const DecoderWeights& weights, KvCache& cache, Queue& queue,
                       const ForwardBatch& batch, std::span<float> logits);

 private:
  ModelConfig config_;
  std::int32_t max_tokens_ = 0, max_sequences_ = 0, max_choices_ = 0, max_pages_ = 0;
  std::size_t bytes_ = 0;
  std::vector<std::int32_t> staging_;  // ids, positions, starts, contexts, page tables, logit rows
  DeviceBuffer indices_, x_, qkv_, attended_, ffn_, rope_, picked_, logits_;
};

}  // namespace ciuic::inline CIUIC_ABI
