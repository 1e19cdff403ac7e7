// ExecutorDriver: lets a host's executor run an engine, one step a task.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "ciuic/base/host_context.hpp"
#include "ciuic/engine/stream_state.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// What is driven.
class Steppable {
 public:
  /// Does a piece of work; false when there is none.
  virtual bool step_once() = 0;
  /// When there will be some though nobody calls `wake`; `kNever` if so. The executor is asked for
  /// a task then, and may lose it: whoever comes by after that time calls `wake`.
  virtual TimePoint next_event() = 0;
  virtual TimePoint now() const noexcept = 0;
  /// The executor refused or dropped the task that would have run the rest: end what waits.
  virtual void abandon_work() = 0;

 protected:
  ~Steppable() = default;
};

/// At most one task is posted or running at any time. It does one step and posts the next, so an
/// executor with one thread still serves others in between. Whoever submits work wakes it; a
/// wake while a task runs makes it look again. A task that the executor refuses or destroys unrun
/// ends the work it stood for, so nothing waits for ever. Tasks may outlive the driver. An executor
/// may run tasks inside `post`: whoever posts one that comes back like that does its step himself,
/// so the stack does not grow with the work.
/// Thread-safety: thread-safe.
class ExecutorDriver {
 public:
  ExecutorDriver(Executor& executor, Steppable& work)
      : shared_(std::make_shared<Shared>(executor)) {
    const Lock lock(shared_->mutex);
    shared_->work = &work;
  }
  /// After this no task touches the work any more. Not from inside a step.
  ~ExecutorDriver() {
    Lock lock(shared_->mutex);
    shared_->work = nullptr;
    while (shared_->inside > 0) shared_->left.wait(lock);
  }
  ExecutorDriver(const ExecutorDriver&) = delete;
  ExecutorDriver& operator=(const ExecutorDriver&) = delete;

  /// May outlive the driver, and the executor too: then it does nothing.
  std::shared_ptr<Waker> waker() const { return std::make_shared<Wake>(shared_); }

 private:
  struct Shared {
    explicit Shared(Executor& host_executor) : executor(host_executor) {}

    Executor& executor;
    Mutex mutex;
    CondVar left;
    Steppable* work CIUIC_GUARDED_BY(mutex) = nullptr;
    int inside CIUIC_GUARDED_BY(mutex) = 0;            // threads that hold `work`
    bool active CIUIC_GUARDED_BY(mutex) = false;       // a task is posted or running
    bool again CIUIC_GUARDED_BY(mutex) = false;        // and must look again before it rests
    TimePoint alarm CIUIC_GUARDED_BY(mutex) = kNever;  // when a posted timer wakes
    // Tasks are numbered; the next is posted when the one before it has begun. So a task that runs
    // on the thread that posts it, before that post has returned, runs inside it.
    std::uint64_t posts CIUIC_GUARDED_BY(mutex) = 0;
    std::uint64_t returned CIUIC_GUARDED_BY(mutex) = 0;   // the last whose post is over
    std::uint64_t came_back CIUIC_GUARDED_BY(mutex) = 0;  // the last that ran inside its post

