// Matrices held as bf16, i8 and i4: what packing rounds to, what a matmul makes of it, and that a
// row's result is its own. The oracle is a plain double sum over the weights as `embed` gives them
// back (a path of its own, checked here too) and over activations rounded as the contract says.
#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>

#include "support/catch.hpp"
#include "support/op_reference.hpp"
#include "support/op_target.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

using Form = PackedMatrix::Form;
std::size_t size(int n) { return static_cast<std::size_t>(n); }

const std::vector<MatrixFormat>& formats() {
  static const std::vector<MatrixFormat> all = {
      DType::bf16, DType::i8, {DType::i4, 32}, {DType::i4, 64}, {DType::i4, 128}};
  return all;
}
bool is_integer(MatrixFormat format) {
  return format.dtype == DType::i8 || format.dtype == DType::i4;
}
std::string name_of(MatrixFormat format) {
  std::string name(to_string(format.dtype));
  if (format.dtype == DType::i4) name += " in groups of " + std::to_string(format.group);
  return name;
}

std::vector<OpTarget> targets(std::vector<int> threads) {
  std::vector<OpTarget> all;
  for (const auto& backend : cpu_backends()) {
    for (int n : threads)
      all.push_back(
          {std::string(backend->isa()) + ", " + std::to_string(n) + " threads", backend, n});
  }
  return all;
}

/// The weights as the packed matrix holds them, [rows, cols].
std::vector<float> held_weights(OpRunner& run, const std::vector<float>& w, int rows, int cols,
                                MatrixFormat format) {
  const auto packed = run.pack(w, rows, cols, Form::plain, format);
  std::vector<std::int32_t> ids(size(rows));
  for (int i = 0; i < rows; ++i) ids[size(i)] = i;
  const DeviceTensor ids_there = run.put({rows}, ids);
  const DeviceTensor out = run.make({rows, cols});
  run.queue().embed(*packed, ids_there, out);
  return run.get(out);
}

struct Case {
  int tokens, rows, cols;
  bool gated, bias, accumulate, norm;
  float input_scale = 0.0f;
};

/// One row of activations: the numbers that the weights are multiplied by, and how far each may be
/// off because it lies between two integers.
struct Activations {
  std::vector<double> value, doubt;
};
Activations rounded(const float* x, const std::vector<float>& norm, const Case& c,
                    MatrixFormat format, double epsilon) {
  Activations a;
  double squares = 0.0;
  for (int k = 0; k < c.cols; ++k) squares += double{x[k]} * double{x[k]};
  const double factor = c.norm ? 1.0 / std::sqrt(squares / c.cols + epsilon) : 1.0;
  double largest = 0.0;
  for (int k = 0; k < c.cols; ++k) {
    a.value.push_back(double{x[k]} * factor * (c.norm ? double{norm[size(k)]} : 1.0));
    largest = std::fmax(largest, std::fabs(a.value.back()));
  }
  a.doubt.assign(size(c.cols), 0.0);
  if (!is_integer(format)) {
    // The norm's own rounding: its sum of squares, a root, a division, two products.
    if (c.norm) {
      for (int k = 0; k < c.cols; ++k)
        a.doubt[size(k)] = (c.cols + 8) * kEpsilon * std::fabs(a.value[size(k)]);
    }
    return a;
  }
  const double scale = c.input_scale != 0.0f ? double{c.input_scale} : largest / 127.0;
  for (int k = 0; k < c.cols; ++k) {
    const double steps = scale == 0.0 ? 0.0 : a.value[size(k)] / scale;
    const double bounded = std::fmin(127.0, std::fmax(-127.0, steps));
    const double integer = std::nearbyint(bounded);
    a.value[size(k)] = integer * scale;
    // What f32 may see on the other side of a half.
    const double margin = 127.0 * (c.cols + 16) * kEpsilon;
    const bool near_tie = std::fabs(std::fabs(bounded - integer) - 0.5) < margin;
    a.doubt[size(k)] = (near_tie ? scale : 0.0) + 4 * kEpsilon * std::fabs(a.value[size(k)]) +
                       (c.norm ? (c.cols + 8) * kEpsilon * std::fabs(a.value[size(k)]) : 0.0);
  }
  return a;
}

