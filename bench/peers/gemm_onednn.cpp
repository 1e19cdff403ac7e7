// oneDNN's matmul beside ciuic's on packed weights, cell by cell in one process, one after the
// other in every round.
//
//   gemm_onednn [--weights f32|i8] [--threads 1] [--mode hot|cold] [--rounds 5] [--shape 2048x5632]
//
// "hot" uses one matrix again and again; "cold" walks over at least 600 MB of them, as the layers
// of a model do. A line of JSON for each cell: 10^9 operations a second of both (two for each
// weight and row), the median of the rounds' ratios, and the roof probed around them: the
// multiply-add peak, or for cold weights what the read bandwidth allows where that is less.
//
// i8 compares whole operations: ours takes f32 rows, quantizes them and scales what it writes;
// oneDNN's u8 * s8 -> s32 does the multiplication alone.
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <memory>
#include <string>
#include <vector>

#include "ciuic/ops/cpu_backend.hpp"
#include "support/machine_probe.hpp"
#include "support/random_model.hpp"

namespace ciuic::bench {
namespace {

constexpr double kColdBytes = 600e6;
constexpr double kPassSeconds = 0.02;

struct Options {
  bool i8 = false, cold = false;
  int threads = 1, rounds = 5;
  std::string shape;
};

/// Matrices [out, in] of one shape, and a way to multiply `rows` rows by the next of them.
class Ours {
 public:
  Ours(const Options& options, std::int64_t in, std::int64_t out, std::size_t copies)
      : backend_(cpu_backend().value()),
        queue_(backend_->make_queue({options.threads}).value()),
        in_(in),
        out_(out) {
    for (std::size_t i = 0; i < copies; ++i) {
      matrices_.push_back(backend_->pack(source(), options.i8 ? DType::i8 : DType::f32).value());
    }
  }
  void set_rows(std::int64_t rows) {
    rows_ = rows;
    const std::vector<float> values(static_cast<std::size_t>(rows * in_), 0.5f);
    x_ = DeviceBuffer::allocate(*backend_, values.size() * sizeof(float)).value();
    y_ = DeviceBuffer::allocate(*backend_, static_cast<std::size_t>(rows * out_) * sizeof(float))
             .value();
    queue_->copy_to_device(x_.data(), std::as_bytes(std::span(values)));
  }
  void run() {
    queue_->matmul({x_.data(), DType::f32, {rows_, in_}}, *matrices_[next_],
                   {y_.data(), DType::f32, {rows_, out_}}, {});
    if (const Result<void> done = queue_->synchronize(); !done) fail(done.error());
    next_ = (next_ + 1) % matrices_.size();
  }

 private:
  MatrixSource source() const {
    return {.rows = out_, .cols = in_, .read_rows = [](std::int64_t first, std::span<float> to) {
              for (std::size_t i = 0; i < to.size(); ++i)
                to[i] = static_cast<float>((i * 7 + static_cast<std::size_t>(first)) % 17) - 8.0f;
              return Result<void>();
            }};
  }
  std::shared_ptr<const Backend> backend_;
  std::unique_ptr<Queue> queue_;
  std::int64_t in_, out_, rows_ = 0;
  std::vector<std::unique_ptr<PackedMatrix>> matrices_;
  DeviceBuffer x_, y_;
  std::size_t next_ = 0;
};

/// The same with oneDNN, whose weights lie in the layout that it chooses for this number of rows.
class OneDnn {
 public:
  OneDnn(const Options& options, std::int64_t in, std::int64_t out, std::size_t copies)
      : in_(in), out_(out), copies_(copies), i8_(options.i8) {
    omp_set_num_threads(options.threads);
  }
  void set_rows(std::int64_t rows) {
    using dnnl::memory;
    using Type = memory::data_type;
    using Tag = memory::format_tag;
    weights_.clear();
    const memory::desc x({rows, in_}, i8_ ? Type::u8 : Type::f32, Tag::ab);
    const memory::desc w({in_, out_}, i8_ ? Type::s8 : Type::f32, Tag::any);
    const memory::desc y({rows, out_}, i8_ ? Type::s32 : Type::f32, Tag::ab);
#if DNNL_VERSION_MAJOR < 3
    const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(x, w, y), engine_);
#else
    const dnnl::matmul::primitive_desc chosen(engine_, x, w, y);
#endif
    matmul_ = dnnl::matmul(chosen);
    x_ = memory(chosen.src_desc(), engine_);
    y_ = memory(chosen.dst_desc(), engine_);
    memory plain({{in_, out_}, i8_ ? Type::s8 : Type::f32, Tag::ab}, engine_);
    fill(x_);
    fill(plain);
    for (std::size_t i = 0; i < copies_; ++i) {
      memory packed(chosen.weights_desc(), engine_);
      dnnl::reorder(plain, packed).execute(stream_, plain, packed);
      stream_.wait();
      weights_.push_back(std::move(packed));
    }
  }
  void run() {
    matmul_.execute(stream_,
                    {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, weights_[next_]}, {DNNL_ARG_DST, y_}});
    stream_.wait();
    next_ = (next_ + 1) % weights_.size();
  }

