// One-shot models: a batch in, its results out. What the engine is given of them, and what it says.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/batching/batch.hpp"
#include "ciuic/batching/batcher_options.hpp"
#include "ciuic/engine/replica_router.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A function of a batch, in one of the two forms that a DynamicBatcher takes (batch.hpp).
template <class F, class Request, class Response>
concept OneShotModel = BatchFunction<F, Request, Response>;

/// Several functions of the same meaning: on several devices, in several sessions, … Each is called
/// by one thread at a time; several are called at once. May throw std::bad_alloc.
///
///   Replicas<std::string, Vector> replicas{on_gpu, on_cpu};
///   for (int device = 0; device < 4; ++device) replicas.add(Session(device));
template <class Request, class Response>
class Replicas {
 public:
  Replicas() = default;
  template <OneShotModel<Request, Response>... F>
  requires(sizeof...(F) > 0) explicit Replicas(F... replicas) { (add(std::move(replicas)), ...); }

  template <OneShotModel<Request, Response> F>
  void add(F replica) {
    models_.push_back(make_batch_model<Request, Response>(std::move(replica)));
  }
  std::size_t size() const noexcept { return models_.size(); }
  /// Takes them out.
  std::vector<BatchModel<Request, Response>> release() noexcept { return std::move(models_); }

 private:
  std::vector<BatchModel<Request, Response>> models_;
};

struct OneShotOptions {
  /// As for a DynamicBatcher, but for `workers`: 0 = none, the host calls run_one(); any other
  /// number = one for each replica, which is what may run at once.
  BatcherOptions batching{};
  RoutingOptions routing{};
  HealthOptions health{};
};

/// Errors: `invalid_argument`, naming the field.
inline Result<void> validate(const OneShotOptions& options, std::size_t replicas) {
  const auto wanted = [](const char* what) { return Error(ErrorCode::invalid_argument, what); };
  if (replicas == 0 || replicas > 1024) return wanted("replicas: wanted 1 to 1024");
  const HealthOptions& health = options.health;
  if (health.first_backoff <= Duration{0}) return wanted("first_backoff: wanted above 0");
  if (health.max_backoff < health.first_backoff) {
    return wanted("max_backoff: wanted at least first_backoff");
  }
  if (health.patience < Duration{0}) return wanted("patience: wanted at least 0");
  if (health.opinions < 1 || health.opinions > kMostExtraRuns) {
    return wanted("opinions: wanted 1 to 8");
  }
  return validate(options.batching);
}

struct OneShotStats {
  BatcherStats batching{};
  std::vector<ReplicaStats> replicas{};  ///< in the order they were given
};

/// A table for people: the batcher's, and a line for each replica.
inline std::string to_string(const OneShotStats& stats) {
  const auto ms = [](Duration d) { return std::chrono::duration<double, std::milli>(d).count(); };
  std::string out = to_string(stats.batching);
  out += "replicas      batches      items   failures    drained      busy ms   off by\n";
  for (std::size_t r = 0; r < stats.replicas.size(); ++r) {
    const ReplicaStats& replica = stats.replicas[r];
    char line[160];
    std::snprintf(line, sizeof line, "  %-8zu %10llu %10llu %10llu %10llu %12.3f %6.1f %%  %s\n", r,
                  static_cast<unsigned long long>(replica.batches),
                  static_cast<unsigned long long>(replica.items),
                  static_cast<unsigned long long>(replica.failures),
                  static_cast<unsigned long long>(replica.drained), ms(replica.busy_time),
                  100.0 * replica.forecast_error(), to_string(replica.state).data());
    out += line;
  }
  return out;
}

}  // namespace ciuic::inline CIUIC_ABI
