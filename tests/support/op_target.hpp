// What every test of the device operations runs on: a backend, a number of threads, and helpers
// that move tensors there and back.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "ciuic/ops/cpu_backend.hpp"
#include "support/catch.hpp"

namespace ciuic::testing {

struct OpTarget {
  std::string name;  ///< "avx2, 3 threads"
  std::shared_ptr<const Backend> backend;
  int threads = 1;
};

/// Every instruction set this processor has.
inline std::vector<std::shared_ptr<const Backend>> cpu_backends() {
  std::vector<std::shared_ptr<const Backend>> backends;
  for (CpuIsa isa :
       {CpuIsa::scalar, CpuIsa::avx2, CpuIsa::avx2vnni, CpuIsa::avx512, CpuIsa::avx512vnni,
        CpuIsa::neondot}) {
    CpuBackendOptions options;
    options.isa = isa;
    if (auto backend = cpu_backend(options)) backends.push_back(*backend);
  }
  return backends;
}

/// A fresh seed each run, printed with every failure, so that a failure can be repeated.
inline unsigned fresh_seed() {
  static const unsigned seed = std::random_device{}();
  return seed;
}

/// A tensor in device memory.
struct DeviceTensor {
  DeviceBuffer memory;
  DType dtype = DType::f32;
  Shape shape;
  operator TensorView() const { return {memory.data(), dtype, shape}; }
  operator ConstTensorView() const { return {memory.data(), dtype, shape}; }
};

/// One queue of one target. The host side of an upload is kept until the next `finish`, as the
/// queue demands.
class OpRunner {
 public:
  explicit OpRunner(const OpTarget& target)
      : backend_(target.backend), queue_(backend_->make_queue({target.threads}).value()) {}

  const Backend& backend() const { return *backend_; }
  Queue& queue() { return *queue_; }

  DeviceTensor make(Shape shape, DType dtype = DType::f32) {
    const std::size_t bytes = bytes_of(dtype, shape).value();
    return {DeviceBuffer::allocate(*backend_, bytes == 0 ? 1 : bytes).value(), dtype, shape};
  }
  DeviceTensor put(Shape shape, const std::vector<float>& values) {
    return put_bytes(shape, DType::f32, std::as_bytes(std::span(values)));
  }
  DeviceTensor put(Shape shape, const std::vector<std::int32_t>& values) {
    return put_bytes(shape, DType::i32, std::as_bytes(std::span(values)));
  }
  std::vector<float> get(const DeviceTensor& tensor) {
    std::vector<float> values(tensor.shape.elements().value());
    queue_->copy_to_host(std::as_writable_bytes(std::span(values)), tensor.memory.data());
    finish();
    return values;
  }
  void finish() {
    const Result<void> done = queue_->synchronize();
    if (!done) FAIL(std::string(done.error().message()));
    staged_.clear();
  }
  std::unique_ptr<PackedMatrix> pack(const std::vector<float>& values, std::int64_t rows,
                                     std::int64_t cols,
                                     PackedMatrix::Form form = PackedMatrix::Form::plain,
                                     MatrixFormat format = DType::f32, float input_scale = 0.0f) {
    MatrixSource source;
    source.rows = rows;
    source.cols = cols;
    source.form = form;
    source.input_scale = input_scale;
    source.read_rows = [&values, cols](std::int64_t first, std::span<float> out) {
      const auto begin = values.begin() + first * cols;
      std::copy(begin, begin + static_cast<std::ptrdiff_t>(out.size()), out.begin());
      return Result<void>();
    };
    return backend_->pack(std::move(source), format).value();
  }

 private:
  DeviceTensor put_bytes(Shape shape, DType dtype, std::span<const std::byte> bytes) {
    DeviceTensor tensor = make(shape, dtype);
    staged_.emplace_back(bytes.begin(), bytes.end());
    queue_->copy_to_device(tensor.memory.data(), staged_.back());
    return tensor;
  }

  std::shared_ptr<const Backend> backend_;
  std::unique_ptr<Queue> queue_;
  std::vector<std::vector<std::byte>> staged_;
};

inline std::vector<float> random_floats(std::mt19937& random, std::size_t count,
                                        float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline int random_int(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

}  // namespace ciuic::testing