 private:
  /// Small integers as bytes, or f32 of about 0.5.
  void fill(dnnl::memory& memory) const {
    const std::size_t bytes = memory.get_desc().get_size();
    std::memset(memory.get_data_handle(), i8_ ? 3 : 0x3F, bytes);  // 0x3F3F3F3F is 0.747
  }
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::int64_t in_, out_;
  std::size_t copies_;
  bool i8_;
  dnnl::matmul matmul_;
  dnnl::memory x_, y_;
  std::vector<dnnl::memory> weights_;
  std::size_t next_ = 0;
};

/// Seconds of one multiplication, from about `kPassSeconds` of them. Whoever's threads spun before
/// has put them to sleep by the time of the first one, which wakes one's own and does not count.
template <class Engine>
double pass(Engine& engine, int threads, int& calls) {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  engine.run();
  if (calls == 0) {
    const double start = seconds_now(threads);
    engine.run();
    calls = std::max(1, static_cast<int>(kPassSeconds / (seconds_now(threads) - start)));
  }
  const double start = seconds_now(threads);
  for (int i = 0; i < calls; ++i) engine.run();
  return (seconds_now(threads) - start) / calls;
}

void measure(const Options& options, std::int64_t in, std::int64_t out) {
  const double weight_bytes = options.i8 ? 1.0 : 4.0;
  const double matrix_bytes = weight_bytes * static_cast<double>(in * out);
  const auto copies =
      options.cold ? static_cast<std::size_t>(kColdBytes / matrix_bytes) + 1 : std::size_t{1};
  Ours ours(options, in, out, copies);
  OneDnn peer(options, in, out, copies);
  static ReadProbe reads;
  for (const std::int64_t rows : options.cold ? std::vector<std::int64_t>{1, 4, 8, 16, 32}
                                              : std::vector<std::int64_t>{64, 256, 512}) {
    ours.set_rows(rows);
    peer.set_rows(rows);
    const double work = 2e-9 * static_cast<double>(rows * in * out);
    std::vector<double> our_rates, peer_rates, ratios, of_roof, peer_of_roof;
    int our_calls = 0, peer_calls = 0;
    for (int round = 0; round < options.rounds; ++round) {
      double roof = options.i8 ? byte_dot_gops(options.threads) : fma_gflops(options.threads);
      if (options.cold) {
        std::vector<double> rates;
        for (int i = 0; i < 3; ++i) rates.push_back(reads.gigabytes_per_second(options.threads));
        roof = std::min(roof, median(rates) * 2.0 * static_cast<double>(rows) / weight_bytes);
      }
      const double a = work / pass(ours, options.threads, our_calls);
      const double b = work / pass(peer, options.threads, peer_calls);
      our_rates.push_back(a);
      peer_rates.push_back(b);
      ratios.push_back(a / b);
      of_roof.push_back(a / roof);
      peer_of_roof.push_back(b / roof);
    }
    std::printf(
        "{\"what\": \"gemm\", \"engine\": \"onednn\", \"version\": \"%d.%d.%d\", "
        "\"weights\": \"%s\", \"mode\": \"%s\", \"threads\": %d, \"rows\": %d, "
        "\"in\": %d, \"out\": %d, \"ciuic_gops\": %.1f, \"peer_gops\": %.1f, "
        "\"ratio\": %.3f, \"ciuic_of_roof\": %.3f, \"peer_of_roof\": %.3f}\n",
        dnnl_version()->major, dnnl_version()->minor, dnnl_version()->patch,
        options.i8 ? "i8" : "f32", options.cold ? "cold" : "hot", options.threads,
        static_cast<int>(rows), static_cast<int>(in), static_cast<int>(out), median(our_rates),
        median(peer_rates), median(ratios), median(of_roof), median(peer_of_roof));
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--weights") options.i8 = value == "i8";
    if (flag == "--mode") options.cold = value == "cold";
    if (flag == "--threads") options.threads = std::atoi(argv[i + 1]);
    if (flag == "--rounds") options.rounds = std::atoi(argv[i + 1]);
    if (flag == "--shape") options.shape = value;
  }
  constexpr std::int64_t kShapes[][2] = {{768, 3072}, {2048, 2048}, {2048, 5632}, {4096, 4096}};
  for (const auto& [in, out] : kShapes) {
    const std::string name = std::to_string(in) + "x" + std::to_string(out);
    if (options.shape.empty() || options.shape == name) measure(options, in, out);
  }
  return 0;
}

}  // namespace
}  // namespace ciuic::bench

int main(int argc, char** argv) { return ciuic::bench::run(argc, argv); }
