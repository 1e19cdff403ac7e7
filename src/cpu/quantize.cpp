// Rows of activations to integers of 8 bits: value = integer * scale, the row's largest magnitude
// at 127. A row that holds NaN or an infinity gets the scale NaN, so that all its results are NaN
// and no other row's.
#include "cpu/dot.hpp"
#include "cpu/row_norm.hpp"

namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA {
namespace {

/// Values of one row, normalised on the way if there is a norm.
template <bool kNorm>
struct RowReader {
  const float* HWY_RESTRICT x;
  const float* HWY_RESTRICT norm;
  Vec factor;

  HWY_INLINE Vec load(std::size_t i) const {
    const Vec value = hn::LoadU(kTag, x + i);
    return kNorm ? hn::Mul(hn::Mul(value, factor), hn::LoadU(kTag, norm + i)) : value;
  }
  /// The first `count` lanes; the rest is zero.
  HWY_INLINE Vec load_some(std::size_t i, std::size_t count) const {
    alignas(64) float values[kLanes] = {}, weights[kLanes] = {};
    for (std::size_t j = 0; j < count; ++j) values[j] = x[i + j];
    for (std::size_t j = 0; kNorm && j < count; ++j) weights[j] = norm[i + j];
    const Vec value = hn::Load(kTag, values);
    return kNorm ? hn::Mul(hn::Mul(value, factor), hn::Load(kTag, weights)) : value;
  }
};

/// The bits of the largest magnitude: as integers, NaN stands above infinity above all numbers.
template <class Row>
std::int32_t largest_bits(const Row& row, std::size_t k) {
  constexpr std::size_t kVectors = 4;
  const IntVec magnitude = hn::Set(kIntTag, 0x7FFFFFFF);
  IntVec largest[kVectors];
  for (IntVec& l : largest) l = hn::Zero(kIntTag);
  const auto take = [&](IntVec & to, Vec value) __attribute__((always_inline)) {
    to = hn::Max(to, hn::And(hn::BitCast(kIntTag, value), magnitude));
  };
  std::size_t i = 0;
  for (; i + kVectors * kLanes <= k; i += kVectors * kLanes) {
    for (std::size_t v = 0; v < kVectors; ++v) take(largest[v], row.load(i + v * kLanes));
  }
  for (; i + kLanes <= k; i += kLanes) take(largest[0], row.load(i));
  if (i < k) take(largest[1], row.load_some(i, k - i));
  return hn::GetLane(hn::MaxOfLanes(
      kIntTag, hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]))));
}

/// Stores kLanes integers of -127 … 127, kOffset added, and returns them without it. Adding
/// 1.5 * 2^23 rounds to the nearest, ties to even, and leaves the integer in the low bits.
template <std::int32_t kOffset>
HWY_INLINE IntVec round_and_store(Vec value, Vec inverse, std::uint8_t* HWY_RESTRICT out) {
  constexpr float kMagic = 12582912.0f + static_cast<float>(kOffset);
  constexpr std::int32_t kMagicBits = 0x4B400000 + kOffset;
  const Vec steps =
      hn::Max(hn::Min(hn::Mul(value, inverse), hn::Set(kTag, 127.0f)), hn::Set(kTag, -127.0f));
  const Vec shifted = hn::Add(steps, hn::Set(kTag, kMagic));
  const hn::Rebind<std::uint8_t, Tag> bytes;
  const hn::RebindToUnsigned<Tag> words;
  hn::StoreU(hn::TruncateTo(bytes, hn::BitCast(words, shifted)), bytes, out);
  return hn::Sub(hn::BitCast(kIntTag, shifted), hn::Set(kIntTag, kMagicBits));
}

template <std::int32_t kOffset, bool kNorm>
void quantize_row(const QuantizeTask& task, std::size_t r) {
  const std::size_t k = task.k;
  std::uint8_t* HWY_RESTRICT out = task.out.integers + r * task.out.stride;
  RowReader<kNorm> row{task.x + r * k, task.norm, hn::Zero(kTag)};
  if (kNorm) row.factor = hn::Set(kTag, rms_factor(row.x, k, task.epsilon));

  const std::int32_t bits = largest_bits(row, k);
  constexpr std::int32_t kLargestFinite = 0x7F7FFFFF;
  const bool bad = bits > kLargestFinite;
  float scale = task.input_scale, inverse = 0.0f;
  if (bad) {
    scale = __builtin_nanf("");
    row.factor = hn::Zero(kTag);  // it may be NaN itself, and the integers are to be 0
  } else {
    if (scale == 0.0f) {
      float largest;
      __builtin_memcpy(&largest, &bits, sizeof(largest));
      scale = largest / 127.0f;
      if (scale < 0x1p-126f) scale = 0.0f;  // a subnormal: its reciprocal might be infinite
    }
    if (scale != 0.0f) inverse = 1.0f / scale;
  }
  task.out.scales[r] = scale;

  const Vec inverses = hn::Set(kTag, inverse);
  const bool grouped = task.out.group != 0;
  const std::size_t padded = grouped ? task.out.groups * task.out.group : k;
  const std::size_t group = grouped ? task.out.group : k;
  std::size_t i = 0;
  for (std::size_t g = 0; i < padded; ++g) {
    const std::size_t end = i + group;
    IntVec sum = hn::Zero(kIntTag);
    for (; !bad && i + kLanes <= (end < k ? end : k); i += kLanes)
      sum = hn::Add(sum, round_and_store<kOffset>(row.load(i), inverses, out + i));
    for (; i < end; i += kLanes) {
      const std::size_t left = i < k && !bad ? k - i : 0;
      const Vec value = row.load_some(i, left < kLanes ? left : kLanes);
      sum = hn::Add(sum, round_and_store<kOffset>(value, inverses, out + i));
    }
    if (grouped) {
      task.out.group_sums[r * task.out.groups + g] = hn::GetLane(hn::SumOfLanes(kIntTag, sum));
    }
  }
  // Up to where an i8 step may still read; its weights are zero there.
  for (; i < task.out.stride && i % 64 != 0; ++i) out[i] = 0;
}

template <std::int32_t kOffset>
HWY_INLINE void quantize_rows(const QuantizeTask& task) {
  for (std::size_t r = 0; r < task.rows; ++r) {
    task.norm != nullptr ? quantize_row<kOffset, true>(task, r)
                         : quantize_row<kOffset, false>(task, r);
  }
}

}  // namespace

void quantize_rows_i8(const QuantizeTask& task) noexcept { quantize_rows<kActivationOffset>(task); }
void quantize_rows_i4(const QuantizeTask& task) noexcept { quantize_rows<0>(task); }

}  // namespace ciuic::inline CIUIC_ABI::cpu::CIUIC_CPU_ISA
