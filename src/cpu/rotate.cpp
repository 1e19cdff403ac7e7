// Rotary position embedding of one token's queries and keys, and the token's place in the cache.
#include "cpu/kv_elements.hpp"

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

/// Writes one position's keys (already rotated) and values, [value_stride] each, into its block.
template <class T>
void store_position(const float* k, const float* v, const KvLayout& layout, std::size_t column,
                    std::byte* block) {
  T elements[kMaxHeadDim];
  const float k_factor = store_elements(k, layout.value_stride, elements);
  T* keys = reinterpret_cast<T*>(block + layout.keys_at) + column;
  for (std::size_t i = 0; i < layout.head_dim; ++i) keys[i * kBlockPositions] = elements[i];
  T* values = reinterpret_cast<T*>(block + layout.values_at) + column * layout.value_stride;
  const float v_factor = store_elements(v, layout.value_stride, values);
  if constexpr (std::is_same_v<T, std::int8_t>) {
    float* factors = reinterpret_cast<float*>(block) + column;
    factors[0] = k_factor;
    factors[kBlockPositions] = v_factor;
  }
}

}  // namespace

void rotate_and_store(const RotateTask& task) noexcept {
  const KvLayout& layout = task.layout;
  const std::size_t d = layout.head_dim, half = d / 2;
  for (std::size_t head = 0; head < task.heads; ++head) {
    float* q = task.qkv + head * d;
    rotate(q, task.table, half, q);
  }
  const std::size_t blocks_per_page = layout.page_tokens / kBlockPositions;
  float rotated[kMaxHeadDim], values[kMaxHeadDim];
  for (std::size_t i = d; i < layout.value_stride; ++i) rotated[i] = values[i] = 0.0f;
  for (std::size_t head = 0; head < layout.kv_heads; ++head) {
    std::byte* block =
        task.page + (head * blocks_per_page + task.slot / kBlockPositions) * layout.block_bytes;
    const std::size_t column = task.slot % kBlockPositions;
    const float* k = task.qkv + (task.heads + head) * d;
    const float* v = k + layout.kv_heads * d;
    rotate(k, task.table, half, rotated);
    for (std::size_t i = 0; i < d; ++i) values[i] = v[i];
    switch (layout.type) {
      case KvType::f32:
        store_position<float>(rotated, values, layout, column, block);
        break;
      case KvType::f16:
        store_position<F16>(rotated, values, layout, column, block);
        break;
      case KvType::i8:
        store_position<std::int8_t>(rotated, values, layout, column, block);
        break;
    }
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
