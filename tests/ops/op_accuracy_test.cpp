#include "ops/op_cases.hpp"

using namespace ciuic;
using namespace ciuic::testing;

TEST_CASE("Every operation agrees with its reference, on each instruction set and thread count") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  for (const auto& backend : cpu_backends()) {
    for (int threads : {1, 2, 3}) {
      const OpTarget target{
          std::string(backend->isa()) + ", " + std::to_string(threads) + " threads", backend,
          threads};
      check_all_operations(target, seed + static_cast<unsigned>(threads), threads == 2 ? 4 : 1);
    }
  }
}
