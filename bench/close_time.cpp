// How late a batch starts that closes by its delay: from (arrival of the oldest + delay) to the
// first line of the model, beside a bare timed futex wait in the same run.
//
//   close_time [--samples 1000]
//
// One request at a time on an idle machine, so every batch closes by its delay. A futex wait, the
// batcher and the batcher with `final_spin` take turns; the table gives quantiles in microseconds.
// The arrival is read before submit(), which counts against the batcher.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/base/timer_slack.hpp"
#include "ciuic/batching/dynamic_batcher.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

/// Sleeps on a futex that nobody wakes until `until`; returns how late it woke up.
double bare_wait(Clock::time_point until) {
  static std::uint32_t word = 0;
  const auto ns = std::chrono::nanoseconds(until.time_since_epoch()).count();
  const timespec when{static_cast<std::time_t>(ns / 1000000000),
                      static_cast<long>(ns % 1000000000)};
  while (Clock::now() < until) {
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &when, nullptr, FUTEX_BITSET_MATCH_ANY);
  }
  return microseconds(Clock::now() - until);
}

struct Batcher {
  Batcher(Clock::duration max_delay, Clock::duration final_spin)
      : delay(max_delay),
        batcher(
            [this](ciuic::Batch<int, int>& batch) {
              started = Clock::now();
              for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve_at_end(i, 1);
            },
            {.max_batch_size = 8, .max_queue_delay = max_delay, .final_spin = final_spin}) {}
  double late() {
    const Clock::time_point arrival = Clock::now();
    if (!batcher.submit(1).get()) std::_Exit(1);
    return microseconds(started - (arrival + delay));
  }
  Clock::duration delay;
  Clock::time_point started{};  // read after get()
  ciuic::DynamicBatcher<int, int> batcher;
};

void row(Clock::duration delay, const char* way, std::vector<double> late) {
  std::sort(late.begin(), late.end());
  const auto quantile = [&](double q) {
    return late[static_cast<std::size_t>(q * static_cast<double>(late.size() - 1))];
  };
  std::printf("| %.0f | %s | %.1f | %.1f | %.1f | %.1f |\n", microseconds(delay), way, late.front(),
              quantile(0.5), quantile(0.9), quantile(0.99));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  int samples = 1000;
  if (argc == 3 && std::strcmp(argv[1], "--samples") == 0) samples = std::atoi(argv[2]);
  if ((argc != 1 && argc != 3) || samples < 100) {
    std::fprintf(stderr, "close_time [--samples N], N at least 100\n");
    return 2;
  }
  ciuic::sleep_precisely();
  std::minstd_rand random(1);
  std::printf("| delay us | way | least | p50 | p90 | p99 |\n|---|---|---|---|---|---|\n");
  for (const Clock::duration delay :
       {Clock::duration(50us), Clock::duration(200us), Clock::duration(1ms), Clock::duration(5ms),
        Clock::duration(20ms)}) {
    Batcher plain(delay, 0us), spinning(delay, 100us);
    std::vector<double> futex, batcher, spin;
    for (int i = 0; i < samples; ++i) {
      const auto pause = [&] { std::this_thread::sleep_for(1us * (random() % 300)); };
      pause();
      futex.push_back(bare_wait(Clock::now() + delay));
      pause();
      batcher.push_back(plain.late());
      pause();
      spin.push_back(spinning.late());
    }
    row(delay, "futex wait", futex);
    row(delay, "batcher", batcher);
    row(delay, "batcher, final_spin 100 us", spin);
  }
}
