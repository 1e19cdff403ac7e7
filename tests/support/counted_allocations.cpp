#include "support/counted_allocations.hpp"

#include <malloc.h>

#include <cstddef>
#include <cstdlib>
#include <new>

using namespace ciuic::testing;

namespace {

bool fails() noexcept {
  if (fail_after < 0 || fail_after-- > 0) return false;
  if (fail_for_good) fail_after = 0;
  return true;
}
void* counted(std::size_t bytes, std::size_t alignment) noexcept {
  if (fails()) return nullptr;
  void* block = alignment <= alignof(std::max_align_t)
                    ? std::malloc(bytes == 0 ? 1 : bytes)
                    : std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (block == nullptr) return nullptr;
  ++allocation_count;
  allocated_bytes += bytes;
  const std::uint64_t live = live_bytes += malloc_usable_size(block);
  for (std::uint64_t peak = peak_bytes;
       live > peak && !peak_bytes.compare_exchange_weak(peak, live);) {
  }
  return block;
}
void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  void* block = counted(bytes, alignment);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
void give_back(void* block) noexcept {
  if (block != nullptr) live_bytes -= malloc_usable_size(block);
  std::free(block);
}
std::size_t number(std::align_val_t alignment) { return static_cast<std::size_t>(alignment); }

}  // namespace

void* operator new(std::size_t n) { return counted_or_throw(n, 1); }
void* operator new[](std::size_t n) { return counted_or_throw(n, 1); }
void* operator new(std::size_t n, std::align_val_t a) { return counted_or_throw(n, number(a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted_or_throw(n, number(a)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return counted(n, 1); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return counted(n, 1); }
void operator delete(void* block) noexcept { give_back(block); }
void operator delete[](void* block) noexcept { give_back(block); }
void operator delete(void* block, std::size_t) noexcept { give_back(block); }
void operator delete[](void* block, std::size_t) noexcept { give_back(block); }
void operator delete(void* block, std::align_val_t) noexcept { give_back(block); }
void operator delete[](void* block, std::align_val_t) noexcept { give_back(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { give_back(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { give_back(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { give_back(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { give_back(block); }
