// Which memory is advised to have huge pages, and that the advice harms nothing.
#include "cpu/huge_pages.hpp"

#include "support/catch.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <string>
#endif

using namespace ciuic::cpu;

TEST_CASE("Only pages that lie in the memory as a whole are advised about") {
  for (const std::size_t page : {std::size_t{4096}, std::size_t{16384}, std::size_t{65536}}) {
    const std::uintptr_t at = 5 * page;
    const auto check = [&](std::uintptr_t begin, std::size_t bytes, std::uintptr_t first,
                           std::size_t pages) {
      const PageRange range = whole_pages(begin, bytes, page);
      CHECK(range.bytes == pages * page);
      if (pages > 0) CHECK(range.begin == first);
    };
    check(at, 3 * page, at, 3);
    check(at + 64, 3 * page, at + page, 2);
    check(at + 64, 3 * page - 64, at + page, 2);
    check(at, 3 * page + 64, at, 3);
    check(at + page - 1, page + 1, at + page, 1);
    check(at + 64, page, 0, 0);
    check(at + 64, 100, 0, 0);
    check(at, 0, 0, 0);
  }
}

TEST_CASE("A host's own memory and small memory are left alone") {
  constexpr std::size_t kMany = std::size_t{64} << 20;
  std::pmr::monotonic_buffer_resource own;
  CHECK(worth_huge_pages(*std::pmr::new_delete_resource(), kMany));
  CHECK_FALSE(worth_huge_pages(own, kMany));
  CHECK_FALSE(worth_huge_pages(*std::pmr::new_delete_resource(), std::size_t{1} << 20));
}

#if defined(__linux__)
namespace {

/// What the system notes about the mapping that holds `at`: the flags of /proc/self/smaps.
std::string flags_of(const void* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    const std::size_t dash = line.find('-'), space = line.find(' ');
    if (dash != std::string::npos && dash < space && line.find(':') > dash) {
      const std::uintptr_t begin = std::stoull(line.substr(0, dash), nullptr, 16);
      const std::uintptr_t end = std::stoull(line.substr(dash + 1, space - dash - 1), nullptr, 16);
      inside = begin <= address && address < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line + " ";
    }
  }
  return {};
}

}  // namespace

TEST_CASE("The system is told which pages, and what lies in them stays") {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t bytes = (std::size_t{8} << 20) + 2 * page;
  void* const mapping =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(mapping != MAP_FAILED);
  auto* const data = static_cast<unsigned char*>(mapping);
  for (std::size_t i = 0; i < bytes; i += 1000) data[i] = static_cast<unsigned char>(i / 1000);
  advise_huge_pages(*std::pmr::new_delete_resource(), data + 64, bytes - page);
  for (std::size_t i = 0; i < bytes; i += 1000) {
    if (data[i] != static_cast<unsigned char>(i / 1000)) FAIL("byte " << i << " has changed");
  }
  // A system without huge pages refuses the advice, and some do not say what they note.
  const bool has_any = !!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled");
  if (has_any && !flags_of(data + page).empty()) {
    CHECK(flags_of(data + page).find(" hg ") != std::string::npos);
    CHECK(flags_of(data).find(" hg ") == std::string::npos);                 // begins before `data`
    CHECK(flags_of(data + bytes - page).find(" hg ") == std::string::npos);  // ends within it
  }
  ::munmap(mapping, bytes);
}
#endif
