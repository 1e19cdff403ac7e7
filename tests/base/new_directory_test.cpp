// A directory that is published or gone, whatever happened to those who filled it before.
#include "base/new_directory.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

/// A process that begins a directory and dies of a signal that it cannot catch.
void leave_behind(const fs::path& path) {
  const pid_t child = fork();
  if (child == 0) {
    const Result<NewDirectory> directory = NewDirectory::create(path);
    if (directory) write_file(*directory / "half", "of it");
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
}

std::size_t entries(const fs::path& path) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(path), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("A new directory appears complete, or not at all") {
  const TempDirectory scratch;
  {
    Result<NewDirectory> directory = NewDirectory::create(scratch / "out");
    REQUIRE(directory);
    write_file(*directory / "file", "text");
    CHECK_FALSE(fs::exists(scratch / "out"));
    REQUIRE(directory->publish());
  }
  CHECK(read_file(scratch / "out" / "file") == "text");
  CHECK(entries(scratch / "out") == 1);
  { REQUIRE(NewDirectory::create(scratch / "other")); }
  CHECK(entries(scratch.path()) == 1);
  CHECK(NewDirectory::create(scratch / "out").error().code() == ErrorCode::invalid_argument);
}

TEST_CASE("What a killed process left behind goes with the next of that name") {
  const TempDirectory scratch;
  leave_behind(scratch / "out");
  REQUIRE(fs::exists(scratch / "out.tmp0" / "half"));
  Result<NewDirectory> directory = NewDirectory::create(scratch / "out");
  REQUIRE(directory);
  CHECK_FALSE(fs::exists(*directory / "half"));
  REQUIRE(directory->publish());
  CHECK(entries(scratch.path()) == 1);
}

TEST_CASE("What others fill, or what only looks like it, is let alone") {
  const TempDirectory scratch;
  fs::create_directory(scratch / "out.tmp0");  // somebody's own: no mark
  write_file(scratch / "out.tmp0" / "thesis", "text");
  Result<NewDirectory> first = NewDirectory::create(scratch / "out");
  REQUIRE(first);
  write_file(*first / "a", "1");
  Result<NewDirectory> second = NewDirectory::create(scratch / "out");
  REQUIRE(second);
  CHECK(read_file(*first / "a") == "1");
  CHECK_FALSE(fs::exists(*second / "a"));
  CHECK(read_file(scratch / "out.tmp0" / "thesis") == "text");

  fs::create_directory_symlink(scratch / "elsewhere", scratch / "linked.tmp0");
  leave_behind(scratch / "elsewhere");
  fs::rename(scratch / "elsewhere.tmp0", scratch / "elsewhere");
  { REQUIRE(NewDirectory::create(scratch / "linked")); }
  CHECK(fs::exists(scratch / "elsewhere" / "half"));
}
