// A directory that appears under its name when it is complete, and goes when it is not.
//
// It is filled under the name PATH.tmpN. Whoever fills it holds a lock on a file in it,
// `.unfinished`. The lock goes with the process, so the next to come knows a directory that was
// left behind, by a power cut or a signal that cannot be caught, from one that is being filled, and
// from the user's own.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Thread-safety: const calls are thread-safe.
class NewDirectory {
 public:
  /// Removes what others of that name left behind. Errors: `invalid_argument` when there is
  /// something at `path` but an empty directory; `io_error`.
  static Result<NewDirectory> create(const std::filesystem::path& path);
  NewDirectory(NewDirectory&& other) noexcept;
  NewDirectory& operator=(NewDirectory&&) = delete;
  ~NewDirectory();  ///< removes it, unless it was published

  std::filesystem::path operator/(std::string_view name) const { return made_ / name; }
  /// Gives it its name. Errors: `io_error`.
  Result<void> publish();

 private:
  NewDirectory() = default;
  std::string shown() const;
  Error error(std::string_view why) const;

  std::filesystem::path path_, made_;
  int lock_ = -1;
};

}  // namespace ciuic::inline CIUIC_ABI
