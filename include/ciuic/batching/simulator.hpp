// simulate: a trace of requests through the real BatchCore, in virtual time.
//
// What is simulated is who calls the core and when, and how long batches take: workers that poll
// when they are free, requests that arrive when the trace says, a service law that the policy is
// not told. What decides is the code that runs in production. Nothing is random here: the same
// trace, law and policy give the same answers.
//
//   std::vector<TracedRequest> trace = …;                    // by arrival
//   SloPolicy policy;
//   Simulation s = simulate(trace, {.limits = limits, .workers = 2}, &policy,
//                           [](const BatchShape& b) { return 2ms + b.cost * 3us; });
//   s.goodput()                                              // answers in time a second
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/batching/batch_core.hpp"

namespace ciuic::inline CIUIC_ABI {

/// One request of a trace: when it came and what it asked for. Its deadline is absolute.
struct TracedRequest {
  TimePoint arrival{};
  RequestTerms terms{};
};

struct SimulationOptions {
  BatchLimits limits{};
  unsigned workers = 1;         ///< batches that may run at once, at least 1
  bool record_batches = false;  ///< fill `Simulation::batches`
};

/// How one request ended.
struct SimulatedAnswer {
  enum Kind : std::uint8_t {
    none,     ///< never: every request ends
    refused,  ///< not accepted; `refusal` says why
    expired,  ///< was not started in time
    late,     ///< answered after its deadline
    in_time,  ///< answered before its deadline, or had none
  };
  Kind kind = none;
  Refusal refusal = Refusal::none;
  TimePoint end{};
};

struct SimulatedBatch {
  TimePoint start{};
  Duration execution{0};
  BatchShape shape{};
  CloseReason reason = CloseReason::full;
};

/// What became of a trace.
struct Simulation {
  std::vector<SimulatedAnswer> answers{};  ///< as the trace is ordered
  std::vector<SimulatedBatch> batches{};   ///< by start; only if recorded
  std::size_t batch_count = 0;
  std::array<std::size_t, 5> count{};  ///< of answers, by SimulatedAnswer::Kind
  Duration busy{0};                    ///< of all workers together
  TimePoint begin{}, end{};            ///< the first arrival, the last answer

  /// Answers in time a second, from the first arrival to the last answer.
  double goodput() const noexcept {
    const double seconds = std::chrono::duration<double>(end - begin).count();
    return seconds > 0 ? static_cast<double>(count[SimulatedAnswer::in_time]) / seconds : 0;
  }
  /// The share of all requests that were answered in time.
  double share_in_time() const noexcept {
    return answers.empty() ? 1
                           : static_cast<double>(count[SimulatedAnswer::in_time]) /
                                 static_cast<double>(answers.size());
  }
  /// From arrival to answer, of those answered (late or not), sorted.
  std::vector<Duration> latencies(std::span<const TracedRequest> trace) const {
    std::vector<Duration> sorted;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (answers[i].kind >= SimulatedAnswer::late) {
        sorted.push_back(answers[i].end - trace[i].arrival);
      }
    }
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }
};

/// Of sorted values the one below which a share `q` of them lies; 0 of none.
inline Duration quantile_of(const std::vector<Duration>& sorted, double q) noexcept {
  if (sorted.empty()) return Duration{0};
  const auto at = static_cast<std::size_t>(q * static_cast<double>(sorted.size()));
  return sorted[std::min(at, sorted.size() - 1)];
}

/// How long a batch takes, also by where the policy sends it.
template <class F>
concept ServiceLaw = requires(F f, const BatchShape& shape) {
  { f(shape) } -> std::convertible_to<Duration>;
}
|| requires(F f, const BatchShape& shape, std::uint32_t route) {
  { f(shape, route) } -> std::convertible_to<Duration>;
};

/// One run of a trace: see the top of this file. Thread-safety: thread-compatible.
template <ServiceLaw Law>
class Simulator {
 public:
  Simulator(std::span<const TracedRequest> trace, const SimulationOptions& options,
            BatchPolicy* policy, Law& law)
      : trace_(trace),
        law_(law),
        record_(options.record_batches),
        core_(options.limits, policy),
        request_of_(core_.limits().max_outstanding),
        workers_(std::max(options.workers, 1u)) {
    for (Worker& worker : workers_) worker.slots.reserve(core_.limits().max_batch_size);
    idle_ = workers_.size();
    result_.answers.resize(trace.size());
  }

