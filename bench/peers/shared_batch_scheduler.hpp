// TensorFlow's SharedBatchScheduler (github.com/tensorflow/tensorflow,
// tensorflow/core/kernels/batching_util), as it is, behind the calls of batcher_overhead.cpp: one
// queue, one batch thread, and a notification for each task, as its documentation has it.
//
// Needs its sources and Abseil; where they are is said with CIUIC_BENCH_TENSORFLOW. tf_shim/ stands
// in for the rest of TensorFlow.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <utility>

// clang-format off: found through tf_shim/
#include <tensorflow/core/kernels/batching_util/shared_batch_scheduler.h>
// clang-format on

namespace ciuic::bench {

class SharedBatchSchedulerPeer {
 public:
  static constexpr const char* kName = "TensorFlow";
  class Future {
   public:
    void wait() { done->WaitForNotification(); }
    std::unique_ptr<absl::Notification> done;
  };

  SharedBatchSchedulerPeer(std::size_t max_batch_size, std::chrono::nanoseconds delay) {
    Scheduler::Options options;
    options.num_batch_threads = 1;
    Scheduler::QueueOptions queue;
    queue.input_batch_size_limit = max_batch_size;
    queue.batch_timeout_micros =
        std::chrono::duration_cast<std::chrono::microseconds>(delay).count();
    queue.max_enqueued_batches = 1000;  // more than the producers keep under way
    const auto run = [this](std::unique_ptr<Batch> batch) {
      for (const std::unique_ptr<Task>& task : batch->RemoveAllTasks()) {
        *task->answer = 2 * task->request;
        task->done->Notify();
      }
      ++batches_;
    };
    if (!Scheduler::Create(options, &scheduler_).ok() ||
        !scheduler_->AddQueue(queue, std::function<void(std::unique_ptr<Batch>)>(run), &queue_)
             .ok()) {
      std::abort();
    }
  }
  Future submit(int request, int* answer) {
    Future future{std::make_unique<absl::Notification>()};
    auto task = std::make_unique<Task>(request, answer, future.done.get());
    if (!queue_->Schedule(&task).ok()) std::abort();
    return future;
  }
  std::size_t batches() const noexcept { return batches_; }

 private:
  struct Task final : tensorflow::serving::BatchTask {
    Task(int question, int* place, absl::Notification* signal)
        : request(question), answer(place), done(signal) {}
    std::size_t size() const override { return 1; }
    int request;
    int* answer;
    absl::Notification* done;
  };
  using Scheduler = tensorflow::serving::SharedBatchScheduler<Task>;
  using Batch = tensorflow::serving::Batch<Task>;

  std::size_t batches_ = 0;
  std::shared_ptr<Scheduler> scheduler_;
  std::unique_ptr<tensorflow::serving::BatchScheduler<Task>> queue_;  // waits until it is empty
};

}  // namespace ciuic::bench
