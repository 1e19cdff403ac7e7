// Mixed traffic for a while: nothing grows, nothing is lost, and a leak as small as 64 bytes a
// request would show. 15 seconds, in CI 3 minutes.
//
//   CIUIC_SOAK_SECONDS=3600 build/test/tests/engine/engine_soak_test
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "support/catch.hpp"
#include "support/counted_allocations.hpp"
#include "support/engine_rig.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

constexpr double kMostPerMillion = 1 << 20;  // live bytes that 10^6 requests may leave behind

struct Soaked {
  std::uint64_t requests = 0, answers = 0, wrong = 0, rounds = 0, unresolved = 0;
  double bytes_per_million = 0;  // slope of the live bytes over the requests
  std::int64_t pages_left = 0;
  std::string broken;
};

/// One client's requests; returns how many.
std::uint64_t be_a_client(ToyEngine& engine, unsigned seed, std::size_t leak,
                          std::atomic<std::uint64_t>& answers, std::atomic<std::uint64_t>& wrong,
                          std::atomic<std::int64_t>& pending) {
  std::mt19937 random(seed);
  constexpr std::uint64_t kRequests = 400;
  for (std::uint64_t i = 0; i < kRequests; ++i) {
    if (leak > 0) {
      static std::atomic<char*> last;
      last = new char[leak];  // the negative control: never given back
    }
    const bool is_long = random() % 16 == 0;
    const std::string prompt(1 + random() % (is_long ? 120 : 20),
                             static_cast<char>('a' + random() % 4));
    GenerateOptions terms{.max_new_tokens =
                              static_cast<std::int32_t>(1 + random() % (is_long ? 80 : 12))};
    terms.priority = static_cast<Priority>(random() % 3);
    if (random() % 4 == 0) terms.stop = {"ab", "z"};
    if (random() % 4 == 0) terms.draft_tokens = 3;
    if (random() % 8 == 0) terms.timeout = std::chrono::microseconds(random() % 2000);
    if (random() % 3 == 0) terms.max_unread = 1 + random() % 3;
    const bool plain = terms.stop.empty();
    const std::int32_t tokens = terms.max_new_tokens;
    const auto judge = [&](const std::string& text) {
      ++answers;
      if (plain && text != toy_answer(prompt, tokens)) ++wrong;
    };
    TextStream stream = engine.generate(prompt, std::move(terms));
    switch (random() % 8) {
      case 0:
        stream.cancel();
        static_cast<void>(stream.finish());
        break;
      case 1:
        static_cast<void>(stream.next());
        break;  // dropped
      case 2:
        stream.detach();
        break;
      case 3:
        ++pending;
        std::move(stream).on_ready([&pending](const Result<Generation>&) { --pending; });
        break;
      case 4:
        ++pending;
        std::move(stream).on_text([&pending](const Result<std::optional<std::string_view>>& piece) {
          if (!piece || !*piece) --pending;
        });
        break;
      case 5: {  // a slow reader
        std::string text;
        for (;;) {
          const auto piece = stream.next();
          if (!piece) break;
          if (!*piece) {
            judge(text);
            break;
          }
          text += **piece;
          for (auto rest = random() % 4; rest > 0; --rest) yield_thread();
        }
        break;
      }
      default:
        if (const Result<Generation> answer = stream.finish()) judge(answer->text);
    }
  }
  return kRequests;
}

Soaked soak(double seconds, std::size_t leak) {
  Soaked result;
  std::atomic<std::uint64_t> answers{0}, wrong{0};
  double sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0, points = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  double first = 0;
  for (unsigned round = 0; round < 8 || spent() < seconds; ++round) {
    std::atomic<std::int64_t> pending{0};
    {
      // A model is unloaded and loaded again each round.
      EngineRig rig(kDrives[round % 3],
                    {.max_sequences = 6, .kv_memory = 80 * 64, .queue_capacity = 64});
      std::vector<std::thread> clients;
      for (unsigned c = 0; c < 4; ++c) {
        clients.emplace_back([&, c] {
          static_cast<void>(be_a_client(*rig, 4 * round + c, leak, answers, wrong, pending));
        });
      }
      for (std::thread& client : clients) client.join();
      result.requests += 1600;
      if (round % 4 != 3) {  // or it goes with requests in it
        static_cast<void>(rig->drain());
      }
      static_cast<void>(rig->stop());
      const EngineStats stats = rig->stats();
      result.pages_left += stats.pages_used + stats.running + static_cast<int>(stats.waiting);
      if (result.broken.empty()) result.broken = rig.log->broken;
    }
    result.unresolved += static_cast<std::uint64_t>(pending);
    ++result.rounds;
    if (round < 3) continue;  // what is taken once for all has been taken
    const auto x = static_cast<double>(result.requests), y = static_cast<double>(live_bytes);
    if (first == 0) first = y;
    sum_x += x, sum_y += y - first, sum_xx += x * x, sum_xy += x * (y - first), ++points;
  }
  result.answers = answers;
  result.wrong = wrong;
  result.bytes_per_million =
      1e6 * (points * sum_xy - sum_x * sum_y) / (points * sum_xx - sum_x * sum_x);
  return result;
}

double wanted_seconds() {
  const char* text = std::getenv("CIUIC_SOAK_SECONDS");
  return text == nullptr ? 15 : std::strtod(text, nullptr);
}

}  // namespace

TEST_CASE("Mixed traffic, cancels, slow readers and reloads leave nothing behind") {
  const Soaked soaked = soak(wanted_seconds(), 0);
  std::printf("figure: %llu requests of mixed traffic\n",
              static_cast<unsigned long long>(soaked.requests));
  std::printf("%llu engines, %llu answers read; live bytes grow by %.0f in 10^6 requests\n",
              static_cast<unsigned long long>(soaked.rounds),
              static_cast<unsigned long long>(soaked.answers), soaked.bytes_per_million);
  CHECK(soaked.wrong == 0);
  CHECK(soaked.unresolved == 0);
  CHECK(soaked.pages_left == 0);
  CHECK(soaked.broken.empty());
  CHECK(soaked.answers > soaked.requests / 4);
  CHECK(std::abs(soaked.bytes_per_million) < kMostPerMillion);
}

TEST_CASE("A leak of 64 bytes a request is caught by the same check") {
  const Soaked soaked = soak(1, 64);
  std::printf("planted: live bytes grow by %.0f in 10^6 requests\n", soaked.bytes_per_million);
  CHECK(soaked.bytes_per_million > kMostPerMillion);
  CHECK(soaked.wrong == 0);
}
