// The sync seam: the only place in ciuic that names the standard library's threads, mutexes and
// condition variables. Everything concurrent is written against these types, so a test can put a
// simulated scheduler underneath (build with CIUIC_SYNC_SIMULATED) and replay any interleaving.
#pragma once

#include "ciuic/base/version.hpp"

#if defined(CIUIC_SYNC_SIMULATED)
#include "ciuic_sync_simulated.hpp"  // given by the build that defines the macro: the same names
#else

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

#include "ciuic/base/error.hpp"
#include "ciuic/base/function.hpp"

// Clang proves with -Wthread-safety that a guarded field is only touched under its mutex.
#if defined(__clang__)
#define CIUIC_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define CIUIC_THREAD_ANNOTATION(x)
#endif
#define CIUIC_CAPABILITY(name) CIUIC_THREAD_ANNOTATION(capability(name))
#define CIUIC_SCOPED_CAPABILITY CIUIC_THREAD_ANNOTATION(scoped_lockable)
#define CIUIC_GUARDED_BY(mutex) CIUIC_THREAD_ANNOTATION(guarded_by(mutex))
#define CIUIC_PT_GUARDED_BY(mutex) CIUIC_THREAD_ANNOTATION(pt_guarded_by(mutex))
#define CIUIC_REQUIRES(mutex) CIUIC_THREAD_ANNOTATION(requires_capability(mutex))
#define CIUIC_EXCLUDES(mutex) CIUIC_THREAD_ANNOTATION(locks_excluded(mutex))
#define CIUIC_ACQUIRE(...) CIUIC_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define CIUIC_RELEASE(...) CIUIC_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define CIUIC_NO_THREAD_SAFETY_ANALYSIS CIUIC_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace ciuic::inline CIUIC_ABI {

using TimePoint =
    std::chrono::steady_clock::time_point;  ///< monotonic: wall-clock jumps change nothing
using Duration = std::chrono::nanoseconds;
inline constexpr TimePoint kNever = TimePoint::max();

class CIUIC_CAPABILITY("mutex") Mutex {
 public:
  void lock() noexcept CIUIC_ACQUIRE() { mutex_.lock(); }
  void unlock() noexcept CIUIC_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

/// Holds a mutex for a scope; `unlock` and `lock` in between are allowed.
class CIUIC_SCOPED_CAPABILITY Lock {
 public:
  explicit Lock(Mutex& mutex) noexcept CIUIC_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Lock() CIUIC_RELEASE() {
    if (held_) mutex_.unlock();
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  void unlock() noexcept CIUIC_RELEASE() {
    held_ = false;
    mutex_.unlock();
  }
  void lock() noexcept CIUIC_ACQUIRE() {
    mutex_.lock();
    held_ = true;
  }

 private:
  friend class CondVar;
  Mutex& mutex_;
  bool held_ = true;
};

/// Wakes sleepers of one mutex. Waits may return early without a reason: always re-check.
class CondVar {
 public:
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }
  void wait(Lock& lock) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    Adopted adopted(lock.mutex_.mutex_);
    condition_.wait(adopted.native);
  }
  /// Returns at `until` at the latest. For time that a test can move, go through
  /// `Clock::wait_until`.
  void wait_until(Lock& lock, TimePoint until) CIUIC_NO_THREAD_SAFETY_ANALYSIS {
    if (until == kNever) return wait(lock);
    Adopted adopted(lock.mutex_.mutex_);
    condition_.wait_until(adopted.native, until);
  }

 private:
  struct Adopted {  // lends the already locked std::mutex to the std interface, and takes it back
    explicit Adopted(std::mutex& mutex) noexcept : native(mutex, std::adopt_lock) {}
    ~Adopted() { native.release(); }
    std::unique_lock<std::mutex> native;
  };
  std::condition_variable condition_;
};

/// A thread that is joined when its owner goes.
class Thread {
 public:
  Thread() noexcept = default;
  /// `body` must not throw. Fails with `out_of_memory` where the system refuses a thread.
  static Result<Thread> start(Function<void()> body) noexcept {
#if defined(__cpp_exceptions)
    try {
      return Thread(std::thread([body = std::move(body)]() mutable noexcept { body(); }));
    } catch (...) {
      return Error(ErrorCode::out_of_memory, "thread: the system refused to start one");
    }
#else
    return Thread(std::thread([body = std::move(body)]() mutable noexcept { body(); }));
#endif
  }
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& other) noexcept {
    join();
    thread_ = std::move(other.thread_);
    return *this;
  }
  ~Thread() { join(); }
  void join() noexcept {
    if (thread_.joinable()) thread_.join();
  }
  /// Lets the thread end by itself. It must own what it uses.
  void detach() noexcept {
    if (thread_.joinable()) thread_.detach();
  }
  bool joinable() const noexcept { return thread_.joinable(); }
  bool is_current() const noexcept { return thread_.get_id() == std::this_thread::get_id(); }

 private:
  explicit Thread(std::thread thread) noexcept : thread_(std::move(thread)) {}
  std::thread thread_;
};

/// Identifies the calling thread, for "may this call wait?" checks.
using ThreadId = std::thread::id;
inline ThreadId this_thread_id() noexcept { return std::this_thread::get_id(); }
/// How many threads run at once on this machine, at least 1.
inline unsigned hardware_threads() noexcept {
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1u : n;
}

/// The one atomic type of concurrent ciuic code; the simulated seam replaces it as well.
template <class T>
using Atomic = std::atomic<T>;

/// One turn of a bounded spin loop.
inline void spin_pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
inline void yield_thread() noexcept { std::this_thread::yield(); }
/// How many pauses, then yields, a bounded spin loop takes.
inline constexpr int kSpinPauses = 10, kSpinYields = 60;

/// Cooperative cancellation.
using StopToken = std::stop_token;
using StopSource = std::stop_source;
template <class F>
using StopCallback = std::stop_callback<F>;

/// A place where a test may make something fail or reorder threads. Nothing in production.
constexpr bool fault_point(const char* /*name*/) noexcept { return false; }

}  // namespace ciuic::inline CIUIC_ABI

#endif
