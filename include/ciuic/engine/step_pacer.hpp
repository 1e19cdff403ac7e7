// StepPacer: how much of the prompts a step may carry beside running streams. A whole prompt in one
// step would hold every stream up for as long as it takes; so prompts are cut, and the pieces are
// made as large as the streams can bear.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Learns how long steps take, by their number of tokens: those without prompt pieces set the
/// measure (while prompts never end, one in 33 is without), or, where none was seen yet, those with
/// as many tokens in all. After each step with a
/// piece, the next piece grows or shrinks by the ratio of the time that was allowed to the time it
/// took. A ratio rather than a model of the cost, because time over tokens has a knee where reading
/// weights ends and computing begins.
/// Thread-safety: thread-compatible.
class StepPacer {
 public:
  /// A step with prompt pieces should take `stretch` times as long as without; 0 = no limit.
  explicit StepPacer(double stretch) noexcept : stretch_(stretch) {}

  /// Prompt tokens beside `streaming` tokens of running streams.
  std::int32_t piece(std::int32_t streaming) const noexcept {
    if (stretch_ <= 0 || streaming == 0) return kUnlimited;
    return pieces_in_row_ < kMostInRow ? static_cast<std::int32_t>(piece_) : 0;
  }
  /// A step of so many tokens took `time`.
  void observe(std::int32_t streaming, std::int32_t prompt, Duration time) noexcept {
    const auto took = static_cast<double>(time.count());
    if (streaming == 0 || took <= 0) return;
    learn(any_[bucket(streaming + prompt)], took);
    if (prompt == 0) {
      pieces_in_row_ = 0;
      return learn(plain_[bucket(streaming)], took);
    }
    ++pieces_in_row_;
    const double plain = plain_time(streaming);
    // A prompt that ended before the piece was full says nothing against larger ones.
    if (plain == 0 || (prompt < static_cast<std::int32_t>(piece_) && took < stretch_ * plain)) {
      return;
    }
    const double ratio = std::clamp(stretch_ * plain / took, 0.5, 1.25);
    piece_ = std::clamp(piece_ * ratio, kLeast, kMost);
  }

 private:
  static constexpr std::int32_t kUnlimited = 1 << 30;
  static constexpr double kFirst = 64, kLeast = 8, kMost = 1 << 20;
  static constexpr int kMostInRow = 32;  // then one step shows how long they take without
  static std::size_t bucket(std::int32_t tokens) noexcept {
    return std::bit_width(static_cast<std::uint32_t>(tokens)) - 1;
  }
  /// Down faster than up: what makes a step slow is more often the machine than the step.
  static void learn(double& mean, double took) noexcept {
    mean = mean == 0 ? took : mean + (took < mean ? 0.5 : 0.2) * (took - mean);
  }
  /// Of a step with so many tokens and no prompt, from the nearest size that was seen; 0 = unknown.
  double plain_time(std::int32_t tokens) const noexcept {
    const auto at = [&](std::size_t i) { return plain_[i] != 0 ? plain_[i] : any_[i]; };
    const std::size_t here = bucket(tokens);
    for (std::size_t i = here + 1; i-- > 0;) {
      if (at(i) != 0) return at(i);
    }
    for (std::size_t i = here + 1; i < plain_.size(); ++i) {
      if (at(i) != 0) return at(i);
    }
    return 0;
  }

  double stretch_;
  double piece_ = kFirst;
  int pieces_in_row_ = 0;  // steps with one
  // Mean nanoseconds of steps without prompts, and of all, by the logarithm of their tokens.
  std::array<double, 31> plain_{}, any_{};
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
