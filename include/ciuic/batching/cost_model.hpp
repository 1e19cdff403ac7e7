// CostModel: how long a batch will take and how many bytes it will need, learned from the batches
// that ran.
//
//   mean = w · (1, count, cost, padding, count·cost, root)      w >= 0
//          padding = count·max_cost - cost, root = √(count·max_cost): devices that large batches
//          use better
//   upper = mean · (a high quantile of measured / mean over the last 64 batches)
//
// The weights are those of least squares over relative errors in which a batch counts the less the
// older it is. They are kept from being negative, so that a forecast never falls when a batch
// grows, and held by a small ridge, so that data of one kind only (always the same size) still has
// an answer. One outlier moves little, because its error is bounded by what it is divided by.
// When half of the last batches are all off by the same factor the machine has changed, not the
// batches: then everything learned is scaled by that factor at once.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "ciuic/batching/batch_policy.hpp"

namespace ciuic::inline CIUIC_ABI {

struct CostModelOptions {
  /// Weight of a batch against the next one: about 1 / (1 - it) batches are remembered.
  double forgetting = 0.99;
  double quantile = 0.95;            ///< `upper` is exceeded by 1 - it of the batches
  std::size_t min_observations = 8;  ///< before this many, forecasts are not `known`
};

/// Exponentially weighted least squares of a positive quantity on a few features that are not
/// negative, with weights that are not negative either. Thread-safety: thread-compatible.
class OnlineFit {
 public:
  static constexpr std::size_t kFeatures = 6;
  using Features = std::array<double, kFeatures>;

  explicit OnlineFit(const CostModelOptions& options) noexcept
      : forgetting_(options.forgetting >= 0.5 ? std::min(options.forgetting, 1.0) : 0.5),
        quantile_(options.quantile >= 0.0 ? std::min(options.quantile, 1.0) : 0.0) {}

  std::size_t observations() const noexcept { return observations_; }
  /// Not negative; 0 before the first observation.
  double mean(const Features& x) const noexcept {
    double sum = 0;
    for (std::size_t i = 0; i < kFeatures; ++i) sum += weights_[i] * x[i];
    return sum;
  }
  /// What `mean` must be multiplied with for `upper`; at least 1.
  double upper_ratio() const noexcept { return std::max(1.0, ratio(quantile_)); }
  /// Of the last batches a share of `quantile` took less than this times `mean`.
  double ratio(double quantile) const noexcept {
    if (remembered_ == 0) return 1;
    const double rank = std::ceil(quantile * static_cast<double>(remembered_ + 1)) - 1;
    return sorted_[static_cast<std::size_t>(
        std::clamp(rank, 0.0, static_cast<double>(remembered_ - 1)))];
  }

  /// `y` must be above 0 and finite.
  void observe(const Features& x, double y) noexcept {
    double expected = mean(x);
    if (!(expected > 0)) expected = y;
    remember(y / expected);
    const double shift = common_factor();
    if (shift != 1) {
      rescale(shift);
      expected *= shift;
    }
    // Both sides of x·w = y are divided by what was expected, so that relative errors count; and
    // by more the further y is off, beyond kMostSurprise. So no single batch says much.
    const double surprise = std::max(y / expected, expected / y) / kMostSurprise;
    const double scale = expected * std::max(1.0, surprise);
    for (std::size_t i = 0; i < kFeatures; ++i) {
      for (std::size_t j = 0; j < kFeatures; ++j) {
        moments_[i][j] = forgetting_ * moments_[i][j] + (x[i] / scale) * (x[j] / scale);
      }
      targets_[i] = forgetting_ * targets_[i] + (x[i] / scale) * (y / scale);
    }
    solve();
    sorted_ = ratios_;
    std::sort(sorted_.begin(), sorted_.begin() + static_cast<std::ptrdiff_t>(remembered_));
    ++observations_;
  }

 private:
  static constexpr double kMostSurprise = 2;
  static constexpr double kRidge = 1e-4;  // of each feature's own moment
  static constexpr std::size_t kRing = 64;
  static constexpr std::size_t kJury = 7;     // the last batches, whose median tells a change
  static constexpr std::size_t kEnough = 12;  // batches for quantiles
  static constexpr double kChange = 1.3;      // a smaller factor is left to the regression
  static constexpr double kMostChange = 1.8;  // a larger one is a change, however noisy
  static constexpr double kTrustAfterChange = 0.2;

  void remember(double ratio) noexcept {
    ratios_[next_] = ratio;
    next_ = (next_ + 1) % kRing;
    remembered_ = std::min(remembered_ + 1, kRing);
  }
  double& recent(std::size_t i) noexcept { return ratios_[(next_ + kRing - 1 - i) % kRing]; }

