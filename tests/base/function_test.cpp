#include "ciuic/base/function.hpp"

#include <array>
#include <memory>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("A function owns callables small and large, movable only, and destroys each once") {
  auto token = std::make_shared<int>(1);
  {
    Function<int(int)> small = [token, unique = std::make_unique<int>(40)](int x) {
      return *unique + x;
    };
    std::array<char, 200> bulk{};
    bulk[199] = 2;
    Function<int(int)> large = [token, bulk](int x) { return bulk[199] + x; };
    CHECK(token.use_count() == 3);
    CHECK(small(2) == 42);
    Function<int(int)> moved = std::move(large);
    CHECK(moved(40) == 42);
    CHECK_FALSE(large);
    small = std::move(moved);
    CHECK(token.use_count() == 2);
    CHECK(small(1) == 3);
  }
  CHECK(token.use_count() == 1);
}

TEST_CASE("A function of void drops what its callable returns") {
  int calls = 0;
  Function<void()> f = [&] { return ++calls; };
  f();
  CHECK(calls == 1);
  CHECK_FALSE(Function<void()>(nullptr));
}
