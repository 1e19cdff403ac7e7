// A host's own event loop drives everything: a batcher and a generating engine without any thread
// of theirs. Each turn of the loop does the host's work, at most one batch and one step, and then
// sleeps until something is due.
//   04_host_event_loop examples/models/ciuic-tiny
#include <poll.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "ciuic/ciuic.hpp"

using namespace std::chrono_literals;
using ciuic::Duration;
using ciuic::TimePoint;

// How long poll() may sleep: rounded up, or it would wake just before the time and spin.
int milliseconds_until(TimePoint when) {
  const Duration left = std::min<Duration>(when - ciuic::steady_clock().now(), 1s);
  return static_cast<int>(
      std::max(std::chrono::ceil<std::chrono::milliseconds>(left), 0ms).count());
}

int main(int argc, char** argv) {
  using namespace ciuic::literals;
  if (argc != 2) return std::fprintf(stderr, "usage: 04_host_event_loop MODEL_DIRECTORY\n"), 2;
  ciuic::Result<ciuic::LanguageModel> model = ciuic::load_model(argv[1]);
  if (!model) return std::fprintf(stderr, "%s\n", model.error().message().data()), 3;

  ciuic::AsyncInferenceEngine talker(*std::move(model), {.kv_memory = 16_MiB, .host_driven = true});
  ciuic::DynamicBatcher<int, int> squares(
      [](std::span<const int> in) {
        std::vector<int> out;
        for (const int x : in) out.push_back(x * x);
        return out;
      },
      {.max_batch_size = 8, .max_queue_delay = 5ms, .workers = 0});

  ciuic::TextStream stream = talker.generate("12+30=", {.max_new_tokens = 16});
  std::string said;
  bool talking = true;
  constexpr int kFrames = 30;
  int frames = 0, answers = 0, sum = 0, turns = 0;
  TimePoint next_frame = ciuic::steady_clock().now();

  while (talking || answers < kFrames) {
    ++turns;
    // The host's work: a frame every 2 ms, each with a question.
    const TimePoint now = ciuic::steady_clock().now();
    if (frames < kFrames && now >= next_frame) {
      squares.submit(frames++).on_ready([&](ciuic::Result<int> answer) {  // runs inside run_one()
        sum += std::move(answer).value_or(0);
        ++answers;
      });
      next_frame += 2ms;
    }
    // A bounded piece of ours: one batch, if one is due, and one step.
    const ciuic::RunReport batch = squares.run_one();
    const bool stepped = talker.run_one();
    while (talking) {  // what has been said by now, without waiting for more
      const auto piece = stream.try_next();
      if (!piece) return std::fprintf(stderr, "%s\n", piece.error().message().data()), 1;
      if (!*piece) {
        talking = false;
      } else if ((*piece)->empty()) {
        break;
      } else {
        said += **piece;
      }
    }
    // Sleep until the next event: a frame, a batch that is due, or, in poll(), the host's sockets.
    TimePoint next = batch.next_due;
    if (frames < kFrames) next = std::min(next, next_frame);
    if (!stepped && batch.batch_size == 0) poll(nullptr, 0, milliseconds_until(next));
  }
  std::printf("12+30=%s\n%d answers in %llu batches, %d turns of the loop, no thread\n",
              said.c_str(), answers, static_cast<unsigned long long>(squares.stats().batches()),
              turns);
  return sum == 8555 && said == "42" ? 0 : 1;  // 0² + 1² + … + 29²
}