    static void wake(const std::shared_ptr<Shared>& self) {
      Steppable* work = nullptr;
      {
        const Lock lock(self->mutex);
        work = self->work;
        if (work == nullptr) return;
        if (std::exchange(self->active, true)) {
          self->again = true;
          return;
        }
        ++self->inside;  // so that driver and executor stay until the task is posted
      }
      post(self, *work);
      self->leave();
    }
    /// A refused task is destroyed here, unrun, which is how its work learns of it.
    static void post(const std::shared_ptr<Shared>& self, Steppable& work) {
      do {
        std::uint64_t number = 0;
        {
          const Lock lock(self->mutex);
          number = ++self->posts;
        }
        (void)self->executor.post(Task(self, number));
        const Lock lock(self->mutex);
        self->returned = std::max(self->returned, number);
        if (self->came_back != number || self->work == nullptr) return;
      } while (step(self, work));
    }
    /// Looks again at `when`; true for at once. A timer is set when none to come is as early; later
    /// ones that lie there already stay, and find nothing to do.
    static bool wake_at(const std::shared_ptr<Shared>& self, TimePoint when, TimePoint now) {
      if (when == kNever) return false;
      if (when <= now) return true;
      {
        const Lock lock(self->mutex);
        if (self->alarm <= when && self->alarm > now) return false;  // one in the past is lost
        self->alarm = when;
      }
      (void)self->executor.post_at(when, Timer(self, when));
      return false;
    }
    Steppable* enter() {
      const Lock lock(mutex);
      if (work != nullptr) ++inside;
      return work;
    }
    void leave() {
      const Lock lock(mutex);
      --inside;
      left.notify_all();
    }
    /// True when another step must be posted.
    static bool step(const std::shared_ptr<Shared>& self, Steppable& work) {
      if (work.step_once()) return true;
      {
        const Lock lock(self->mutex);
        self->active = std::exchange(self->again, false);
        if (self->active) return true;
      }
      if (!wake_at(self, work.next_event(), work.now())) return false;
      const Lock lock(self->mutex);
      return !std::exchange(self->active, true);
    }
    /// The task with this number is run. Inside its own post() it only says so.
    static void run(const std::shared_ptr<Shared>& self, std::uint64_t number, ThreadId poster) {
      {
        const Lock lock(self->mutex);
        if (poster == this_thread_id() && self->returned < number) {
          self->came_back = number;
          return;
        }
      }
      Steppable* const work = self->enter();
      if (work == nullptr) return;
      if (step(self, *work)) post(self, *work);
      self->leave();
    }
    static void drop(const std::shared_ptr<Shared>& self) {
      Steppable* const work = self->enter();
      {
        const Lock lock(self->mutex);
        self->active = self->again = false;
      }
      if (work == nullptr) return;
      work->abandon_work();
      self->leave();
    }
  };

  class Task {
   public:
    Task(std::shared_ptr<Shared> shared, std::uint64_t number) noexcept
        : shared_(std::move(shared)), number_(number) {}
    Task(Task&&) noexcept = default;
    Task& operator=(Task&&) = delete;
    ~Task() {
      if (shared_) Shared::drop(shared_);
    }
    void operator()() { Shared::run(std::exchange(shared_, nullptr), number_, poster_); }

   private:
    std::shared_ptr<Shared> shared_;
    std::uint64_t number_;
    ThreadId poster_ = this_thread_id();
  };
  /// One that runs too early does nothing, and one that is lost can be set again: to look on its
  /// account could go round for ever.
  class Timer {
   public:
    Timer(std::shared_ptr<Shared> shared, TimePoint when) noexcept
        : shared_(std::move(shared)), when_(when) {}
    Timer(Timer&&) noexcept = default;
    Timer& operator=(Timer&&) = delete;
    ~Timer() {
      if (shared_) is_over();
    }
    void operator()() {
      is_over();
      const std::shared_ptr<Shared> shared = std::exchange(shared_, nullptr);
      Steppable* const work = shared->enter();
      if (work == nullptr) return;
      const bool early = work->now() < when_;
      shared->leave();
      if (!early) Shared::wake(shared);
    }

   private:
    void is_over() noexcept {
      const Lock lock(shared_->mutex);
      if (shared_->alarm == when_) shared_->alarm = kNever;
    }
    std::shared_ptr<Shared> shared_;
    TimePoint when_;
  };

  struct Wake final : Waker {
    explicit Wake(std::shared_ptr<Shared> of) noexcept : shared(std::move(of)) {}
    void wake() override { Shared::wake(shared); }
    std::shared_ptr<Shared> shared;
  };

  std::shared_ptr<Shared> shared_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
