// Attention over paged keys and values of each element type, as a fraction of what the machine can
// do in the same second. Nominal work: two multiply-adds per visible position and coordinate; every
// key and value read once per step and kv head. The roof of a decode step is the larger of both
// times.
//
//   bench_attention --benchmark_filter='decode/f16/heads:32.*threads:1'
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "ciuic/ops/cpu_backend.hpp"
#include "support/machine_probe.hpp"

namespace ciuic::bench {
namespace {

struct Model {
  const char* name;
  std::int32_t heads, kv_heads, head_dim;
};

/// `sequences` sequences of `context` positions, the last `tokens` of which are computed.
void run(benchmark::State& state, const Model& model, DType dtype, std::int32_t sequences,
         std::int32_t tokens, std::int32_t context, int threads) {
  const auto backend = cpu_backend().value();
  const auto queue = backend->make_queue({threads}).value();
  constexpr std::int32_t kPageTokens = 16;
  const std::int32_t pages_each = (context + kPageTokens - 1) / kPageTokens;
  const KvCacheShape one_layer{1, model.kv_heads, model.head_dim, kPageTokens, 1, dtype};
  const double layer_bytes =
      static_cast<double>(backend->kv_page_bytes(one_layer)) / kPageTokens * sequences * context;
  // Enough layers that a decode step finds its keys and values in no cache.
  const std::int32_t layers = tokens > 1 ? 1 : 1 + static_cast<std::int32_t>(3e8 / layer_bytes);
  const auto cache = backend
                         ->make_kv_cache({layers, model.kv_heads, model.head_dim, kPageTokens,
                                          pages_each * sequences, dtype})
                         .value();
  const AttentionShape shape{model.heads, model.kv_heads, model.head_dim, 0.125f};
  const std::int64_t width = (model.heads + 2 * model.kv_heads) * model.head_dim;
  const std::int64_t out_width = model.heads * model.head_dim;

  std::vector<DeviceBuffer> buffers;
  const auto put = [&](const auto& values) {
    const auto bytes = std::as_bytes(std::span(values));
    buffers.push_back(DeviceBuffer::allocate(*backend, bytes.size()).value());
    queue->copy_to_device(buffers.back().data(), bytes);
    return buffers.back().data();
  };
  /// `count` positions from `first` on, of each of the sequences [begin, end).
  const auto batch_of = [&](std::int32_t begin, std::int32_t end, std::int32_t first,
                            std::int32_t count) {
    std::vector<std::int32_t> positions, starts = {0}, contexts, pages;
    for (std::int32_t s = begin; s < end; ++s) {
      for (std::int32_t t = 0; t < count; ++t) positions.push_back(first + t);
      starts.push_back(starts.back() + count);
      contexts.push_back(first + count);
      for (std::int32_t p = 0; p < pages_each; ++p) pages.push_back(p * sequences + s);
    }
    const std::int32_t all = starts.back();
    return PackedBatch{{put(positions), DType::i32, {all}},
                       {put(starts), DType::i32, {end - begin + 1}},
                       {put(contexts), DType::i32, {end - begin}},
                       {put(pages), DType::i32, {end - begin, pages_each}},
                       all,
                       end - begin,
                       count,
                       first + count};
  };
  const std::int32_t rows = std::max(context, sequences * tokens);
  std::vector<float> values(static_cast<std::size_t>(rows * width));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i * 2654435761u % 1024) / 512.0f - 1.0f;
  const std::vector<float> angles(static_cast<std::size_t>(context * model.head_dim), 0.7f);
  std::byte* const values_there = put(values);
  const TensorView prompt{values_there, DType::f32, {context, width}};
  const ConstTensorView table{put(angles), DType::f32, {context, 2, model.head_dim / 2}};
  for (std::int32_t s = 0; s < sequences; ++s) {
    const PackedBatch one = batch_of(s, s + 1, 0, context);
    for (std::int32_t layer = 0; layer < layers; ++layer)
      queue->rotate_and_store(prompt, table, one, shape, *cache, layer);
  }

  const PackedBatch batch = batch_of(0, sequences, context - tokens, tokens);
  queue->copy_to_device(values_there, std::as_bytes(std::span(values)));
  const TensorView qkv{values_there, DType::f32, {batch.tokens, width}};
  const std::vector<float> zeros(static_cast<std::size_t>(batch.tokens * out_width));
  const TensorView out{put(zeros), DType::f32, {batch.tokens, out_width}};

  static ReadProbe read_probe;
  const double visible = tokens * (context - tokens) + 0.5 * tokens * (tokens + 1.0);
  const double flops = 4.0 * sequences * visible * static_cast<double>(out_width);
  std::int32_t next = 0;
  const auto pass = [&](int steps) {
    const double start = seconds_now(threads);
    for (int i = 0; i < steps; ++i)
      queue->attention(qkv, batch, shape, *cache, next++ % layers, out);
    return (seconds_now(threads) - start) / steps;
  };
  const int steps = 1 + static_cast<int>(2e-3 / pass(1));
  std::vector<double> seconds, of_peak, of_roof;
  for (auto _ : state) {
    const double peak = fma_gflops(threads) * 1e9;
    const double bandwidth = read_probe.gigabytes_per_second(threads) * 1e9;
    pass(1);  // wakes the team; not counted
    const double t = pass(steps);
    state.SetIterationTime(t);
    seconds.push_back(t);
    of_peak.push_back(flops / t / peak);
    of_roof.push_back(std::max(flops / peak, tokens == 1 ? layer_bytes / bandwidth : 0.0) / t);
  }
  if (const auto result = queue->synchronize(); !result) {
    state.SkipWithError(std::string(result.error().message()).c_str());
  }
  state.SetLabel(clock_name(threads));
  state.counters["GFLOP/s"] = flops / median(seconds) * 1e-9;
  state.counters["of_peak"] = median(of_peak);
  state.counters["GB/s"] = tokens == 1 ? layer_bytes / median(seconds) * 1e-9 : 0.0;
  state.counters["of_roof"] = median(of_roof);
}

void register_all() {
  const auto add = [](const char* what, const Model& model, DType dtype, std::int32_t sequences,
                      std::int32_t tokens, std::int32_t context, int threads) {
    const std::string name = std::string(what) + "/" + std::string(to_string(dtype)) + "/" +
                             model.name + "/sequences:" + std::to_string(sequences) +
                             "/context:" + std::to_string(context) +
                             "/threads:" + std::to_string(threads);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [=](benchmark::State& state) {
                                   run(state, model, dtype, sequences, tokens, context, threads);
                                 })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(tokens > 1 ? 7 : 25);
  };
  for (const Model& model : {Model{"heads:32/4x64", 32, 4, 64}, Model{"heads:12/12x64", 12, 12, 64},
                             Model{"heads:28/4x128", 28, 4, 128}}) {
    for (DType dtype : {DType::f32, DType::f16, DType::i8}) {
      for (int threads : {1, 2}) {
        for (std::int32_t context : {512, 2048})
          add("prefill", model, dtype, 1, context, context, threads);
        for (std::int32_t sequences : {1, 8, 32}) {
          for (std::int32_t context : {192, 512, 1024, 4096})
            add("decode", model, dtype, sequences, 1, context, threads);
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
