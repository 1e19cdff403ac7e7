// ThreadPool: ciuic's own Executor, for hosts that have none.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/base/guarded.hpp"
#include "ciuic/base/host_context.hpp"

namespace ciuic::inline CIUIC_ABI {

struct ThreadPoolOptions {
  unsigned threads = 0;               ///< 0 = as many as this machine runs at once
  std::size_t queue_capacity = 1024;  ///< tasks that may wait, those for later included
  HostContext host{};  ///< its clock (null: the system's) and log; its executor is not used
};

/// A fixed number of threads and a bounded queue, first come, first served.
///
/// post() never blocks: it returns false when the queue is full or the pool is stopping. A task
/// that throws is logged and counted. The destructor stops: running tasks end, waiting ones are
/// destroyed unrun. A pool that could not start a thread works with those that did start; without
/// any it takes nothing. Thread-safety: thread-safe, but for destroying, which no task may do.
/// Tasks are stored without allocating if they fit a Function.
class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(const ThreadPoolOptions& options = {})
      : clock_(options.host.clock == nullptr ? &steady_clock() : options.host.clock),
        log_(options.host.log),
        ready_(options.queue_capacity) {
    const unsigned wanted = options.threads == 0 ? hardware_threads() : options.threads;
    timed_.reserve(options.queue_capacity);
    threads_.reserve(wanted);
    ids_.reserve(wanted);
    for (unsigned i = 0; i < wanted; ++i) {
      Result<Thread> thread = Thread::start([this] { work(); });
      if (!thread) break;
      threads_.push_back(*std::move(thread));
    }
    Lock lock(mutex_);
    open_ = !threads_.empty();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { static_cast<void>(stop()); }

  std::size_t threads() const noexcept { return threads_.size(); }

  bool post(Function<void()>&& task) noexcept override {
    Lock lock(mutex_);
    if (!open_ || waiting() >= ready_.size()) return false;
    push_ready(std::move(task));
    lock.unlock();
    work_.notify_one();
    return true;
  }
  bool post_at(TimePoint when, Function<void()>&& task) noexcept override {
    Lock lock(mutex_);
    if (!open_ || waiting() >= ready_.size()) return false;
    timed_.push_back({when, sequence_++, std::move(task)});
    std::push_heap(timed_.begin(), timed_.end(), Later());
    const bool first = timed_.front().when == when;
    lock.unlock();
    if (first) work_.notify_one();
    return true;
  }

  /// Takes nothing new and waits until nothing waits or runs; tasks for later run at their time.
  /// Errors: `would_deadlock` from a task.
  Result<void> drain() noexcept {
    Lock lock(mutex_);
    if (is_own_thread()) return Error(ErrorCode::would_deadlock, "drain: called from a task");
    open_ = false;
    while (waiting() > 0 || running_ > 0) idle_.wait(lock);
    return {};
  }
  /// Takes nothing new, destroys what waits, and waits for what runs. Errors: `would_deadlock`
  /// from a task.
  Result<void> stop() noexcept {
    std::vector<Function<void()>> dropped;
    std::vector<Timed> dropped_timed;
    {
      Lock lock(mutex_);
      if (is_own_thread()) return Error(ErrorCode::would_deadlock, "stop: called from a task");
      open_ = false;
      stopping_ = true;
      ready_count_ = 0;
      dropped.swap(ready_);
      dropped_timed.swap(timed_);
      work_.notify_all();
      idle_.notify_all();
    }
    dropped.clear();  // foreign destructors, outside the lock
    dropped_timed.clear();
    Lock one_at_a_time(joining_);
    for (Thread& thread : threads_) thread.join();
    return {};
  }
  /// Tasks that threw.
  std::uint64_t failed() const noexcept { return failed_.load(std::memory_order_relaxed); }

 private:
  struct Timed {
    TimePoint when;
    std::uint64_t sequence;  // equal times: first come, first served
    Function<void()> task;
  };
  struct Later {
    bool operator()(const Timed& a, const Timed& b) const noexcept {
      return a.when != b.when ? a.when > b.when : a.sequence > b.sequence;
    }
  };

  std::size_t waiting() const noexcept CIUIC_REQUIRES(mutex_) {
    return ready_count_ + timed_.size();
  }
  bool is_own_thread() const noexcept CIUIC_REQUIRES(mutex_) {
    return std::find(ids_.begin(), ids_.end(), this_thread_id()) != ids_.end();
  }
  void push_ready(Function<void()>&& task) noexcept CIUIC_REQUIRES(mutex_) {
    ready_[(ready_first_ + ready_count_++) % ready_.size()] = std::move(task);
  }
  void work() noexcept {
    Lock lock(mutex_);
    ids_.push_back(this_thread_id());  // there is room; before its first task
    while (!stopping_) {
      const TimePoint now = timed_.empty() ? TimePoint() : clock_->now();
      while (!timed_.empty() && timed_.front().when <= now) {
        std::pop_heap(timed_.begin(), timed_.end(), Later());
        Function<void()> due = std::move(timed_.back().task);
        timed_.pop_back();
        push_ready(std::move(due));
      }
      if (ready_count_ == 0) {
        clock_->wait_until(work_, lock, timed_.empty() ? kNever : timed_.front().when);
        continue;
      }
      Function<void()> task = std::move(ready_[ready_first_]);
      ready_first_ = (ready_first_ + 1) % ready_.size();
      --ready_count_;
      ++running_;
      if (waiting() > 0) work_.notify_one();  // somebody has to run, or to time, the next one
      lock.unlock();
      run(task);
      task = nullptr;
      lock.lock();
      if (--running_ == 0 && waiting() == 0) idle_.notify_all();
    }
  }
  void run(Function<void()>& task) noexcept {
    const Result<void> outcome = call_guarded(ErrorCode::internal, "ciuic: a task", task);
    if (outcome) return;
    failed_.fetch_add(1, std::memory_order_relaxed);
    if (log_ != nullptr) log_->write(LogLevel::warning, outcome.error().message());
  }

  const Clock* clock_;
  LogSink* log_;
  Mutex joining_;  // two callers of stop() must not join one thread
  Mutex mutex_;
  CondVar work_, idle_;
  std::vector<Function<void()>> ready_ CIUIC_GUARDED_BY(mutex_);  // a ring of fixed size
  std::size_t ready_first_ CIUIC_GUARDED_BY(mutex_) = 0;
  std::size_t ready_count_ CIUIC_GUARDED_BY(mutex_) = 0;
  std::vector<Timed> timed_ CIUIC_GUARDED_BY(mutex_);  // a heap, first due in front
  std::uint64_t sequence_ CIUIC_GUARDED_BY(mutex_) = 0;
  std::size_t running_ CIUIC_GUARDED_BY(mutex_) = 0;
  bool open_ CIUIC_GUARDED_BY(mutex_) = false;
  bool stopping_ CIUIC_GUARDED_BY(mutex_) = false;
  Atomic<std::uint64_t> failed_{0};
  // Apart from the threads, which stop() joins without the lock.
  std::vector<ThreadId> ids_ CIUIC_GUARDED_BY(mutex_);
  std::vector<Thread> threads_;
};

}  // namespace ciuic::inline CIUIC_ABI
