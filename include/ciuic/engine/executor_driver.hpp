// ExecutorDriver: lets a host's executor run an engine, one step a task.
#pragma once

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
  /// When there will be some though nobody calls `wake`; `kNever` if so.
  virtual TimePoint next_event() = 0;
  /// The executor refused or dropped the task that would have run the rest: end what waits.
  virtual void abandon_work() = 0;

 protected:
  ~Steppable() = default;
};

/// At most one task is posted or running at any time. It does one step and posts the next, so an
/// executor with one thread still serves others in between. Whoever submits work wakes it; a
/// wake while a task runs makes it look again. A task that the executor refuses or destroys unrun
/// ends the work it stood for, so nothing waits for ever. Tasks may outlive the driver.
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

    static void wake(const std::shared_ptr<Shared>& self) {
      {
        const Lock lock(self->mutex);
        if (self->work == nullptr) return;
        if (std::exchange(self->active, true)) {
          self->again = true;
          return;
        }
        ++self->inside;  // so that driver and executor stay until the task is posted
      }
      post(self);
      self->leave();
    }
    /// A refused task is destroyed here, unrun, which is how its work learns of it.
    static void post(const std::shared_ptr<Shared>& self) { (void)self->executor.post(Task(self)); }
    /// Looks again at `when`. One timer at a time: it sets the next.
    static void wake_at(const std::shared_ptr<Shared>& self, TimePoint when) {
      {
        const Lock lock(self->mutex);
        if (self->alarm <= when) return;
        self->alarm = when;
      }
      const bool set = self->executor.post_at(when, [self, when] {
        {
          const Lock lock(self->mutex);
          if (self->alarm == when) self->alarm = kNever;
        }
        wake(self);
      });
      if (set) return;
      const Lock lock(self->mutex);
      self->alarm = kNever;
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
    static void run(const std::shared_ptr<Shared>& self) {
      Steppable* const work = self->enter();
      if (work == nullptr) return;
      const bool worked = work->step_once();
      bool rest = false;
      if (!worked) {
        const Lock lock(self->mutex);
        rest = !std::exchange(self->again, false);
        if (rest) self->active = false;
      }
      if (rest) {
        wake_at(self, work->next_event());
      } else {
        post(self);
      }
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
    explicit Task(std::shared_ptr<Shared> shared) noexcept : shared_(std::move(shared)) {}
    Task(Task&&) noexcept = default;
    Task& operator=(Task&&) = delete;
    ~Task() {
      if (shared_) Shared::drop(shared_);
    }
    void operator()() { Shared::run(std::exchange(shared_, nullptr)); }

   private:
    std::shared_ptr<Shared> shared_;
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
