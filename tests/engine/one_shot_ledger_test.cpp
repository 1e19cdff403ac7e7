// Load on real threads: replicas that fail at random, clients that cancel, an end at a random
// moment. A ledger counts how often each request was answered; nobody is ever in a replica twice.
#include <array>
#include <atomic>
#include <cstdio>
#include <new>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ciuic/engine/one_shot_engine.hpp"
#include "ciuic/exec/thread_pool.hpp"
#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;

namespace {

constexpr int kClients = 6;
constexpr int kSubmits = 200;
constexpr std::size_t kRequests = kClients * kSubmits;
constexpr std::size_t kReplicas = 3;

/// One engine under load. What it is like follows from the seed.
class Storm {
 public:
  explicit Storm(unsigned seed) : seed_(seed), random_(seed) {
    options_.batching.max_batch_size = 1 + pick(8);
    options_.batching.queue_capacity = 64;
    options_.batching.overload = static_cast<Overload>(pick(3));
    options_.batching.on_failure = static_cast<OnFailure>(pick(2));
    drive_ = static_cast<int>(seed % 3);
    if (drive_ == 0) options_.batching.workers = 0;
    if (drive_ == 1) options_.batching.host.executor = &pool_;
    options_.health.first_backoff = std::chrono::microseconds(1 + pick(200));
    options_.health.max_backoff = 1ms;
    options_.routing.relearn_every = pick(64);
    failures_in_1000_ = pick(3) == 0 ? 900 : pick(200);
    end_after_ = pick(2) == 0 ? kRequests : pick(kRequests);
  }

  /// The last thing that went wrong; empty when nothing did.
  std::string run() {
    Replicas<int, int> replicas;
    for (std::size_t r = 0; r < kReplicas; ++r) {
      replicas.add([this, r, random = std::mt19937(seed_ + static_cast<unsigned>(r) * 7919)](
                       Batch<int, int>& batch) mutable { return model(r, random, batch); });
    }
    engine_.emplace(std::move(replicas), options_);
    {
      std::vector<Thread> threads;
      const auto start = [&](Function<void()> body) {
        Result<Thread> thread = Thread::start(std::move(body));
        if (thread) threads.push_back(*std::move(thread));
      };
      for (int c = 0; c < kClients; ++c) start([this, c] { client(c); });
      for (int h = 0; drive_ == 0 && h < 3; ++h) {
        start([this] {
          while (!gone_) {
            if (engine_->run_one().batch_size == 0) yield_thread();
          }
        });
      }
      while (submitted_ < end_after_ && clients_ < kClients) yield_thread();
      if (end_after_ < kRequests) require(engine_->stop().has_value(), "stop amid");
      while (clients_ < kClients) yield_thread();
      gone_ = true;
    }
    require(engine_->stop().has_value(), "stop");
    const OneShotStats stats = engine_->stats();
    require(stats.batching.pending() == 0, "outcomes do not add up");
    std::uint64_t runs = 0;
    for (const ReplicaStats& r : stats.replicas) {
      require(!r.busy, "a replica is busy for ever");
      runs += r.batches;
      drained += r.drained;
    }
    require(runs <= stats.batching.runs, "more runs than the batcher knows of");
    engine_.reset();
    for (const std::atomic<int>& times : answered_) require(times == 1, "not answered once");
    return wrong_.load();
  }
  std::uint64_t drained = 0;

 private:
  void require(bool holds, const char* what) {
    if (!holds) wrong_ = what;
  }
  unsigned pick(unsigned n) { return static_cast<unsigned>(random_() % n); }

  Result<void> model(std::size_t r, std::mt19937& random, Batch<int, int>& batch) {
    struct Inside {
      explicit Inside(std::atomic<int>& n) : count(n), alone(++count == 1) {}
      ~Inside() { --count; }
      std::atomic<int>& count;
      const bool alone;
    } inside(inside_[r]);
    require(inside.alone, "two threads in one replica");
    if (random() % 4 == 0) yield_thread();
    if (random() % 1000 < failures_in_1000_) {
      switch (random() % 6) {
        case 0:
          throw std::runtime_error("broken");
        case 1:
          return Error(ErrorCode::device_lost);
        case 2:
          throw std::bad_alloc();
        case 3:
          return {};
        case 4:
          batch.resolve(0, ~batch[0]);
          return Error(ErrorCode::internal);
        default:
          return Error(ErrorCode::contract_violation);
      }
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (batch[i] % 97 == 5) return Error(ErrorCode::model_failed, "poison");
    }
    for (std::size_t i = 0; i < batch.size(); ++i) batch.resolve_at_end(i, ~batch[i]);
    return {};
  }
  void client(int c) {
    std::mt19937 random(seed_ * 31 + static_cast<unsigned>(c));
    std::vector<std::pair<int, Future<int>>> kept;
    for (int i = 0; i < kSubmits; ++i) {
      const int id = c * kSubmits + i;
      SubmitOptions options{.priority = static_cast<Priority>(random() % 3)};
      if (random() % 8 == 0) options.timeout = std::chrono::microseconds(random() % 300);
      Future<int> future = engine_->submit(id, options);
      ++submitted_;
      switch (random() % 8) {
        case 0:
          future.cancel();
          break;
        case 1:
          std::move(future).on_ready([this, id](const Result<int>& a) { book(id, a); });
          continue;
        case 2:
          ++answered_[static_cast<std::size_t>(id)];
          continue;  // dropped
        default:
          break;
      }
      kept.emplace_back(id, std::move(future));
      while (kept.size() > random() % 12) {
        book(kept.back().first, kept.back().second.get());
        kept.pop_back();
      }
    }
    for (auto& [id, future] : kept) book(id, future.get());
    ++clients_;
  }
  void book(int id, const Result<int>& answer) {
    ++answered_[static_cast<std::size_t>(id)];
    require(!answer || *answer == ~id, "somebody else's answer");
    require(answer || answer.error().code() != ErrorCode::would_deadlock, "would_deadlock");
  }

  const unsigned seed_;
  std::mt19937 random_;
  OneShotOptions options_;
  int drive_ = 0;
  unsigned failures_in_1000_ = 0;
  std::size_t end_after_ = 0;
  ThreadPool pool_{{.threads = 3}};
  std::array<std::atomic<int>, kReplicas> inside_{};
  std::vector<std::atomic<int>> answered_ = std::vector<std::atomic<int>>(kRequests);
  std::atomic<std::size_t> submitted_{0};
  std::atomic<int> clients_{0};
  std::atomic<const char*> wrong_{""};
  std::atomic<bool> gone_{false};
  std::optional<AsyncInferenceEngine<Replicas<int, int>>> engine_;
};

}  // namespace

TEST_CASE("Storms of failing replicas: every request is answered exactly once") {
  std::uint64_t drained = 0;
  constexpr unsigned kSeeds = 24;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    CAPTURE(seed);
    Storm storm(seed);
    REQUIRE(storm.run() == "");
    drained += storm.drained;
  }
  CHECK(drained > 100);
  std::printf("%llu times a replica was drained\nfigure: %zu requests accounted for\n",
              static_cast<unsigned long long>(drained), kSeeds * kRequests);
}
