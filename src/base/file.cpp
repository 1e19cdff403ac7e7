#include "base/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "base/json.hpp"
#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

// What one call may transfer: below every system's limit.
constexpr std::size_t kMaxTransfer = std::size_t{1} << 30;

Error system_error(std::string_view name, std::string_view what, int code) {
  return Error(code == ENOENT || code == ENOTDIR ? ErrorCode::not_found : ErrorCode::io_error,
               {name, ": ", what, ": ", std::generic_category().message(code)});
}

std::string display_name(const std::filesystem::path& path) {
  std::string name = path.filename().string();
  for (char c : name) {
    if (static_cast<unsigned char>(c) < 0x20) return quoted_excerpt(name);
  }
  return name;
}

std::string_view describe_type(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

Result<void> check_regular(std::string_view name, const struct stat& status) {
  if (S_ISREG(status.st_mode)) return {};
  return Error(ErrorCode::bad_model,
               {name, ": wanted a regular file, got ", describe_type(status.st_mode)});
}

}  // namespace

Result<ReadOnlyFile> ReadOnlyFile::open(const std::filesystem::path& path, std::string_view name) {
  ReadOnlyFile file;
  file.name_ = name.empty() ? display_name(path) : std::string(name);
  struct stat status {};
  // Asked before opening, because opening some devices acts; and again after, because the path may
  // lead elsewhere by then.
  if (::stat(path.c_str(), &status) != 0)
    return system_error(file.name_, "cannot be opened", errno);
  CIUIC_TRY(check_regular(file.name_, status));
  do {
    file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (file.descriptor_ < 0 && errno == EINTR);
  if (file.descriptor_ < 0 || ::fstat(file.descriptor_, &status) != 0) {
    return system_error(file.name_, "cannot be opened", errno);
  }
  CIUIC_TRY(check_regular(file.name_, status));
  file.size_ = static_cast<std::uint64_t>(status.st_size);
  file.modified_s_ = status.st_mtim.tv_sec;
  file.modified_ns_ = status.st_mtim.tv_nsec;
  return file;
}

ReadOnlyFile::ReadOnlyFile(ReadOnlyFile&& other) noexcept
    : name_(std::move(other.name_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      modified_s_(other.modified_s_),
      modified_ns_(other.modified_ns_) {}

ReadOnlyFile& ReadOnlyFile::operator=(ReadOnlyFile&& other) noexcept {
  name_.swap(other.name_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(modified_s_, other.modified_s_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

ReadOnlyFile::~ReadOnlyFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<void> ReadOnlyFile::check_unchanged() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) return system_error(name_, "cannot be read", errno);
  if (static_cast<std::uint64_t>(status.st_size) != size_) {
    return Error(ErrorCode::io_error,
                 {name_, ": changed while it was open: wanted ", std::to_string(size_),
                  " bytes, got ", std::to_string(status.st_size)});
  }
  if (status.st_mtim.tv_sec != modified_s_ || status.st_mtim.tv_nsec != modified_ns_) {
    return Error(ErrorCode::io_error, {name_, ": was modified while it was open"});
  }
  return {};
}

Result<void> ReadOnlyFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  CIUIC_TRY(check_unchanged());
  if (offset > size_ || out.size() > size_ - offset) {
    return Error(ErrorCode::io_error,
                 {name_, ": read past the end: wanted ", std::to_string(out.size()),
                  " bytes at offset ", std::to_string(offset), " of ", std::to_string(size_)});
  }
  while (!out.empty()) {
    const std::size_t wanted = out.size() < kMaxTransfer ? out.size() : kMaxTransfer;
    const ssize_t got = ::pread(descriptor_, out.data(), wanted, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(name_, "cannot be read", errno);
    if (got == 0) {
      return Error(ErrorCode::io_error, {name_, ": ended early, at byte ", std::to_string(offset)});
    }
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return check_unchanged();
}

Result<ReadOnlyFile::Mapping> ReadOnlyFile::map() const {
  CIUIC_TRY(check_unchanged());
  if (size_ == 0) return Mapping{};
  const auto bytes = static_cast<std::size_t>(size_);
  void* const at = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (at == MAP_FAILED) return system_error(name_, "cannot be mapped", errno);
  (void)::madvise(at, bytes, MADV_WILLNEED);  // begins to read what is not in memory yet
  struct Unmap {
    std::size_t bytes;
    void operator()(void* begin) const noexcept { ::munmap(begin, bytes); }
  };
  std::shared_ptr<void> owner(at, Unmap{bytes});
  return Mapping{{static_cast<const std::byte*>(at), bytes}, std::move(owner)};
}

Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes,
                                   std::string_view name) {
  CIUIC_ASSIGN_OR_RETURN(const ReadOnlyFile file, ReadOnlyFile::open(path, name));
  if (file.size() > max_bytes) {
    return Error(ErrorCode::bad_model,
                 {file.name(), ": size: wanted at most ", std::to_string(max_bytes), " bytes, got ",
                  std::to_string(file.size())});
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  CIUIC_TRY(file.read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

namespace {

Result<void> write_all(int descriptor, std::string_view name, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t wanted = bytes.size() < kMaxTransfer ? bytes.size() : kMaxTransfer;
    const ssize_t written = ::write(descriptor, bytes.data(), wanted);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(name, "cannot be written", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

/// Writes, syncs and closes `descriptor`, whatever happens.
Result<void> fill(int descriptor, std::string_view name,
                  std::span<const std::span<const std::byte>> parts) {
  for (std::span<const std::byte> part : parts) {
    if (Result<void> written = write_all(descriptor, name, part); !written) {
      ::close(descriptor);
      return written;
    }
  }
  if (::fsync(descriptor) != 0) {
    const int code = errno;
    ::close(descriptor);
    return system_error(name, "cannot be synced", code);
  }
  if (::close(descriptor) != 0) return system_error(name, "cannot be closed", errno);
  return {};
}

}  // namespace

Result<FileWriter> FileWriter::create(const std::filesystem::path& path) {
  FileWriter file;
  file.name_ = display_name(path);
  do {
    file.descriptor_ =
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  } while (file.descriptor_ < 0 && errno == EINTR);
  if (file.descriptor_ < 0) return system_error(file.name_, "cannot be created", errno);
  return file;
}
FileWriter::FileWriter(FileWriter&& other) noexcept
    : name_(std::move(other.name_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  name_.swap(other.name_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}
FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<void> FileWriter::write_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const std::size_t wanted = bytes.size() < kMaxTransfer ? bytes.size() : kMaxTransfer;
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), wanted, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_error(name_, "cannot be written", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

Result<void> FileWriter::finish() {
  const int descriptor = std::exchange(descriptor_, -1);
  const int synced = ::fsync(descriptor) != 0 ? errno : 0;
  if (::close(descriptor) != 0 && synced == 0) {
    return system_error(name_, "cannot be closed", errno);
  }
  if (synced != 0) return system_error(name_, "cannot be synced", synced);
  return {};
}

Result<void> write_file_atomically(const std::filesystem::path& path,
                                   std::span<const std::span<const std::byte>> parts) {
  // A link is written through; a device, pipe or directory must not be replaced by a file.
  std::error_code ignored;
  if (std::filesystem::is_symlink(path, ignored)) {
    const std::filesystem::path target = std::filesystem::weakly_canonical(path, ignored);
    if (!target.empty() && target != path) return write_file_atomically(target, parts);
  }
  const std::string name = display_name(path);
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    return Error(ErrorCode::io_error, {name, ": wanted a regular file or a new one"});
  }
  std::string temporary;
  int descriptor = -1;
  for (int attempt = 0; attempt < 1000 && descriptor < 0; ++attempt) {
    temporary = path.string() + ".tmp" + std::to_string(attempt);
    descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                        0666);  // less what the process's umask takes
    if (descriptor < 0 && errno != EEXIST && errno != EINTR) break;
  }
  if (descriptor < 0) return system_error(name, "cannot be created", errno);
  Result<void> filled = fill(descriptor, name, parts);
  if (filled && ::rename(temporary.c_str(), path.c_str()) != 0) {
    filled = system_error(name, "cannot be renamed into place", errno);
  }
  if (!filled) {
    ::unlink(temporary.c_str());
    return filled;
  }
  // The name, too, must survive a power cut. Some file systems refuse this; the bytes are safe
  // then.
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  if (const int directory = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      directory >= 0) {
    (void)::fsync(directory);
    ::close(directory);
  }
  return {};
}

}  // namespace ciuic::inline CIUIC_ABI
