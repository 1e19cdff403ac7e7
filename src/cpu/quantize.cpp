// Rows of activations to integers of 8 bits: value = integer * scale, the row's largest magnitude
// at 127. A row that holds NaN or an infinity gets the scale NaN, so that all its results are NaN
// and no other row's.
#include "cpu/dot.hpp"
#include "cpu/row_norm.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// Values of one row, normalised on the way.
struct RowReader {
  const float* x;
  const float* norm;  // or null
  float factor;

  HWY_INLINE Vec load(std::size_t i) const {
    const Vec value = hn::LoadU(kTag, x + i);
    if (norm == nullptr) return value;
    return hn::Mul(hn::Mul(value, hn::Set(kTag, factor)), hn::LoadU(kTag, norm + i));
  }
  /// The first `count` lanes; the rest is zero.
  HWY_INLINE Vec load_some(std::size_t i, std::size_t count) const {
    alignas(64) float values[kLanes] = {};
    for (std::size_t j = 0; j < count; ++j)
      values[j] = norm == nullptr ? x[i + j] : x[i + j] * factor * norm[i + j];
    return hn::Load(kTag, values);
  }
};

/// The bits of the largest magnitude: as integers, NaN stands above infinity above all numbers.
std::int32_t largest_bits(const RowReader& row, std::size_t k) {
  const IntVec magnitude = hn::Set(kIntTag, 0x7FFFFFFF);
  IntVec largest[2] = {hn::Zero(kIntTag), hn::Zero(kIntTag)};
  std::size_t i = 0;
  const auto take = [&](IntVec& to, Vec value) {
    to = hn::Max(to, hn::And(hn::BitCast(kIntTag, value), magnitude));
  };
  for (; i + 2 * kLanes <= k; i += 2 * kLanes) {
    take(largest[0], row.load(i));
    take(largest[1], row.load(i + kLanes));
  }
  for (; i < k; i += kLanes) take(largest[0], row.load_some(i, k - i < kLanes ? k - i : kLanes));
  return hn::GetLane(hn::MaxOfLanes(kIntTag, hn::Max(largest[0], largest[1])));
}

/// Stores kLanes integers of -127 … 127, `offset` added.
HWY_INLINE IntVec round_and_store(Vec value, Vec inverse, std::int32_t offset, std::uint8_t* out) {
  const Vec steps =
      hn::Max(hn::Min(hn::Mul(value, inverse), hn::Set(kTag, 127.0f)), hn::Set(kTag, -127.0f));
  const IntVec integers = hn::NearestInt(steps);
  const hn::Rebind<std::uint8_t, Tag> bytes;
  if (offset != 0) {
    hn::StoreU(hn::DemoteTo(bytes, hn::Add(integers, hn::Set(kIntTag, offset))), bytes, out);
  } else {
    const hn::Rebind<std::int8_t, Tag> signed_bytes;
    hn::StoreU(hn::DemoteTo(signed_bytes, integers), signed_bytes,
               reinterpret_cast<std::int8_t*>(out));
  }
  return integers;
}

void quantize_row(const QuantizeTask& task, std::size_t r, std::int32_t offset) {
  const std::size_t k = task.k;
  std::uint8_t* out = task.out.integers + r * task.out.stride;
  RowReader row{task.x + r * k, task.norm, 1.0f};
  if (task.norm != nullptr) row.factor = rms_factor(row.x, k, task.epsilon);

  const std::int32_t bits = largest_bits(row, k);
  constexpr std::int32_t kLargestFinite = 0x7F7FFFFF;
  float scale = task.input_scale, inverse;
  if (bits > kLargestFinite) {
    scale = __builtin_nanf("");
    inverse = 0.0f;
  } else {
    if (scale == 0.0f) {
      float largest;
      __builtin_memcpy(&largest, &bits, sizeof(largest));
      scale = largest / 127.0f;
      if (scale < 0x1p-126f) scale = 0.0f;  // a subnormal: its reciprocal might be infinite
    }
    inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  }
  task.out.scales[r] = scale;

  const Vec inverses = hn::Set(kTag, inverse);
  const bool bad = scale != scale;
  const std::size_t group = task.out.group == 0 ? task.out.stride : task.out.group;
  std::size_t i = 0, g = 0;
  const std::size_t padded = task.out.group == 0 ? k : task.out.groups * group;
  while (i < padded) {
    const std::size_t end = padded - i < group ? padded : i + group;
    IntVec sum = hn::Zero(kIntTag);
    for (; i < end; i += kLanes) {
      const std::size_t left = i < k ? k - i : 0;
      Vec value = left >= kLanes ? row.load(i) : row.load_some(i, left);
      if (bad) value = hn::Zero(kTag);
      sum = hn::Add(sum, round_and_store(value, inverses, offset, out + i));
    }
    if (task.out.group != 0) {
      task.out.group_sums[r * task.out.groups + g] = hn::GetLane(hn::SumOfLanes(kIntTag, sum));
    }
    ++g;
  }
  // Up to where an i8 step may still read; its weights are zero there.
  for (; i < task.out.stride && i % 64 != 0; ++i) out[i] = 0;
}

}  // namespace

void quantize_rows_i8(const QuantizeTask& task) noexcept {
  for (std::size_t r = 0; r < task.rows; ++r) quantize_row(task, r, kActivationOffset);
}
void quantize_rows_i4(const QuantizeTask& task) noexcept {
  for (std::size_t r = 0; r < task.rows; ++r) quantize_row(task, r, 0);
}

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
