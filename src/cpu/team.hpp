// Threads that share one operation at a time and do not sleep between the operations of a step.
#pragma once

#include <cstddef>
#include <memory>

#include "ciuic/base/buffer.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// The calling thread and up to `threads` - 1 helpers. Helpers are threads of the team's own, or
/// tasks on the host's executor. Between jobs they spin for about 150 us; then own threads sleep
/// and tasks return, to be posted again with the next job that is worth it.
///
/// Each member has a share of a job's items, neighbours of each other, and takes them in order,
/// chunk by chunk; who is through takes chunks from the ends of the others' shares. So a job is
/// done whether or not a helper arrives, and a helper that arrives late finds the door closed.
/// Thread-safety: thread-compatible.
class Team {
 public:
  /// Starts helpers; where the system refuses one, the team is smaller. `scratch_floats` of working
  /// memory per member come from the host. Errors: `out_of_memory`.
  static Result<Team> make(int threads, std::size_t scratch_floats,
                           const HostContext& host) noexcept;
  Team(Team&&) noexcept = default;
  Team& operator=(Team&&) = delete;
  ~Team();

  /// Threads that may work on a job, the caller's included.
  std::size_t size() const noexcept;

  /// Calls `work(begin, end, scratch)` for chunks of at most `grain` items until [0, items) is
  /// covered, each item once. `nanoseconds` is a guess of the whole on one thread: what is too
  /// short to share runs here. `work` must not throw, nor depend on who runs it.
  template <class Work>
  void run(std::size_t items, std::size_t grain, double nanoseconds, const Work& work) noexcept {
    run_job({[](const void* context, std::size_t begin, std::size_t end, float* scratch) noexcept {
               (*static_cast<const Work*>(context))(begin, end, scratch);
             },
             &work, items, grain},
            nanoseconds);
  }

 private:
  struct Job {
    void (*call)(const void* context, std::size_t begin, std::size_t end, float* scratch) noexcept;
    const void* context;
    std::size_t items, grain;
  };
  struct Shared;

  explicit Team(std::shared_ptr<Shared> shared) noexcept : shared_(std::move(shared)) {}
  void run_job(const Job& job, double nanoseconds) noexcept;

  std::shared_ptr<Shared> shared_;  // executor tasks may outlive the team
};

}  // namespace ciuic::inline CIUIC_ABI::cpu
