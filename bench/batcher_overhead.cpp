// What a request costs at saturation: nanoseconds of wall and of CPU time, and allocations, beside
// the plain batcher and, where the build was given them, real peers.
//
//   batcher_overhead [--producers 2] [--window 64] [--max 32] [--min 8] [--requests 400000]
//                    [--rounds 9]
//
// The model doubles an int. Every producer keeps `window` requests under way: it submits one, and
// takes the oldest answer when the window is full. The ways take turns in each round; the table
// gives medians over the rounds, and the ratios' medians. CPU time is the whole process's.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"
#include "support/plain_batcher.hpp"
#include "tests/support/counted_allocations.hpp"
#if defined(CIUIC_BENCH_PEER)
#include CIUIC_BENCH_PEER
#endif
#if defined(CIUIC_BENCH_TENSORFLOW)
#include "peers/shared_batch_scheduler.hpp"
#endif

namespace {

using namespace ciuic::bench;
using std::chrono::steady_clock;

struct Load {
  int producers = 2, window = 64, max = 32, min = 8, requests = 400000, rounds = 9;
};
constexpr std::chrono::milliseconds kDelay{1};

struct Cost {
  double wall = 0, cpu = 0, allocations = 0, batch = 0;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// `submit(i, answer)` gives a future; `take(future, answer)` its value, which must be 2 i.
/// `batches()` counts what ran so far.
template <class Submit, class Take, class Batches>
Cost measure(const Load& load, Submit submit, Take take, Batches batches) {
  using Future = decltype(submit(0, nullptr));
  const auto produce = [&](int requests) {
    std::vector<std::thread> producers;
    for (int p = 0; p < load.producers; ++p) {
      producers.emplace_back([&] {
        const auto window = static_cast<std::size_t>(load.window);
        std::vector<Future> futures(window);
        std::vector<int> answers(window);
        const int share = requests / load.producers;
        for (int i = 0; i < share + load.window; ++i) {
          const std::size_t at = static_cast<std::size_t>(i) % window;
          if (i >= load.window && take(futures[at], &answers[at]) != 2 * (i - load.window)) {
            std::fprintf(stderr, "wrong answer\n");
            std::_Exit(1);
          }
          if (i < share) futures[at] = submit(i, &answers[at]);
        }
      });
    }
    for (std::thread& thread : producers) thread.join();
  };
  produce(load.requests / 10);  // warm
  const auto count = [&] { return static_cast<double>(batches()); };
  const double requests = load.requests, ran = count(), cpu = cpu_seconds();
  const auto allocations = ciuic::testing::allocation_count.load();
  const auto begin = steady_clock::now();
  produce(load.requests);
  const std::chrono::duration<double> wall = steady_clock::now() - begin;
  // The producers' own: threads and windows, a few for each.
  const double own = static_cast<double>(8 * load.producers + 8);
  const auto made = static_cast<double>(ciuic::testing::allocation_count.load() - allocations);
  return {1e9 * wall.count() / requests, 1e9 * (cpu_seconds() - cpu) / requests,
          std::max(made - own, 0.0) / requests, requests / (count() - ran)};
}

Cost run_plain(const Load& load) {
  const auto model = [](const std::vector<int>& in) {
    std::vector<int> out(in);
    for (int& x : out) x *= 2;
    return out;
  };
  PlainBatcher<int, int, decltype(model)> batcher(model, static_cast<std::size_t>(load.max),
                                                  static_cast<std::size_t>(load.min), kDelay);
  return measure(
      load, [&](int i, int*) { return batcher.submit(i); },
      [](std::future<int>& future, int*) { return future.get(); },
      [&] { return batcher.batches(); });
}

template <class Peer>
Cost run_peer(const Load& load) {
  Peer batcher(static_cast<std::size_t>(load.max), kDelay);
  return measure(
      load, [&](int i, int* answer) { return batcher.submit(i, answer); },
      [](typename Peer::Future& future, int* answer) {
        future.wait();
        return *answer;
      },
      [&] { return batcher.batches(); });
}

Cost run_ciuic(const Load& load) {
  ciuic::DynamicBatcher<int, int> batcher(
      [](ciuic::Batch<int, int>& batch) {
        for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve_at_end(i, 2 * batch[i]);
      },
      {.max_batch_size = static_cast<std::size_t>(load.max),
       .min_batch_size = static_cast<std::size_t>(load.min),
       .max_queue_delay = kDelay});
  return measure(
      load, [&](int i, int*) { return batcher.submit(i); },
      [](ciuic::Future<int>& future, int*) { return future.get().value(); },
      [&] { return batcher.stats().batches(); });
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  Load load;
  const std::map<std::string, int Load::*> options{{"--producers", &Load::producers},
                                                   {"--window", &Load::window},
                                                   {"--max", &Load::max},
                                                   {"--min", &Load::min},
                                                   {"--requests", &Load::requests},
                                                   {"--rounds", &Load::rounds}};
  for (int i = 1; i < argc; i += 2) {
    const auto option = options.find(argv[i]);
    if (option == options.end() || i + 1 == argc || std::atoi(argv[i + 1]) < 1) {
      std::fprintf(stderr, "batcher_overhead: no such option, or no number above 0: %s\n", argv[i]);
      return 2;
    }
    load.*option->second = std::atoi(argv[i + 1]);
  }

  struct Way {
    const char* name;
    std::function<Cost(const Load&)> run;
    std::vector<Cost> costs{};
  };
  std::vector<Way> ways{{"plain", run_plain}};
#if defined(CIUIC_BENCH_PEER)
  ways.push_back({PeerBatcher::kName, run_peer<PeerBatcher>});
#endif
#if defined(CIUIC_BENCH_TENSORFLOW)
  ways.push_back({"TensorFlow", run_peer<SharedBatchSchedulerPeer<absl::Notification>>});
  ways.push_back({"TensorFlow, flags", run_peer<SharedBatchSchedulerPeer<Flag>>});
#endif
  ways.push_back({"ciuic", run_ciuic});
  for (int round = 0; round < load.rounds; ++round) {
    for (Way& way : ways) way.costs.push_back(way.run(load));
  }

  const auto medians = [&](const Way& way, double Cost::*what) {
    std::vector<double> values;
    for (const Cost& cost : way.costs) values.push_back(cost.*what);
    return median(values);
  };
  const auto ratio = [&](const Way& way, double Cost::*what) {
    std::vector<double> values;
    for (std::size_t i = 0; i < way.costs.size(); ++i) {
      values.push_back(ways.back().costs[i].*what / way.costs[i].*what);
    }
    return median(values);
  };
  std::printf("%d producers, window %d, batches of %d to %d, medians of %d rounds\n\n",
              load.producers, load.window, load.min, load.max, load.rounds);
  std::printf(
      "| batcher | ns wall | ns CPU | allocations | mean batch | ciuic's wall / its | CPU |\n");
  std::printf("|---|---|---|---|---|---|---|\n");
  for (const Way& way : ways) {
    std::printf("| %s | %.0f | %.0f | %.3f | %.1f | %.2f | %.2f |\n", way.name,
                medians(way, &Cost::wall), medians(way, &Cost::cpu),
                medians(way, &Cost::allocations), medians(way, &Cost::batch),
                ratio(way, &Cost::wall), ratio(way, &Cost::cpu));
  }
}
