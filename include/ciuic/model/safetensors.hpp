// The safetensors format: a JSON table of contents, then the tensors' bytes.
//
//   SafetensorsHeader   the table, validated completely
//   SafetensorsFile     an open file with its table; rows of tensors as f32
//   write_safetensors   makes such a file
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "ciuic/base/dtype.hpp"
#include "ciuic/base/error.hpp"
#include "ciuic/base/tensor_view.hpp"
#include "ciuic/model/load_limits.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Every element type that a safetensors file can name, whether ciuic computes with it or not.
enum class FileDType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

/// The type's name in a file, for example "BF16".
CIUIC_API std::string_view to_string(FileDType dtype) noexcept;
CIUIC_API std::uint64_t bits_of(FileDType dtype) noexcept;
/// The same type among those that ciuic computes with, if it is one of them.
CIUIC_API std::optional<DType> compute_dtype(FileDType dtype) noexcept;

/// One tensor of a file. The views live as long as the object that gave the tensor. Immutable.
struct TensorInfo {
  std::string_view name;
  std::span<const std::int64_t> shape;  ///< at most Shape::kMaxRank extents, none negative
  std::uint64_t offset = 0;             ///< of its first byte, from the end of the header
  std::uint64_t bytes = 0;
  FileDType dtype = FileDType::f32;
  std::uint32_t shard = 0;  ///< which file of a WeightFiles; 0 in a file that stands alone
};

/// The validated table of contents of a file: every tensor has a known type, a shape whose size
/// cannot wrap and agrees with its bytes, and the tensors cover the bytes after the header exactly,
/// without hole or overlap. Immutable; moving keeps the tensors where they are.
class CIUIC_API SafetensorsHeader {
 public:
  static constexpr std::size_t kPrefixBytes = 8;

  /// The length of the JSON text, from the first 8 bytes of a file of `file_bytes`.
  /// Errors: `bad_model` unless 2 <= length <= limit and the text ends within the file.
  static Result<std::uint64_t> text_bytes(std::span<const std::byte, kPrefixBytes> prefix,
                                          std::uint64_t file_bytes, const LoadLimits& limits = {});
  /// Reads the JSON text of a file that goes on with `data_bytes` of tensors. What is allocated is
  /// bounded by the length of the text, not by what the text says.
  /// Errors: `bad_model`, naming the tensor and the field.
  static Result<SafetensorsHeader> parse(std::string_view text, std::uint64_t data_bytes,
                                         const LoadLimits& limits = {}, std::uint32_t shard = 0);

  SafetensorsHeader(SafetensorsHeader&&) noexcept;
  SafetensorsHeader& operator=(SafetensorsHeader&&) noexcept;
  ~SafetensorsHeader();

  /// In the order of the header.
  std::span<const TensorInfo> tensors() const noexcept;
  /// Null when there is none of that name.
  const TensorInfo* find(std::string_view name) const noexcept;
  /// The text of the entry "ciuic" of `__metadata__`, which is where ciuic describes tensors of its
  /// own; empty when there is none. No other entry is kept.
  std::string_view own_metadata() const noexcept;

 private:
  struct Tables;
  class Reader;
  explicit SafetensorsHeader(std::unique_ptr<const Tables> tables) noexcept;
  std::unique_ptr<const Tables> tables_;
};

class ReadOnlyFile;
struct SharedMapping;

/// A safetensors file. Tensors are read, and mapped only where that is asked for: a file that is
/// cut short while it is read is an `io_error`, not a signal. Thread-safety: const calls are
/// thread-safe.
class CIUIC_API SafetensorsFile {
 public:
  /// Errors: `not_found`, `io_error`, `bad_model` (also for a FIFO, device or directory).
  static Result<SafetensorsFile> open(const std::filesystem::path& path,
                                      const LoadLimits& limits = {});

  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  /// The file's name, without the directory.
  const std::string& name() const noexcept { return name_; }
  std::span<const TensorInfo> tensors() const noexcept { return header_.tensors(); }
  const TensorInfo* find(std::string_view tensor) const noexcept { return header_.find(tensor); }
  std::string_view own_metadata() const noexcept { return header_.own_metadata(); }

  /// Writes rows [first_row, first_row + out.size() / row) of a tensor of this file to `out`,
  /// widened to f32. A row is what the first extent counts: shape [r, a, b] has r rows of a*b,
  /// shape [n] has n rows of 1, a scalar has one. Errors: `invalid_argument` (rows outside of the
  /// tensor, part of a row), `unsupported` (not F32, F16 or BF16), `io_error` (also when the file
  /// was changed since it was opened).
  Result<void> read_rows_f32(const TensorInfo& tensor, std::int64_t first_row,
                             std::span<float> out) const;
  /// Writes the bytes of a tensor of this file from `offset` on to `out`, as they are.
  /// Errors: `invalid_argument` (bytes outside of the tensor), `io_error` as above.
  Result<void> read_bytes(const TensorInfo& tensor, std::uint64_t offset,
                          std::span<std::byte> out) const;
  /// The bytes of a tensor of this file in mapped memory, for as long as `owner` lives. All tensors
  /// share one mapping. The caller answers for the file: cut short while mapped, it ends the
  /// process. Errors: `io_error`.
  struct MappedTensor {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };
  Result<MappedTensor> map_tensor(const TensorInfo& tensor) const;

 private:
  friend class WeightFiles;
  /// `name` is what messages call the file.
  static Result<SafetensorsFile> open(const std::filesystem::path& path, std::string_view name,
                                      const LoadLimits& limits, std::uint32_t shard);
  SafetensorsFile(std::string name, std::unique_ptr<const ReadOnlyFile> file,
                  SafetensorsHeader header, std::uint64_t data_begin);
  std::string name_;
  std::unique_ptr<const ReadOnlyFile> file_;  // null: the elements are random
  std::unique_ptr<SharedMapping> mapping_;
  SafetensorsHeader header_;
  std::uint64_t data_begin_;  // or the seed
};

/// A tensor in host memory under the name it gets in a file.
struct NamedTensor {
  std::string_view name;
  ConstTensorView tensor;
};

/// Writes a safetensors file, or leaves what was at `path` untouched: a temporary file beside it,
/// synced, then renamed. Errors: `invalid_argument` (names that repeat or are no UTF-8, bad
/// shapes), `unsupported` (i4, which the format lacks), `io_error`.
CIUIC_API Result<void> write_safetensors(const std::filesystem::path& path,
                                         std::span<const NamedTensor> tensors);

}  // namespace ciuic::inline CIUIC_ABI
