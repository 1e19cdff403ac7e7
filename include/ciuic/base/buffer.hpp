// Buffer: aligned host memory with one owner, from the host's allocator.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <new>
#include <span>
#include <utility>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Bytes from a `std::pmr::memory_resource`, returned to it when the buffer goes. Uninitialised.
/// Thread-safety: thread-compatible.
class Buffer {
 public:
  static constexpr std::size_t kAlignment = 64;  ///< one cache line, one AVX-512 register

  Buffer() noexcept = default;
  /// Errors: `out_of_memory` when `memory` refuses.
  static Result<Buffer> allocate(std::pmr::memory_resource& memory, std::size_t bytes,
                                 std::size_t alignment = kAlignment) noexcept {
    if (bytes == 0) return Buffer();
#if defined(__cpp_exceptions)
    try {
      return Buffer(memory, memory.allocate(bytes, alignment), bytes, alignment);
    } catch (...) {
      return Error(ErrorCode::out_of_memory, "buffer: the host's allocator refused the request");
    }
#else
    return Buffer(memory, memory.allocate(bytes, alignment), bytes, alignment);
#endif
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) memory_->deallocate(data_, bytes_, alignment_);
  }

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }
  /// The bytes as elements of a trivial type whose alignment the buffer meets.
  template <class T>
  std::span<T> as() noexcept {
    return {reinterpret_cast<T*>(data_), bytes_ / sizeof(T)};
  }
  template <class T>
  std::span<const T> as() const noexcept {
    return {reinterpret_cast<const T*>(data_), bytes_ / sizeof(T)};
  }

 private:
  Buffer(std::pmr::memory_resource& memory, void* data, std::size_t bytes,
         std::size_t alignment) noexcept
      : memory_(&memory),
        data_(static_cast<std::byte*>(data)),
        bytes_(bytes),
        alignment_(alignment) {}
  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(alignment_, other.alignment_);
  }

  std::pmr::memory_resource* memory_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::size_t alignment_ = kAlignment;
};

}  // namespace ciuic::inline CIUIC_ABI