  /// By what factor the last batches differ from the forecasts, all in the same direction; 1 if
  /// they do not.
  double common_factor() noexcept {
    const std::size_t jury = std::min(kJury, remembered_);
    if (jury < 3) return 1;
    std::array<double, kJury> last{};
    for (std::size_t i = 0; i < jury; ++i) last[i] = recent(i);
    const auto middle = last.begin() + static_cast<std::ptrdiff_t>(jury / 2);
    std::nth_element(last.begin(), middle, last.begin() + static_cast<std::ptrdiff_t>(jury));
    // Noise moves a median of few, too. The quantiles are of the batches before this one; from a
    // few nothing is said about noise yet.
    const bool told = remembered_ >= kEnough;
    const double noise = told ? std::sqrt(ratio(0.84) / std::max(ratio(0.16), kSmallest)) : 1;
    const double change = std::clamp(std::pow(noise, 1.25), kChange, kMostChange);
    return *middle > change || *middle < 1 / change ? *middle : 1;
  }
  void rescale(double factor) noexcept {
    // What was learned before counts less from now on: the factor is a guess from a few batches.
    for (auto& row : moments_) {
      for (double& moment : row) moment *= kTrustAfterChange;
    }
    for (double& target : targets_) target *= factor * kTrustAfterChange;
    for (double& weight : weights_) weight *= factor;
    // What is wide of the mark after the change was near it before, and the other way round.
    for (std::size_t i = 0; i < std::min(kJury, remembered_); ++i) {
      if (std::abs(std::log(recent(i) / factor)) < std::abs(std::log(recent(i)))) {
        recent(i) /= factor;
      }
    }
  }
  /// Least squares by coordinate descent from the weights there are: each weight in turn takes its
  /// best value that is not negative, the others given.
  void solve() noexcept {
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      for (std::size_t i = 0; i < kFeatures; ++i) {
        const double own = moments_[i][i];
        double rest = targets_[i] + own * weights_[i];
        for (std::size_t j = 0; j < kFeatures; ++j) rest -= moments_[i][j] * weights_[j];
        weights_[i] = own > kSmallest ? std::max(0.0, rest / (own * (1 + kRidge))) : 0;
      }
    }
  }

  static constexpr int kSweeps = 16;
  static constexpr double kSmallest = 1e-60;
  double forgetting_, quantile_;
  std::array<std::array<double, kFeatures>, kFeatures> moments_{};
  Features targets_{};
  Features weights_{};
  std::array<double, kRing> ratios_{};  // measured / forecast
  std::size_t next_ = 0, remembered_ = 0;
  std::size_t observations_ = 0;
  std::array<double, kRing> sorted_{};
};

/// See the top of this file. Calls allocate nothing. Thread-safety: thread-compatible.
class CostModel {
 public:
  explicit CostModel(const CostModelOptions& options = {}) noexcept
      : min_observations_(options.min_observations), time_(options), memory_(options) {}

  /// A batch has ended. Durations that are not positive, and empty shapes, teach nothing; 0 bytes
  /// are not known bytes.
  void observe(const BatchShape& shape, Duration execution, std::uint64_t memory = 0) noexcept {
    if (shape.count == 0) return;
    if (execution > Duration{0}) {
      time_.observe(features(shape), static_cast<double>(execution.count()));
    }
    if (memory > 0) memory_.observe(features(shape), static_cast<double>(memory));
  }
  bool known() const noexcept { return time_.observations() >= min_observations_; }
  BatchForecast predict(const BatchShape& shape) const noexcept {
    const auto x = features(shape);
    BatchForecast forecast;
    forecast.known = known();
    const double mean = time_.mean(x);
    forecast.mean = to_duration(mean);
    forecast.upper = to_duration(mean * time_.upper_ratio());
    if (memory_.observations() >= min_observations_) {
      const double bytes = memory_.mean(x) * memory_.upper_ratio();
      forecast.memory = bytes < kMost ? static_cast<std::uint64_t>(bytes) : kMostCount;
    }
    return forecast;
  }
  /// The mean alone, in ticks of Duration: for searches over many shapes.
  double mean(const BatchShape& shape) const noexcept { return time_.mean(features(shape)); }
  /// `upper` divided by `mean`, the same for every shape.
  double upper_ratio() const noexcept { return time_.upper_ratio(); }
  /// A share of `quantile` of the last batches took less than this times `mean`.
  double ratio(double quantile) const noexcept { return time_.ratio(quantile); }

 private:
  static constexpr std::uint64_t kMostCount = std::uint64_t{1} << 62;
  static constexpr double kMost = static_cast<double>(kMostCount);

  static OnlineFit::Features features(const BatchShape& shape) noexcept {
    const double count = static_cast<double>(shape.count);
    const double cost = static_cast<double>(shape.cost);
    const double padded = count * static_cast<double>(shape.max_cost);
    return {1, count, cost, std::max(0.0, padded - cost), count * cost, std::sqrt(padded)};
  }
  static Duration to_duration(double ticks) noexcept {
    return Duration(static_cast<Duration::rep>(std::min(ticks, kMost)));
  }

  std::size_t min_observations_;
  OnlineFit time_, memory_;
};

}  // namespace ciuic::inline CIUIC_ABI
