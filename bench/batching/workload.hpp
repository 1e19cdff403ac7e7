// Workloads for batching policies: when requests come, how long they are, how long a batch takes.
// All drawn from a seed; every law is scaled so that its best throughput is known.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string_view>
#include <vector>

#include "ciuic/batching/simulator.hpp"

namespace batching_bench {

using ciuic::BatchShape;
using ciuic::Duration;
using ciuic::TimePoint;
using ciuic::TracedRequest;

inline Duration from_ms(double t) { return Duration(static_cast<Duration::rep>(t * 1e6)); }
inline double to_ms(Duration d) { return static_cast<double>(d.count()) / 1e6; }

/// Milliseconds of a batch without noise. The usual request has a cost of about 100.
struct Law {
  std::string_view name;
  double noise;  ///< sigma of the log-normal factor
  std::function<double(const BatchShape&)> ms;
};

inline double n_of(const BatchShape& b) { return static_cast<double>(b.count); }
inline double cost_of(const BatchShape& b) { return static_cast<double>(b.cost); }
inline double padded(const BatchShape& b) { return n_of(b) * static_cast<double>(b.max_cost); }

/// The laws that SloPolicy's constants were chosen on.
inline std::vector<Law> tuning_laws() {
  return {
      {"linear", 0.05, [](const BatchShape& b) { return 0.3 + 0.005 * cost_of(b); }},
      {"affine", 0.05, [](const BatchShape& b) { return 8 + 0.0015 * cost_of(b); }},
      {"padded", 0.30, [](const BatchShape& b) { return 2 + 0.003 * padded(b); }},
  };
}
/// The laws held back: nothing was chosen on these.
inline std::vector<Law> held_back_laws() {
  return {
      // A device that runs eight at a time: time goes up in steps.
      {"steps of 8", 0.03,
       [](const BatchShape& b) {
         const double mean = cost_of(b) / n_of(b) / 100;
         return 3 + 1.6 * std::ceil(n_of(b) / 8) * std::max(1.0, mean);
       }},
      {"sub-linear", 0.10,
       [](const BatchShape& b) { return 2.5 * std::pow(padded(b) / 100, 0.6); }},
      // Grows faster than the batch, and all are padded to the longest.
      {"super-linear", 0.05,
       [](const BatchShape& b) { return 2 + 0.35 * std::pow(padded(b) / 100, 1.3); }},
      {"noisy affine", 0.40, [](const BatchShape& b) { return 4 + 0.003 * cost_of(b); }},
  };
}

enum class Arrivals { poisson, bursts4, bursts16, day };
inline std::string_view name_of(Arrivals a) {
  constexpr std::string_view kNames[] = {"Poisson", "bursts CV² 4", "bursts CV² 16", "daily curve"};
  return kNames[static_cast<int>(a)];
}
enum class Lengths { fixed, log_normal, long_tail };
inline std::string_view name_of(Lengths l) {
  constexpr std::string_view kNames[] = {"fixed", "log-normal", "long tail"};
  return kNames[static_cast<int>(l)];
}

class Source {
 public:
  Source(Arrivals arrivals, Lengths lengths, double per_ms, std::uint64_t seed)
      : arrivals_(arrivals), lengths_(lengths), rate_(per_ms), random_(seed) {}

  /// `count` requests of the same relative deadline, in ms.
  std::vector<TracedRequest> trace(std::size_t count, double allowed_ms) {
    std::vector<TracedRequest> requests(count);
    double now = 0;
    const double length = static_cast<double>(count) / rate_;
    for (TracedRequest& r : requests) {
      now += gap(now / length);
      r.arrival = TimePoint(from_ms(now));
      r.terms.cost = cost();
      r.terms.deadline = r.arrival + from_ms(allowed_ms);
    }
    return requests;
  }
  std::uint64_t cost() {
    double c = 100;
    if (lengths_ == Lengths::log_normal)
      c = std::lognormal_distribution(std::log(82.0), 0.63)(random_);
    if (lengths_ == Lengths::long_tail) {  // Pareto 1.8, at most 2000
      c = std::min(2000.0, 46 / std::pow(1 - uniform(), 1 / 1.8));
    }
    return static_cast<std::uint64_t>(std::clamp(c, 1.0, 4000.0));
  }

 private:
  double uniform() { return std::uniform_real_distribution(0.0, 1.0)(random_); }
  double exponential(double mean) { return std::exponential_distribution(1 / mean)(random_); }
  double gap(double day) {
    switch (arrivals_) {
      case Arrivals::bursts4:
        return two_phase(4);
      case Arrivals::bursts16:
        return two_phase(16);
      case Arrivals::day:
        return exponential(1 / (rate_ * (1 + 0.6 * std::sin(6.2832 * day))));
      case Arrivals::poisson:
        break;
    }
    return exponential(1 / rate_);
  }
  /// A hyperexponential gap with balanced means.
  double two_phase(double cv2) {
    const double p = 0.5 * (1 + std::sqrt((cv2 - 1) / (cv2 + 1)));
    return uniform() < p ? exponential(1 / (2 * p * rate_))
                         : exponential(1 / (2 * (1 - p) * rate_));
  }

  Arrivals arrivals_;
  Lengths lengths_;
  double rate_;
  std::mt19937_64 random_;
};

/// The law with its noise, as simulate() wants it.
class NoisyLaw {
 public:
  NoisyLaw(const Law& law, std::uint64_t seed) : law_(law), random_(seed) {}
  Duration operator()(const BatchShape& shape) {
    return from_ms(law_.ms(shape) * std::lognormal_distribution(0.0, law_.noise)(random_));
  }

 private:
  const Law& law_;
  std::mt19937_64 random_;
};

/// What one worker can do at best with requests of this kind, batches up to `max_size`.
struct Capacity {
  double per_ms = 0;
  std::size_t size = 1;
  double ms = 0;  ///< of a batch of that size
};
inline Capacity capacity_of(const Law& law, Lengths lengths, std::size_t max_size) {
  Capacity best;
  Source source(Arrivals::poisson, lengths, 1, 99);
  for (std::size_t n = 1; n <= max_size; n += std::max<std::size_t>(1, n / 8)) {
    double ms = 0;
    constexpr int kTries = 400;
    for (int i = 0; i < kTries; ++i) {
      BatchShape b{n};
      for (std::size_t j = 0; j < n; ++j) {
        const std::uint64_t c = source.cost();
        b.cost += c;
        b.max_cost = std::max(b.max_cost, c);
      }
      ms += law.ms(b) / kTries;
    }
    const double per_ms = static_cast<double>(n) / ms;
    if (per_ms > best.per_ms) best = {per_ms, n, ms};
  }
  return best;
}

}  // namespace batching_bench
