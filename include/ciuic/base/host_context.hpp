// What the host lends to ciuic: threads, memory, time and a place for log lines.
#pragma once

#include <memory_resource>
#include <string_view>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/function.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Runs functions somewhere else, now or at a time. The host may give its own; `ThreadPool` is
/// ours. What is accepted must be run once, sooner or later, without waiting for other tasks: work
/// and deadlines depend on it. (docs/engine.md says what is saved of those that were lost.)
/// Thread-safety: thread-safe.
class Executor {
 public:
  /// Runs `task` soon on some thread. False, and `task` untouched, when it takes no more work.
  virtual bool post(Function<void()>&& task) noexcept = 0;
  /// Runs `task` at `when` or soon after, never before. Same result as `post`.
  virtual bool post_at(TimePoint when, Function<void()>&& task) noexcept = 0;

 protected:
  ~Executor() = default;
};

enum class LogLevel : unsigned char { debug, info, warning, error };

/// Receives log lines. Thread-safety: must be thread-safe; must not call back into ciuic.
class LogSink {
 public:
  virtual void write(LogLevel level, std::string_view line) noexcept = 0;

 protected:
  ~LogSink() = default;
};

/// The host's side of the contract, handed to whatever ciuic object needs it. All pointers are
/// borrowed and must outlive the objects made with them; null means "ciuic's own, or none".
/// ciuic keeps nothing process-wide: two contexts in one program know nothing of each other.
struct HostContext {
  Executor* executor = nullptr;  ///< null: an object that needs threads starts its own
  std::pmr::memory_resource* memory =
      std::pmr::new_delete_resource();  ///< large blocks: weights, KV
  const Clock* clock = &steady_clock();
  LogSink* log = nullptr;  ///< null: silence
};

}  // namespace ciuic::inline CIUIC_ABI
