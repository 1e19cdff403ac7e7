// Batch a function: callers on many threads ask for one thing each, the function sees many at once.
#include <cstdio>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/batching/dynamic_batcher.hpp"

using namespace std::chrono_literals;

// Stands for a model: each call has a fixed cost, so that a call for many is worth waiting for.
std::vector<std::size_t> count_vowels(std::span<const std::string> texts) {
  std::this_thread::sleep_for(1ms);
  std::vector<std::size_t> counts;
  for (const std::string& text : texts) {
    std::size_t n = 0;
    for (char c : text) n += std::string("aeiou").find(c) != std::string::npos;
    counts.push_back(n);
  }
  return counts;
}

int main() {
  ciuic::DynamicBatcher<std::string, std::size_t> batcher(
      count_vowels, {.max_batch_size = 64, .min_batch_size = 8, .max_queue_delay = 2ms});

  std::vector<std::thread> callers;
  for (int caller = 0; caller < 16; ++caller) {
    callers.emplace_back([&batcher] {
      for (int i = 0; i < 20; ++i) {
        ciuic::Future<std::size_t> future = batcher.submit("hello, batch", {.timeout = 5s});
        const ciuic::Result<std::size_t> vowels = future.get();
        if (!vowels) std::fprintf(stderr, "%s\n", std::string(vowels.error().message()).c_str());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();

  // One request, without waiting for its answer: a callback, run on the batcher's thread.
  batcher.submit("queue").on_ready([](ciuic::Result<std::size_t> vowels) {
    std::printf("\"queue\" has %zu vowels\n", vowels ? *vowels : 0);
  });
  if (!batcher.drain()) return 1;
  std::puts(to_string(batcher.stats()).c_str());
  return batcher.stats().completed == 16 * 20 + 1 ? 0 : 1;
}
