#include "ciuic/ops/cpu_backend.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "cpu/cpu_queue.hpp"
#include "cpu/isa.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace cpu {
namespace {

/// Bytes of all panels; empty when they cannot be counted.
std::optional<std::size_t> packed_bytes(std::size_t panels, std::size_t k) noexcept {
  const auto floats = checked_mul(panels, k);
  if (!floats) return std::nullopt;
  return checked_mul(*floats, kPanelColumns * sizeof(float));
}

/// Reads `count` rows from `first` on into `rows`, shielding us from a source that throws.
Result<void> read_rows(MatrixSource& source, std::int64_t first, std::span<float> rows) noexcept {
  try {
    return source.read_rows(first, rows);
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "pack: the source ran out of memory");
  } catch (...) {
    return Error(ErrorCode::model_failed, "pack: the source threw an exception");
  }
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, const HostContext& host) noexcept
      : kernels_(kernels), host_(host) {}

  std::string_view name() const noexcept override { return "cpu"; }
  std::string_view isa() const noexcept override { return kernels_.isa; }

  Result<void*> allocate(std::size_t bytes) const noexcept override {
    try {
      return host_.memory->allocate(bytes, Buffer::kAlignment);
    } catch (...) {
      return Error(ErrorCode::out_of_memory, "allocate: the host's allocator refused the request");
    }
  }
  void deallocate(void* memory, std::size_t bytes) const noexcept override {
    host_.memory->deallocate(memory, bytes, Buffer::kAlignment);
  }

  Result<std::unique_ptr<PackedMatrix>> pack(MatrixSource source,
                                             DType dtype) const noexcept override;

  std::size_t kv_page_bytes(const KvCacheShape& shape) const noexcept override {
    const Result<KvLayout> layout = layout_of(shape);
    if (!layout) return 0;
    const auto floats = checked_mul(layout->kv_heads * layout->page_tokens,
                                    layout->head_dim + layout->value_stride);
    if (!floats) return 0;
    const auto bytes = checked_mul(*floats, static_cast<std::size_t>(shape.layers) * sizeof(float));
    return bytes.value_or(0);
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(const KvCacheShape& shape) const noexcept override;

  Result<std::unique_ptr<Queue>> make_queue(const QueueOptions& options) const noexcept override {
    if (options.threads < 0) {
      return Error(ErrorCode::invalid_argument,
                   "make_queue: options.threads: wanted 0 or more, got a negative number");
    }
    CIUIC_ASSIGN_OR_RETURN(Team team, Team::make(options.threads, kScratchFloats, host_));
    std::unique_ptr<Queue> queue(new (std::nothrow) CpuQueue(kernels_, std::move(team)));
    if (queue == nullptr) return Error(ErrorCode::out_of_memory, "make_queue: no memory");
    return queue;
  }

 private:
  static Result<KvLayout> layout_of(const KvCacheShape& shape) noexcept;

  const Kernels& kernels_;
  const HostContext host_;
};

Result<std::unique_ptr<PackedMatrix>> CpuBackend::pack(MatrixSource source,
                                                       DType dtype) const noexcept {
  if (dtype != DType::f32) {
    return Error(ErrorCode::unsupported,
                 {"pack: dtype: the cpu backend packs f32, got ", to_string(dtype)});
  }
  const bool gated = source.form == PackedMatrix::Form::gated;
  if (source.rows <= 0 || source.cols <= 0 || !source.read_rows ||
      (gated && source.rows % 2 != 0)) {
    return Error(ErrorCode::invalid_argument,
                 "pack: source: wanted rows (an even number when gated), columns and read_rows");
  }
  const std::size_t k = static_cast<std::size_t>(source.cols);
  const std::size_t features = static_cast<std::size_t>(gated ? source.rows / 2 : source.rows);
  const std::size_t width = gated ? kGatedColumns : kPanelColumns;  // rows of one kind per panel
  const auto bytes = packed_bytes(ceil_div(features, width), k);
  if (!bytes) return Error(ErrorCode::out_of_memory, "pack: source: too large to address");
  CIUIC_ASSIGN_OR_RETURN(Buffer panels, Buffer::allocate(*host_.memory, *bytes));
  CIUIC_ASSIGN_OR_RETURN(Buffer staging,
                         Buffer::allocate(*host_.memory, width * k * sizeof(float)));

  float* panel = panels.as<float>().data();
  for (std::size_t first = 0; first < features; first += width, panel += k * kPanelColumns) {
    const std::size_t count = std::min(width, features - first);
    if (count < width) std::memset(panel, 0, k * kPanelColumns * sizeof(float));
    for (std::size_t kind = 0; kind < (gated ? 2u : 1u); ++kind) {
      const std::span<float> rows = staging.as<float>().first(count * k);
      CIUIC_TRY(read_rows(source, static_cast<std::int64_t>(first + kind * features), rows));
      kernels_.pack_rows(rows.data(), count, k, kind * kGatedColumns, panel);
    }
  }
  std::unique_ptr<PackedMatrix> matrix(new (std::nothrow) CpuPackedMatrix(
      source.rows, source.cols, source.form, dtype, std::move(panels)));
  if (matrix == nullptr) return Error(ErrorCode::out_of_memory, "pack: no memory for the matrix");
  return matrix;
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
  layout.kv_heads = static_cast<std::size_t>(shape.kv_heads);
  layout.head_dim = static_cast<std::size_t>(shape.head_dim);
  layout.value_stride = ceil_div<std::size_t>(layout.head_dim, 16) * 16;
  layout.page_tokens = static_cast<std::size_t>(shape.page_tokens);
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
