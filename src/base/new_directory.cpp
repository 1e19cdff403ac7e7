#include "base/new_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/json.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMark = ".unfinished";

/// The locked mark of a directory; -1 when there is none, it is another's, or not there any more.
int lock_mark(const fs::path& directory, int flags) {
  const int mark = ::open((directory / kMark).c_str(),
                          O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags, 0666);
  if (mark < 0) return -1;
  struct stat status {};
  const bool mine = ::flock(mark, LOCK_EX | LOCK_NB) == 0 && ::fstat(mark, &status) == 0 &&
                    S_ISREG(status.st_mode) && status.st_nlink > 0;
  if (mine) return mark;
  ::close(mark);
  return -1;
}

void remove_if_left_behind(const fs::path& directory) {
  std::error_code ignored;
  if (fs::symlink_status(directory, ignored).type() != fs::file_type::directory) return;
  const int mark = lock_mark(directory, 0);
  if (mark < 0) return;
  fs::remove_all(directory, ignored);
  ::close(mark);
}

}  // namespace

Result<NewDirectory> NewDirectory::create(const fs::path& path) {
  std::error_code failed;
  const bool usable =
      !fs::exists(path, failed) || (fs::is_directory(path, failed) && fs::is_empty(path, failed));
  NewDirectory directory;
  directory.path_ = path.has_filename() ? path : path.parent_path();
  const fs::path name = directory.path_.filename();
  if (!usable || failed || name.empty() || name == "." || name == ".." ||
      fs::is_symlink(directory.path_, failed)) {
    return Error(
        ErrorCode::invalid_argument,
        {directory.shown(), ": wanted the name of a new or an empty directory to write to"});
  }
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts && directory.lock_ < 0; ++attempt) {
    const fs::path made = directory.path_.string() + ".tmp" + std::to_string(attempt);
    remove_if_left_behind(made);
    const bool created = fs::create_directory(made, failed);
    if (failed) return directory.error(failed.message());
    if (!created) continue;
    // Another may take the new mark for one left behind, before it is locked: then the next name.
    directory.lock_ = lock_mark(made, O_CREAT | O_EXCL);
    if (directory.lock_ >= 0) directory.made_ = made;
  }
  if (directory.lock_ < 0) return directory.error("every temporary name is taken");
  return directory;
}

NewDirectory::NewDirectory(NewDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      made_(std::exchange(other.made_, {})),
      lock_(std::exchange(other.lock_, -1)) {}

NewDirectory::~NewDirectory() {
  std::error_code ignored;
  if (!made_.empty()) fs::remove_all(made_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

Result<void> NewDirectory::publish() {
  std::error_code failed;
  fs::remove(made_ / kMark, failed);
  if (!failed) fs::rename(made_, path_, failed);
  if (failed) return error(failed.message());
  made_.clear();
  return {};
}

std::string NewDirectory::shown() const {
  std::string text;
  append_json_string(text, path_.string());
  return text;
}

Error NewDirectory::error(std::string_view why) const {
  return Error(ErrorCode::io_error, {shown(), ": cannot be created: ", why});
}

}  // namespace ciuic::inline CIUIC_ABI
