// What trtlab's thread pool needs of its affinity.h, for threads that are not pinned.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace trtlab {

struct cpu_set {
  bool allocate(cpu_set&, int) { return true; }
  cpu_set get_allocator() const { return {}; }
  std::size_t size() const { return 0; }
};
struct affinity {
  using cpu_set = trtlab::cpu_set;
  struct this_thread {
    static cpu_set get_affinity() { return {}; }
    static void set_affinity(const cpu_set&) {}
  };
};

}  // namespace trtlab
