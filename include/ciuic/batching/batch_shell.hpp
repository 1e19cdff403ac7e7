// BatchShell: the lock around a BatchCore, the inbox before it, and who may run, wait, drain and
// stop. It knows nothing of requests but their tickets; BatcherState fills in what admitting,
// running, expiring and abandoning mean.
//
// Drivers bring the threads. A WorkerTeam owns some, an ExecutorPump borrows the host's, and
// without a driver the host calls run_one(). All three do the same: poll under the lock, perform()
// the action.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ciuic/base/guarded.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/base/ref.hpp"
#include "ciuic/batching/batch_core.hpp"
#include "ciuic/batching/inbox.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Brings threads to a shell. All calls but start() are made with the shell's lock held.
class BatchDriver {
 public:
  virtual ~BatchDriver() = default;
  virtual Result<void> start() = 0;
  /// Something came. Leaves `lock` released. False when nobody can be made to look at it.
  virtual bool wake(Lock& lock) noexcept = 0;
  /// The core is draining or stopped: everybody looks again. May release `lock` in between.
  virtual void wake_all(Lock& lock) noexcept = 0;
  /// A polled action was taken; more may be due. May release `lock` in between.
  virtual void taken(Lock& lock) noexcept = 0;
  /// A batch has ended on this thread, which will look for another if it is the driver's: what did
  /// not fit beside that batch may be due. May release `lock` in between.
  virtual void ended(Lock& lock) noexcept = 0;
  /// The core is stopped: threads end. `wait`: and are joined, `lock` being released meanwhile.
  virtual void finish(Lock& lock, bool wait) noexcept = 0;
};

/// What a host-driven run_one() did.
struct RunReport {
  std::size_t batch_size = 0;   ///< requests run; 0 = no batch was due
  TimePoint next_due = kNever;  ///< when to call next, if nothing is submitted before; past = now
};

/// See the top of this file. Thread-safety: thread-safe.
class BatchShell {
 public:
  /// Somebody at work outside the lock: who, and on what.
  struct Activity {
    ThreadId thread{};
    BatchAction action{};  // its slots are those below
    std::vector<SlotHandle> slots;
    std::vector<std::uint32_t> tickets;  // room for as many
    Activity* next = nullptr;
  };

  virtual void add_reference() noexcept = 0;
  virtual void drop_reference() noexcept = 0;

  Mutex& mutex() noexcept { return mutex_; }
  /// With the lock held.
  BatchCore& core() noexcept { return core_; }
  Inbox& inbox() noexcept { return inbox_; }
  const Clock& clock() const noexcept { return *host_.clock; }
  const HostContext& host() const noexcept { return host_; }
  bool stopping() const noexcept { return stopping_; }

  /// Moves what came into the core. With the lock held.
  void absorb() noexcept {
    inbox_.drain([this](std::uint32_t ticket) { expect(ticket); },
                 [this](std::uint32_t ticket) { admit(ticket); });
    inbox_.set_waiting(core_.waiting());
  }
  /// For drivers: the core's poll() and expire(), on the host's clock, or without it once stopping.
  /// Every action that perform() shall do comes from here, because host threads may run batches
  /// beside any driver: there has to be an Activity for each. May release `lock` before.
  BatchAction poll(Lock& lock) noexcept { return poll(time(), lock); }
  BatchAction expire(Lock& lock) noexcept {
    reserve(lock);
    absorb();
    return left(core_.expire(time()));
  }
  /// For drivers that find nobody to run what waits: fails all of it. Releases `lock` in between.
  void hand_back(Lock& lock) noexcept {
    if (handing_back_) return;  // whoever began goes on until nothing waits
    handing_back_ = true;
    for (;;) {
      reserve(lock);
      absorb();
      const BatchAction action = left(core_.abandon());
      if (action.slots.empty()) break;
      perform(action, lock);
    }
    handing_back_ = false;
  }

