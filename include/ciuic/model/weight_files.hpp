// The weights of a model directory: one safetensors file, or shards and their index.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"
#include "ciuic/model/load_limits.hpp"
#include "ciuic/model/safetensors.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What a tensor is called and how large it is.
struct NamedShape {
  std::string name;
  Shape shape;
};

/// All tensors of a model directory by name, wherever they lie. Opening reads the tables of
/// contents and no weights. Thread-safety: const calls are thread-safe; immutable.
class CIUIC_API WeightFiles {
 public:
  /// Opens `model.safetensors`, or else the files that `model.safetensors.index.json` names. An
  /// index may name plain files of its directory only: no path, and no symbolic link that leads out
  /// of it, but for the blobs of a Hugging Face cache when the directory is a snapshot in one.
  /// Errors: `not_found` (directory, weights, a shard), `bad_model` (a broken file, a name that
  /// leaves the directory, a tensor in two shards or not in the shard that the index says),
  /// `io_error`.
  static Result<WeightFiles> open(const std::filesystem::path& directory,
                                  const LoadLimits& limits = {});

  /// f32 tensors that lie in no file and take no memory: an element is computed when it is read,
  /// from the seed and its place. Those of vectors are 1; all others are close to normally
  /// distributed, with standard deviation 0.02. Errors: `bad_model` (names that repeat, sizes that
  /// wrap).
  static Result<WeightFiles> random(std::span<const NamedShape> tensors, std::uint64_t seed = 0);

  WeightFiles(WeightFiles&&) noexcept;
  WeightFiles& operator=(WeightFiles&&) noexcept;
  ~WeightFiles();

  /// Null when no file has a tensor of that name.
  const TensorInfo* find(std::string_view name) const noexcept;
  /// Every tensor of every file, in the order of the files.
  std::vector<const TensorInfo*> tensors() const;
  /// Bytes of all tensors together, as stored.
  std::uint64_t parameter_bytes() const noexcept;
  std::span<const SafetensorsFile> files() const noexcept;
  /// The file that holds `tensor`, which came from this object.
  const SafetensorsFile& file_of(const TensorInfo& tensor) const noexcept;

  /// `SafetensorsFile::read_rows_f32`, from the file that holds the tensor.
  Result<void> read_rows_f32(const TensorInfo& tensor, std::int64_t first_row,
                             std::span<float> out) const {
    return file_of(tensor).read_rows_f32(tensor, first_row, out);
  }

 private:
  struct Tables;
  class IndexReader;
  explicit WeightFiles(std::unique_ptr<const Tables> tables) noexcept;
  std::unique_ptr<const Tables> tables_;
};

}  // namespace ciuic::inline CIUIC_ABI
