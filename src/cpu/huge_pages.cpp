#include "cpu/huge_pages.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ciuic::inline CIUIC_ABI::cpu {

bool worth_huge_pages(const std::pmr::memory_resource& memory, std::size_t bytes) noexcept {
  constexpr std::size_t kFewest = std::size_t{4} << 20;
  return &memory == std::pmr::new_delete_resource() && bytes >= kFewest;
}

PageRange whole_pages(std::uintptr_t begin, std::size_t bytes, std::size_t page) noexcept {
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + bytes) / page * page;
  return {first, last > first ? last - first : 0};
}

void advise_huge_pages(const std::pmr::memory_resource& memory, const void* data,
                       std::size_t bytes) noexcept {
#if defined(__linux__)
  const long page = ::sysconf(_SC_PAGESIZE);
  if (page <= 0 || !worth_huge_pages(memory, bytes)) return;
  const PageRange range =
      whole_pages(reinterpret_cast<std::uintptr_t>(data), bytes, static_cast<std::size_t>(page));
  if (range.bytes > 0)
    (void)::madvise(reinterpret_cast<void*>(range.begin), range.bytes, MADV_HUGEPAGE);
#else
  (void)memory, (void)data, (void)bytes;
#endif
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