  /// Does what a polled action says. The lock is released while foreign code runs.
  void perform(const BatchAction& action, Lock& lock) noexcept {
    Activity* activity = begin(action);
    if (driver_ != nullptr) driver_->taken(lock);
    execute(*activity, lock);
    // Still active: stop() waits for the model's end, and is refused from the model's destructor.
    if (stopping_ && active_ == activity && activity->next == nullptr) retire(lock);
    end(activity);
    settled_.notify_all();
    if (driver_ != nullptr && action.kind == BatchAction::dispatch) driver_->ended(lock);
  }

  /// Expires what is late, then runs at most one batch, on this thread. `now` may not be ahead of
  /// the host's clock if threads drive this shell as well.
  RunReport run_one(TimePoint now) noexcept {
    const Ref<BatchShell> alive = Ref<BatchShell>::share(this);  // a callback may drop the owner
    Lock lock(mutex_);
    std::size_t ran = 0;
    while (ran == 0 || stopping_) {
      const BatchAction action = poll(now, lock);
      if (action.slots.empty()) break;
      if (action.kind == BatchAction::dispatch) ran = action.slots.size();
      perform(action, lock);
    }
    absorb();                                      // what came while the batch ran
    if (driver_ != nullptr) driver_->taken(lock);  // a batch has ended that its threads know not of
    return {ran, core_.next_event()};
  }

  /// Errors: `expired` when something is still pending at `until`, `would_deadlock`.
  Result<void> drain(TimePoint until) noexcept {
    const Ref<BatchShell> alive = Ref<BatchShell>::share(this);
    Lock lock(mutex_);
    if (is_active_thread()) return deadlock("drain");
    inbox_.close();
    absorb();
    core_.drain();
    room_.notify_all();
    if (driver_ != nullptr) driver_->wake_all(lock);
    while (core_.outstanding() > 0 || active_ != nullptr) {
      const TimePoint now = clock().now();
      if (now >= until) {
        return Error(ErrorCode::expired,
                     {"drain: ", std::to_string(core_.outstanding()), " requests are left"});
      }
      if (driver_ == nullptr) {
        if (const BatchAction action = poll(lock); !action.slots.empty()) {
          perform(action, lock);
          continue;
        }
      }
      clock().wait_until(settled_, lock, until);
    }
    return {};
  }

  /// Errors: `would_deadlock`.
  Result<void> stop() noexcept {
    const Ref<BatchShell> alive = Ref<BatchShell>::share(this);
    Lock lock(mutex_);
    if (is_active_thread()) return deadlock("stop");
    const bool first = begin_stop(lock);
    for (;;) {  // every worker may be busy: hand back what waits from here
      const BatchAction action = poll(lock);
      if (action.slots.empty()) break;
      perform(action, lock);
    }
    while (active_ != nullptr) settled_.wait(lock);
    if (first) {
      if (driver_ != nullptr) driver_->finish(lock, true);
      reserve(lock);
      Activity* activity = begin(BatchAction{});
      retire(lock);
      end(activity);
      stopped_ = true;
      settled_.notify_all();
    }
    while (!stopped_) settled_.wait(lock);
    return {};
  }

  /// The owner goes, and cannot wait: threads end by themselves, after the batches that run.
  void stop_later() noexcept {
    Lock lock(mutex_);
    begin_stop(lock);
    if (driver_ != nullptr) driver_->finish(lock, false);
  }

