#include "ciuic/ops/cpu_backend.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "cpu/cpu_queue.hpp"
#include "cpu/huge_pages.hpp"
#include "cpu/isa.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace cpu {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, const HostContext& host) noexcept
      : kernels_(kernels), host_(host) {}

  std::string_view name() const noexcept override { return "cpu"; }
  std::string_view isa() const noexcept override { return kernels_.isa; }

  Result<void*> allocate(std::size_t bytes) const noexcept override {
    try {
      void* const memory = host_.memory->allocate(bytes, Buffer::kAlignment);
      advise_huge_pages(*host_.memory, memory, bytes);
      return memory;
    } catch (...) {
      return Error(ErrorCode::out_of_memory, "allocate: the host's allocator refused the request");
    }
  }
  void deallocate(void* memory, std::size_t bytes) const noexcept override {
    host_.memory->deallocate(memory, bytes, Buffer::kAlignment);
  }

  Result<std::unique_ptr<PackedMatrix>> pack(MatrixSource source,
                                             MatrixFormat format) const noexcept override {
    return pack_matrix(*host_.memory, std::move(source), format);
  }
  Result<std::unique_ptr<PackedMatrix>> load_packed(PackedSource source) const noexcept override {
    return load_packed_matrix(*host_.memory, std::move(source));
  }
  Result<void> store_packed(const PackedMatrix& matrix,
                            std::span<std::byte> out) const noexcept override;

  std::size_t kv_page_bytes(const KvCacheShape& shape) const noexcept override {
    const Result<KvLayout> layout = layout_of(shape);
    if (!layout) return 0;
    const auto bytes = checked_mul(layout->kv_heads * (layout->page_tokens / kBlockPositions),
                                   layout->block_bytes);
    if (!bytes) return 0;
    return checked_mul(*bytes, static_cast<std::size_t>(shape.layers)).value_or(0);
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(const KvCacheShape& shape) const noexcept override;

  Result<std::unique_ptr<Queue>> make_queue(const QueueOptions& options) const noexcept override {
    if (options.threads < 0) {
      return Error(ErrorCode::invalid_argument,
                   "make_queue: options.threads: wanted 0 or more, got a negative number");
    }
    CIUIC_ASSIGN_OR_RETURN(Team team, Team::make(options.threads, kScratchFloats, host_));
    const std::size_t sharing = team.size() > 1 ? team.size() : 0;
    CIUIC_ASSIGN_OR_RETURN(
        Buffer partials,
        Buffer::allocate(*host_.memory,
                         sharing * CpuQueue::kPartialFloatsPerThread * sizeof(float)));
    std::unique_ptr<Queue> queue(
        new (std::nothrow) CpuQueue(kernels_, std::move(team), std::move(partials), host_));
    if (queue == nullptr) return Error(ErrorCode::out_of_memory, "make_queue: no memory");
    return queue;
  }

 private:
  static Result<KvLayout> layout_of(const KvCacheShape& shape) noexcept;

  const Kernels& kernels_;
  const HostContext host_;
};

Result<void> CpuBackend::store_packed(const PackedMatrix& matrix,
                                      std::span<std::byte> out) const noexcept {
  const auto* mine = dynamic_cast<const CpuPackedMatrix*>(&matrix);
  if (mine == nullptr) {
    return Error(ErrorCode::invalid_argument,
                 "store_packed: matrix: wanted one packed by the cpu backend, got another's");
  }
  if (out.size() != mine->bytes()) {
    return Error(ErrorCode::invalid_argument, "store_packed: out: wanted matrix.bytes() bytes");
  }
  std::memcpy(out.data(), mine->data(), out.size());
  return {};
}

Result<KvLayout> CpuBackend::layout_of(const KvCacheShape& shape) noexcept {
  const auto refuse = [](std::string_view what) {
    return Error(ErrorCode::invalid_argument, {"make_kv_cache: shape.", what});
  };
  if (shape.layers <= 0) return refuse("layers: wanted 1 or more");
  if (shape.kv_heads <= 0) return refuse("kv_heads: wanted 1 or more");
  if (shape.pages < 0) return refuse("pages: wanted 0 or more");
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0 ||
      shape.head_dim > static_cast<std::int32_t>(kMaxHeadDim)) {
    return refuse("head_dim: wanted an even number from 2 to 256");
  }
  if (shape.page_tokens <= 0 || shape.page_tokens % 16 != 0) {
    return refuse("page_tokens: wanted a multiple of 16");
  }
  KvLayout layout;
  switch (shape.dtype) {
    case DType::f32:
      layout.type = KvType::f32;
      break;
    case DType::f16:
      layout.type = KvType::f16;
      break;
    case DType::i8:
      layout.type = KvType::i8;
      break;
    default:
      return Error(
          ErrorCode::unsupported,
          {"make_kv_cache: shape.dtype: wanted f32, f16 or i8, got ", to_string(shape.dtype)});
  }
  layout.kv_heads = static_cast<std::size_t>(shape.kv_heads);
  layout.head_dim = static_cast<std::size_t>(shape.head_dim);
  layout.value_stride = ceil_div<std::size_t>(layout.head_dim, 16) * 16;
  layout.page_tokens = static_cast<std::size_t>(shape.page_tokens);
  const std::size_t element_bytes = bits_of(shape.dtype) / 8;
  layout.keys_at = shape.dtype == DType::i8 ? 2 * kBlockPositions * sizeof(float) : 0;
  layout.values_at = layout.keys_at + kBlockPositions * layout.head_dim * element_bytes;
  const std::size_t end = layout.values_at + kBlockPositions * layout.value_stride * element_bytes;
  layout.block_bytes = ceil_div(end, Buffer::kAlignment) * Buffer::kAlignment;
  return layout;
}

Result<std::unique_ptr<KvCache>> CpuBackend::make_kv_cache(
    const KvCacheShape& shape) const noexcept {
  CIUIC_ASSIGN_OR_RETURN(const KvLayout layout, layout_of(shape));
  const std::size_t page_bytes = kv_page_bytes(shape);  // 0: more than can be counted
  const auto bytes = checked_mul(page_bytes, static_cast<std::size_t>(shape.pages));
  if (page_bytes == 0 || !bytes) {
    return Error(ErrorCode::out_of_memory, "make_kv_cache: shape: too large to address");
  }
  CIUIC_ASSIGN_OR_RETURN(Buffer memory, Buffer::allocate(*host_.memory, *bytes));
  std::unique_ptr<KvCache> cache(new (std::nothrow) CpuKvCache(shape, layout, std::move(memory)));
  if (cache == nullptr) return Error(ErrorCode::out_of_memory, "make_kv_cache: no memory");
  return cache;
}

}  // namespace
}  // namespace cpu

Result<std::shared_ptr<const Backend>> cpu_backend(const CpuBackendOptions& options) {
  CIUIC_ASSIGN_OR_RETURN(const cpu::Kernels* kernels, cpu::kernels_for(options.isa));
  try {
    return std::shared_ptr<const Backend>(
        std::make_shared<cpu::CpuBackend>(*kernels, options.host));
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "cpu_backend: no memory");
  }
}

}  // namespace ciuic::inline CIUIC_ABI
