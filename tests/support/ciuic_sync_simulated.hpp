// The simulated sync seam: the names of base/sync.hpp over a scheduler that a seed decides.
//
// Threads are fibers of one OS thread, of which one runs. Before every operation on a mutex, a
// condition variable, an atomic, a thread or a stop token the scheduler may go on with another
// fiber. Time is virtual. The same seed gives the same schedule, step for step. What is explored:
//   order      half of the seeds run probabilistic concurrency testing (Burckhardt, Kothari,
//              Musuvathi, Nagarakatte: ASPLOS 2010) of depth 2, a quarter of depth 3, a quarter
//              take a random runnable fiber at every step
//   time       passes when nobody can run; and, unless the plan says "punctual", also a little at
//              random steps, and up to the next timer at a few
//   wake-ups   a notified sleeper is any of them; at a few random steps one wakes for no reason
//   memory     stores weaker than sequentially consistent stay invisible to others until their
//              fiber synchronises, as in a store buffer (x86's total store order)
// A relaxed load and a relaxed fetch_add or fetch_sub are no switch points: statistics would drown
// the rest. Not explored: reorderings that only weaker machines make, and data races; the thread
// sanitizer looks for those.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "ciuic/base/error.hpp"
#include "ciuic/base/function.hpp"

// The annotations of base/sync.hpp: clang proves them on the real seam.
#define CIUIC_CAPABILITY(name)
#define CIUIC_SCOPED_CAPABILITY
#define CIUIC_GUARDED_BY(mutex)
#define CIUIC_PT_GUARDED_BY(mutex)
#define CIUIC_REQUIRES(mutex)
#define CIUIC_EXCLUDES(mutex)
#define CIUIC_ACQUIRE(...)
#define CIUIC_RELEASE(...)
#define CIUIC_NO_THREAD_SAFETY_ANALYSIS

namespace ciuic::inline CIUIC_ABI {

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;
inline constexpr TimePoint kNever = TimePoint::max();

namespace simulated {

struct Plan {
  std::uint64_t seed = 0;
  std::size_t steps = 300;  ///< how many a schedule has, about: where priorities change and so on
  bool punctual = false;    ///< time passes only when nobody can run
  int refused_thread = -1;  ///< the thread to be refused, counted from 0; -1 = none
  std::size_t most_steps = 50000;  ///< more are a livelock
};
struct Outcome {
  std::string problem{};  ///< empty: none
  std::size_t steps = 0;
  std::size_t threads = 0;
};
/// Runs `body` and all threads that it starts to their ends. After a problem nothing goes on: what
/// the fibers held is leaked.
Outcome run(const Plan& plan, Function<void()> body);

/// Inside run(). Ends it with a problem.
[[noreturn]] void fail(std::string problem) noexcept;
inline void require(bool holds, const char* what) noexcept {
  if (!holds) fail(what);
}
/// Virtual time; starts at 1 s.
TimePoint now() noexcept;

// What the classes below are made of.
void step() noexcept;   // a switch point
void spin() noexcept;   // the same, after everybody else
void drain() noexcept;  // this fiber's stores become visible
int self() noexcept;
bool may_delay_stores() noexcept;
struct DelayedStore {
  void* target;
  void (*commit)(void* target, std::uint64_t value);
  std::uint64_t value;
};
void delay_store(const DelayedStore& store) noexcept;
const DelayedStore* own_delayed_store(const void* target) noexcept;
void forget_stores(const void* target) noexcept;
void block(bool (*ready)(const void*), const void* on, const char* what) noexcept;
/// Sleeps on `condition`, until notified or `until`.
void sleep(const void* condition, TimePoint until) noexcept;
void notify(const void* condition, bool all) noexcept;
bool has_sleepers(const void* condition) noexcept;
int start(Function<void()>&& body) noexcept;  // -1: refused
bool has_ended(int thread) noexcept;

}  // namespace simulated

class Mutex {
 public:
  ~Mutex() { simulated::require(owner_ == kNobody, "a locked mutex is destroyed"); }
  void lock() noexcept {
    simulated::step();
    simulated::require(owner_ != simulated::self(), "a mutex is locked twice");
    acquire();
  }
  void unlock() noexcept {
    simulated::require(owner_ == simulated::self(), "a mutex is unlocked by another");
    simulated::drain();
    owner_ = kNobody;
  }

