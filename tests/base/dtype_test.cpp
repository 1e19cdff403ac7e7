#include "ciuic/base/dtype.hpp"

#include <cmath>
#include <cstring>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Every f16 value widens exactly and rounds back to itself") {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const f16 half{static_cast<std::uint16_t>(bits)};
    const std::uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
    const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
    const float value = half.to_float();
    if (exponent == 31u) {
      CHECK((mantissa == 0 ? std::isinf(value) : std::isnan(value)));
    } else {  // the definition of binary16
      const double expected = exponent == 0
                                  ? std::ldexp(mantissa, -24)
                                  : std::ldexp(1024.0 + mantissa, static_cast<int>(exponent) - 25);
      if (static_cast<double>(value) != sign * expected) FAIL("f16 bits " << bits);
    }
    const f16 back = f16::from_float(value);
    if (std::isnan(value) ? !std::isnan(back.to_float()) : back.bits != half.bits)
      FAIL("f16 bits " << bits);
  }
}

TEST_CASE("f32 rounds to the nearest f16, ties to even") {
  std::mt19937 random(7);
  for (int i = 0; i < 200'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!(std::fabs(value) < 65504.0f)) continue;
    const f16 rounded = f16::from_float(value);
    const double distance =
        std::fabs(static_cast<double>(rounded.to_float()) - static_cast<double>(value));
    for (int step : {-1, 1}) {  // neither neighbour is nearer; a tie goes to the even mantissa
      const f16 neighbour{static_cast<std::uint16_t>(rounded.bits + step)};
      if ((neighbour.bits ^ rounded.bits) & 0x8000u) continue;
      const double other =
          std::fabs(static_cast<double>(neighbour.to_float()) - static_cast<double>(value));
      if (std::isnan(other)) continue;
      if (other < distance || (other == distance && (rounded.bits & 1u))) FAIL("value " << value);
    }
  }
}

TEST_CASE("bf16 keeps the upper half, rounding to even and keeping NaN a NaN") {
  CHECK(bf16::from_float(1.0f).bits == 0x3F80u);
  CHECK(bf16::from_float(std::bit_cast<float>(0x3F808000u)).bits == 0x3F80u);  // tie to even: down
  CHECK(bf16::from_float(std::bit_cast<float>(0x3F818000u)).bits == 0x3F82u);  // tie to even: up
  CHECK(std::isnan(bf16::from_float(std::bit_cast<float>(0x7F800001u)).to_float()));
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const bf16 value{static_cast<std::uint16_t>(bits)};
    if (!std::isnan(value.to_float()) && bf16::from_float(value.to_float()).bits != bits)
      FAIL(bits);
  }
}

TEST_CASE("Data types have names and widths") {
  for (DType dtype :
       {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i8, DType::u8, DType::i4}) {
    CHECK(dtype_from_string(to_string(dtype)) == dtype);
  }
  CHECK_FALSE(dtype_from_string("F32"));
  CHECK(bits_of(DType::i4) == 4);
}
