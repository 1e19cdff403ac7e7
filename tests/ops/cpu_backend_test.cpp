#include "ciuic/ops/cpu_backend.hpp"

#include <cmath>
#include <deque>
#include <limits>
#include <map>

#include "cpu/cpu_queue.hpp"
#include "cpu/isa.hpp"
#include "ops/op_cases.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

/// Refuses from the nth request on, and knows what it still holds.
class MeanMemory final : public std::pmr::memory_resource {
 public:
  int allowed = 1 << 30;
  std::size_t held = 0;

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (allowed-- <= 0) throw std::bad_alloc();
    held += bytes;
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* memory, std::size_t bytes, std::size_t alignment) override {
    held -= bytes;
    std::pmr::new_delete_resource()->deallocate(memory, bytes, alignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
};

/// Keeps tasks; runs them when told, or on a thread of its own, or never.
class TestExecutor final : public Executor {
 public:
  bool refuses = false;
  bool post(Function<void()>&& task) noexcept override {
    const Lock lock(mutex_);
    if (refuses) return false;
    tasks_.push_back(std::move(task));
    changed_.notify_all();
    return true;
  }
  bool post_at(TimePoint, Function<void()>&& task) noexcept override {
    return post(std::move(task));
  }
  ~TestExecutor() {
    {
      const Lock lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  void start() {
    thread_ = Thread::start([this] {
                for (;;) {
                  Lock lock(mutex_);
                  while (tasks_.empty() && !stopping_) changed_.wait(lock);
                  if (stopping_) return;
                  Function<void()> task = std::move(tasks_.front());
                  tasks_.pop_front();
                  lock.unlock();
                  task();
                }
              }).value();
  }
  std::size_t run_all() {
    std::size_t ran = 0;
    for (;; ++ran) {
      Lock lock(mutex_);
      if (tasks_.empty()) return ran;
      Function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Function<void()>> tasks_ CIUIC_GUARDED_BY(mutex_);
  bool stopping_ CIUIC_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

MatrixSource ones(std::int64_t rows, std::int64_t cols,
                  PackedMatrix::Form form = PackedMatrix::Form::plain) {
  return {rows, cols, form, [](std::int64_t, std::span<float> out) {
            std::fill(out.begin(), out.end(), 1.0f);
            return Result<void>();
          }};
}

}  // namespace

TEST_CASE("The best instruction set is the last that this processor has") {
  const auto all = cpu_backends();
  REQUIRE_FALSE(all.empty());
  const auto best = cpu_backend().value();
  CHECK(best->name() == "cpu");
  CHECK(best->isa() == all.back()->isa());
  CHECK(all.front()->isa() == "scalar");
}

TEST_CASE("Broken preconditions are reported by the operation's name, once") {
  for (const auto& backend : cpu_backends()) {
    for (int threads : {1, 2}) check_errors({std::string(backend->isa()), backend, threads});
  }
}

TEST_CASE("Packing refuses what it cannot hold and passes the source's error on") {
  const auto backend = cpu_backend().value();
  for (DType dtype : {DType::f16, DType::i32, DType::u8}) {
    const auto packed = backend->pack(ones(4, 4), dtype);
    REQUIRE_FALSE(packed);
    CHECK(packed.error().code() == ErrorCode::unsupported);
    CHECK(std::string(packed.error().message()) ==
          "pack: format: the cpu backend packs f32, bf16, i8 and i4, got " +
              std::string(to_string(dtype)));
  }
  for (std::int32_t group : {0, -64, 16, 48, 256}) {
    CHECK(backend->pack(ones(4, 4), {DType::i4, group}).error().code() ==
          ErrorCode::invalid_argument);
  }
  CHECK(backend->pack(ones(1, 65537), DType::i8).error().code() == ErrorCode::unsupported);
  CHECK(backend->pack(ones(0, 4), DType::f32).error().code() == ErrorCode::invalid_argument);
  CHECK(backend->pack(ones(4, 0), DType::f32).error().code() == ErrorCode::invalid_argument);
  CHECK(backend->pack(ones(3, 4, PackedMatrix::Form::gated), DType::f32).error().code() ==
        ErrorCode::invalid_argument);
  CHECK(backend->pack({4, 4, PackedMatrix::Form::plain, {}}, DType::f32).error().code() ==
        ErrorCode::invalid_argument);
  const std::int64_t huge = std::int64_t{1} << 62;
  CHECK(backend->pack(ones(huge, huge), DType::f32).error().code() == ErrorCode::out_of_memory);
  CHECK(backend->pack(ones(1, huge), DType::f32).error().code() == ErrorCode::out_of_memory);

  MatrixSource broken = ones(100, 4);
  broken.read_rows = [](std::int64_t first, std::span<float>) -> Result<void> {
    if (first > 0) return Error(ErrorCode::io_error, "the file ends here");
    return {};
  };
  const auto read = backend->pack(std::move(broken), DType::f32);
  REQUIRE_FALSE(read);
  CHECK(read.error().code() == ErrorCode::io_error);
  MatrixSource throwing = ones(4, 4);
  throwing.read_rows = [](std::int64_t, std::span<float>) -> Result<void> { throw 1; };
  CHECK(backend->pack(std::move(throwing), DType::f32).error().code() == ErrorCode::model_failed);

  const auto good = backend->pack(ones(65, 10), DType::f32).value();
  CHECK(good->rows() == 65);
  CHECK(good->cols() == 10);
  CHECK(good->format().dtype == DType::f32);
  CHECK(good->bytes() == 2 * 64 * 10 * sizeof(float));
}

TEST_CASE("Caches say what a page takes and refuse shapes they do not support") {
  const auto backend = cpu_backend().value();
  CHECK(backend->kv_page_bytes({2, 4, 64, 16, 1}) == 2u * 4 * 16 * 128 * sizeof(float));
  CHECK(backend->make_kv_cache({2, 4, 64, 16, 0}));
  for (const KvCacheShape& shape :
       {KvCacheShape{0, 4, 64, 16, 1}, KvCacheShape{1, 0, 64, 16, 1}, KvCacheShape{1, 4, 63, 16, 1},
        KvCacheShape{1, 4, 258, 16, 1}, KvCacheShape{1, 4, 0, 16, 1}, KvCacheShape{1, 4, 64, 8, 1},
        KvCacheShape{1, 4, 64, 0, 1}, KvCacheShape{1, 4, 64, 16, -1}}) {
    CHECK(backend->make_kv_cache(shape).error().code() == ErrorCode::invalid_argument);
    if (shape.pages >= 0) CHECK(backend->kv_page_bytes(shape) == 0);
  }
  // i8 keeps two f32 factors for each position and kv head; blocks of 16 positions are whole lines.
  CHECK(backend->kv_page_bytes({2, 4, 64, 16, 1, DType::f16}) == 2u * 4 * 16 * 128 * 2);
  CHECK(backend->kv_page_bytes({2, 4, 64, 16, 1, DType::i8}) == 2u * 4 * 16 * (128 + 2 * 4));
  CHECK(backend->kv_page_bytes({1, 1, 6, 32, 1, DType::i8}) == 2u * 512);
  for (DType dtype : {DType::bf16, DType::i32, DType::u8, DType::i4}) {
    const KvCacheShape shape{1, 4, 64, 16, 1, dtype};
    CHECK(backend->kv_page_bytes(shape) == 0);
    const auto refused = backend->make_kv_cache(shape);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == ErrorCode::unsupported);
    CHECK(std::string(refused.error().message()) ==
          "make_kv_cache: shape.dtype: wanted f32, f16 or i8, got " +
              std::string(to_string(dtype)));
  }
  const std::int32_t most = std::numeric_limits<std::int32_t>::max();
  CHECK_FALSE(backend->make_kv_cache({most, most, 256, most / 16 * 16, most}));
}

TEST_CASE("Refused memory is an error, and nothing is lost") {
  MeanMemory memory;
  {
    CpuBackendOptions options;
    options.host.memory = &memory;
    const auto backend = cpu_backend(options).value();
    const auto until_it_works = [&](const auto& make) {
      int needed = 0;
      for (;; ++needed) {
        memory.allowed = needed;
        const std::size_t before = memory.held;
        const auto made = make();
        if (made) break;
        CHECK(made.error().code() == ErrorCode::out_of_memory);
        CHECK(memory.held == before);
      }
      return needed;
    };
    CHECK(until_it_works([&] { return backend->pack(ones(70, 30), DType::f32); }) == 2);
    CHECK(until_it_works([&] { return backend->make_kv_cache({1, 1, 16, 16, 2}); }) == 1);
    CHECK(until_it_works([&] { return backend->make_queue({2}); }) == 2);
    CHECK(until_it_works([&] { return DeviceBuffer::allocate(*backend, 100); }) == 1);
  }
  CHECK(memory.held == 0);
}

TEST_CASE("Any number of threads gives the same result, also far more than processors") {
  const auto backend = cpu_backend().value();
  CHECK(backend->make_queue({-1}).error().code() == ErrorCode::invalid_argument);
  for (int threads : {0, 1, 7, 16})
    check_matmul({"cpu", backend, threads}, {9, 700, 300, false, false, false}, 1);
}

TEST_CASE("The integers of a row that holds NaN, or whose norm does, are 0") {
  constexpr std::size_t k = 65, group = 64;
  std::vector<float> x(2 * k, 0.0f), norm(k, 1.0f);
  x[3] = std::numeric_limits<float>::quiet_NaN();  // the second row is 0, and so is its epsilon
  for (const CpuIsa isa : {CpuIsa::scalar, CpuIsa::avx2, CpuIsa::avx2vnni, CpuIsa::avx512,
                           CpuIsa::avx512vnni, CpuIsa::neondot}) {
    const auto kernels = cpu::kernels_for(isa);
    if (!kernels) continue;  // not on this processor
    INFO((*kernels)->isa);
    for (const bool normed : {false, true}) {
      std::vector<std::uint8_t> integers(2 * 128, 9);
      std::vector<float> scales(2, 0.0f);
      std::vector<std::int32_t> sums(4, 9);
      cpu::QuantizeTask task{x.data(), normed ? norm.data() : nullptr, 0.0f, 0.0f, {}, 2, k};
      task.out = {integers.data(), scales.data(), sums.data(), 128, group, 2};
      (*kernels)->quantize_rows_i4(task);
      CHECK(sums == std::vector<std::int32_t>(4, 0));
      CHECK(integers == std::vector<std::uint8_t>(2 * 128, 0));
      CHECK(std::isnan(scales[0]));
    }
  }
}

TEST_CASE("Attention is cut finer where its pieces would leave threads idle") {
  using cpu::attention_piece_tokens;
  const auto pieces = [](std::size_t tokens, std::size_t kv_heads, std::size_t group,
                         std::size_t threads) {
    const std::size_t each = attention_piece_tokens(tokens, 1, kv_heads, group, threads);
    CHECK(each > 0);
    CHECK(each * group <= cpu::kAttentionRows);
    return (tokens + each - 1) / each * kv_heads;
  };
  CHECK(pieces(512, 4, 8, 1) == 22 * 4);  // whole pieces: of 192 rows
  CHECK(pieces(512, 4, 8, 2) == 22 * 4);
  CHECK(pieces(128, 2, 7, 16) == 22 * 2);  // of 42 rows: 5 * 2 would be fewer than the threads
  CHECK(pieces(512, 2, 7, 16) >= 64);
  CHECK(pieces(2048, 1, 1, 8) >= 32);
  CHECK(pieces(10, 1, 192, 64) == 10);                    // a token is the least
  CHECK(attention_piece_tokens(32, 32, 4, 8, 16) == 24);  // decoding: nothing to cut
}

TEST_CASE("Helpers come from the host's executor where it has one") {
  const MatmulCase work{40, 700, 300, false, false, false};
  SECTION("that runs them") {
    TestExecutor executor;
    executor.start();
    CpuBackendOptions options;
    options.host.executor = &executor;
    const auto backend = cpu_backend(options).value();
    for (unsigned seed = 0; seed < 5; ++seed) check_matmul({"executor", backend, 3}, work, seed);
  }
  SECTION("that takes no more work") {
    TestExecutor executor;
    executor.refuses = true;
    CpuBackendOptions options;
    options.host.executor = &executor;
    check_matmul({"refusing executor", cpu_backend(options).value(), 3}, work, 1);
  }
  SECTION("that runs them only after everything else is gone") {
    TestExecutor executor;
    {
      MeanMemory memory;
      CpuBackendOptions options;
      options.host.executor = &executor;
      options.host.memory = &memory;
      check_matmul({"late executor", cpu_backend(options).value(), 3}, work, 1);
      CHECK(memory.held == 0);
    }
    CHECK(executor.run_all() == 2);
  }
}

TEST_CASE("Queues of one backend work at the same time") {
  const auto backend = cpu_backend().value();
  std::vector<float> results[3];
  {
    std::vector<Thread> threads;
    for (auto& result : results) {
      threads.push_back(Thread::start([&result, &backend] {
                          std::mt19937 random(1);
                          OpRunner run({"cpu", backend, 2});
                          const auto w = random_floats(random, 300 * 200);
                          const auto x = random_floats(random, 20 * 200);
                          const auto packed = run.pack(w, 300, 200);
                          const DeviceTensor there = run.put({20, 200}, x);
                          const DeviceTensor out = run.make({20, 300});
                          for (int i = 0; i < 20; ++i) run.queue().matmul(there, *packed, out, {});
                          result = run.get(out);
                        }).value());
    }
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("Events of the cpu are done at once") {
  const auto backend = cpu_backend().value();
  OpRunner run({"cpu", backend, 1});
  const auto event = run.queue().record().value();
  CHECK(event->is_done());
  event->wait();
  run.queue().wait(*event);
  run.finish();
}