 private:
  friend class CondVar;
  static constexpr int kNobody = -1;
  void acquire() noexcept {
    simulated::drain();
    const auto free = [](const void* m) { return static_cast<const Mutex*>(m)->owner_ == kNobody; };
    if (!free(this)) simulated::block(free, this, "waits for a mutex");
    owner_ = simulated::self();
  }
  int owner_ = kNobody;
};

class Lock {
 public:
  explicit Lock(Mutex& mutex) noexcept : mutex_(mutex) { mutex_.lock(); }
  ~Lock() {
    if (held_) mutex_.unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  void unlock() noexcept {
    held_ = false;
    mutex_.unlock();
  }
  void lock() noexcept {
    mutex_.lock();
    held_ = true;
  }

 private:
  friend class CondVar;
  Mutex& mutex_;
  bool held_ = true;
};

class CondVar {
 public:
  ~CondVar() {
    simulated::require(!simulated::has_sleepers(this), "a condition variable dies under sleepers");
  }
  void notify_one() noexcept {
    simulated::step();
    simulated::notify(this, false);
  }
  void notify_all() noexcept {
    simulated::step();
    simulated::notify(this, true);
  }
  void wait(Lock& lock) { wait_until(lock, kNever); }
  void wait_until(Lock& lock, TimePoint until) {
    simulated::step();
    lock.mutex_.unlock();
    simulated::sleep(this, until);
    lock.mutex_.acquire();
  }

 private:
  char identity_ = 0;
};

class Thread {
 public:
  Thread() noexcept = default;
  static Result<Thread> start(Function<void()> body) noexcept {
    const int id = simulated::start(std::move(body));
    if (id < 0) return Error(ErrorCode::out_of_memory, "thread: refused by the plan");
    return Thread(id);
  }
  Thread(Thread&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Thread& operator=(Thread&& other) noexcept {
    join();
    id_ = std::exchange(other.id_, -1);
    return *this;
  }
  ~Thread() { join(); }
  void join() noexcept {
    if (id_ < 0) return;
    simulated::step();
    simulated::require(id_ != simulated::self(), "a thread joins itself");
    const auto ended = [](const void* t) {
      return simulated::has_ended(static_cast<const Thread*>(t)->id_);
    };
    if (!ended(this)) simulated::block(ended, this, "joins");
    id_ = -1;
  }
  void detach() noexcept { id_ = -1; }
  bool joinable() const noexcept { return id_ >= 0; }
  bool is_current() const noexcept { return id_ == simulated::self(); }

 private:
  explicit Thread(int id) noexcept : id_(id) {}
  int id_ = -1;
};

struct ThreadId {
  int id = -1;
  friend bool operator==(ThreadId, ThreadId) = default;
};
inline ThreadId this_thread_id() noexcept { return {simulated::self()}; }
inline unsigned hardware_threads() noexcept { return 2; }

template <class T>
class Atomic {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);

 public:
  constexpr Atomic() noexcept = default;
  constexpr Atomic(T value) noexcept : value_(value) {}  // NOLINT: implicit, as std::atomic's
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;
  ~Atomic() { simulated::forget_stores(this); }

  T load(std::memory_order order = std::memory_order_seq_cst) const noexcept {
    if (order != std::memory_order_relaxed) simulated::step();
    const simulated::DelayedStore* own = simulated::own_delayed_store(this);
    return own == nullptr ? value_ : unpack(own->value);
  }
  void store(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    simulated::step();
    if (order != std::memory_order_seq_cst && simulated::may_delay_stores()) {
      return simulated::delay_store({this, &commit, pack(value)});
    }
    simulated::drain();
    value_ = value;
  }
  T exchange(T value, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return change(order, [&](T) { return value; });
  }
  bool compare_exchange_strong(T& expected, T wanted,
                               std::memory_order = std::memory_order_seq_cst) noexcept {
    simulated::step();
    simulated::drain();
    if (value_ != expected) {
      expected = value_;
      return false;
    }
    value_ = wanted;
    return true;
  }
  bool compare_exchange_weak(T& expected, T wanted,
                             std::memory_order = std::memory_order_seq_cst) noexcept {
    return compare_exchange_strong(expected, wanted);
  }
  T fetch_add(T by, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return change(order, [&](T value) { return static_cast<T>(value + by); });
  }
  T fetch_sub(T by, std::memory_order order = std::memory_order_seq_cst) noexcept {
    return change(order, [&](T value) { return static_cast<T>(value - by); });
  }
  T fetch_or(T bits, std::memory_order = std::memory_order_seq_cst) noexcept {
    return change(std::memory_order_seq_cst, [&](T value) { return static_cast<T>(value | bits); });
  }
  T fetch_and(T bits, std::memory_order = std::memory_order_seq_cst) noexcept {
    return change(std::memory_order_seq_cst, [&](T value) { return static_cast<T>(value & bits); });
  }

