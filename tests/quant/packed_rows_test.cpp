// The packed layout, against a reader written from the words in packed_layout.hpp.
#include "ciuic/quant/packed_rows.hpp"

#include <random>
#include <vector>

#include "ciuic/ops/cpu_backend.hpp"
#include "ciuic/quant/rounding.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

std::uint32_t little_endian(const std::byte* at, int bytes) {
  std::uint32_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= std::to_integer<std::uint32_t>(at[i]) << (8 * i);
  return value;
}

/// Element (row, k) of a matrix, found byte by byte.
float element(const std::vector<std::byte>& packed, std::int64_t rows, std::int64_t cols,
              bool gated, MatrixFormat format, std::int64_t row, std::int64_t k) {
  const std::int64_t features = gated ? rows / 2 : rows, width = gated ? 32 : 64;
  const std::int64_t feature = row % features, panels = (features + width - 1) / width;
  const std::int64_t panel = feature / width, column = feature % width + (row >= features ? 32 : 0);
  const auto at = [&](std::int64_t offset) { return packed.data() + offset; };
  switch (format.dtype) {
    case DType::f32:
      return std::bit_cast<float>(little_endian(at(((panel * cols + k) * 64 + column) * 4), 4));
    case DType::bf16: {
      const std::int64_t vector = column / 32, lane = column % 16, half = column % 32 / 16;
      const std::int64_t word = ((panel * cols + k) * 2 + vector) * 16 + lane;
      return bf16{static_cast<std::uint16_t>(little_endian(at(word * 4 + half * 2), 2))}.to_float();
    }
    case DType::i8: {
      const std::int64_t quads = (cols + 3) / 4;
      const auto integer = static_cast<std::int8_t>(
          little_endian(at(((panel * quads + k / 4) * 64 + column) * 4 + k % 4), 1));
      const std::int64_t scales = panels * quads * 256;
      return static_cast<float>(integer) *
             std::bit_cast<float>(little_endian(at(scales + (panel * 64 + column) * 4), 4));
    }
    default: {
      const std::int64_t group = format.group, groups = (cols + group - 1) / group;
      const std::int64_t block = 64 * group / 2 + 128;
      const std::int64_t begin = (panel * groups + k / group) * block, inside = k % group;
      const std::uint32_t byte =
          little_endian(at(begin + (inside / 8 * 64 + column) * 4 + inside % 4), 1);
      const auto integer = static_cast<int>(inside % 8 < 4 ? byte & 15u : byte >> 4) - 8;
      const f16 scale{
          static_cast<std::uint16_t>(little_endian(at(begin + 32 * group + column * 2), 2))};
      return static_cast<float>(integer) * scale.to_float();
    }
  }
}

}  // namespace

TEST_CASE("Every element lies where the layout says, in every format and form, of any size") {
  std::mt19937 random(5);
  const auto backend = cpu_backend().value();
  for (int round = 0; round < 60; ++round) {
    const bool gated = random() % 2 == 0;
    const auto cols = static_cast<std::int64_t>(1 + random() % 300);
    const auto rows = static_cast<std::int64_t>((1 + random() % 150) * (gated ? 2 : 1));
    const MatrixFormat formats[] = {DType::f32,      DType::bf16,     DType::i8,
                                    {DType::i4, 32}, {DType::i4, 64}, {DType::i4, 128}};
    const MatrixFormat format = formats[round % 6];
    INFO(rows << " x " << cols << (gated ? " gated " : " ") << to_string(format.dtype));
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> weights(static_cast<std::size_t>(rows * cols));
    for (float& weight : weights) weight = normal(random);
    MatrixSource source;
    source.rows = rows;
    source.cols = cols;
    source.form = gated ? PackedMatrix::Form::gated : PackedMatrix::Form::plain;
    source.read_rows = [&](std::int64_t first, std::span<float> out) -> Result<void> {
      std::copy_n(weights.begin() + first * cols, out.size(), out.begin());
      return {};
    };
    const auto matrix = backend->pack(std::move(source), format).value();
    std::vector<std::byte> packed(matrix->bytes());
    REQUIRE(backend->store_packed(*matrix, packed));
    const PackedLayout layout = PackedLayout::of(rows, cols, gated, format).value();
    REQUIRE(layout.bytes == packed.size());
    REQUIRE(layout.bytes % 64 == 0);

    std::vector<float> row(static_cast<std::size_t>(cols)), expected(row.size());
    std::vector<std::int8_t> integers(row.size());
    bool all_equal = true;
    for (std::int64_t r = 0; r < rows; ++r) {
      unpack_row(layout, format, gated, packed, static_cast<std::size_t>(r), row);
      const auto own = std::span(weights).subspan(static_cast<std::size_t>(r * cols), row.size());
      for (std::size_t k = 0; k < row.size(); ++k) expected[k] = own[k];
      if (format.dtype == DType::bf16) {
        for (float& value : expected) value = bf16::from_float(value).to_float();
      } else if (format.dtype == DType::i8) {
        const float scale = i8_scale(own);
        quantize_i8(own, scale, integers);
        for (std::size_t k = 0; k < row.size(); ++k)
          expected[k] = static_cast<float>(integers[k]) * scale;
      } else if (format.dtype == DType::i4) {
        const auto group = static_cast<std::size_t>(format.group);
        for (std::size_t first = 0; first < row.size(); first += group) {
          const std::size_t count = std::min(group, row.size() - first);
          const float scale =
              quantize_i4(own.subspan(first, count), std::span(integers).subspan(first, count))
                  .to_float();
          for (std::size_t k = first; k < first + count; ++k)
            expected[k] = static_cast<float>(integers[k]) * scale;
        }
      }
      for (std::size_t k = 0; k < row.size(); ++k) {
        all_equal =
            all_equal && row[k] == expected[k] &&
            row[k] == element(packed, rows, cols, gated, format, r, static_cast<std::int64_t>(k));
      }
    }
    CHECK(all_equal);
    if (format.dtype == DType::i8) {  // the sums, which the kernels need
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t feature = gated ? r % (rows / 2) : r, width = gated ? 32 : 64;
        const std::int64_t column =
            feature / width * 64 + feature % width + (gated && r >= rows / 2 ? 32 : 0);
        const auto own = std::span(weights).subspan(static_cast<std::size_t>(r * cols), row.size());
        quantize_i8(own, i8_scale(own), integers);
        std::int32_t sum = 0;
        for (const std::int8_t integer : integers) sum += integer;
        const auto stored = static_cast<std::int32_t>(little_endian(
            packed.data() + layout.sums_at + static_cast<std::size_t>(column) * 4, 4));
        CHECK(stored == sum);
      }
    }
  }
}
