// Promise: on the CPU a request's logits are bitwise the same alone or in any batch, however its
// prompt was cut into steps, on whichever pages, with any number of threads.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>

#include "ciuic/model/llama_weight_map.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "model/decoder.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

constexpr std::int32_t kPageTokens = 16, kPages = 400, kMaxTokens = 4096, kMaxSequences = 32;

/// A model on one backend, with pages for everybody.
struct Runner {
  ModelConfig config;
  std::shared_ptr<const Backend> backend;
  std::unique_ptr<Queue> queue;
  DecoderWeights weights;
  std::unique_ptr<KvCache> cache;
  DecoderWorkspace work;

  static Runner make(const std::string& directory, CpuIsa isa, MatrixFormat format, DType kv,
                     int threads) {
    Runner r;
    r.config = ModelConfig::load(directory).value();
    const WeightFiles files = WeightFiles::open(directory).value();
    r.backend = cpu_backend({.isa = isa}).value();
    r.queue = r.backend->make_queue({.threads = threads}).value();
    r.weights = DecoderWeights::load(r.config, files, *r.backend, {.format = format}).value();
    r.cache = r.backend
                  ->make_kv_cache({r.config.num_hidden_layers, r.config.num_key_value_heads,
                                   r.config.head_dim, kPageTokens, kPages, kv})
                  .value();
    r.work = DecoderWorkspace::create(r.config, *r.backend, kMaxTokens, kMaxSequences,
                                      kMaxSequences, kPages)
                 .value();
    return r;
  }
  std::vector<float> forward(std::span<const SequenceStep> steps,
                             std::span<const std::int32_t> rows) {
    std::vector<float> logits(rows.size() * static_cast<std::size_t>(config.vocab_size));
    const Result<void> done = work.forward(weights, *cache, *queue, {steps, rows}, logits);
    INFO((done ? std::string() : std::string(done.error().message())));
    REQUIRE(done);
    return logits;
  }
};

struct Request {
  std::vector<TokenId> tokens;
  std::vector<std::int32_t> pages;
  std::vector<float> alone;  // logits after the last token, computed alone
  std::int32_t done = 0;
};

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void check_invariance(const std::string& directory, CpuIsa isa, MatrixFormat format, DType kv,
                      unsigned seed) {
  std::mt19937 random(seed);
  Runner reference = Runner::make(directory, isa, format, kv, 1);
  const std::int32_t longest = std::min(reference.config.max_position_embeddings, 180);
  std::vector<std::int32_t> shuffled(kPages);
  std::iota(shuffled.begin(), shuffled.end(), 0);

  for (const int threads : {1, 2}) {
    Runner runner = Runner::make(directory, isa, format, kv, threads);
    for (const std::size_t batch : {2u, 3u, 8u, 17u, 32u}) {
      INFO("seed " << seed << ", " << reference.backend->isa() << ", kv " << to_string(kv) << ", "
                   << threads << " threads, batch of " << batch);
      std::shuffle(shuffled.begin(), shuffled.end(), random);
      std::vector<Request> requests(batch);
      std::size_t next_page = 0;
      for (Request& request : requests) {
        request.tokens.resize(1 + random() % static_cast<unsigned>(longest));
        for (TokenId& token : request.tokens)
          token =
              static_cast<TokenId>(random() % static_cast<unsigned>(reference.config.vocab_size));
        const std::size_t pages = (request.tokens.size() + kPageTokens - 1) / kPageTokens;
        request.pages.assign(shuffled.begin() + static_cast<std::ptrdiff_t>(next_page),
                             shuffled.begin() + static_cast<std::ptrdiff_t>(next_page + pages));
        next_page += pages;

        std::vector<std::int32_t> own(pages);  // alone: in one piece, pages in order
        std::iota(own.begin(), own.end(), 0);
        const SequenceStep step{.tokens = request.tokens, .pages = own};
        const auto last = static_cast<std::int32_t>(request.tokens.size() - 1);
        request.alone = reference.forward({&step, 1}, {&last, 1});
      }
      // Together: each prompt in random pieces, pieces of different requests in the same steps.
      for (bool more = true; more;) {
        more = false;
        std::vector<SequenceStep> steps;
        std::vector<std::int32_t> rows;
        std::vector<Request*> ending;
        std::int32_t row = 0;
        for (Request& request : requests) {
          const auto size = static_cast<std::int32_t>(request.tokens.size());
          if (request.done == size) continue;
          const std::int32_t left = size - request.done;
          const std::int32_t count =
              random() % 3 == 0
                  ? left
                  : 1 + static_cast<std::int32_t>(random() % static_cast<unsigned>(left));
          steps.push_back({.tokens = std::span(request.tokens)
                                         .subspan(static_cast<std::size_t>(request.done),
                                                  static_cast<std::size_t>(count)),
                           .first_position = request.done,
                           .pages = request.pages});
          request.done += count;
          row += count;
          if (request.done == size) {
            rows.push_back(row - 1);
            ending.push_back(&request);
          } else {
            more = true;
          }
        }
        const std::vector<float> logits = runner.forward(steps, rows);
        const auto vocab = static_cast<std::size_t>(reference.config.vocab_size);
        for (std::size_t i = 0; i < ending.size(); ++i) {
          REQUIRE(same_bits(std::span(logits).subspan(i * vocab, vocab), ending[i]->alone));
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("Logits are bitwise the same alone and in any batch, on every instruction set") {
  const unsigned fresh = std::random_device{}();
  std::printf("batch invariance: fresh seed %u\n", fresh);
  for (const CpuIsa isa :
       {CpuIsa::scalar, CpuIsa::avx2, CpuIsa::avx2vnni, CpuIsa::avx512, CpuIsa::avx512vnni,
        CpuIsa::neondot}) {
    if (!cpu_backend({.isa = isa})) continue;  // this machine cannot run it
    const struct {
      MatrixFormat format;
      DType kv;
    } kinds[] = {{DType::f32, DType::f32},     {DType::f32, DType::f16}, {DType::f32, DType::i8},
                 {DType::bf16, DType::f16},    {DType::i8, DType::f16},  {DType::i8, DType::i8},
                 {{DType::i4, 32}, DType::f16}};
    for (const char* name : {"three_heads_odd_vocab", "gqa4_sharded"}) {
      for (const auto& [format, kv] : kinds) {
        INFO(name << ", " << to_string(format.dtype));
        check_invariance(std::string(CIUIC_SOURCE_DIR "/tests/golden/llama/") + name, isa, format,
                         kv, fresh);
      }
      check_invariance(std::string(CIUIC_SOURCE_DIR "/tests/golden/llama/") + name, isa, DType::f32,
                       DType::f32, 1);
    }
  }
}