 private:
  template <class Change>
  T change(std::memory_order order, Change&& next) noexcept {
    if (order != std::memory_order_relaxed) simulated::step();
    simulated::drain();
    return std::exchange(value_, next(value_));
  }
  static std::uint64_t pack(T value) noexcept {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
  }
  static T unpack(std::uint64_t bits) noexcept {
    T value;
    std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
    return value;
  }
  static void commit(void* target, std::uint64_t bits) {
    static_cast<Atomic*>(target)->value_ = unpack(bits);
  }
  T value_{};
};

inline void spin_pause() noexcept { simulated::spin(); }
inline void yield_thread() noexcept { simulated::spin(); }
inline constexpr int kSpinPauses = 1, kSpinYields = 1;
constexpr bool fault_point(const char*) noexcept { return false; }

// Stop tokens, as in <stop_token>; callbacks run in the order they were registered.
namespace simulated {

struct StopCallbackBase {
  virtual void invoke() noexcept = 0;
  StopCallbackBase* next = nullptr;

 protected:
  ~StopCallbackBase() = default;
};
struct StopState {
  int references = 1;
  bool requested = false;
  StopCallbackBase* first = nullptr;    // registered
  StopCallbackBase* running = nullptr;  // by thread `runner`
  int runner = -1;

  bool request() noexcept {
    step();
    if (std::exchange(requested, true)) return false;
    while (first != nullptr) {
      running = std::exchange(first, first->next);
      runner = self();
      running->invoke();
      running = nullptr;
      step();
    }
    return true;
  }
  /// False, and `callback` has run, when the stop was requested before.
  bool add(StopCallbackBase* callback) noexcept {
    step();
    if (requested) {
      callback->invoke();
      return false;
    }
    callback->next = std::exchange(first, callback);
    return true;
  }
  void remove(StopCallbackBase* callback) noexcept {
    step();
    for (StopCallbackBase** link = &first; *link != nullptr; link = &(*link)->next) {
      if (*link != callback) continue;
      *link = callback->next;
      return;
    }
    if (running != callback || runner == self()) return;
    struct Wait {
      const StopState* state;
      const StopCallbackBase* callback;
    } wait{this, callback};
    block(
        [](const void* p) {
          const Wait& w = *static_cast<const Wait*>(p);
          return w.state->running != w.callback;
        },
        &wait, "waits for a stop callback");
  }
};
/// Owns one reference of a StopState.
class StopReference {
 public:
  explicit StopReference(StopState* state = nullptr) noexcept : state_(state) {}
  StopReference(const StopReference& other) noexcept : state_(other.state_) {
    if (state_ != nullptr) ++state_->references;
  }
  StopReference(StopReference&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  StopReference& operator=(StopReference other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~StopReference() {
    if (state_ != nullptr && --state_->references == 0) delete state_;
  }
  StopState* operator->() const noexcept { return state_; }
  explicit operator bool() const noexcept { return state_ != nullptr; }

 private:
  StopState* state_;
};

}  // namespace simulated

class StopToken {
 public:
  StopToken() noexcept = default;
  bool stop_requested() const noexcept {
    simulated::step();
    return state_ && state_->requested;
  }
  bool stop_possible() const noexcept { return static_cast<bool>(state_); }

 private:
  friend class StopSource;
  template <class>
  friend class StopCallback;
  explicit StopToken(simulated::StopReference state) noexcept : state_(std::move(state)) {}
  simulated::StopReference state_;
};
class StopSource {
 public:
  StopSource() : state_(new simulated::StopState) {}
  StopToken get_token() const noexcept { return StopToken(state_); }
  bool request_stop() noexcept { return state_->request(); }

 private:
  simulated::StopReference state_;
};
template <class F>
class StopCallback final : simulated::StopCallbackBase {
 public:
  StopCallback(StopToken token, F callback)
      : callback_(std::move(callback)), state_(std::move(token.state_)) {
    if (state_) registered_ = state_->add(this);
  }
  StopCallback(const StopCallback&) = delete;
  StopCallback& operator=(const StopCallback&) = delete;
  ~StopCallback() {
    if (registered_) state_->remove(this);
  }

 private:
  void invoke() noexcept override { callback_(); }
  F callback_;
  simulated::StopReference state_;
  bool registered_ = false;
};

}  // namespace ciuic::inline CIUIC_ABI
