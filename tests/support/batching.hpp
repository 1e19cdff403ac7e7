// What tests of the batcher share: a plain model, and a way to decide what waits together that
// works under workers as well as host-driven.
#pragma once

#include <span>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/gate.hpp"

namespace ciuic::testing {

inline std::vector<int> doubled(std::span<const int> in) {
  std::vector<int> out(in.begin(), in.end());
  for (int& x : out) x *= 2;
  return out;
}

/// `internal` for a value.
template <class T>
ErrorCode code_of(Future<T>& future) {
  const Result<T> answer = future.get();
  return answer ? ErrorCode::internal : answer.error().code();
}

/// Runs whatever is due: here without workers, by them otherwise; returns when all is answered.
/// With workers the batcher must need nobody else to close what waits.
template <class Request, class Response>
void run_all(DynamicBatcher<Request, Response>& batcher, unsigned workers) {
  if (workers == 0) {
    while (batcher.run_one().batch_size > 0) {
    }
  } else {
    while (batcher.stats().pending() > 0) yield_thread();
  }
}

/// Keeps every worker busy with a batch of one until let_go(), so that requests queue up behind.
/// Host-driven there is nobody to keep busy. Needs `min_batch_size = 1`, and a model that begins
/// with enter().
class Hold {
 public:
  explicit Hold(unsigned workers) noexcept : workers_(workers) {}

  void enter() {
    if (workers_ > 0) gate_.pass();
  }
  /// Every worker now runs a batch of this one request.
  template <class Request, class Response>
  void occupy(DynamicBatcher<Request, Response>& batcher, const Request& plug) {
    for (unsigned i = 0; i < workers_; ++i) {
      batcher.submit(plug).detach();
      gate_.await_arrivals(static_cast<int>(i) + 1);
    }
  }
  void open() { gate_.open(); }
  template <class Request, class Response>
  void let_go(DynamicBatcher<Request, Response>& batcher) {
    gate_.open();
    run_all(batcher, workers_);
  }

 private:
  const unsigned workers_;
  Gate gate_;
};

}  // namespace ciuic::testing
