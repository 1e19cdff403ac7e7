// Attention over paged f32 keys and values: prompts as a fraction of the multiply-add peak, decode
// steps as a fraction of the read bandwidth. Nominal work: two multiply-adds per visible position
// and coordinate; every key and value read once per step and kv head.
#include <benchmark/benchmark.h>

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
void run(benchmark::State& state, const Model& model, std::int32_t sequences, std::int32_t tokens,
         std::int32_t context, int threads) {
  const auto backend = cpu_backend().value();
  const auto queue = backend->make_queue({threads}).value();
  constexpr std::int32_t kPageTokens = 16;
  const std::int32_t pages_each = (context + kPageTokens - 1) / kPageTokens;
  // Enough layers that a decode step finds its keys and values in no cache.
  const double layer_bytes = 2.0 * 4.0 * sequences * context * model.kv_heads * model.head_dim;
  const std::int32_t layers = tokens > 1 ? 1 : 1 + static_cast<std::int32_t>(1e9 / layer_bytes);
  const auto cache = backend
                         ->make_kv_cache({layers, model.kv_heads, model.head_dim, kPageTokens,
                                          pages_each * sequences})
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
  const auto batch_of = [&](std::int32_t first, std::int32_t count) {
    std::vector<std::int32_t> positions, starts = {0}, contexts, pages;
    for (std::int32_t s = 0; s < sequences; ++s) {
      for (std::int32_t t = 0; t < count; ++t) positions.push_back(first + t);
      starts.push_back((s + 1) * count);
      contexts.push_back(first + count);
      for (std::int32_t p = 0; p < pages_each; ++p) pages.push_back(p * sequences + s);
    }
    const std::int32_t all = sequences * count;
    return PackedBatch{{put(positions), DType::i32, {all}},
                       {put(starts), DType::i32, {sequences + 1}},
                       {put(contexts), DType::i32, {sequences}},
                       {put(pages), DType::i32, {sequences, pages_each}},
                       all,
                       sequences,
                       count,
                       first + count};
  };
  const std::int32_t rows = sequences * context;
  const std::vector<float> values(static_cast<std::size_t>(rows * width), 0.1f);
  const std::vector<float> angles(static_cast<std::size_t>(rows * model.head_dim), 0.7f);
  const TensorView all_qkv{put(values), DType::f32, {rows, width}};
  const ConstTensorView table{put(angles), DType::f32, {rows, 2, model.head_dim / 2}};
  for (std::int32_t layer = 0; layer < layers; ++layer)
    queue->rotate_and_store(all_qkv, table, batch_of(0, context), shape, *cache, layer);

  const PackedBatch batch = batch_of(context - tokens, tokens);
  const TensorView qkv{all_qkv.data, DType::f32, {batch.tokens, width}};
  const std::vector<float> zeros(static_cast<std::size_t>(batch.tokens * out_width));
  const TensorView out{put(zeros), DType::f32, {batch.tokens, out_width}};

  static ReadProbe read_probe;
  const double visible = tokens * (context - tokens) + 0.5 * tokens * (tokens + 1.0);
  const double flops = 4.0 * sequences * visible * static_cast<double>(out_width);
  const auto once = [&](std::int32_t layer) {
    const double start = seconds_now(threads);
    queue->attention(qkv, batch, shape, *cache, layer, out);
    return seconds_now(threads) - start;
  };
  std::vector<double> seconds, of_peak, of_bandwidth;
  std::int32_t next = 0;
  for (auto _ : state) {
    const double peak = fma_gflops(threads);
    const double bandwidth = read_probe.gigabytes_per_second(threads);
    once(next++ % layers);  // wakes the team; not counted
    const double t = once(next++ % layers);
    state.SetIterationTime(t);
    seconds.push_back(t);
    of_peak.push_back(flops / t * 1e-9 / peak);
    of_bandwidth.push_back(layer_bytes / t * 1e-9 / bandwidth);
  }
  if (const auto result = queue->synchronize(); !result) {
    state.SkipWithError(std::string(result.error().message()).c_str());
  }
  state.SetLabel(clock_name(threads));
  state.counters["GFLOP/s"] = flops / median(seconds) * 1e-9;
  state.counters["of_peak"] = median(of_peak);
  if (tokens == 1) state.counters["of_bandwidth"] = median(of_bandwidth);
}

void register_all() {
  for (const Model& model : {Model{"heads:32/4x64", 32, 4, 64}, Model{"heads:12/12x64", 12, 12, 64},
                             Model{"heads:28/4x128", 28, 4, 128}}) {
    for (int threads : {1, 2}) {
      const auto add = [&](const char* what, std::int32_t sequences, std::int32_t tokens,
                           std::int32_t context) {
        const std::string name =
            std::string(what) + "/" + model.name + "/sequences:" + std::to_string(sequences) +
            "/context:" + std::to_string(context) + "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [=](benchmark::State& state) {
                                       run(state, model, sequences, tokens, context, threads);
                                     })
            ->UseManualTime()
            ->Unit(benchmark::kMicrosecond)
            ->MinTime(0.2);
      };
      add("prefill", 1, 512, 512);
      add("prefill", 1, 2048, 2048);
      add("decode", 1, 1, 1024);
      add("decode", 8, 1, 1024);
      add("decode", 32, 1, 192);
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