void check(const OpTarget& target, const Case& c, MatrixFormat format, unsigned seed) {
  INFO(target.name << ": " << name_of(format) << ", tokens " << c.tokens << ", rows " << c.rows
                   << ", cols " << c.cols << ", gated " << c.gated << ", bias " << c.bias
                   << ", accumulate " << c.accumulate << ", norm " << c.norm << ", input scale "
                   << c.input_scale << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  const int columns = c.gated ? c.rows / 2 : c.rows;
  const float epsilon = 1e-5f;
  const auto x = random_floats(random, size(c.tokens) * size(c.cols));
  const auto w = random_floats(random, size(c.rows) * size(c.cols));
  const auto bias = random_floats(random, size(c.rows));
  const auto norm = random_floats(random, size(c.cols));
  const auto before = random_floats(random, size(c.tokens) * size(columns));
  const auto held = held_weights(run, w, c.rows, c.cols, format);

  const auto packed =
      run.pack(w, c.rows, c.cols, c.gated ? Form::gated : Form::plain, format, c.input_scale);
  const DeviceTensor x_there = run.put({c.tokens, c.cols}, x);
  const DeviceTensor bias_there = run.put({c.rows}, bias);
  const DeviceTensor norm_there = run.put({c.cols}, norm);
  const DeviceTensor out = run.put({c.tokens, columns}, before);
  MatmulOptions options;
  if (c.bias) options.bias = bias_there;
  if (c.norm) {
    options.norm = norm_there;
    options.norm_epsilon = epsilon;
  }
  options.accumulate = c.accumulate;
  run.queue().matmul(x_there, *packed, out, options);
  const std::vector<float> got = run.get(out);

  std::vector<Expected> wanted;
  for (int t = 0; t < c.tokens; ++t) {
    const Activations a = rounded(&x[size(t) * size(c.cols)], norm, c, format, double{epsilon});
    const auto element = [&](int row) {
      Expected e;
      double magnitude = 0.0;
      for (std::size_t k = 0; k < size(c.cols); ++k) {
        const double weight = double{held[size(row) * size(c.cols) + k]};
        e.value += a.value[k] * weight;
        magnitude += std::fabs(a.value[k] * weight);
        e.tolerance += a.doubt[k] * std::fabs(weight);
      }
      // One rounding of each held weight; then i8: a conversion and two products; i4: as much for
      // each group; bf16: one for each product and sum.
      const int roundings = format.dtype == DType::i8   ? 6
                            : format.dtype == DType::i4 ? 2 * (c.cols / format.group + 4)
                                                        : 2 * (c.cols + 2);
      e.tolerance += roundings * kEpsilon * magnitude;
      if (c.bias) e.value += double{bias[size(row)]};
      e.tolerance += 2 * kEpsilon * std::fabs(e.value);
      return e;
    };
    for (int j = 0; j < columns; ++j) {
      Expected e = element(j);
      if (c.gated) {
        e = gated(e, element(j + columns));
      } else if (c.accumulate) {
        e.value += double{before[size(t) * size(columns) + size(j)]};
        e.tolerance += 2 * kEpsilon * std::fabs(e.value);
      }
      wanted.push_back(e);
    }
  }
  REQUIRE(got.size() == wanted.size());
  if (got.empty()) return;
  const std::size_t worst = worst_of(got, wanted);
  INFO("worst at row " << worst / size(columns) << ", column " << worst % size(columns)
                       << ": wanted " << wanted[worst].value << " +- " << wanted[worst].tolerance
                       << ", got " << got[worst]);
  CHECK(excess(got[worst], wanted[worst]) <= 0.0);
}

Case random_case(std::mt19937& random) {
  const bool gated = random_int(random, 0, 2) == 0;
  const int rows = random_int(random, 1, 150);
  return {random_int(random, 1, 60),     gated ? 2 * rows : rows,
          random_int(random, 1, 700),    gated,
          random_int(random, 0, 1) == 1, !gated && random_int(random, 0, 1) == 1,
          random_int(random, 0, 1) == 1, random_int(random, 0, 3) == 0 ? 0.02f : 0.0f};
}

void check_random_shapes(int cases) {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const auto all = targets({1, 3});
  for (int i = 0; i < cases; ++i) {
    const auto format = formats()[size(random_int(random, 0, 4))];
    const auto& target = all[size(i) % all.size()];
    check(target, random_case(random), format, static_cast<unsigned>(random()));
  }
  std::cout << "figure: " << cases << " random shapes of quantized matmuls against a double sum\n";
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("Packing rounds each weight to the nearest that its format holds") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const int rows = 70, cols = 150;
  auto w = random_floats(random, rows * cols);
  for (int k = 0; k < cols; ++k) w[size(3 * cols + k)] = 0.0f;     // a row of zeros
  for (int k = 0; k < cols; ++k) w[size(4 * cols + k)] *= 1e-30f;  // and one of next to nothing
  w[size(5 * cols)] = 100.0f;                                      // an outlier
  OpRunner run({"", cpu_backend().value(), 1});
  for (const MatrixFormat format : formats()) {
    INFO(name_of(format));
    const auto held = held_weights(run, w, rows, cols, format);
    const int group = format.dtype == DType::i4 ? format.group : cols;
    for (int r = 0; r < rows; ++r) {
      for (int first = 0; first < cols; first += group) {
        double largest = 0.0, error = 0.0, plain_error = 0.0, worst = 0.0;
        const int end = std::min(cols, first + group);
        for (int k = first; k < end; ++k)
          largest = std::fmax(largest, std::fabs(double{w[size(r * cols + k)]}));
        for (int k = first; k < end; ++k) {
          const double exact = double{w[size(r * cols + k)]};
          const double off = double{held[size(r * cols + k)]} - exact;
          error += off * off;
          worst = std::fmax(worst, std::fabs(off));
          const double step = largest / 7.0;
          const double plain = step == 0.0 ? 0.0 : std::nearbyint(exact / step) * step - exact;
          plain_error += plain * plain;
          if (format.dtype == DType::bf16) CHECK(std::fabs(off) <= std::fabs(exact) / 256.0);
        }
        if (format.dtype == DType::i8 && largest > 1e-30) CHECK(worst <= largest / 127.0 * 0.5001);
        // i4 searches for a scale: never worse than the plain one, but for rounding it to f16.
        if (format.dtype == DType::i4 && largest > 1e-3) CHECK(error <= plain_error * 1.02);
        if (largest == 0.0) CHECK(error == 0.0);
      }
    }
  }
}

TEST_CASE("A matmul on every format agrees with a double sum, at the edges of tiles and groups") {
  const Case cases[] = {
      {1, 64, 64, false, false, false, false},
      {1, 1, 1, false, true, true, false},
      {6, 128, 256, false, true, false, true},
      {7, 65, 257, false, true, true, true},
      {12, 63, 512, false, false, true, false},
      {145, 130, 300, false, true, false, true},
      {2, 64, 64, true, false, false, true},
      {13, 66, 129, true, true, false, false},
      {3, 2, 5, true, true, false, true},
      {300, 70, 70, true, true, false, false},
      {0, 64, 64, false, false, false, false},
      {5, 66, 2050, false, false, false, true, 0.05f},
      {49, 70, 1030, false, false, true, false},
      // More panels than pass over a chunk together, and more rows than a chunk.
      {300, 330, 129, false, true, false, false},
      {290, 600, 65, true, false, false, true},
  };
  for (const OpTarget& target : targets({1, 2})) {
    for (const MatrixFormat format : formats()) {
      for (const Case& c : cases) check(target, c, format, 1);
    }
  }
}

TEST_CASE("A matmul on every format agrees with a double sum on random shapes") {
  check_random_shapes(300);
}
TEST_CASE("The same on ten thousand", "[.deep]") { check_random_shapes(10'000); }

TEST_CASE("A row has the same bits alone and in any batch, on every format") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const int rows = 134, cols = 580, many = 160;
  const auto w = random_floats(random, rows * cols), norm = random_floats(random, cols);
  const auto x = random_floats(random, size(many) * cols);
  for (const MatrixFormat format : formats()) {
    for (bool gated : {false, true}) {
      const int columns = gated ? rows / 2 : rows;
      std::vector<float> whole;
      std::string isa;
      for (const OpTarget& target : targets({1, 3})) {
        INFO(target.name << ", " << name_of(format) << ", gated " << gated);
        OpRunner run(target);
        const auto packed = run.pack(w, rows, cols, gated ? Form::gated : Form::plain, format);
        const DeviceTensor norm_there = run.put({cols}, norm);
        const auto compute = [&](int first, int count) {
          const std::vector<float> part(x.begin() + first * cols,
                                        x.begin() + (first + count) * cols);
          const DeviceTensor x_there = run.put({count, cols}, part);
          const DeviceTensor out = run.make({count, columns});
          MatmulOptions options;
          options.norm = norm_there;
          options.norm_epsilon = 1e-6f;
          run.queue().matmul(x_there, *packed, out, options);
          return run.get(out);
        };
        const std::string now(run.backend().isa());
        if (isa != now) {
          isa = now;
          whole = compute(0, many);
        }
        for (int count : {1, 2, 5, 6, 7, 13, 36, 49, 97, 150}) {
          const int first = (many - count) * (count % 4) / 3 % (many - count + 1);
          const auto part = compute(first, count);
          INFO("rows " << first << " and " << count - 1 << " after it");
          CHECK(same_bits(part.data(), &whole[size(first * columns)], part.size()));
        }
      }
    }
  }
}

TEST_CASE("Integer sums are exact: i8 gives the same bits on every instruction set") {
  std::mt19937 random(fresh_seed());
  const int rows = 100, cols = 3000, tokens = 9;
  auto w = random_floats(random, rows * cols), x = random_floats(random, tokens * cols);
  // The extremes, so that anything that saturates on the way shows.
  for (int k = 0; k < cols; ++k) {
    w[size(k)] = k % 2 == 0 ? 1.0f : -1.0f;
    w[size(cols + k)] = 1.0f;
    x[size(k)] = k % 2 == 0 ? 1.0f : -1.0f;
    x[size(cols + k)] = -1.0f;
    x[size(2 * cols + k)] = 1.0f;
  }
  std::vector<float> first;
  for (const OpTarget& target : targets({1})) {
    INFO(target.name);
    OpRunner run(target);
    const auto packed = run.pack(w, rows, cols, Form::plain, DType::i8);
    const DeviceTensor x_there = run.put({tokens, cols}, x);
    const DeviceTensor out = run.make({tokens, rows});
    run.queue().matmul(x_there, *packed, out, {});
    const auto got = run.get(out);
    if (first.empty()) first = got;
    CHECK(same_bits(got.data(), first.data(), got.size()));
    CHECK(got[0] == Approx(double(cols)));
    CHECK(got[size(rows) + 1] == Approx(-double(cols)));
    CHECK(got[2 * size(rows) + 1] == Approx(double(cols)));
  }
}

TEST_CASE("What is wrong with a row stays there, and a row of zeros is zero") {
  constexpr float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()};
  std::mt19937 random(8);
  const int rows = 70, cols = 130, tokens = 9;
  const auto w = random_floats(random, rows * cols), norm = random_floats(random, cols);
  for (const OpTarget& target : targets({1, 2})) {
    for (const MatrixFormat format : formats()) {
      for (bool with_norm : {false, true}) {
        OpRunner run(target);
        const auto packed = run.pack(w, rows, cols, Form::plain, format);
        const DeviceTensor norm_there = run.put({cols}, norm);
        const auto compute = [&](const std::vector<float>& x) {
          const DeviceTensor x_there = run.put({tokens, cols}, x);
          const DeviceTensor out = run.make({tokens, rows});
          MatmulOptions options;
          if (with_norm) options.norm = norm_there;
          options.norm_epsilon = 1e-6f;
          run.queue().matmul(x_there, *packed, out, options);
          return run.get(out);
        };
        auto x = random_floats(random, tokens * cols);
        for (int k = 0; k < cols; ++k) x[size(7 * cols + k)] = 0.0f;
        const auto clean = compute(x);
        for (float bad : kBad) {
          INFO(target.name << ", " << name_of(format) << ", norm " << with_norm << ", " << bad);
          auto spoiled = x;
          spoiled[size(4 * cols + random_int(random, 0, cols - 1))] = bad;
          const auto got = compute(spoiled);
          for (int t = 0; t < tokens; ++t) {
            if (t == 4) {
              bool finite = false;
              for (int j = 0; j < rows; ++j) finite |= std::isfinite(got[size(t * rows + j)]);
              CHECK_FALSE(finite);
            } else {
              CHECK(same_bits(&got[size(t * rows)], &clean[size(t * rows)], size(rows)));
            }
          }
          for (int j = 0; j < rows; ++j) CHECK(got[size(7 * rows + j)] == 0.0f);
        }
      }
    }
  }
}

TEST_CASE("A weight that is no finite number spoils its own output, and shows there") {
  std::mt19937 random(10);
  const int rows = 70, cols = 130, tokens = 40;
  const auto w = random_floats(random, rows * cols), x = random_floats(random, tokens * cols);
  for (const OpTarget& target : targets({1})) {
    for (const MatrixFormat format : formats()) {
      OpRunner run(target);
      const auto compute = [&](const std::vector<float>& weights) {
        const auto packed = run.pack(weights, rows, cols, Form::plain, format);
        const DeviceTensor x_there = run.put({tokens, cols}, x);
        const DeviceTensor out = run.make({tokens, rows});
        run.queue().matmul(x_there, *packed, out, {});
        return run.get(out);
      };
      const auto clean = compute(w);
      for (float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        INFO(target.name << ", " << name_of(format) << ", " << bad);
        auto spoiled = w;
        spoiled[size(20 * cols + 77)] = bad;
        const auto got = compute(spoiled);
        bool hidden = false, spread = false;
        for (int t = 0; t < tokens; ++t) {
          for (int j = 0; j < rows; ++j) {
            const float value = got[size(t * rows + j)];
            if (j == 20) {
              hidden |= std::isfinite(value);
            } else {
              spread |= value != clean[size(t * rows + j)];
            }
          }
        }
        CHECK_FALSE(hidden);
        CHECK_FALSE(spread);
      }
    }
  }
}

TEST_CASE("A stored matrix loads back, read or in place, and gives the same bits") {
  std::mt19937 random(9);
  const int rows = 134, cols = 201, tokens = 7;
  const auto w = random_floats(random, rows * cols), x = random_floats(random, tokens * cols);
  const auto backend = cpu_backend().value();
  OpRunner run({"", backend, 1});
  std::vector<MatrixFormat> all = formats();
  all.push_back(DType::f32);
  for (const MatrixFormat format : all) {
    for (const Form form : {Form::plain, Form::gated}) {
      INFO(name_of(format));
      const int columns = form == Form::gated ? rows / 2 : rows;
      const auto packed = run.pack(w, rows, cols, form, format, 0.03f);
      Buffer stored = Buffer::allocate(*std::pmr::new_delete_resource(), packed->bytes()).value();
      const std::span<std::byte> bytes(stored.data(), stored.size());
      REQUIRE(backend->store_packed(*packed, bytes));
      CHECK(backend->store_packed(*packed, bytes.first(bytes.size() - 1)).error().code() ==
            ErrorCode::invalid_argument);
      const auto compute = [&](const PackedMatrix& matrix) {
        const DeviceTensor x_there = run.put({tokens, cols}, x);
        const DeviceTensor out = run.make({tokens, columns});
        run.queue().matmul(x_there, matrix, out, {});
        return run.get(out);
      };
      const auto wanted = compute(*packed);
      const auto describe = [&] {
        PackedSource source;
        source.rows = rows;
        source.cols = cols;
        source.form = form;
        source.format = format;
        source.input_scale = packed->input_scale();
        return source;
      };
      PackedSource read = describe();
      read.read = [&](std::size_t offset, std::span<std::byte> out) {
        std::memcpy(out.data(), bytes.data() + offset, out.size());
        return Result<void>();
      };
      PackedSource mapped = describe();
      mapped.mapped = bytes;
      for (PackedSource* source : {&read, &mapped}) {
        const auto loaded = backend->load_packed(std::move(*source)).value();
        const auto got = compute(*loaded);
        CHECK(same_bits(got.data(), wanted.data(), wanted.size()));
      }
      PackedSource wrong = describe();
      wrong.mapped = bytes.first(bytes.size() - 64);
      CHECK(backend->load_packed(std::move(wrong)).error().code() == ErrorCode::invalid_argument);
      PackedSource crooked = describe();
      crooked.mapped = std::span<const std::byte>(stored.data() + 4, bytes.size());
      CHECK(backend->load_packed(std::move(crooked)).error().code() == ErrorCode::invalid_argument);
      CHECK(backend->load_packed(describe()).error().code() == ErrorCode::invalid_argument);
    }
  }
}
