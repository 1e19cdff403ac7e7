// TensorFlow's SharedBatchScheduler (github.com/tensorflow/tensorflow,
// tensorflow/core/kernels/batching_util), as it is, behind the calls of batcher_overhead.cpp: one
// queue, one batch thread, answers written through pointers and a signal for each task: a
// notification, as its documentation has it, or a flag, which with the shim costs less.
//
// Needs its sources and Abseil, or its headers and its library: CIUIC_BENCH_TENSORFLOW.
#pragma once

#include <tensorflow/core/kernels/batching_util/shared_batch_scheduler.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

namespace ciuic::bench {

/// What a caller waits on, as absl::Notification, in one word.
class Flag {
 public:
  void Notify() {
    set_.store(1);
    set_.notify_one();  // by address: the waiter may be gone with its flag
  }
  void WaitForNotification() const { set_.wait(0); }

 private:
  std::atomic<int> set_{0};
};

template <class Signal>
class SharedBatchSchedulerPeer {
 public:
  class Future {
   public:
    void wait() { done->WaitForNotification(); }
    std::unique_ptr<Signal> done;
  };

  SharedBatchSchedulerPeer(std::size_t max_batch_size, std::chrono::nanoseconds delay) {
    typename Scheduler::Options options;
    options.num_batch_threads = 1;
    typename Scheduler::QueueOptions queue;
    queue.input_batch_size_limit = max_batch_size;
    queue.batch_timeout_micros =
        std::chrono::duration_cast<std::chrono::microseconds>(delay).count();
    queue.max_enqueued_batches = 1000;  // more than the producers keep under way
    const auto run = [this](std::unique_ptr<Batch> batch) {
      ++batches_;
      for (const std::unique_ptr<Task>& task : batch->RemoveAllTasks()) {
        *task->answer = 2 * task->request;
        task->done->Notify();
      }
    };
    if (!Scheduler::Create(options, &scheduler_).ok() ||
        !scheduler_->AddQueue(queue, std::function<void(std::unique_ptr<Batch>)>(run), &queue_)
             .ok()) {
      std::abort();
    }
  }
  Future submit(int request, int* answer) {
    Future future{std::make_unique<Signal>()};
    auto task = std::make_unique<Task>(request, answer, future.done.get());
    if (!queue_->Schedule(&task).ok()) std::abort();
    return future;
  }
  std::size_t batches() const noexcept { return batches_; }

 private:
  struct Task final : tensorflow::serving::BatchTask {
    Task(int question, int* place, Signal* signal)
        : request(question), answer(place), done(signal) {}
    std::size_t size() const override { return 1; }
    int request;
    int* answer;
    Signal* done;
  };
  using Scheduler = tensorflow::serving::SharedBatchScheduler<Task>;
  using Batch = tensorflow::serving::Batch<Task>;

  std::size_t batches_ = 0;
  std::shared_ptr<Scheduler> scheduler_;
  std::unique_ptr<tensorflow::serving::BatchScheduler<Task>> queue_;  // waits until it is empty
};

}  // namespace ciuic::bench
