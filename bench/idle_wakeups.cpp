// How often a batcher at rest wakes up: context switches of all its threads, a second.
//
//   idle_wakeups [--seconds 5]
//
// At rest means: nothing submitted; everything answered; one request waiting for a delay of an
// hour; a model running beside a deadline in an hour. Counted from /proc/self/task.
// Where the build was given TensorFlow, its SharedBatchScheduler comes first.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "ciuic/batching/dynamic_batcher.hpp"
#if defined(CIUIC_BENCH_TENSORFLOW)
#include "peers/shared_batch_scheduler.hpp"
#endif

namespace {

using namespace std::chrono_literals;

/// Of every thread but the caller.
long switches() {
  long sum = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == std::to_string(gettid())) continue;
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.find("ctxt_switches") == std::string::npos) continue;
      sum += std::atol(line.c_str() + line.find(':') + 1);
    }
  }
  return sum;
}

void rest(const char* what, int seconds) {
  std::this_thread::sleep_for(500ms);  // whatever was under way has ended
  const long before = switches();
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
  std::printf("| %s | %.2f |\n", what, static_cast<double>(switches() - before) / seconds);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  int seconds = 5;
  if (argc == 3 && std::strcmp(argv[1], "--seconds") == 0) seconds = std::atoi(argv[2]);
  if ((argc != 1 && argc != 3) || seconds < 1) {
    std::fprintf(stderr, "idle_wakeups [--seconds N]\n");
    return 2;
  }
  std::printf("| at rest | wake-ups a second |\n|---|---|\n");
#if defined(CIUIC_BENCH_TENSORFLOW)
  {
    ciuic::bench::SharedBatchSchedulerPeer<ciuic::bench::Flag> peer(2, 1h);
    rest("TensorFlow's, nothing submitted yet", seconds);
  }
#endif
  std::atomic<bool> held{false};
  ciuic::DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        if (in.front() == 7) held.wait(false);
        return std::vector<int>(in.begin(), in.end());
      },
      {.max_batch_size = 2, .max_queue_delay = 1h, .final_spin = 50us, .workers = 2});
  rest("nothing submitted yet", seconds);
  for (int i = 0; i < 1000; ++i) {
    ciuic::Future<int> a = batcher.submit(1), b = batcher.submit(2);
    if (!a.get() || !b.get()) return 1;
  }
  rest("everything answered", seconds);
  held = true;
  ciuic::Future<int> waiting = batcher.submit(1);
  rest("one request waits for its delay of an hour", seconds);
  held = false;
  ciuic::Future<int> held_1 = batcher.submit(7, {.timeout = 1h});
  ciuic::Future<int> held_2 = batcher.submit(7, {.timeout = 1h}), held_3 = batcher.submit(7);
  rest("both workers run a model, with deadlines in an hour", seconds);
  held = true;
  held.notify_all();
}
