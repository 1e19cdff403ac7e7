#include "ciuic/quant/prune.hpp"

#include <limits>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;

namespace {

using Mask = std::vector<std::uint8_t>;
using Kind = PrunePattern::Kind;

Mask mask_of(const std::vector<float>& weights, std::size_t rows, std::size_t cols,
             const PrunePattern& pattern) {
  Mask mask(weights.size(), 7);
  REQUIRE(prune_magnitude(weights, rows, cols, pattern, mask));
  return mask;
}

}  // namespace

TEST_CASE("Single weights, by hand: the least go, the earliest among equals") {
  const std::vector<float> w{5, -1, 3, -4, 0.5f, 2};
  CHECK(mask_of(w, 2, 3, {.kind = Kind::unstructured, .sparsity = 0.5}) == Mask{1, 0, 1, 1, 0, 0});
  CHECK(mask_of(w, 2, 3, {.kind = Kind::unstructured, .sparsity = 0.0}) == Mask{1, 1, 1, 1, 1, 1});
  CHECK(mask_of(w, 2, 3, {.kind = Kind::unstructured, .sparsity = 1.0}) == Mask{0, 0, 0, 0, 0, 0});
  CHECK(mask_of(w, 2, 3, {.kind = Kind::unstructured, .sparsity = 0.49}) == Mask{1, 0, 1, 1, 0, 1});
  CHECK(mask_of({2, 2, 2, 2}, 1, 4, {.kind = Kind::unstructured, .sparsity = 0.5}) ==
        Mask{0, 0, 1, 1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(mask_of({nan, 1, 9, 2}, 1, 4, {.kind = Kind::unstructured, .sparsity = 0.75}) ==
        Mask{1, 0, 0, 0});
}

TEST_CASE("Whole rows, by hand: by their length, not by their largest weight") {
  const std::vector<float> w{3, 3, 3,  // 27
                             5, 0, 0,  // 25
                             0, 4, 4,  // 32
                             0, 0, 0.1f};
  CHECK(mask_of(w, 4, 3, {.kind = Kind::rows, .sparsity = 0.5}) ==
        Mask{1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0});
}

TEST_CASE("2:4 and other N:M, by hand, with a rest") {
  const std::vector<float> w{1, -3, 2, 0.5f, 7,  6,  //
                             0, 0,  0, 1,    -1, 2};
  CHECK(mask_of(w, 2, 6, {.kind = Kind::n_of_m}) == Mask{0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1});
  CHECK(mask_of(w, 2, 6, {.kind = Kind::n_of_m, .keep = 1, .group = 3}) ==
        Mask{0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1});
}

TEST_CASE("Any matrix: the share is kept to, and nothing that went is larger than what stayed") {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 30; ++round) {
    const std::size_t rows = 1 + random() % 20, cols = 1 + random() % 33;
    std::vector<float> w(rows * cols);
    for (float& value : w) value = normal(random);
    const double sparsity = static_cast<double>(random() % 101) / 100.0;
    const Mask mask = mask_of(w, rows, cols, {.kind = Kind::unstructured, .sparsity = sparsity});
    float largest_gone = 0.0f, least_kept = INFINITY;
    std::size_t gone = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      gone += mask[i] == 0 ? 1u : 0u;
      (mask[i] == 0 ? largest_gone : least_kept) = mask[i] == 0
                                                       ? std::max(largest_gone, std::fabs(w[i]))
                                                       : std::min(least_kept, std::fabs(w[i]));
    }
    CHECK(gone == static_cast<std::size_t>(sparsity * static_cast<double>(w.size())));
    CHECK(largest_gone <= least_kept);
    CHECK(sparsity_of(mask) == Approx(static_cast<double>(gone) / static_cast<double>(w.size())));
    std::vector<float> pruned = w;
    apply_mask(pruned, mask);
    for (std::size_t i = 0; i < w.size(); ++i) CHECK(pruned[i] == (mask[i] == 0 ? 0.0f : w[i]));
  }
}

TEST_CASE("Wrong sizes and shares are refused") {
  const std::vector<float> w(6);
  Mask mask(6);
  CHECK_FALSE(prune_magnitude(w, 2, 4, {}, mask));
  CHECK_FALSE(prune_magnitude(w, 2, 3, {.sparsity = 1.5}, mask));
  CHECK_FALSE(
      prune_magnitude(w, 2, 3, {.sparsity = std::numeric_limits<double>::quiet_NaN()}, mask));
  CHECK_FALSE(prune_magnitude(w, 2, 3, {.kind = Kind::n_of_m, .keep = 5, .group = 4}, mask));
  CHECK_FALSE(prune_magnitude(w, 2, 3, {.kind = Kind::n_of_m, .keep = 0, .group = 0}, mask));
  CHECK_FALSE(prune_magnitude(w, 2, 3, {}, std::span(mask).first(5)));
}
