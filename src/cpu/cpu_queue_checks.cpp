// Preconditions of the queue's operations: what is wrong is noted once, by operation and argument.
#include <array>
#include <charconv>
#include <cstring>

#include "ciuic/base/checked.hpp"
#include "cpu/cpu_queue.hpp"
#include "cpu/views.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

/// Text of bounded length on the stack, because reporting an error must not fail.
class ShortText {
 public:
  explicit ShortText(std::int64_t number) noexcept { add(number); }
  ShortText(DType dtype, const Shape& shape) noexcept {
    add(to_string(dtype));
    add(" [");
    for (std::size_t i = 0; i < shape.rank(); ++i) {
      if (i > 0) add(", ");
      add(shape[i]);
    }
    add("]");
  }
  operator std::string_view() const noexcept { return {text_.data(), size_}; }

 private:
  void add(std::string_view part) noexcept {
    if (part.size() > text_.size() - size_) return;
    std::memcpy(text_.data() + size_, part.data(), part.size());
    size_ += part.size();
  }
  void add(std::int64_t number) noexcept {
    std::array<char, 24> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr;
    add({digits.data(), static_cast<std::size_t>(end - digits.data())});
  }

  std::array<char, 208> text_;
  std::size_t size_ = 0;
};

}  // namespace

bool CpuQueue::fail(ErrorCode code, std::initializer_list<std::string_view> message) noexcept {
  if (!error_) error_.emplace(Error(code, message).with_prefix(": ").with_prefix(operation_));
  return false;
}

bool CpuQueue::require(bool condition, std::string_view argument, std::string_view wanted,
                       std::int64_t got) noexcept {
  if (condition) return true;
  return fail(ErrorCode::invalid_argument,
              {argument, ": wanted ", wanted, ", got ", ShortText(got)});
}

bool CpuQueue::require_tensor(std::string_view argument, const ConstTensorView& view, DType dtype,
                              const Shape& shape) noexcept {
  if (view.dtype != dtype || !(view.shape == shape)) {
    return fail(ErrorCode::invalid_argument, {argument, ": wanted ", ShortText(dtype, shape),
                                              ", got ", ShortText(view.dtype, view.shape)});
  }
  // `shape` is often made of the view's own extents, so being equal says nothing about their sign.
  if (!bytes_of(dtype, shape)) {
    return fail(ErrorCode::invalid_argument,
                {argument, ": wanted extents of 0 or more that fit memory, got ",
                 ShortText(view.dtype, view.shape)});
  }
  if (view.data == nullptr && shape.elements() != std::uint64_t{0}) {
    return fail(ErrorCode::invalid_argument,
                {argument, ": wanted ", ShortText(dtype, shape), ", got null"});
  }
  return true;
}

bool CpuQueue::require_rank(std::string_view argument, const ConstTensorView& view,
                            std::size_t rank) noexcept {
  if (view.shape.rank() == rank) return true;
  return fail(ErrorCode::invalid_argument,
              {argument, ": wanted rank ", ShortText(static_cast<std::int64_t>(rank)), ", got ",
               ShortText(view.dtype, view.shape)});
}

const CpuPackedMatrix* CpuQueue::require_matrix(std::string_view argument,
                                                const PackedMatrix& matrix) noexcept {
  const auto* mine = dynamic_cast<const CpuPackedMatrix*>(&matrix);
  if (mine == nullptr) {
    fail(ErrorCode::invalid_argument,
         {argument, ": wanted a matrix packed by the cpu backend, got another's"});
  }
  return mine;
}

const CpuKvCache* CpuQueue::require_cache(const KvCache& cache, std::int32_t layer,
                                          const AttentionShape& shape) noexcept {
  const auto* mine = dynamic_cast<const CpuKvCache*>(&cache);
  if (mine == nullptr) {
    fail(ErrorCode::invalid_argument, {"cache: wanted one made by the cpu backend, got another's"});
    return nullptr;
  }
  const KvCacheShape& have = cache.shape();
  const bool good =
      require(layer >= 0 && layer < have.layers, "layer", "one that the cache has", layer) &&
      require(shape.head_dim == have.head_dim, "shape.head_dim", "the cache's", shape.head_dim) &&
      require(shape.kv_heads == have.kv_heads, "shape.kv_heads", "the cache's", shape.kv_heads) &&
      require(shape.heads > 0 && shape.heads % have.kv_heads == 0, "shape.heads",
              "a multiple of kv_heads", shape.heads);
  return good ? mine : nullptr;
}

bool CpuQueue::require_batch(const PackedBatch& batch, const CpuKvCache& cache) noexcept {
  if (!require(batch.tokens >= 0, "batch.tokens", "0 or more", batch.tokens) ||
      !require(batch.sequences >= 0, "batch.sequences", "0 or more", batch.sequences) ||
      !require_rank("batch.page_tables", batch.page_tables, 2)) {
    return false;
  }
  const std::int64_t max_pages = batch.page_tables.shape[1];
  if (!require_tensor("batch.positions", batch.positions, DType::i32, {batch.tokens}) ||
      !require_tensor("batch.sequence_starts", batch.sequence_starts, DType::i32,
                      {std::int64_t{batch.sequences} + 1}) ||
      !require_tensor("batch.context_lengths", batch.context_lengths, DType::i32,
                      {batch.sequences}) ||
      !require_tensor("batch.page_tables", batch.page_tables, DType::i32,
                      {batch.sequences, max_pages})) {
    return false;
  }
  // Kernels follow these numbers into memory, so they are looked at every time.
  const std::int32_t* starts = integers(batch.sequence_starts);
  if (!require(starts[0] == 0, "batch.sequence_starts[0]", "0", starts[0]) ||
      !require(starts[batch.sequences] == batch.tokens, "batch.sequence_starts[sequences]",
               "batch.tokens", starts[batch.sequences])) {
    return false;
  }
  const std::int64_t page_tokens = cache.shape().page_tokens;
  for (std::int32_t s = 0; s < batch.sequences; ++s) {
    const std::int32_t context = integers(batch.context_lengths)[s];
    if (!require(starts[s] <= starts[s + 1], "batch.sequence_starts", "ascending numbers",
                 starts[s + 1]) ||
        !require(context >= 0 && context <= max_pages * page_tokens, "batch.context_lengths",
                 "no more than the page table holds", context)) {
      return false;
    }
    const std::int32_t* pages = integers(batch.page_tables) + s * max_pages;
    for (std::int64_t p = 0; p < ceil_div<std::int64_t>(context, page_tokens); ++p) {
      if (!require(pages[p] >= 0 && pages[p] < cache.shape().pages, "batch.page_tables",
                   "a page of the cache", pages[p])) {
        return false;
      }
    }
    for (std::int32_t t = starts[s]; t < starts[s + 1]; ++t) {
      const std::int32_t position = integers(batch.positions)[t];
      if (!require(position >= 0 && position < context, "batch.positions",
                   "a position below its sequence's context length", position)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
