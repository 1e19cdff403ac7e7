// Bring your own model: an ONNX Runtime session behind the engine, one for each replica. Where ONNX
// Runtime is not installed a plain function with the same meaning takes its place: the engine knows
// no difference.
//   05_bring_your_own_model examples/05_bring_your_own_model/scores.onnx
#include <array>
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

#include "ciuic/engine/one_shot_engine.hpp"

#if defined(EXAMPLE_HAS_ONNXRUNTIME)
#include <onnxruntime_cxx_api.h>
#endif

using namespace std::chrono_literals;
using Row = std::array<float, 4>;     // what a caller asks about
using Scores = std::array<float, 3>;  // what it is told

// scores = row · W + b, with W[i][j] = i - j and b[j] = j: what scores.onnx holds.
Scores plain_scores(const Row& row) {
  Scores scores{};
  for (std::size_t j = 0; j < scores.size(); ++j) {
    scores[j] = static_cast<float>(j);
    for (std::size_t i = 0; i < row.size(); ++i) {
      scores[j] += row[i] * (static_cast<float>(i) - static_cast<float>(j));
    }
  }
  return scores;
}

#if defined(EXAMPLE_HAS_ONNXRUNTIME)
constexpr const char* kRuntime = "ONNX Runtime";

// A model is any callable that takes many requests and returns as many answers.
class Model {
 public:
  Model(Ort::Env& env, const char* path) : session_(env, path, options()) {}

  std::vector<Scores> operator()(std::span<const Row> rows) {
    std::vector<Scores> scores(rows.size());
    const auto count = static_cast<std::int64_t>(rows.size());
    const std::array<std::int64_t, 2> in_shape{count, 4}, out_shape{count, 3};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    float* in = const_cast<float*>(rows.front().data());  // it is only read
    const Ort::Value input = Ort::Value::CreateTensor<float>(memory, in, rows.size() * 4,
                                                             in_shape.data(), in_shape.size());
    Ort::Value output = Ort::Value::CreateTensor<float>(
        memory, scores.front().data(), scores.size() * 3, out_shape.data(), out_shape.size());
    const char *in_name = "rows", *out_name = "scores";
    session_.Run(Ort::RunOptions{nullptr}, &in_name, &input, 1, &out_name, &output, 1);
    return scores;
  }

 private:
  static Ort::SessionOptions options() {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);  // each replica has a thread of the engine
    return options;
  }
  Ort::Session session_;
};
#else
constexpr const char* kRuntime = "a plain function";

struct Model {
  std::vector<Scores> operator()(std::span<const Row> rows) const {
    std::vector<Scores> scores;
    for (const Row& row : rows) scores.push_back(plain_scores(row));
    return scores;
  }
};
#endif

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: 05_bring_your_own_model MODEL.onnx\n"), 2;
#if defined(EXAMPLE_HAS_ONNXRUNTIME)
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "example");
  ciuic::Replicas<Row, Scores> replicas{Model(env, argv[1]), Model(env, argv[1])};
#else
  static_cast<void>(argv);  // it knows the file by heart
  ciuic::Replicas<Row, Scores> replicas{Model(), Model()};
#endif
  ciuic::AsyncInferenceEngine engine(std::move(replicas),
                                     {.batching = {.max_batch_size = 64, .max_queue_delay = 1ms}});

  std::vector<Row> rows(1000);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < 4; ++j) rows[i][j] = static_cast<float>((7 * i + 3 * j) % 11);
  }
  std::vector<ciuic::Future<Scores>> answers;
  for (const Row& row : rows) answers.push_back(engine.submit(row));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ciuic::Result<Scores> scores = answers[i].get();
    if (!scores) return std::fprintf(stderr, "%s\n", scores.error().message().data()), 1;
    const Scores wanted = plain_scores(rows[i]);
    for (std::size_t j = 0; j < 3; ++j) {
      if (std::abs((*scores)[j] - wanted[j]) > 1e-3f) return 1;
    }
  }
  std::printf("%s, %zu rows\n%s", kRuntime, rows.size(), to_string(engine.stats()).c_str());
}
