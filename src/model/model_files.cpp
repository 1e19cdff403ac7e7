#include "model/model_files.hpp"

#include <algorithm>
#include <system_error>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileNameBytes = 255;

bool is_plain_file_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxFileNameBytes || name == "." || name == "..") return false;
  return std::ranges::none_of(name, [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
  });
}

ErrorCode code_for(std::error_code failed) {
  const bool absent =
      failed == std::errc::no_such_file_or_directory || failed == std::errc::not_a_directory;
  return absent ? ErrorCode::not_found : ErrorCode::io_error;
}

Error directory_error(const fs::path& path, std::error_code failed) {
  std::string quoted;
  append_json_string(quoted, path.string());
  return Error(code_for(failed), {"model directory ", quoted, ": ", failed.message()});
}

bool lies_under(const fs::path& directory, const fs::path& file) {
  const auto [end, rest] = std::ranges::mismatch(directory, file);
  return end == directory.end() && rest != file.end();
}

}  // namespace

Result<fs::path> resolve_model_file(const fs::path& directory, std::string_view name) {
  if (!is_plain_file_name(name)) {
    return Error(ErrorCode::bad_model, {"wanted a plain file name, got ", quoted_excerpt(name)});
  }
  std::error_code failed;
  const fs::path home = fs::canonical(directory, failed);
  if (failed) return directory_error(directory, failed);
  const fs::path target = fs::canonical(home / name, failed);
  if (failed) {
    return Error(code_for(failed), {name, ": cannot be opened: ", failed.message()});
  }
  if (lies_under(home, target)) return target;
  const fs::path snapshots = home.parent_path();
  if (snapshots.filename() == "snapshots" &&
      lies_under(snapshots.parent_path() / "blobs", target)) {
    return target;
  }
  return Error(ErrorCode::bad_model, {name, ": is a link that leads out of the model directory"});
}

Result<std::string> read_model_text(const fs::path& directory, std::string_view name,
                                    std::uint64_t max_bytes) {
  CIUIC_ASSIGN_OR_RETURN(const fs::path path, resolve_model_file(directory, name));
  return read_text_file(path, max_bytes, name);
}

}  // namespace ciuic::inline CIUIC_ABI
