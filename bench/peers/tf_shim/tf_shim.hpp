// What TensorFlow's batching headers need of the rest of TensorFlow, on Abseil and the standard
// library. Every name that they include leads here (see CMakeLists.txt beside this file). The peer
// is no slower for it: mutexes and condition variables are the standard library's, with which it
// was faster than with Debian's Abseil; logging, checks and tracing do nothing; the clock is not
// behind a virtual call.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <absl/synchronization/notification.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#define TF_GUARDED_BY(mutex)
#define TF_EXCLUSIVE_LOCKS_REQUIRED(...)
#define TF_NO_THREAD_SAFETY_ANALYSIS
#define TF_RETURN_IF_ERROR(...)                           \
  if (absl::Status status = (__VA_ARGS__); status.ok()) { \
  } else                                                  \
    return status

// Checks and log lines compile and are never evaluated. Another peer may have brought glog's.
#undef DCHECK
#undef DCHECK_EQ
#undef DCHECK_NE
#undef DCHECK_LT
#undef DCHECK_GT
#undef DCHECK_GE
#undef LOG
#undef LOG_FIRST_N
#undef VLOG
#define TF_SHIM_NOWHERE(condition) \
  while (false && (condition)) ::tensorflow::Nowhere()
#define DCHECK(condition) TF_SHIM_NOWHERE(condition)
#define DCHECK_EQ(a, b) TF_SHIM_NOWHERE((a) == (b))
#define DCHECK_NE(a, b) TF_SHIM_NOWHERE((a) != (b))
#define DCHECK_LT(a, b) TF_SHIM_NOWHERE((a) < (b))
#define DCHECK_GT(a, b) TF_SHIM_NOWHERE((a) > (b))
#define DCHECK_GE(a, b) TF_SHIM_NOWHERE((a) >= (b))
#define LOG(severity) TF_SHIM_NOWHERE(true)
#define LOG_FIRST_N(severity, n) TF_SHIM_NOWHERE(true)
#define VLOG(level) TF_SHIM_NOWHERE(true)

namespace tsl::criticality {
enum class Criticality { kSheddable, kSheddablePlus, kCritical, kCriticalPlus };
}  // namespace tsl::criticality

namespace tsl::profiler {
enum class ContextType { kSharedBatchScheduler };
struct TraceMe {
  template <class Name>
  explicit TraceMe(const Name&) {}
  ~TraceMe() {}  // not trivial: it is a variable nobody reads
};
struct TraceMeProducer {
  template <class Name>
  TraceMeProducer(const Name&, ContextType, std::uint64_t) {}
  ~TraceMeProducer() {}
};
using TraceMeConsumer = TraceMeProducer;
}  // namespace tsl::profiler

namespace tensorflow {

using int32 = std::int32_t;
using int64 = std::int64_t;
using uint64 = std::uint64_t;
using absl::Notification;
using std::string;

struct Nowhere {
  template <class T>
  const Nowhere& operator<<(const T&) const {
    return *this;
  }
};

namespace profiler {
struct TraceMeArg {
  template <class Value>
  TraceMeArg(std::string_view, const Value&) {}
};
inline string TraceMeEncode(std::string_view, std::initializer_list<TraceMeArg>) { return {}; }
}  // namespace profiler

namespace strings {
using absl::StrCat;
}
namespace errors {
template <class... Words>
absl::Status InvalidArgument(const Words&... words) {
  return absl::InvalidArgumentError(absl::StrCat(words...));
}
template <class... Words>
absl::Status Unavailable(const Words&... words) {
  return absl::UnavailableError(absl::StrCat(words...));
}
}  // namespace errors
namespace port {
inline int MaxParallelism() { return static_cast<int>(std::thread::hardware_concurrency()); }
}  // namespace port

using std::mutex;
using mutex_lock = std::unique_lock<std::mutex>;
using std::condition_variable;
inline void WaitForMilliseconds(mutex_lock* lock, condition_variable* waiting, std::int64_t ms) {
  waiting->wait_for(*lock, std::chrono::milliseconds(ms));
}

struct ThreadOptions {};
using Thread = std::jthread;  // joined when it is destroyed
class Env {
 public:
  static Env* Default() {
    static Env env;
    return &env;
  }
  std::uint64_t NowMicros() const {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  }
  void SleepForMicroseconds(std::int64_t us) const {
    std::this_thread::sleep_for(std::chrono::microseconds(us));
  }
  template <class Body>
  Thread* StartThread(const ThreadOptions&, const string&, Body body) const {
    return new Thread(std::move(body));
  }
};

}  // namespace tensorflow