  Simulation run() {
    if (!trace_.empty()) result_.begin = result_.end = trace_.front().arrival;
    std::size_t next = 0;
    for (;;) {
      const TimePoint arrival = next < trace_.size() ? trace_[next].arrival : kNever;
      const TimePoint wake = idle_ > 0 && core_.waiting() > 0 ? rest_.when : kNever;
      TimePoint now = std::min({arrival, first_end_, wake});
      if (now == kNever) {
        if (core_.waiting() == 0) break;
        core_.drain();  // nobody else will come
        now = last_;
      }
      last_ = now = std::max(now, last_);
      bool look = now >= wake || core_.closing();
      if (first_end_ <= now) {
        end_batches(now);
        look = true;
      }
      for (; next < trace_.size() && trace_[next].arrival <= now; ++next) submit(next, now);
      look = look || core_.waiting() >= rest_.wake_count || core_.waiting_cost() >= rest_.wake_cost;
      if (look && idle_ > 0) poll(now);
    }
    return std::move(result_);
  }

 private:
  struct Worker {
    TimePoint end = kNever;  // never: it is idle
    std::vector<SlotHandle> slots{};
    BatchReport report{};
    std::uint64_t reserved = 0;
  };

  void submit(std::size_t i, TimePoint now) {
    if (core_.next_deadline() <= now) expire(core_.expire(now));
    const Admission admission = core_.submit(now, trace_[i].terms);
    if (!admission) {
      result_.answers[i].refusal = admission.refusal;
      answer(i, SimulatedAnswer::refused, now);
    } else {
      request_of_[admission.slot.index] = static_cast<std::uint32_t>(i);
    }
  }
  void poll(TimePoint now) {
    while (idle_ > 0) {
      const BatchAction action = core_.poll(now);
      if (action.kind == BatchAction::dispatch) {
        start(action, now);
      } else if (action.kind == BatchAction::expire) {
        expire(action);
      } else {
        rest_ = action;
        if (action.kind == BatchAction::idle) rest_.when = kNever;
        return;
      }
    }
    rest_ = {};
  }
  void start(const BatchAction& action, TimePoint now) {
    Worker& worker = *std::find_if(workers_.begin(), workers_.end(),
                                   [](const Worker& w) { return w.end == kNever; });
    const Duration execution = std::max(time_of(action), Duration{0});
    worker.end = std::min(add_saturating(now, execution), kNever - Duration{1});
    worker.slots.assign(action.slots.begin(), action.slots.end());
    worker.report = {
        .shape = action.shape, .started = now, .execution = execution, .route = action.route};
    worker.reserved = action.reserved;
    first_end_ = std::min(first_end_, worker.end);
    --idle_;
    ++result_.batch_count;
    result_.busy += execution;
    if (record_) result_.batches.push_back({now, execution, action.shape, action.reason});
  }
  Duration time_of(const BatchAction& action) {
    if constexpr (std::invocable<Law&, const BatchShape&, std::uint32_t>) {
      return law_(action.shape, action.route);
    } else {
      return law_(action.shape);
    }
  }
  void end_batches(TimePoint now) {
    first_end_ = kNever;
    for (Worker& worker : workers_) {
      if (worker.end > now) {
        first_end_ = std::min(first_end_, worker.end);
        continue;
      }
      for (const SlotHandle slot : worker.slots) {
        const std::uint32_t i = request_of_[slot.index];
        const bool late = worker.end > trace_[i].terms.deadline;
        answer(i, late ? SimulatedAnswer::late : SimulatedAnswer::in_time, worker.end);
        core_.release(slot);
      }
      core_.finish(worker.report, worker.reserved);
      worker.end = kNever;
      ++idle_;
    }
  }
  /// What is running already goes on: it will be late.
  void expire(const BatchAction& action) {
    for (const SlotHandle slot : action.slots) {
      if (core_.state(slot) == SlotState::running) continue;
      answer(request_of_[slot.index], SimulatedAnswer::expired, last_);
      core_.release(slot);
    }
  }
  void answer(std::size_t i, SimulatedAnswer::Kind kind, TimePoint end) {
    result_.answers[i].kind = kind;
    result_.answers[i].end = end;
    result_.end = std::max(result_.end, end);
    ++result_.count[kind];
  }

  std::span<const TracedRequest> trace_;
  Law& law_;
  bool record_;
  BatchCore core_;
  std::vector<std::uint32_t> request_of_;  // by slot
  std::vector<Worker> workers_;
  std::size_t idle_ = 0;
  TimePoint first_end_ = kNever;
  TimePoint last_ = TimePoint::min();
  BatchAction rest_{};  // what the last poll() said to wait for
  Simulation result_;
};

/// Runs `trace`, which must be ordered by arrival, through a BatchCore with these limits (they must
/// pass validate()) and this policy (null = DelayPolicy). Polls cost no virtual time.
template <ServiceLaw Law>
Simulation simulate(std::span<const TracedRequest> trace, const SimulationOptions& options,
                    BatchPolicy* policy, Law&& law) {
  return Simulator<std::remove_reference_t<Law>>(trace, options, policy, law).run();
}

}  // namespace ciuic::inline CIUIC_ABI
