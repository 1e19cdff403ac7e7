// Matmul on packed weights of every format, as a fraction of what the machine does at the same
// moment: of the multiply-add peak (for i8 and i4 that of the byte dot product) where weights are
// used often, of the roof min(that peak, read bandwidth) where they are not.
//
// "cold" walks over 600 MB of distinct matrices, as the layers of a model do; "hot" uses one.
//
// "quiet" beside a figure: the median of the runs that had their cores for themselves, and which
// part of the runs they are (QuietRuns).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "ciuic/ops/cpu_backend.hpp"
#include "support/machine_probe.hpp"

namespace ciuic::bench {
namespace {

constexpr double kColdBytes = 6e8;

/// Bytes that are small normal numbers as f32, bf16 and f16, and integers as anything else.
std::unique_ptr<PackedMatrix> some_matrix(const Backend& backend, std::int64_t rows,
                                          std::int64_t cols, MatrixFormat format) {
  PackedSource source;
  source.rows = rows;
  source.cols = cols;
  source.format = format;
  source.read = [](std::size_t, std::span<std::byte> out) -> Result<void> {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(0x20 + i * 7 % 27);
    return {};
  };
  return backend.load_packed(std::move(source)).value();
}

/// Bytes of weights as their format counts them: what a decoding step must read.
double nominal_bytes(std::int64_t rows, std::int64_t cols, MatrixFormat format) {
  const double bits = static_cast<double>(bits_of(format.dtype)) +
                      (format.dtype == DType::i4 ? 16.0 / format.group : 0.0);
  return static_cast<double>(rows * cols) * bits / 8.0;
}

void run(benchmark::State& state, std::int64_t rows, std::int64_t cols, MatrixFormat format,
         int threads, bool cold) {
  const std::int64_t tokens = state.range(0);
  const auto backend = cpu_backend().value();
  const auto queue = backend->make_queue({threads}).value();
  const double weight_bytes = nominal_bytes(rows, cols, format);
  const bool integers = format.dtype == DType::i8 || format.dtype == DType::i4;
  std::vector<std::unique_ptr<PackedMatrix>> matrices;
  do {
    matrices.push_back(some_matrix(*backend, rows, cols, format));
  } while (cold && static_cast<double>(matrices.size()) * weight_bytes < kColdBytes);
  auto x = DeviceBuffer::allocate(*backend, static_cast<std::size_t>(tokens * cols) * 4).value();
  auto out = DeviceBuffer::allocate(*backend, static_cast<std::size_t>(tokens * rows) * 4).value();
  const std::vector<float> ones(static_cast<std::size_t>(tokens * cols), 1.0f);
  queue->copy_to_device(x.data(), std::as_bytes(std::span(ones)));

  static ReadProbe read_probe;
  const TensorView x_view{x.data(), DType::f32, {tokens, cols}};
  const TensorView out_view{out.data(), DType::f32, {tokens, rows}};
  const double flops = 2.0 * static_cast<double>(tokens * rows * cols);
  const auto once = [&](const PackedMatrix& matrix) {
    const double start = seconds_now(threads);
    queue->matmul(x_view, matrix, out_view, {});
    return seconds_now(threads) - start;
  };
  once(*matrices[0]);
  std::vector<double> seconds, of_peak, of_bandwidth, of_roof;
  QuietRuns runs(threads);
  std::size_t next = 0;
  for (auto _ : state) {
    const double dots = integers ? byte_dot_gops(threads) : 0.0;
    const double peak = dots > 0.0 ? dots : fma_gflops(threads);
    const double bandwidth = cold ? read_probe.gigabytes_per_second(threads) : 1.0;
    runs.before();
    once(*matrices[next++ % matrices.size()]);  // wakes the team; not counted
    const double t = once(*matrices[next++ % matrices.size()]);
    runs.after();
    state.SetIterationTime(t);
    seconds.push_back(t);
    of_peak.push_back(flops / t * 1e-9 / peak);
    of_bandwidth.push_back(weight_bytes / t * 1e-9 / bandwidth);
    of_roof.push_back(std::max(of_peak.back(), of_bandwidth.back()));
  }
  state.SetLabel(clock_name(threads));
  state.counters["GFLOP/s"] = flops / median(seconds) * 1e-9;
  state.counters["of_peak"] = median(of_peak);
  const std::vector<double> quiet = runs.of(cold ? of_roof : of_peak);
  if (!quiet.empty()) state.counters[cold ? "of_roof_quiet" : "of_peak_quiet"] = median(quiet);
  state.counters["quiet"] = static_cast<double>(quiet.size()) / static_cast<double>(seconds.size());
  if (cold) {
    state.counters["GB/s"] = weight_bytes / median(seconds) * 1e-9;
    state.counters["of_bandwidth"] = median(of_bandwidth);
    state.counters["of_roof"] = median(of_roof);
  }
}

void register_all() {
  struct Weights {
    const char* name;
    std::int64_t rows, cols;
  };
  for (const Weights& w : {Weights{"768x3072", 768, 3072}, Weights{"3072x768", 3072, 768},
                           Weights{"2048x2048", 2048, 2048}, Weights{"5632x2048", 5632, 2048},
                           Weights{"2048x5632", 2048, 5632}, Weights{"4096x4096", 4096, 4096}}) {
    for (const MatrixFormat format : {DType::f32, DType::bf16, DType::i8, DType::i4}) {
      for (int threads : {1, 2}) {
        for (bool cold : {true, false}) {
          const std::string name = "matmul/" + std::string(to_string(format.dtype)) + "/" + w.name +
                                   (cold ? "/cold" : "/hot") +
                                   "/threads:" + std::to_string(threads);
          auto* benchmark = benchmark::RegisterBenchmark(
              name.c_str(),
              [=](benchmark::State& state) { run(state, w.rows, w.cols, format, threads, cold); });
          benchmark->ArgName("tokens")->UseManualTime()->Unit(benchmark::kMicrosecond);
          benchmark->MinTime(0.05);
          if (cold) {
            for (int tokens : {1, 4, 8, 16, 32}) benchmark->Arg(tokens);
          } else {
            for (int tokens : {64, 128, 256, 512}) benchmark->Arg(tokens);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace ciuic::bench

int main(int argc, char** argv) {
  ciuic::bench::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
