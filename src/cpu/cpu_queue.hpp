// Work for the CPU, done in the call: nothing is pending when an operation returns.
#pragma once

#include <optional>
#include <string_view>

#include "ciuic/ops/backend.hpp"
#include "cpu/kernels.hpp"
#include "cpu/packed_matrix.hpp"
#include "cpu/team.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// [layers][pages] pages; kernels.hpp has the inside of one.
class CpuKvCache final : public KvCache {
 public:
  CpuKvCache(const KvCacheShape& shape, const KvLayout& layout, Buffer memory) noexcept
      : KvCache(shape), layout_(layout), memory_(std::move(memory)) {}
  const KvLayout& layout() const noexcept { return layout_; }
  std::size_t page_bytes() const noexcept {
    return layout_.kv_heads * (layout_.page_tokens / kBlockPositions) * layout_.block_bytes;
  }
  const std::byte* layer(std::int32_t layer) const noexcept {
    return memory_.data() +
           static_cast<std::size_t>(layer) * static_cast<std::size_t>(shape().pages) * page_bytes();
  }
  std::byte* layer(std::int32_t layer) noexcept {
    return const_cast<std::byte*>(static_cast<const CpuKvCache*>(this)->layer(layer));
  }

 private:
  KvLayout layout_;
  Buffer memory_;
};

/// Tokens of a sequence that a piece of attention takes, each with `heads` heads: as many as share
/// a pass over keys and values, or, where these pieces (`tokens` tokens in `sequences` sequences,
/// each in `parts` parts) were fewer than four for each thread, fewer; below about 48 rows the time
/// for a pass itself would be worth more than what threads gain. For prompts: where most keys are
/// of earlier steps, a pass over them is what costs, and threads share segments instead.
constexpr std::size_t attention_piece_tokens(std::size_t tokens, std::size_t sequences,
                                             std::size_t parts, std::size_t heads,
                                             std::size_t threads) noexcept {
  constexpr std::size_t kPiecesPerThread = 4, kFewestRows = 48;
  const std::size_t most = kAttentionRows / heads;
  if (threads == 1 || tokens == sequences) return most;
  const std::size_t wanted = tokens * parts / (kPiecesPerThread * threads);
  const std::size_t fewest = heads < kFewestRows ? kFewestRows / heads : 1;
  return wanted > most ? most : wanted < fewest ? fewest : wanted;
}

/// Thread-safety: thread-compatible.
class CpuQueue final : public Queue {
 public:
  /// Partial sums of attention that a queue keeps for each of its threads.
  static constexpr std::size_t kPartialFloatsPerThread = 65536;

  CpuQueue(const Kernels& kernels, Team team, Buffer partials, const HostContext& host) noexcept
      : kernels_(kernels), team_(std::move(team)), partials_(std::move(partials)), host_(host) {}

  void copy_to_device(void* device, std::span<const std::byte> host) noexcept override;
  void copy_to_host(std::span<std::byte> host, const void* device) noexcept override;
  Result<std::unique_ptr<Event>> record() noexcept override;
  void wait(Event& event) noexcept override { event.wait(); }
  Result<void> synchronize() noexcept override;
  Result<void> reserve_matmul(const PackedMatrix& weight, std::int64_t tokens,
                              bool norm) noexcept override;
  std::size_t bytes() const noexcept override {
    return partials_.size() + prepared_.size() + team_.size() * kScratchFloats * sizeof(float);
  }

  void embed(const PackedMatrix& table, ConstTensorView ids, TensorView out) noexcept override;
  void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                TensorView out) noexcept override;
  void matmul(ConstTensorView x, const PackedMatrix& weight, TensorView out,
              const MatmulOptions& options) noexcept override;
  void rope_table(ConstTensorView positions, ConstTensorView frequencies, float factor,
                  TensorView table) noexcept override;
  void rotate_and_store(TensorView qkv, ConstTensorView table, const PackedBatch& batch,
                        const AttentionShape& shape, KvCache& cache,
                        std::int32_t layer) noexcept override;
  void attention(ConstTensorView qkv, const PackedBatch& batch, const AttentionShape& shape,
                 const KvCache& cache, std::int32_t layer, TensorView out) noexcept override;
  void gather_rows(ConstTensorView x, ConstTensorView indices, TensorView out) noexcept override;

 private:
  /// Notes the first error; always false.
  bool fail(ErrorCode code, std::initializer_list<std::string_view> message) noexcept;
  /// True when `condition`; else fails with "op: argument: wanted …, got …".
  bool require(bool condition, std::string_view argument, std::string_view wanted,
               std::int64_t got) noexcept;
  bool require_tensor(std::string_view argument, const ConstTensorView& view, DType dtype,
                      const Shape& shape) noexcept;
  bool require_rank(std::string_view argument, const ConstTensorView& view,
                    std::size_t rank) noexcept;
  const CpuPackedMatrix* require_matrix(std::string_view argument,
                                        const PackedMatrix& matrix) noexcept;
  const CpuKvCache* require_cache(const KvCache& cache, std::int32_t layer,
                                  const AttentionShape& shape) noexcept;
  bool require_batch(const PackedBatch& batch, const CpuKvCache& cache) noexcept;
  /// False when an earlier operation failed; else errors are reported under `name` from here on.
  bool begin(std::string_view name) noexcept;

  /// Makes `prepared_` at least so large.
  Result<void> reserve_prepared(std::size_t bytes) noexcept;
  /// Inputs of a matmul on their way to the kernel: `x` itself, normalised, or as integers.
  bool prepare_rows(GemmTask& task, const float* x, std::size_t rows, const CpuPackedMatrix& weight,
                    const MatmulOptions& options) noexcept;

  const Kernels& kernels_;
  Team team_;
  Buffer partials_;  // of attention whose segments several threads share; none for one thread
  const HostContext host_;
  Buffer prepared_;  // of reserve_matmul, or grown to the largest that was needed
  std::string_view operation_;
  std::optional<Error> error_;
};

}  // namespace ciuic::inline CIUIC_ABI::cpu
