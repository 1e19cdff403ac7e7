// Promise: what a step works with is taken by `reserve`, where a lack of memory can be reported,
// and counted in ModelMemory; no step takes more.
#include <array>
#include <memory_resource>
#include <vector>

#include "ciuic/model/language_model.hpp"
#include "ciuic/model/weight_files.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "model/decoder.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

const std::string kTiny = CIUIC_SOURCE_DIR "/examples/models/ciuic-tiny";
constexpr std::int32_t kPageTokens = 16, kPages = 16, kTokens = 96, kSequences = 3;

/// Bytes given and not returned, and requests so far; refuses the one that is `refuse_at`.
class Meter final : public std::pmr::memory_resource {
 public:
  std::size_t live = 0, requests = 0, refuse_at = 0;

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (++requests == refuse_at) throw std::bad_alloc();
    live += bytes;
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
    live -= bytes;
    std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

/// Steps of as many tokens as were reserved for, over as many sequences.
struct LargestStep {
  std::vector<TokenId> tokens = std::vector<TokenId>(kTokens, 65);
  std::vector<std::int32_t> pages, rows;
  std::array<SequenceStep, kSequences> sequences;

  LargestStep() {
    constexpr std::int32_t each = kTokens / kSequences, own = kPages / kSequences;
    for (std::int32_t p = 0; p < kPages; ++p) pages.push_back(p);
    for (std::int32_t s = 0; s < kSequences; ++s) {
      const auto at = static_cast<std::size_t>(s);
      sequences[at] = {.tokens = std::span(tokens).subspan(at * each, each),
                       .pages = std::span(pages).subspan(at * own, own),
                       .sample = true};
      rows.push_back((s + 1) * each - 1);
    }
  }
};

}  // namespace

TEST_CASE("A forward pass asks operator new for nothing, once the queue is reserved for it") {
  const ModelConfig config = ModelConfig::load(kTiny).value();
  const WeightFiles files = WeightFiles::open(kTiny).value();
  const auto backend = cpu_backend().value();
  const LargestStep step;
  std::vector<float> logits(step.rows.size() * static_cast<std::size_t>(config.vocab_size));
  for (const MatrixFormat& format :
       {MatrixFormat(DType::f32), MatrixFormat(DType::bf16), MatrixFormat(DType::i8),
        MatrixFormat(DType::i4, 32), MatrixFormat(DType::i4, 128)}) {
    const DecoderWeights weights =
        DecoderWeights::load(config, files, *backend, {.format = format}).value();
    for (const int threads : {1, 2}) {
      for (const bool reserved : {true, false}) {
        INFO(to_string(format.dtype) << ", " << threads << " threads, reserved " << reserved);
        const auto queue = backend->make_queue({.threads = threads}).value();
        const auto cache =
            backend
                ->make_kv_cache({config.num_hidden_layers, config.num_key_value_heads,
                                 config.head_dim, kPageTokens, kPages, DType::f16})
                .value();
        DecoderWorkspace work =
            DecoderWorkspace::create(config, *backend, kTokens, kSequences, kSequences, kPages)
                .value();
        const std::size_t before = queue->bytes();
        if (reserved) {
          REQUIRE(weights.reserve(*queue, kTokens, kSequences));
          CHECK(queue->bytes() > before);
        }
        const std::size_t held = queue->bytes();
        const std::uint64_t count = allocation_count;
        const Result<void> done =
            work.forward(weights, *cache, *queue, {step.sequences, step.rows}, logits);
        const std::uint64_t taken = allocation_count - count;
        REQUIRE(done);
        CHECK((taken == 0) == reserved);
        CHECK((queue->bytes() == held) == reserved);
      }
    }
  }
}

TEST_CASE("A model's memory is what it says, and a step takes none of it") {
  for (const MatrixFormat& format :
       {MatrixFormat(DType::f32), MatrixFormat(DType::i8), MatrixFormat(DType::i4, 64)}) {
    INFO(to_string(format.dtype));
    Meter meter;
    LanguageModel model =
        LanguageModel::load(kTiny, {.weights = format, .host = {.memory = &meter}}).value();
    const std::size_t loaded = meter.live;
    CHECK(model.memory().step_bytes == 0);
    REQUIRE(model.reserve(kPages, kTokens, kSequences));
    const ModelMemory memory = model.memory();
    CHECK(meter.live - loaded <= memory.kv_bytes + memory.step_bytes);
    CHECK(meter.live <= memory.weights_bytes + memory.kv_bytes + memory.step_bytes + 4096);
    const std::size_t requests = meter.requests;
    const LargestStep step;
    std::array<StepResult, kSequences> results;
    REQUIRE(model.step(step.sequences, results));
    CHECK(meter.requests == requests);
    CHECK(model.memory().step_bytes == memory.step_bytes);
  }
}

TEST_CASE("Whatever memory is refused, `reserve` says so and can be called again") {
  Meter meter;
  LanguageModel model =
      LanguageModel::load(kTiny, {.weights = DType::i8, .host = {.memory = &meter}}).value();
  const LargestStep step;
  std::array<StepResult, kSequences> results;
  std::size_t refused = 0;
  for (std::size_t nth = 1;; ++nth) {
    // Larger each time: what the queue holds already would not be asked for again.
    const auto tokens = kTokens + static_cast<std::int32_t>(nth);
    meter.refuse_at = meter.requests + nth;
    const Result<void> reserved = model.reserve(kPages, tokens, kSequences);
    meter.refuse_at = 0;
    if (reserved) break;
    ++refused;
    CHECK(reserved.error().code() == ErrorCode::out_of_memory);
    CHECK_FALSE(model.step(step.sequences, results));
    REQUIRE(model.reserve(kPages, tokens, kSequences));
    REQUIRE(model.step(step.sequences, results));
  }
  CHECK(refused >= 10);  // the queue's, the cache's, and eight buffers of a step
}
