// TensorRT-Laboratory's batcher (github.com/NVIDIA/tensorrt-laboratory, trtlab/core), as it is,
// behind the calls of batcher_overhead.cpp. One std::shared_future<void> serves a whole batch, and
// answers are written through pointers, so a request costs it no promise of its own.
//
// Needs its headers, glog and boost.fiber; where they are is said with CIUIC_BENCH_PEER_INCLUDES
// and CIUIC_BENCH_PEER_LIBRARIES. trtlab_shim/ stands in for its affinity.h, which would need one
// more library to pin threads, and is not used here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <utility>
#include <vector>

// clang-format off: its headers rely on this order
#include <trtlab/core/batcher.h>
#include <trtlab/core/dispatcher.h>
#include <trtlab/core/standard_threads.h>
#include <trtlab/core/utils.h>
// clang-format on

namespace ciuic::bench {

class PeerBatcher {
 public:
  static constexpr const char* kName = "trtlab";
  struct Item {
    int request;
    int* answer;
  };
  using Future = trtlab::StandardBatcher<Item, trtlab::standard_threads>::future_type;

  PeerBatcher(std::size_t max_batch_size, std::chrono::nanoseconds delay)
      : workers_(std::make_shared<trtlab::ThreadPool>(1)),
        timers_(make_timers()),
        dispatcher_(Batcher(max_batch_size), delay, workers_, timers_,
                    [this](const std::vector<Item>& items, std::function<void()> done) {
                      for (const Item& item : items) *item.answer = 2 * item.request;
                      ++batches_;
                      done();
                    }) {}
  Future submit(int request, int* answer) { return dispatcher_.enqueue({request, answer}); }
  std::size_t batches() const noexcept { return batches_; }

 private:
  /// The pool's thread starts before the members that it reads are made: it crashes or goes deaf
  /// now and then. On zeroed memory it does not crash; one that does not answer is left behind.
  static std::shared_ptr<trtlab::DeferredShortTaskPool> make_timers() {
    using Pool = trtlab::DeferredShortTaskPool;
    for (;;) {
      Pool* pool = new (std::calloc(1, sizeof(Pool))) Pool;
      const auto ran = std::make_shared<std::promise<void>>();
      pool->enqueue_deferred(Pool::clock_type::now(), [ran] { ran->set_value(); });
      if (ran->get_future().wait_for(std::chrono::milliseconds(100)) == std::future_status::ready) {
        return {pool, [](Pool* p) {
                  p->~Pool();
                  std::free(p);
                }};
      }
    }
  }

  using Batcher = trtlab::StandardBatcher<Item, trtlab::standard_threads>;
  std::size_t batches_ = 0;
  std::shared_ptr<trtlab::ThreadPool> workers_;
  std::shared_ptr<trtlab::DeferredShortTaskPool> timers_;
  trtlab::Dispatcher<Batcher> dispatcher_;
};

}  // namespace ciuic::bench
