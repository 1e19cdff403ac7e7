// The seam between the CPU backend and its kernels: plain structs in, plain functions behind.
// Kernel sources include this header and simd.hpp only and are compiled once per instruction set,
// each time into a namespace of its own (CMakeLists.txt defines CIUIC_CPU_ISA), so nothing here may
// be a template or an inline function that could end up as a symbol in two of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// Columns of a panel of packed weights, and features in a panel of a gated matrix: as
/// quant/packed_layout.hpp has them.
inline constexpr std::size_t kPanelColumns = 64;
inline constexpr std::size_t kGatedColumns = kPanelColumns / 2;
/// Positions per block of keys: [head_dim][16], so that a vector holds one coordinate of several
/// keys and scores need no horizontal sums.
inline constexpr std::size_t kBlockPositions = 16;
/// Positions that one step of the online softmax takes, at multiples of 64 in every sequence.
inline constexpr std::size_t kSoftmaxPositions = 64;
/// Positions whose softmax is summed on its own before it joins the sum of those before: what
/// several threads may share of one sequence. At multiples of 512 in every sequence.
inline constexpr std::size_t kSegmentPositions = 512;
/// Floats that a query row's sums of a segment take beside its values.
inline constexpr std::size_t kPartialFloats = 32;
inline constexpr std::size_t kMaxHeadDim = 256;
/// Rows of activations that share a pass over a panel, and the tiles they are best cut into.
inline constexpr std::size_t kGemmChunkRows = 144, kGemmTileRows = 6;
/// Query rows (tokens x heads of one group) that share a pass over keys and values.
inline constexpr std::size_t kAttentionRows = 192;
/// Floats of working memory a thread lends to a kernel.
inline constexpr std::size_t kScratchFloats = 212992;

/// Rows of activations as integers of 8 bits, which i8 and i4 weights multiply.
struct QuantizedRows {
  std::uint8_t* integers = nullptr;    ///< [rows][stride], zero padded to the weights' k; for i8
                                       ///< weights offset by what the instruction set's dot wants
  float* scales = nullptr;             ///< [rows]
  std::int32_t* group_sums = nullptr;  ///< i4: [rows][groups], of the integers of each group
  std::size_t stride = 0, group = 0, groups = 0;
};

/// Rounds rows of x, normalised first if there is a norm, to integers.
struct QuantizeTask {
  const float* x = nullptr;     ///< [rows, k]
  const float* norm = nullptr;  ///< [k] or null
  float epsilon = 0.0f;
  float input_scale = 0.0f;  ///< 0: each row's largest magnitude becomes 127
  QuantizedRows out;         ///< of the same rows
  std::size_t rows = 0, k = 0;
};

/// Rows [row_begin, row_end) x panels [panel_begin, panel_end) of out = x W^T, with what follows.
struct GemmTask {
  const float* x = nullptr;           ///< [rows, k]: for f32 and bf16 weights
  QuantizedRows q;                    ///< for i8 and i4 weights
  const std::byte* panels = nullptr;  ///< see PackedLayout
  std::size_t panel_bytes = 0;
  const float* column_scales = nullptr;       ///< i8: [panels][64]
  const std::int32_t* column_sums = nullptr;  ///< i8: [panels][64]
  const float* bias = nullptr;                ///< [columns of W] or null
  float* out = nullptr;                       ///< [rows, out_columns]
  std::size_t k = 0, out_columns = 0;
  std::size_t row_begin = 0, row_end = 0;  ///< at most kGemmChunkRows
  std::size_t panel_begin = 0, panel_end = 0;
  bool accumulate = false, gated = false;
  float* scratch = nullptr;  ///< kScratchFloats, aligned to 64 bytes
};

struct RmsNormTask {
  const float* x = nullptr;       ///< [rows, d]
  const float* weight = nullptr;  ///< [d]
  float* out = nullptr;           ///< [rows, d]
  std::size_t rows = 0, d = 0;
  float epsilon = 0.0f;
};

/// What keys and values are stored as.
enum class KvType : std::uint8_t { f32, f16, i8 };

/// Where one layer's keys and values of the pages lie: [page][kv_head][page_tokens/16] blocks. A
/// block holds keys [head_dim][16] and values [16][value_stride]; with i8, before them, the factors
/// f32 [2][16] of each position's keys and values.
struct KvLayout {
  std::size_t kv_heads = 0, head_dim = 0;
  std::size_t value_stride = 0;  ///< head_dim rounded up to 16; the rest is zero
  std::size_t page_tokens = 0;
  KvType type = KvType::f32;
  std::size_t keys_at = 0, values_at = 0, block_bytes = 0;  ///< bytes; blocks are whole lines
};

