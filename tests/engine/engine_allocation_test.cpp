// Every allocation of an engine's life fails once, and from it on for good: nothing is lost, nobody
// is told twice, nothing leaks, and the engine serves on.
#include <cstdio>
#include <functional>

#include "support/catch.hpp"
#include "support/counted_allocations.hpp"
#include "support/engine_rig.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace ciuic::testing;
using namespace std::chrono_literals;

namespace {

const ToySettings kEndless{.end_token = -1};  // the toy never says it

/// Counts what a reader gets without allocating.
struct Tally {
  std::string want;     // the right answer
  std::size_t got = 0;  // bytes of it
  int ended = 0, wrong = 0;
  bool complete = false;

  void text(std::string_view piece) {
    wrong += want.compare(got, piece.size(), piece) != 0;
    got += piece.size();
  }
  void over(bool well) {
    ++ended;
    complete = well;
    wrong += well && got != want.size();
  }
};

enum Phase { construct, generate, step, read, stop, kPhases };
const char* const kNames[] = {"construct", "generate", "step", "read", "stop"};

struct Run {
  bool fired = false;       // an allocation failed
  const char* broken = "";  // a promise
  std::size_t failed = 0;   // requests that ended with an error
};

/// The life of an engine; in `phase` the allocation number `k` fails.
Run live(Phase phase, std::int64_t k, bool for_good) {
  Run run;
  const auto armed = [&](Phase now, auto&& body) {
    const bool mine = now == phase;
    if (mine) {
      fail_for_good = for_good;
      fail_after = k;
    }
    body();
    if (!mine) return;
    run.fired = fail_after < 0 || (for_good && fail_after == 0);
    fail_after = -1;
  };
  const auto broken = [&](bool is, const char* what) {
    if (is && *run.broken == 0) run.broken = what;
  };

  auto log = std::make_shared<ToyLanguageModel::Log>();
  log->sequences_per_step.reserve(4000);
  log->tokens_per_step.reserve(4000);
  ManualClock clock;
  EngineOptions options{.max_sequences = 3,
                        .max_batch_tokens = 12,
                        .kv_memory = 24 * 64,
                        .queue_capacity = 16,
                        .host_driven = true};
  options.host.clock = &clock;
  std::vector<Tally> tallies(6);
  std::vector<TextStream> streams(6);
  const char* const prompts[] = {"alpha beta", "beta", "a third prompt", "alpha beta", "e", "f"};
  std::optional<ToyEngine> engine;
  armed(construct, [&] {
    try {
      engine.emplace(ToyLanguageModel(log, kEndless), options);
    } catch (...) {
      broken(true, "the constructor threw");
    }
  });
  if (!engine) return run;
  if (!engine->status()) {
    TextStream refused = engine->generate("x");
    const Result<Generation> answer = refused.finish();
    broken(answer || answer.error().code() != engine->status().error().code(),
           "an engine that did not start answers");
    broken(!engine->drain(0s) || !engine->stop(), "an engine that did not start cannot end");
    engine.reset();
    engine.emplace(ToyLanguageModel(log, kEndless), options);
    run.fired = true;
  }
  std::vector<GenerateOptions> terms(6);
  for (std::size_t i = 0; i < 6; ++i) {
    terms[i].max_new_tokens = static_cast<std::int32_t>(8 + 3 * i);
    if (i == 1) terms[i].stop = {"##"};
    if (i == 2) terms[i].draft_tokens = 4;
    if (i == 3) terms[i].max_unread = 4;
    tallies[i].want = toy_answer(prompts[i], terms[i].max_new_tokens, kEndless);
  }
  std::size_t refused = 0;
  armed(generate, [&] {
    for (std::size_t i = 0; i < 6; ++i) {
      try {
        streams[i] = engine->generate(prompts[i], std::move(terms[i]));
      } catch (...) {
        broken(true, "generate threw");
      }
      refused += streams[i].is_ready();
    }
    for (std::size_t i : {std::size_t{4}, std::size_t{5}}) {  // or they stay as they are
      try {
        if (i == 4) {
          std::move(streams[i]).on_text([&t = tallies[i]](auto piece) {
            if (piece && *piece) return t.text(**piece);
            t.over(piece.has_value());
          });
        } else {
          std::move(streams[i]).on_ready([&t = tallies[i]](const Result<Generation>& answer) {
            if (answer) t.text(answer->text);
            t.over(answer.has_value());
          });
        }
      } catch (const std::bad_alloc&) {
      }
    }
  });
  broken(engine->stats().submitted + refused != 6, "refused and accepted");
  const auto read_all = [&](std::size_t most) {
    for (std::size_t i = 0; i < 6 && most > 0; ++i) {
      if (tallies[i].ended > 0) continue;
      for (std::size_t n = 0; n < most; ++n) {
        const auto piece = streams[i].try_next();
        if (!piece && piece.error().code() == ErrorCode::invalid_argument) break;  // given away
        if (piece && *piece) {
          tallies[i].text(**piece);
          if ((*piece)->empty()) break;
          continue;
        }
        // For want of memory, or for good? Then the same comes again.
        if (!piece && !streams[i].is_ready()) break;
        if (!piece && phase == read && piece.error().code() == ErrorCode::out_of_memory) break;
        tallies[i].over(piece.has_value());
        break;
      }
    }
  };
  armed(step, [&] {
    try {
      for (int i = 0; i < 6; ++i) static_cast<void>(engine->run_one());
    } catch (...) {
      broken(true, "run_one threw");
    }
  });
  armed(read, [&] {
    try {
      read_all(3);
      const Result<Generation> whole = streams[0].is_ready() ? streams[0].finish() : Generation();
      broken(!whole && whole.error().code() != ErrorCode::out_of_memory, "finish");
    } catch (...) {
      broken(true, "a read threw");
    }
  });
  const bool at_stop = phase == stop;
  if (!at_stop) {
    for (int round = 0; round < 40; ++round) {
      while (engine->run_one()) {
      }
      read_all(100);
    }
  } else {
    armed(stop, [&] {
      try {
        broken(!engine->stop(), "stop");
      } catch (...) {
        broken(true, "stop threw");
      }
    });
    read_all(100);
  }
  for (Tally& tally : tallies) {
    broken(tally.ended != 1, "a request did not end once");
    broken(tally.wrong != 0, "a wrong text");
    run.failed += !tally.complete;
  }
  broken(!at_stop && run.failed > refused + 6, "too many failed");
  broken(phase == read && run.failed > 0, "reading failed a request");
  broken(engine->stats().pages_used != 0 || engine->stats().running != 0, "pages or places lost");
  broken(!log->broken.empty(), "the model's side");
  if (at_stop) return run;
  for (int i = 0; i < 100; ++i) {
    TextStream stream = engine->generate("serve", {.max_new_tokens = 5});
    while (engine->run_one()) {
    }
    const Result<Generation> answer = stream.finish();
    broken(!answer || answer->text != toy_answer("serve", 5, kEndless), "it serves no more");
  }
  return run;
}

}  // namespace

TEST_CASE("Every allocation fails, once and for good, in every phase of an engine's life") {
  std::int64_t points = 0;
  for (int phase = construct; phase < kPhases; ++phase) {
    std::size_t failed = 0;
    std::int64_t k = 0;
    for (const bool for_good : {false, true}) {
      static_cast<void>(live(static_cast<Phase>(phase), 1 << 30, for_good));  // warm
      const std::uint64_t before = live_bytes;
      for (k = 0;; ++k) {
        const Run run = live(static_cast<Phase>(phase), k, for_good);
        if (*run.broken != 0 || live_bytes != before) {
          INFO(kNames[phase] << ", allocation " << k << (for_good ? ", for good" : ", once"));
          CHECK(std::string(run.broken).empty());
          REQUIRE(live_bytes == before);
        }
        failed += run.failed;
        if (!run.fired) break;
      }
      points += k;
    }
    std::printf("%s: %lld allocations fail, %zu requests with them\n", kNames[phase],
                static_cast<long long>(k), failed);
  }
  CHECK(points > 300);
  std::printf("figure: %lld allocation faults\n", static_cast<long long>(points));
}