 protected:
  /// `tickets`: as many as may be outstanding, below 2^24. `policy` may be null.
  BatchShell(const BatchLimits& limits, std::size_t tickets, BatchPolicy* policy,
             const HostContext& host, std::size_t activities)
      : host_(host), core_(limits, policy), inbox_(tickets, core_.limits().queue_capacity) {
    for (std::size_t i = 0; i < activities; ++i) idle_ = make_activity(idle_);
  }
  virtual ~BatchShell() = default;
  /// The request of a ticket will be admitted, and most likely run, soon.
  virtual void expect(std::uint32_t ticket) const noexcept = 0;
  /// With the lock held: enters the request of a ticket into the core.
  virtual void admit(std::uint32_t ticket) noexcept = 0;
  /// Entered and left with `lock` held; owns what the activity's action hands out and releases it
  /// in the core.
  virtual void execute(Activity& activity, Lock& lock) noexcept = 0;
  /// Stopped, and nothing will run again: let go of the model. May release `lock` in between.
  virtual void retire(Lock& lock) noexcept = 0;

  /// A driver that could not start is no driver.
  Result<void> drive(std::unique_ptr<BatchDriver> driver) noexcept {
    driver_ = std::move(driver);
    return driver_ == nullptr ? Result<void>() : driver_->start();
  }
  /// With the lock held: does this thread run a batch or callback of this shell?
  bool is_active_thread() const noexcept {
    const ThreadId self = this_thread_id();
    for (const Activity* a = active_; a != nullptr; a = a->next) {
      if (a->thread == self) return true;
    }
    return false;
  }

  /// Requests may have left the queue: the inbox has room for others.
  const BatchAction& left(const BatchAction& action) noexcept {
    inbox_.set_waiting(core_.waiting());
    return action;
  }

  const HostContext host_;
  Mutex mutex_;
  BatchCore core_;
  Inbox inbox_;
  CondVar room_;     // submitters that wait for room
  CondVar settled_;  // drain and stop
  std::unique_ptr<BatchDriver> driver_;

 private:
  static Error deadlock(const char* what) noexcept {
    return Error(ErrorCode::would_deadlock,
                 {what, ": called from a callback or model that it would wait for"});
  }
  bool begin_stop(Lock& lock) noexcept {
    const bool first = !std::exchange(stopping_, true);
    inbox_.close();
    absorb();
    core_.stop();
    room_.notify_all();
    if (driver_ != nullptr) driver_->wake_all(lock);
    return first;
  }
  BatchAction poll(TimePoint now, Lock& lock) noexcept {
    reserve(lock);
    absorb();
    return left(core_.poll(now));
  }
  TimePoint time() const noexcept { return stopping_ ? TimePoint::min() : clock().now(); }
  /// Makes sure of an Activity to perform with: more host threads than ever before may need
  /// another, and where memory is refused they take turns.
  void reserve(Lock& lock) noexcept {
    const auto grow = [this] { idle_ = make_activity(nullptr); };
    while (idle_ == nullptr) {
      if (!call_guarded(ErrorCode::out_of_memory, "batcher", grow)) settled_.wait(lock);
    }
  }
  Activity* make_activity(Activity* next) {
    auto activity = std::make_unique<Activity>();
    const std::size_t most =
        std::min(core_.limits().max_batch_size, core_.limits().max_outstanding);
    activity->slots.reserve(most);
    activity->tickets.reserve(most);
    activity->next = next;
    activities_.push_back(std::move(activity));
    return activities_.back().get();
  }
  Activity* begin(const BatchAction& action) noexcept {
    Activity* activity = std::exchange(idle_, idle_->next);
    activity->thread = this_thread_id();
    activity->slots.assign(action.slots.begin(), action.slots.end());
    activity->action = action;
    activity->action.slots = activity->slots;
    activity->next = std::exchange(active_, activity);
    return activity;
  }
  void end(Activity* activity) noexcept {
    Activity** link = &active_;
    while (*link != activity) link = &(*link)->next;
    *link = activity->next;
    activity->next = std::exchange(idle_, activity);
  }

  std::vector<std::unique_ptr<Activity>> activities_;
  Activity* idle_ = nullptr;
  Activity* active_ = nullptr;
  bool stopping_ = false;
  bool stopped_ = false;
  bool handing_back_ = false;
};

}  // namespace ciuic::inline CIUIC_ABI
