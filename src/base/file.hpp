// Reading files that may be replaced, cut short or no files at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A regular file open for reading, through `pread`: a file that shrinks is an error, where a
/// mapping of it would be a signal. Messages begin with the file's name. Thread-safety: const calls
/// are thread-safe.
class ReadOnlyFile {
 public:
  /// Never blocks, and never opens a FIFO, device, socket or directory. Messages call the file
  /// `name`, or by its own name when that is empty. Errors: `not_found`, `bad_model` (not a regular
  /// file), `io_error`.
  static Result<ReadOnlyFile> open(const std::filesystem::path& path, std::string_view name = {});

  ReadOnlyFile(ReadOnlyFile&& other) noexcept;
  ReadOnlyFile& operator=(ReadOnlyFile&& other) noexcept;
  ~ReadOnlyFile();

  const std::string& name() const noexcept { return name_; }
  std::uint64_t size() const noexcept { return size_; }  ///< when it was opened, in bytes

  /// Fills `out` from `offset`. Errors: `io_error` when the system refuses, or when the file's size
  /// or modification time is not, before or after, what it was when the file was opened.
  Result<void> read_at(std::uint64_t offset, std::span<std::byte> out) const;

  /// The whole file in memory, read only, for as long as the returned owner lives; the pages are
  /// read when they are touched, or soon. A file that is cut short while it is mapped ends the
  /// process with a signal: for directories that nobody else writes. Errors: `io_error`.
  struct Mapping {
    std::span<const std::byte> bytes;  ///< aligned to a page
    std::shared_ptr<const void> owner;
  };
  Result<Mapping> map() const;

 private:
  ReadOnlyFile() = default;
  Result<void> check_unchanged() const;

  std::string name_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  std::int64_t modified_s_ = 0, modified_ns_ = 0;
};

/// The whole of a text file of at most `max_bytes`. Errors: those of `ReadOnlyFile`; `bad_model`
/// for a longer one.
Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes,
                                   std::string_view name = {});

/// A new file that several threads fill. Removes nothing when it is given up. Thread-safety:
/// `write_at` is thread-safe.
class FileWriter {
 public:
  /// Errors: `io_error`, also when there is something at `path`.
  static Result<FileWriter> create(const std::filesystem::path& path);
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  ~FileWriter();

  Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Syncs and closes. Errors: `io_error`.
  Result<void> finish();

 private:
  FileWriter() = default;
  std::string name_;
  int descriptor_ = -1;
};

/// Replaces `path` by the concatenation of `parts`, or leaves it as it was: a temporary file beside
/// it, synced, then renamed. Errors: `io_error`.
Result<void> write_file_atomically(const std::filesystem::path& path,
                                   std::span<const std::span<const std::byte>> parts);

}  // namespace ciuic::inline CIUIC_ABI
