// Exactly once, from many threads: every request ends as an answer or an error, whatever happens.
#include <atomic>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>

#include "ciuic/engine/async_inference_engine.hpp"
#include "support/catch.hpp"
#include "support/toy_language_model.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

TEST_CASE("16 threads of random requests, cancels, deadlines and failures, stopped in the middle") {
  auto log = std::make_shared<ToyLanguageModel::Log>();
  std::mt19937 faults(1);
  log->before_step = [&faults](auto) -> Result<void> {
    if (faults() % 97 == 0) throw std::runtime_error("injected");
    return {};
  };
  AsyncInferenceEngine<ToyLanguageModel> engine(ToyLanguageModel(log),
                                                {.max_sequences = 16, .queue_capacity = 64});
  constexpr int kThreads = 16, kRequests = 400;
  std::atomic<int> answered{0}, failed{0}, refused{0}, cancelled{0}, wrong{0}, submitted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t) + 100);
      for (int i = 0; i < kRequests; ++i) {
        const std::string prompt(1 + random() % 40, static_cast<char>('a' + random() % 26));
        GenerateOptions options{.max_new_tokens = static_cast<std::int32_t>(1 + random() % 20)};
        if (random() % 5 == 0) options.timeout = std::chrono::microseconds(random() % 3000);
        TextStream stream = engine.generate(prompt, options);
        ++submitted;
        const bool cancel = random() % 4 == 0;
        if (cancel) stream.cancel();
        const Result<Generation> answer = stream.finish();
        if (answer) {
          ++answered;
          if (answer->text != toy_answer(prompt, options.max_new_tokens)) ++wrong;
        } else if (answer.error().code() == ErrorCode::cancelled) {
          ++cancelled;
          if (!cancel) ++wrong;
        } else if (answer.error().code() == ErrorCode::model_failed) {
          ++failed;
        } else {  // nothing else may happen to a request
          const ErrorCode code = answer.error().code();
          if (code != ErrorCode::expired && code != ErrorCode::queue_full &&
              code != ErrorCode::shutting_down)
            ++wrong;
          ++refused;
        }
        if (t == 0 && i == kRequests * 3 / 4) (void)engine.stop();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const EngineStats stats = engine.stats();
  std::printf(
      "ledger: %d submitted = %d answered + %d cancelled + %d failed + %d refused, expired or "
      "stopped; %llu steps\n",
      submitted.load(), answered.load(), cancelled.load(), failed.load(), refused.load(),
      static_cast<unsigned long long>(stats.steps));
  CHECK(submitted == kThreads * kRequests);
  CHECK(answered + cancelled + failed + refused == submitted);
  CHECK(wrong == 0);
  CHECK(answered > 100);
  CHECK(log->broken.empty());
  CHECK(stats.submitted == stats.completed + stats.failed + stats.cancelled + stats.expired);
  // The engine's books agree with what the readers saw, so nothing was resolved twice.
  CHECK(static_cast<int>(stats.completed) == answered);
  CHECK(static_cast<int>(stats.cancelled) == cancelled);
  CHECK(static_cast<int>(stats.submitted + stats.refused) == submitted);
  CHECK(stats.pages_used == 0);
}
