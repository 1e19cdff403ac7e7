// Quantized model directories (docs/quantized-directories.md): one safetensors file whose matrices
// are the bytes that kernels stream, and a table in its metadata that says what they are.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "ciuic/model/weight_files.hpp"
#include "ciuic/quant/packed_layout.hpp"
#include "model/decoder_matrices.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::int64_t kPackedVersion = 1;

/// How one matrix is held, and the tensor that holds it.
struct PackedEntry {
  MatrixFormat format{};
  float input_scale = 0.0f;
  PackedLayout layout{};
  const TensorInfo* tensor = nullptr;  ///< null while it is being written
};

/// Whether a directory's weights are packed ones. Says nothing about their being right.
bool is_packed(const WeightFiles& files) noexcept;

/// Reads the text of a table, which messages say is in `file`: an entry for each of `specs`, in a
/// format that ciuic knows, with exactly the numbers that `specs` wants. The entries' tensors are
/// null. Errors: `bad_model` naming file and tensor; `unsupported` for another version.
Result<std::vector<PackedEntry>> parse_packed_table(std::string_view text, std::string_view file,
                                                    std::span<const MatrixSpec> specs);
/// The table of a packed directory, with tensors of the bytes that it calls for. Reads no weights.
/// Errors: as above.
Result<std::vector<PackedEntry>> read_packed_table(const WeightFiles& files,
                                                   std::span<const MatrixSpec> specs);

/// A matrix of a packed directory; in place, where `map` and the file's alignment allow it.
/// `files` must outlive the source. Errors: `io_error`.
Result<PackedSource> packed_source(const WeightFiles& files, const MatrixSpec& spec,
                                   const PackedEntry& entry, bool map);

/// The name of the tensor that holds a matrix.
std::string packed_name(const MatrixSpec& spec);

/// The beginning of a packed directory's file, up to its first tensor, and where each tensor lies
/// in the file. Matrices come first, each at a multiple of 64, then the vectors as f32.
struct PackedFileLayout {
  std::string head;
  std::vector<std::uint64_t> matrices, vectors;  ///< offsets
};
/// Errors: `internal` when what it made cannot be read back.
Result<PackedFileLayout> lay_out_packed_file(std::span<const MatrixSpec> specs,
                                             std::span<const PackedEntry> entries,
                                             std::span<const VectorSpec> vectors);

}  // namespace ciuic::inline CIUIC_ABI
