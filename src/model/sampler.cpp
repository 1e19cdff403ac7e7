#include "ciuic/model/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ciuic::inline CIUIC_ABI {
namespace {

struct Candidate {
  float logit;
  TokenId token;
};
constexpr auto likelier = [](const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
};

/// A uniform draw in [0, 1) that depends on seed and position only (SplitMix64, Steele et al.
/// 2014).
double uniform(std::uint64_t seed, std::int64_t position) noexcept {
  auto mix = [](std::uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  return static_cast<double>(mix(mix(seed) ^ static_cast<std::uint64_t>(position)) >> 11) * 0x1p-53;
}

void penalise(std::span<float> logits, float penalty, std::span<const TokenId> history) {
  std::vector<TokenId> seen(history.begin(), history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());  // once per distinct token
  for (TokenId token : seen) {
    if (token < 0 || static_cast<std::size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit < 0.0f ? logit * penalty : logit / penalty;
  }
}

/// The index of the largest logit, the lowest of several; -1 when any is NaN or none is finite. In
/// blocks, whose lanes the compiler puts into registers; only the best block is searched.
TokenId argmax(std::span<const float> logits) noexcept {
  constexpr std::size_t kLanes = 16, kBlock = 64 * kLanes;
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  float best = kLeast;
  std::size_t best_block = 0;
  bool has_nan = false;
  for (std::size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    float largest[kLanes];
    std::int32_t nans[kLanes] = {};
    std::fill(largest, largest + kLanes, kLeast);
    std::size_t i = 0;
    for (; i + kLanes <= block.size(); i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const float x = block[i + lane];
        largest[lane] = x > largest[lane] ? x : largest[lane];
        nans[lane] |= x != x;
      }
    }
    for (; i < block.size(); ++i) {
      largest[0] = block[i] > largest[0] ? block[i] : largest[0];
      nans[0] |= block[i] != block[i];
    }
    has_nan |= std::any_of(nans, nans + kLanes, [](std::int32_t n) { return n != 0; });
    const float largest_of_all = *std::max_element(largest, largest + kLanes);
    if (largest_of_all > best) {
      best = largest_of_all;
      best_block = begin;
    }
  }
  if (has_nan || std::isinf(best)) return -1;
  return static_cast<TokenId>(
      std::find(logits.begin() + static_cast<std::ptrdiff_t>(best_block), logits.end(), best) -
      logits.begin());
}

}  // namespace

Result<TokenId> sample(std::span<float> logits, const SamplingOptions& options,
                       std::span<const TokenId> history, std::int64_t position) {
  if (Result<void> valid = validate(options); !valid) return std::move(valid).error();
  if (options.repetition_penalty != 1.0f) penalise(logits, options.repetition_penalty, history);
  const TokenId best = argmax(logits);
  if (best < 0) return Error(ErrorCode::model_failed, "logits: a NaN or no finite value");
  if (options.temperature == 0.0f || options.top_k == 1) return best;

  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates.push_back({logits[i] / options.temperature, static_cast<TokenId>(i)});
  }
  if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < candidates.size()) {
    const auto end = candidates.begin() + options.top_k;
    std::nth_element(candidates.begin(), end - 1, candidates.end(), likelier);
    candidates.erase(end, candidates.end());
  }
  // The whole vocabulary stays in the order of ids unless top-p needs it sorted: that would cost.
  if (options.top_p < 1.0f || candidates.size() < logits.size()) {
    std::sort(candidates.begin(), candidates.end(), likelier);
  }

  // A tiny temperature may have made the largest logit infinite; then it is the only choice.
  const double largest =
      static_cast<double>(std::min_element(candidates.begin(), candidates.end(), likelier)->logit);
  if (std::isinf(largest)) return best;
  std::vector<double> weights;
  weights.reserve(candidates.size());
  double total = 0.0;
  for (const Candidate& candidate : candidates) {
    weights.push_back(std::exp(static_cast<double>(candidate.logit) - largest));
    total += weights.back();
  }
  if (options.top_p < 1.0f) {
    const double enough = static_cast<double>(options.top_p) * total;
    double sum = 0.0;
    std::size_t kept = 0;
    while (kept < weights.size() && sum < enough) sum += weights[kept++];
    weights.resize(std::max<std::size_t>(kept, 1));
    total = sum;
  }
  double left = uniform(options.seed, position) * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0.0) return candidates[i].token;
  }
  return candidates[weights.size() - 1].token;
}

}  // namespace ciuic::inline CIUIC_ABI
