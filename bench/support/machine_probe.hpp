// What this machine can do at this moment: the yardsticks that results are divided by.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "ciuic/base/buffer.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::bench {

/// The clock for work on `threads` threads: the processor time of this thread where it does all the
/// work, so that a busy machine does not spoil the figure, and the wall clock where others help. So
/// the figures of one thread and of several are not in the same seconds: on a busy machine a ratio
/// of the two understates what threads bring. Whoever prints one names its clock by `clock_name`.
double seconds_now(int threads = 1);
/// What `seconds_now(threads)` counts: "processor time" or "wall time".
const char* clock_name(int threads);

/// Multiply-adds that depend on nothing but registers, at the widest vectors of the processor.
/// Runs for about a millisecond on each of `threads` threads. Returns multiply-adds and adds, in
/// 10^9 a second, of all threads together.
double fma_gflops(int threads);

/// The same for products of unsigned and signed bytes summed in i32, by the processor's own dot
/// product (VNNI); 0 where it has none. Counts multiplications and additions.
double byte_dot_gops(int threads);

/// Instructions that do nothing, a nanosecond, of all threads together: half as many where another
/// thread of the processor runs on the same core. Takes about 0.2 ms.
double issue_slots_per_ns(int threads);

/// Which runs had their cores for themselves. On a machine whose cores are shared with strangers
/// the same kernel has all of the instructions a cycle, or half of them. Thread-safety:
/// thread-compatible.
class QuietRuns {
 public:
  explicit QuietRuns(int threads);
  void before() { before_ = issue_slots_per_ns(threads_); }
  void after();
  /// Those of `figures`, one for each run, around whose run the processor issued at least nine
  /// tenths of the most instructions it ever did on so many threads in this process.
  std::vector<double> of(const std::vector<double>& figures) const;

 private:
  int threads_;
  double before_ = 0.0;
  std::vector<double> slots_;
};

/// Reads memory that no cache holds. Thread-safety: thread-compatible.
class ReadProbe {
 public:
  explicit ReadProbe(std::size_t bytes = std::size_t{1} << 30);
  /// Reads the next 16 MiB per thread; 10^9 bytes a second of all threads together.
  double gigabytes_per_second(int threads);

 private:
  Buffer memory_;
  std::size_t next_ = 0;
};

double median(std::vector<double> values);

}  // namespace ciuic::bench
