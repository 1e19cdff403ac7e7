#include "ciuic/engine/page_pool.hpp"

#include <random>
#include <set>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("Pages have one owner at a time and all come back") {
  std::mt19937 random(3);
  PagePool pool(50);
  std::vector<std::vector<std::int32_t>> owners(8);
  for (int i = 0; i < 20'000; ++i) {
    auto& mine = owners[random() % owners.size()];
    if (random() % 2 == 0) {
      const auto count = static_cast<std::int32_t>(random() % 12);
      const std::int32_t before = pool.available();
      const std::size_t held = mine.size();
      const bool got = pool.take(count, mine);
      CHECK(got == (count <= before));
      CHECK(mine.size() == held + (got ? static_cast<std::size_t>(count) : 0));
    } else {
      pool.give_back(mine);
      mine.clear();
    }
    std::set<std::int32_t> seen;
    std::size_t taken = 0;
    for (const auto& owner : owners) {
      taken += owner.size();
      seen.insert(owner.begin(), owner.end());
    }
    REQUIRE(seen.size() == taken);
    REQUIRE(pool.available() == 50 - static_cast<std::int32_t>(taken));
    if (!seen.empty()) REQUIRE((*seen.begin() >= 0 && *seen.rbegin() < 50));
  }
}
