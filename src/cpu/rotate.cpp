// Rotary position embedding of one token's queries and keys, and the token's place in the cache.
#include "cpu/simd.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// Pairs (x[i], x[i + half]) turned by the angle whose cosine and sine the table holds. Each
/// product is rounded on its own, as the reference implementations do.
void rotate(const float* x, const float* table, std::size_t half, float* out) {
  const float* cosine = table;
  const float* sine = table + half;
  std::size_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = hn::LoadU(kTag, x + i), b = hn::LoadU(kTag, x + half + i);
    const Vec c = hn::LoadU(kTag, cosine + i), s = hn::LoadU(kTag, sine + i);
    hn::StoreU(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), kTag, out + i);
    hn::StoreU(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), kTag, out + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cosine[i] - b * sine[i];
    out[half + i] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

void rotate_and_store(const RotateTask& task) noexcept {
  const std::size_t d = task.layout.head_dim, half = d / 2;
  for (std::size_t head = 0; head < task.heads; ++head) {
    float* q = task.qkv + head * d;
    rotate(q, task.table, half, q);
  }
  const std::size_t value_stride = task.layout.value_stride;
  const std::size_t block_floats = kBlockPositions * (d + value_stride);
  const std::size_t blocks_per_page = task.layout.page_tokens / kBlockPositions;
  for (std::size_t head = 0; head < task.layout.kv_heads; ++head) {
    float* block =
        task.page + (head * blocks_per_page + task.slot / kBlockPositions) * block_floats;
    const std::size_t column = task.slot % kBlockPositions;
    const float* k = task.qkv + (task.heads + head) * d;
    const float* v = k + task.layout.kv_heads * d;
    float rotated[kMaxHeadDim];
    rotate(k, task.table, half, rotated);
    for (std::size_t i = 0; i < d; ++i) block[i * kBlockPositions + column] = rotated[i];
    float* value = block + kBlockPositions * d + column * value_stride;
    for (std::size_t i = 0; i < d; ++i) value[i] = v[i];
    for (std::size_t i = d; i < value_stride; ++i) value[i] = 0.0f;
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
