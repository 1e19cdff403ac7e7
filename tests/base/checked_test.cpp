#include "ciuic/base/checked.hpp"

#include "ciuic/base/tensor_view.hpp"
#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Checked arithmetic reports what would wrap") {
  constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
  CHECK(checked_add<std::uint64_t>(kMax - 1, 1) == kMax);
  CHECK_FALSE(checked_add<std::uint64_t>(kMax, 1));
  CHECK(checked_mul<std::uint64_t>(1u << 31, 1ull << 32) == 1ull << 63);
  CHECK_FALSE(checked_mul<std::uint64_t>(1ull << 32, 1ull << 32));  // would be exactly 0
  CHECK(checked_mul<std::uint64_t>(kMax, 0) == 0);
  CHECK(checked_align_up<std::uint64_t>(65, 64) == 128);
  CHECK_FALSE(checked_align_up<std::uint64_t>(kMax - 3, 64));  // the macro that wrapped to 0
  CHECK(ceil_div(7, 3) == 3);
}

TEST_CASE("A shape knows its size, or that it has none") {
  CHECK(Shape{}.elements() == 1);
  CHECK(Shape{2, 0, 3}.elements() == 0);
  CHECK(Shape{2, 3}.elements() == 6);
  CHECK_FALSE(Shape{-1, 3}.elements());
  CHECK_FALSE(Shape({std::int64_t{1} << 62, 4, 0}).elements());  // wraps before the 0 is met
  CHECK(bytes_of(DType::i4, Shape{3}) == 2);
  CHECK(Shape{1, 2} == Shape{1, 2});
  CHECK_FALSE(Shape{1, 2} == Shape{1, 2, 1});
}