/// Rotates the queries and stores the keys and values of one token.
struct RotateTask {
  float* qkv = nullptr;          ///< [(heads + 2 kv_heads) * head_dim]
  const float* table = nullptr;  ///< [2, head_dim/2]: cosines, sines
  std::byte* page = nullptr;     ///< of this token's position, in the layer at hand
  KvLayout layout;
  std::size_t heads = 0;
  std::size_t slot = 0;  ///< position within the page
};

/// Attention of `tokens` consecutive tokens of one sequence x `heads` heads that share a kv head.
struct AttentionTask {
  const float* q = nullptr;                  ///< first token's first head; next head at + head_dim
  float* out = nullptr;                      ///< likewise
  std::size_t q_stride = 0, out_stride = 0;  ///< floats from one token to the next
  std::size_t tokens = 0, heads = 0;         ///< tokens * heads <= kAttentionRows
  const std::int32_t* positions = nullptr;   ///< [tokens]
  const std::byte* pages = nullptr;          ///< of the layer
  const std::int32_t* page_table = nullptr;  ///< of the sequence
  KvLayout layout;
  std::size_t kv_head = 0;
  float scale = 0.0f;
  float* scratch = nullptr;  ///< kScratchFloats, aligned to 64 bytes

  /// Null, or what each segment summed: [segments][tokens * heads * (value_stride +
  /// kPartialFloats)]. Not null: `attention` takes the positions of `segment` alone and leaves its
  /// sums here; `merge_attention` makes the result of all of them.
  float* partials = nullptr;
  std::size_t segment = 0;

  /// What is likely to be read next, to be asked for ahead: positions from `next_first` to
  /// `next_context` of another sequence or head. Null when there is none.
  const std::int32_t* next_page_table = nullptr;
  std::size_t next_kv_head = 0, next_first = 0, next_context = 0;
};

/// What a processor family brings. One table per instruction set.
struct Kernels {
  const char* isa;
  void (*gemm_f32)(const GemmTask&) noexcept;
  void (*gemm_bf16)(const GemmTask&) noexcept;
  void (*gemm_i8)(const GemmTask&) noexcept;
  void (*gemm_i4)(const GemmTask&) noexcept;
  void (*quantize_rows_i8)(const QuantizeTask&) noexcept;  ///< for i8 weights
  void (*quantize_rows_i4)(const QuantizeTask&) noexcept;  ///< for i4 weights
  void (*rms_norm)(const RmsNormTask&) noexcept;
  void (*rotate_and_store)(const RotateTask&) noexcept;
  void (*attention)(const AttentionTask&) noexcept;
  void (*merge_attention)(const AttentionTask&) noexcept;
};

#define CIUIC_CPU_DECLARE_KERNELS(isa)                      \
  namespace isa {                                           \
  void gemm_f32(const GemmTask& task) noexcept;             \
  void gemm_bf16(const GemmTask& task) noexcept;            \
  void gemm_i8(const GemmTask& task) noexcept;              \
  void gemm_i4(const GemmTask& task) noexcept;              \
  void quantize_rows_i8(const QuantizeTask& task) noexcept; \
  void quantize_rows_i4(const QuantizeTask& task) noexcept; \
  void rms_norm(const RmsNormTask& task) noexcept;          \
  void rotate_and_store(const RotateTask& task) noexcept;   \
  void attention(const AttentionTask& task) noexcept;       \
  void merge_attention(const AttentionTask& task) noexcept; \
  }
CIUIC_CPU_DECLARE_KERNELS(scalar)
CIUIC_CPU_DECLARE_KERNELS(avx2)
CIUIC_CPU_DECLARE_KERNELS(avx512)
CIUIC_CPU_DECLARE_KERNELS(neondot)
#undef CIUIC_CPU_DECLARE_KERNELS

/// Sets that bring a dot product of bytes and take everything else from the set they extend.
#define CIUIC_CPU_DECLARE_DOT_KERNELS(isa)                  \
  namespace isa {                                           \
  void gemm_i8(const GemmTask& task) noexcept;              \
  void gemm_i4(const GemmTask& task) noexcept;              \
  void quantize_rows_i8(const QuantizeTask& task) noexcept; \
  void quantize_rows_i4(const QuantizeTask& task) noexcept; \
  }
CIUIC_CPU_DECLARE_DOT_KERNELS(avx2vnni)
CIUIC_CPU_DECLARE_DOT_KERNELS(avx512vnni)
#undef CIUIC_CPU_DECLARE_DOT_KERNELS

}  // namespace ciuic::inline CIUIC_ABI::cpu
