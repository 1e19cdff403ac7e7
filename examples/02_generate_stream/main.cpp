// Loads a model directory and streams two answers that are made at the same time.
//   02_generate_stream examples/models/ciuic-tiny
#include <cstdio>
#include <iostream>

#include "ciuic/ciuic.hpp"

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  using namespace ciuic::literals;
  if (argc != 2) {
    std::fprintf(stderr, "usage: 02_generate_stream MODEL_DIRECTORY\n");
    return 2;
  }
  ciuic::Result<ciuic::LanguageModel> model = ciuic::load_model(argv[1]);
  if (!model) {
    std::cerr << model.error().message() << '\n';
    return 3;
  }
  ciuic::AsyncInferenceEngine engine(*std::move(model),
                                     {.max_batch_tokens = 4096, .kv_memory = 64_MiB});

  // Both requests run in the same batch from here on, whoever is read first.
  ciuic::TextStream sum = engine.generate("12+30=", {.max_new_tokens = 16, .timeout = 30s});
  ciuic::TextStream date = engine.generate("The day after 2024-02-28 is ", {.max_new_tokens = 32});

  std::cout << "12+30=" << std::flush;
  while (true) {
    const auto piece =
        sum.next();  // Result<optional<string_view>>: an error never looks like an end
    if (!piece) {
      std::cerr << piece.error().message() << '\n';
      return 1;
    }
    if (!*piece) break;
    std::cout << **piece << std::flush;
  }
  const ciuic::Result<ciuic::Generation> answer = date.finish();  // waits for the whole answer
  if (!answer) {
    std::cerr << answer.error().message() << '\n';
    return 1;
  }
  std::cout << "\nThe day after 2024-02-28 is " << answer->text << "\n("
            << to_string(answer->reason) << " after " << answer->tokens.size() << " tokens)\n";
}
