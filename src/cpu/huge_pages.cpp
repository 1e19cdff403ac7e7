#include "cpu/huge_pages.hpp"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ciuic::inline CIUIC_ABI::cpu {

void advise_huge_pages(const std::pmr::memory_resource& memory, const void* data,
                       std::size_t bytes) noexcept {
#if defined(__linux__)
  if (&memory != std::pmr::new_delete_resource()) return;  // the host's: not ours to advise
  constexpr std::uintptr_t kHuge = std::uintptr_t{2} << 20, kPage = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = reinterpret_cast<std::uintptr_t>(data) + bytes;
  if (end > begin + 2 * kHuge)
    (void)::madvise(reinterpret_cast<void*>(begin), (end - begin) / kPage * kPage, MADV_HUGEPAGE);
#else
  (void)memory, (void)data, (void)bytes;
#endif
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
