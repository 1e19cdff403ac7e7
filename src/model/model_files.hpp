// Finding the files of a model directory that is not trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Where the file `name` of a model directory really lies.
///
/// `name` must be a plain file name: a directory is one folder, and neither its host nor its index
/// may point out of it. Symbolic links are followed only to where a model's own files can be:
///   - inside the directory itself, and
///   - in `<repository>/blobs`, if the directory is `<repository>/snapshots/<revision>`. That is
///   the
///     layout of the Hugging Face cache, in which every file of a snapshot is such a link.
/// A link to anywhere else is refused, so that an unpacked archive cannot make its reader open
/// other files of the host. Errors: `not_found` (also for the directory), `bad_model` (the name, or
/// where it leads), `io_error`.
Result<std::filesystem::path> resolve_model_file(const std::filesystem::path& directory,
                                                 std::string_view name);

/// The text of a file of at most `max_bytes` in a model directory. Errors: those of
/// `resolve_model_file` and `read_text_file`.
Result<std::string> read_model_text(const std::filesystem::path& directory, std::string_view name,
                                    std::uint64_t max_bytes);

}  // namespace ciuic::inline CIUIC_ABI
