// The seam between the CPU backend and its kernels: plain structs in, plain functions behind.
// Kernel sources include this header and simd.hpp only and are compiled once per instruction set,
// each time into a namespace of its own (CMakeLists.txt defines CIUIC_CPU_ISA), so nothing here may
// be a template or an inline function that could end up as a symbol in two of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// Columns (output features) of one panel of packed weights: [rows/64][cols][64], zero padded, so a
/// panel is one sequential stream.
inline constexpr std::size_t kPanelColumns = 64;
/// Output features per panel of a gated matrix: 32 columns of gate, then their 32 of value.
inline constexpr std::size_t kGatedColumns = kPanelColumns / 2;
/// Positions per block of keys: [head_dim][16], so that a vector holds one coordinate of several
/// keys and scores need no horizontal sums.
inline constexpr std::size_t kBlockPositions = 16;
/// Positions that one step of the online softmax takes, at multiples of 64 in every sequence.
inline constexpr std::size_t kSoftmaxPositions = 64;
inline constexpr std::size_t kMaxHeadDim = 256;
/// Rows of activations that share a pass over a panel.
inline constexpr std::size_t kGemmChunkRows = 144;
/// Query rows (tokens x heads of one group) that share a pass over keys and values.
inline constexpr std::size_t kAttentionRows = 48;
/// Floats of working memory a thread lends to a kernel.
inline constexpr std::size_t kScratchFloats = 16384;

/// Rows [row_begin, row_end) x panels [panel_begin, panel_end) of out = x W^T, with what follows.
struct GemmTask {
  const float* x = nullptr;       ///< [rows, k]
  const float* panels = nullptr;  ///< [panels][k][64]
  const float* bias = nullptr;    ///< [columns of W] or null
  float* out = nullptr;           ///< [rows, out_columns]
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

/// Where one layer's keys and values of the pages lie: [page][kv_head][page_tokens/16] blocks, each
/// keys [head_dim][16], then values [16][value_stride].
struct KvLayout {
  std::size_t kv_heads = 0, head_dim = 0;
  std::size_t value_stride = 0;  ///< head_dim rounded up to 16; the rest is zero
  std::size_t page_tokens = 0;
};

/// Rotates the queries and stores the keys and values of one token.
struct RotateTask {
  float* qkv = nullptr;          ///< [(heads + 2 kv_heads) * head_dim]
  const float* table = nullptr;  ///< [2, head_dim/2]: cosines, sines
  float* page = nullptr;         ///< of this token's position, in the layer at hand
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
  const float* pages = nullptr;              ///< of the layer
  const std::int32_t* page_table = nullptr;  ///< of the sequence
  KvLayout layout;
  std::size_t kv_head = 0;
  float scale = 0.0f;
  float* scratch = nullptr;  ///< kScratchFloats, aligned to 64 bytes
};

/// What a processor family brings. One table per instruction set.
struct Kernels {
  const char* isa;
  /// panel [k][64] from rows [count][k]; row r becomes column `first_column` + r.
  void (*pack_rows)(const float* rows, std::size_t count, std::size_t k, std::size_t first_column,
                    float* panel) noexcept;
  /// out [k] = one column of a panel.
  void (*unpack_row)(const float* panel, std::size_t column, std::size_t k, float* out) noexcept;
  void (*gemm)(const GemmTask&) noexcept;
  void (*rms_norm)(const RmsNormTask&) noexcept;
  void (*rotate_and_store)(const RotateTask&) noexcept;
  void (*attention)(const AttentionTask&) noexcept;
};

#define CIUIC_CPU_DECLARE_KERNELS(isa)                                                          \
  namespace isa {                                                                               \
  void pack_rows(const float* rows, std::size_t count, std::size_t k, std::size_t first_column, \
                 float* panel) noexcept;                                                        \
  void unpack_row(const float* panel, std::size_t column, std::size_t k, float* out) noexcept;  \
  void gemm(const GemmTask& task) noexcept;                                                     \
  void rms_norm(const RmsNormTask& task) noexcept;                                              \
  void rotate_and_store(const RotateTask& task) noexcept;                                       \
  void attention(const AttentionTask& task) noexcept;                                           \
  }
CIUIC_CPU_DECLARE_KERNELS(scalar)
CIUIC_CPU_DECLARE_KERNELS(avx2)
CIUIC_CPU_DECLARE_KERNELS(avx512)
#undef CIUIC_CPU_DECLARE_KERNELS

}  // namespace ciuic::inline CIUIC_ABI::cpu
