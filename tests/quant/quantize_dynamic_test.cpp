// int8 arithmetic against ONNX Runtime's (tests/golden/int8/make_int8_golden.py).
#include "ciuic/quant/quantize_dynamic.hpp"

#include <cstdio>
#include <string>

#include "ciuic/model/safetensors.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

struct Matrix {
  std::size_t rows = 0, cols = 0;
  std::vector<float> values;
};

Matrix read(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  REQUIRE(info != nullptr);
  Matrix matrix;
  matrix.rows = static_cast<std::size_t>(info->shape[0]);
  matrix.cols = info->shape.size() > 1 ? static_cast<std::size_t>(info->shape[1]) : 1;
  matrix.values.resize(matrix.rows * matrix.cols);
  REQUIRE(file.read_rows_f32(*info, 0, matrix.values));
  return matrix;
}

}  // namespace

TEST_CASE("int8 weights, scales and products are those of ONNX Runtime") {
  const Result<SafetensorsFile> file =
      SafetensorsFile::open(CIUIC_SOURCE_DIR "/tests/golden/int8/expected.safetensors");
  REQUIRE(file);
  std::size_t integers = 0, apart = 0;
  for (int number = 0; number < 5; ++number) {
    const std::string prefix = std::to_string(number) + ".";
    const Matrix x = read(*file, prefix + "x"), w = read(*file, prefix + "w");
    const Int8Matrix held = quantize_dynamic(w.values, w.rows, w.cols);
    CHECK(held.scales == read(*file, prefix + "w_scale").values);
    const Matrix wq = read(*file, prefix + "wq");
    for (std::size_t i = 0; i < wq.values.size(); ++i) {
      // It divides by the scale where we multiply by its reciprocal: next to a tie, one apart.
      const float off = std::fabs(static_cast<float>(held.integers[i]) - wq.values[i]);
      CHECK(off <= 1.0f);
      apart += off != 0.0f ? 1u : 0u;
      ++integers;
    }
    const Matrix expected = read(*file, prefix + "y");
    std::vector<float> y(expected.values.size());
    dynamic_matmul(x.values, held, y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      CHECK(y[i] == Approx(expected.values[i]).epsilon(1e-6).margin(1e-6));
    }
  }
  std::printf("int8: %zu of %zu integers are one apart from ONNX Runtime's\n", apart, integers);
  CHECK(apart * 1000 <= integers);
}

TEST_CASE("A row that is not finite harms only itself; a fixed scale cuts off what is beyond it") {
  const std::vector<float> w{1.0f, 0.5f, NAN, 1.0f, 0.25f, -1.0f};
  const Int8Matrix held = quantize_dynamic(w, 3, 2);
  std::vector<float> y(6);
  dynamic_matmul(std::vector<float>{INFINITY, 1.0f, 127.0f, 10.0f}, held, y);
  CHECK(std::isnan(y[0]));
  CHECK(std::isnan(y[1]));
  CHECK(std::isnan(y[2]));
  CHECK(y[3] == Approx(127.0f + 10.0f * 64 / 127));
  CHECK(std::isnan(y[4]));
  CHECK(y[5] == Approx(127.0f * 32 / 127 - 10.0f));
  dynamic_matmul(std::vector<float>{INFINITY, 1.0f, 500.0f, 10.0f}, held, y, 2.0f);
  CHECK(std::isnan(y[0]));  // also with a fixed scale
  CHECK(y[3] == Approx(254.0f + 10.0f * 64 / 127));
}
