#include "ciuic/quant/calibrate.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "support/fake_backend.hpp"
#include "support/op_target.hpp"

using namespace ciuic;
using namespace ciuic::testing;

TEST_CASE("Statistics of inputs, by hand") {
  InputStatistics seen(2);
  CHECK(seen.input_scale() == 0.0f);
  CHECK(seen.channel_energy().empty());
  seen.add_row(std::vector<float>{1.0f, -254.0f});
  seen.add_row(std::vector<float>{-3.0f, 0.0f});
  seen.add_row(std::vector<float>{NAN, 1e9f});
  seen.add_row(std::vector<float>{INFINITY, 1.0f});
  CHECK(seen.rows() == 2);
  CHECK(seen.rejected_rows() == 2);
  CHECK(seen.channel_max()[0] == 3.0f);
  CHECK(seen.channel_max()[1] == 254.0f);
  CHECK(seen.channel_energy()[0] == Approx(5.0));
  CHECK(seen.percentile(100) == 254.0f);
  CHECK(seen.input_scale() == 2.0f);
  CHECK(seen.percentile(75) >= 3.0f);  // three of the four values
  CHECK(seen.percentile(75) <= 3.0f * 1.125f);
}

TEST_CASE("Percentiles are those of the sorted magnitudes, to an eighth") {
  std::mt19937 random(8);
  const std::vector<float> values = random_floats(random, 20000, 3.0f);
  InputStatistics seen(100);
  for (std::size_t at = 0; at < values.size(); at += 100)
    seen.add_row(std::span(values).subspan(at, 100));
  std::vector<float> sorted = values;
  for (float& value : sorted) value = std::fabs(value);
  std::sort(sorted.begin(), sorted.end());
  for (const double percent : {1.0, 50.0, 90.0, 99.0, 99.9, 100.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * 20000));
    const float exact = sorted[rank - 1];
    CHECK(seen.percentile(percent) >= exact);
    CHECK(seen.percentile(percent) <= exact * 1.1251f);
  }
}

TEST_CASE("Inputs of matmuls are seen, normalised and in the order of first use, on any device") {
  for (const std::shared_ptr<const Backend>& inner :
       {std::shared_ptr<const Backend>(cpu_backend().value()), fake_backend()}) {
    std::mt19937 random(6);
    const std::vector<float> w1 = random_floats(random, 4 * 8), w2 = random_floats(random, 3 * 4);
    const std::vector<float> x = random_floats(random, 5 * 8), norm = random_floats(random, 8);
    std::vector<float> plain_y, observed_y;
    const auto work = [&](const std::shared_ptr<const Backend>& backend, std::vector<float>& y) {
      OpRunner run({"", backend, 1});
      const auto second = run.pack(w2, 3, 4), first = run.pack(w1, 4, 8);
      const DeviceTensor x_there = run.put({5, 8}, x), norm_there = run.put({8}, norm);
      const DeviceTensor h = run.make({5, 4}), out = run.make({5, 3});
      run.queue().matmul(x_there, *first, h, {.norm = norm_there, .norm_epsilon = 1e-5f});
      run.queue().matmul(h, *second, out, {});
      run.queue().matmul(x_there, *first, h, {.norm = norm_there, .norm_epsilon = 1e-5f});
      y = run.get(out);
    };
    work(inner, plain_y);
    const auto seen = calibrate(inner, [&](std::shared_ptr<const Backend> observed) {
      work(observed, observed_y);
      return Result<void>();
    });
    REQUIRE(seen);
    CHECK(observed_y == plain_y);  // watching changes nothing
    REQUIRE(seen->size() == 2);
    CHECK((*seen)[0].channels() == 8);
    CHECK((*seen)[0].rows() == 10);
    CHECK((*seen)[1].channels() == 4);
    CHECK((*seen)[1].rows() == 5);
    for (std::size_t j = 0; j < 8; ++j) {  // in double, from the definition
      double largest = 0.0, energy = 0.0;
      for (std::size_t t = 0; t < 5; ++t) {
        double squares = 0.0;
        for (std::size_t i = 0; i < 8; ++i) squares += double{x[t * 8 + i]} * double{x[t * 8 + i]};
        const double value = double{x[t * 8 + j]} / std::sqrt(squares / 8 + 1e-5) * double{norm[j]};
        largest = std::max(largest, std::fabs(value));
        energy += value * value / 5;
      }
      CHECK((*seen)[0].channel_max()[j] == Approx(largest).epsilon(1e-5));
      CHECK((*seen)[0].channel_energy()[j] == Approx(energy).epsilon(1e-5));
    }
  }
}

TEST_CASE("What fails in the run fails the calibration") {
  const auto backend = cpu_backend().value();
  const auto failed = calibrate(backend, [](std::shared_ptr<const Backend>) {
    return Result<void>(Error(ErrorCode::io_error, "no samples"));
  });
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message() == "no samples");
  const auto thrown = calibrate(backend, [](std::shared_ptr<const Backend>) -> Result<void> {
    throw std::runtime_error("lost");
  });
  REQUIRE_FALSE(thrown);
  CHECK(thrown.error().code() == ErrorCode::model_failed);
  // A matmul that is refused is refused as without anybody watching.
  const auto refused =
      calibrate(backend, [](std::shared_ptr<const Backend> observed) -> Result<void> {
        OpRunner run({"", observed, 1});
        const auto matrix = run.pack(std::vector<float>(6), 2, 3);
        const DeviceTensor x = run.make({1, 4}), out = run.make({1, 2});
        run.queue().matmul(x, *matrix, out, {});
        return run.queue().synchronize();
      });
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("matmul: x: wanted") != std::string_view::npos);
}
