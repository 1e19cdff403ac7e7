// Every way to wait for an answer. All of these requests run in the same batches.
//   03_async_all_ways examples/models/ciuic-tiny
#include <coroutine>
#include <cstdio>
#include <exception>
#include <iostream>
#include <latch>
#include <stop_token>

#include "ciuic/ciuic.hpp"

namespace {

/// The least a coroutine needs: it starts at once and ends by itself. Hosts have their own.
struct Started {
  struct promise_type {
    Started get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

using Engine = ciuic::AsyncInferenceEngine<ciuic::LanguageModel>;

std::string text_of(const ciuic::Result<ciuic::Generation>& answer) {
  return answer ? answer->text : std::string(answer.error().message());
}

Started ask(Engine& engine, std::string& first, std::string& second, std::latch& done) {
  first = text_of(co_await engine.generate("6+7=", {.max_new_tokens = 16}));
  ciuic::TextStream stream = engine.generate("40-2=", {.max_new_tokens = 16});
  for (;;) {  // piece by piece
    const auto piece = co_await stream.next_piece();
    if (!piece || !*piece) break;
    second += **piece;
  }
  done.count_down();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  if (argc != 2) {
    std::fprintf(stderr, "usage: 03_async_all_ways MODEL_DIRECTORY\n");
    return 2;
  }
  ciuic::Result<ciuic::LanguageModel> model = ciuic::load_model(argv[1]);
  if (!model) {
    std::cerr << model.error().message() << '\n';
    return 3;
  }
  Engine engine(*std::move(model));

  // A callback, on the engine's thread between two steps: keep it short.
  std::string called_back;
  std::latch called(1), resumed(1);
  engine.generate("12+30=", {.max_new_tokens = 16})
      .on_ready([&](const ciuic::Result<ciuic::Generation>& answer) {
        called_back = text_of(answer);
        called.count_down();
      });

  // A coroutine.
  std::string awaited, pieces;
  ask(engine, awaited, pieces, resumed);

  // A stop token, which any thread may use: the request gives its place up at the next step.
  std::stop_source source;
  ciuic::TextStream endless =
      engine.generate("1+1=", {.max_new_tokens = 200, .ignore_end_tokens = true});
  endless.cancel_on(source.get_token());
  source.request_stop();

  // Waiting for the whole answer, with and without a bound.
  ciuic::TextStream whole = engine.generate("21+21=", {.max_new_tokens = 16});
  while (!whole.wait_for(100ms)) std::cout << "still working\n";
  const std::string waited = text_of(whole.finish());
  const ciuic::Result<ciuic::Generation> stopped = endless.finish();
  called.wait();
  resumed.wait();

  std::cout << "callback       12+30=" << called_back << "\ncoroutine      6+7=" << awaited
            << "\npiece by piece 40-2=" << pieces << "\nblocking       21+21=" << waited
            << "\nstop token     "
            << (stopped ? std::string_view("it was faster than the stop")
                        : std::string_view(stopped.error().message()))
            << '\n';
}
