// Which weights a decoder has: its matrices as they are packed, and its vectors. The one list that
// loading, checking and quantizing walk.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ciuic/model/model_config.hpp"
#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/mixed_precision.hpp"

namespace ciuic::inline CIUIC_ABI {

/// One packed matrix, and the tensors of a Hugging Face directory whose rows it stacks.
struct MatrixSpec {
  std::string name;  ///< "model.layers.0.self_attn.qkv_proj"
  std::vector<std::string> parts;
  std::int64_t rows = 0, cols = 0;
  PackedMatrix::Form form = PackedMatrix::Form::plain;
  /// The norm whose output is this matrix's input and nobody else's; empty when there is none.
  std::string norm{};
};

/// A norm's weight or a bias, [size].
struct VectorSpec {
  std::string name;
  std::int64_t size = 0;
};

/// In the order in which the decoder packs them: the embedding, the head unless it is tied, then
/// qkv, out, gate and up, down of each layer.
std::vector<MatrixSpec> decoder_matrices(const ModelConfig& config);
inline constexpr std::size_t kMatricesPerLayer = 4;
std::vector<VectorSpec> decoder_vectors(const ModelConfig& config);
/// The first of `rules` whose pattern matches no matrix; null when each matches some.
const FormatRule* unused_rule(std::span<const FormatRule> rules,
                              std::span<const MatrixSpec> specs) noexcept;

/// Rows of `spec` from the tensors of a Hugging Face directory, which `check_llama_weights` has
/// seen. `files` must outlive the source. Errors: `internal` for a part that is not there.
Result<MatrixSource> matrix_source(const WeightFiles& files, const MatrixSpec& spec);

}  // namespace ciuic::inline CIUIC_ABI
