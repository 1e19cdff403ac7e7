// Promise 3 of the design: a row's result is bitwise the same alone or in any batch, with any
// number of threads, however its prompt was chunked and its pages lie; and what is wrong with one
// row stays there. Checked on each instruction set.
#include <cstring>
#include <limits>
#include <numeric>

#include "ops/op_cases.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}
std::vector<float> rows_of(const std::vector<float>& x, int first, int count, int columns) {
  return {x.begin() + first * columns, x.begin() + (first + count) * columns};
}
std::vector<OpTarget> targets() {
  std::vector<OpTarget> all;
  for (const auto& backend : cpu_backends()) {
    for (int threads : {1, 2, 3})
      all.push_back({std::string(backend->isa()) + ", " + std::to_string(threads) + " threads",
                     backend, threads});
  }
  return all;
}

constexpr int kRows = 64;

/// `prepare(runner)` gives a function that computes `count` rows. It is called with all rows at
/// once on one thread, then with each row alone, and in batches of 2 … 64 at changing places, on
/// any number of threads.
template <class Prepare>
void check_rows(const std::vector<float>& x, int columns, int out_columns, const Prepare& prepare) {
  std::vector<float> whole;
  std::string isa;
  for (const OpTarget& target : targets()) {
    OpRunner run(target);
    const auto compute = prepare(run);
    if (isa != run.backend().isa()) {  // one thread, and the first of its instruction set
      isa = run.backend().isa();
      whole = compute(x, kRows);
    }
    for (int count = 1; count <= kRows; ++count) {
      const int first = (kRows - count) * (count % 3) / 2;
      const auto part = compute(rows_of(x, first, count, columns), count);
      INFO(target.name << ": rows " << first << " and " << count - 1 << " after it");
      CHECK(same_bits(part, rows_of(whole, first, count, out_columns)));
    }
    for (int row = 0; row < kRows; ++row) {
      INFO(target.name << ": row " << row << " alone");
      CHECK(
          same_bits(compute(rows_of(x, row, 1, columns), 1), rows_of(whole, row, 1, out_columns)));
    }
  }
}

}  // namespace

TEST_CASE("A row of a matmul has the same bits alone and in any batch") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const int cols = 300, rows = 150;
  const auto w = random_floats(random, rows * cols), bias = random_floats(random, rows);
  const auto x = random_floats(random, kRows * cols);
  for (bool gated : {false, true}) {
    const int columns = gated ? rows / 2 : rows;
    check_rows(x, cols, columns, [&](OpRunner& run) {
      std::shared_ptr<const PackedMatrix> packed =
          run.pack(w, rows, cols, gated ? PackedMatrix::Form::gated : PackedMatrix::Form::plain);
      return [&, packed, columns, gated](const std::vector<float>& part, int count) {
        const DeviceTensor x_there = run.put({count, cols}, part);
        const DeviceTensor bias_there = run.put({rows}, bias);
        const std::vector<float> before(static_cast<std::size_t>(count * columns), 0.5f);
        const DeviceTensor out = run.put({count, columns}, before);
        MatmulOptions options;
        options.bias = bias_there;
        options.accumulate = !gated;
        run.queue().matmul(x_there, *packed, out, options);
        return run.get(out);
      };
    });
  }
}

TEST_CASE("A row of a matmul has the same bits in a batch of several chunks") {
  std::mt19937 random(3);
  const int cols = 70, rows = 70, many = 300;
  const auto w = random_floats(random, rows * cols);
  const auto x = random_floats(random, many * cols);
  for (const OpTarget& target : targets()) {
    OpRunner run(target);
    const auto packed = run.pack(w, rows, cols);
    const auto compute = [&](const std::vector<float>& part, int count) {
      const DeviceTensor x_there = run.put({count, cols}, part);
      const DeviceTensor out = run.make({count, rows});
      run.queue().matmul(x_there, *packed, out, {});
      return run.get(out);
    };
    const auto whole = compute(x, many);
    INFO(target.name);
    for (int row = 0; row < many; row += 7)
      CHECK(same_bits(compute(rows_of(x, row, 1, cols), 1), rows_of(whole, row, 1, rows)));
  }
}

TEST_CASE("A row of a norm has the same bits alone and in any batch") {
  std::mt19937 random(4);
  const int d = 333;
  const auto weight = random_floats(random, d), x = random_floats(random, kRows * d);
  check_rows(x, d, d, [&](OpRunner& run) {
    return [&](const std::vector<float>& part, int count) {
      const DeviceTensor x_there = run.put({count, d}, part);
      const DeviceTensor weight_there = run.put({d}, weight);
      const DeviceTensor out = run.make({count, d});
      run.queue().rms_norm(x_there, weight_there, 1e-6f, out);
      return run.get(out);
    };
  });
}

TEST_CASE("A sequence's attention has the same bits alone, batched, chunked, and on any pages") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  const DType kv = GENERATE(DType::f32, DType::f16, DType::i8);
  AttentionCase c{6, 2, 40, 16, {1, 17, 64, 131, 200, 33, 90}, {}, kv};
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6};
  const std::vector<int> one_by_one(200, 1);
  AttentionData data(c, seed);
  for (const auto& backend : cpu_backends()) {
    const OpTarget plain{std::string(backend->isa()), backend, 1};
    data.shape.page_tokens = 16;
    const auto whole = run_attention(plain, data, all, {}, 1);
    const auto check = [&](int threads, const std::vector<int>& members,
                           const std::vector<int>& cuts, unsigned page_seed) {
      OpTarget target = plain;
      target.threads = threads;
      const auto got = run_attention(target, data, members, cuts, page_seed);
      for (std::size_t i = 0; i < members.size(); ++i) {
        INFO(target.name << ", kv " << to_string(kv) << ", " << threads << " threads: sequence "
                         << members[i] << " of " << members.size() << ", " << cuts.size()
                         << " cuts, pages of " << data.shape.page_tokens);
        CHECK(same_bits(got[i], whole[static_cast<std::size_t>(members[i])]));
      }
    };
    for (int threads : {1, 2, 3}) {
      for (int page_tokens : {16, 48, 64}) {
        data.shape.page_tokens = page_tokens;
        check(threads, all, {}, 7);
        check(threads, all, {64, 64}, 8);
        check(threads, all, {5, 1, 58, 3}, 9);
        check(threads, {6, 4, 3}, {33}, 10);
        for (int s : all) check(threads, {s}, {}, 11);
      }
      data.shape.page_tokens = 32;
      check(threads, all, one_by_one, 12);  // decode all the way
      check(threads, {4}, one_by_one, 13);
    }
  }
}

TEST_CASE("Attention whose segments several threads share has the bits of one thread's") {
  // A group of 1, 5 and 13 heads: one tile, one tile of another width, several tiles.
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const DType kv = GENERATE(DType::f32, DType::f16, DType::i8);
  for (int group : {1, 5, 13}) {
    const int heads = group == 1 ? 3 : 1;  // pieces that 2 threads cannot share evenly
    const AttentionCase c{
        heads * group, heads, 18, 32, {random_int(random, 1030, 1200), 700}, {}, kv};
    const AttentionData data(c, seed);
    for (const auto& backend : cpu_backends()) {
      const OpTarget alone{std::string(backend->isa()), backend, 1};
      const auto whole = run_attention(alone, data, {0, 1}, {}, 1);
      for (int threads : {2, 3}) {
        OpTarget shared = alone;
        shared.threads = threads;
        const std::vector<int> cuts = {1020, 4, 1, 1};
        const auto got = run_attention(shared, data, {0, 1}, cuts, 2);
        INFO(alone.name << ", kv " << to_string(kv) << ", " << threads << " threads, group of "
                        << group);
        CHECK(same_bits(got[0], whole[0]));
        CHECK(same_bits(got[1], whole[1]));
      }
    }
  }
}

TEST_CASE(
    "Prompts in pieces of any size, for any number of threads, have the bits of one thread's") {
  const unsigned seed = fresh_seed();
  INFO("seed " << seed);
  const DType kv = GENERATE(DType::f32, DType::f16, DType::i8);
  for (int group : {1, 7, 30}) {
    const AttentionCase c{group, 1, 18, 16, {190, 45, 1}, {}, kv};
    const AttentionData data(c, seed);
    for (const auto& backend : cpu_backends()) {
      const OpTarget alone{std::string(backend->isa()), backend, 1};
      const auto whole = run_attention(alone, data, {0, 1, 2}, {}, 1);
      for (int threads : {2, 5, 16}) {
        OpTarget shared = alone;
        shared.threads = threads;
        const auto got = run_attention(shared, data, {0, 1, 2}, {}, 2);
        INFO(alone.name << ", kv " << to_string(kv) << ", " << threads << " threads, group of "
                        << group);
        for (std::size_t s = 0; s < got.size(); ++s) CHECK(same_bits(got[s], whole[s]));
      }
    }
  }
}

TEST_CASE("What is not a number in one row stays in that row") {
  std::mt19937 random(5);
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int cols = 100, rows = 70, count = 13;
  const auto w = random_floats(random, rows * cols), norm = random_floats(random, cols);
  const auto x = random_floats(random, count * cols);
  for (const OpTarget& target : targets()) {
    for (float bad : {nan, infinity, -infinity}) {
      INFO(target.name << ", " << bad);
      auto spoilt = x;
      for (int i = 0; i < cols; ++i) spoilt[static_cast<std::size_t>(4 * cols + i)] = bad;
      OpRunner run(target);
      const auto plain = run.pack(w, rows, cols);
      const auto gated = run.pack(w, rows, cols, PackedMatrix::Form::gated);
      const auto compute = [&](const std::vector<float>& values, int what) {
        const DeviceTensor there = run.put({count, cols}, values);
        const DeviceTensor weight = run.put({cols}, norm);
        const int columns = what == 0 ? rows : what == 1 ? rows / 2 : cols;
        const DeviceTensor out = run.make({count, columns});
        if (what == 2) {
          run.queue().rms_norm(there, weight, 1e-6f, out);
        } else {
          run.queue().matmul(there, what == 0 ? *plain : *gated, out, {});
        }
        auto result = run.get(out);
        result.erase(result.begin() + 4 * columns, result.begin() + 5 * columns);
        return result;
      };
      for (int what : {0, 1, 2}) CHECK(same_bits(compute(spoilt, what), compute(x, what)));
    }
  }
}

TEST_CASE("What is not a number in one token reaches no earlier token and no other sequence") {
  const float bad_value =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const DType kv = GENERATE(DType::f32, DType::f16, DType::i8);
  const AttentionCase c{4, 2, 24, 16, {100, 70}, {}, kv};
  const AttentionData good(c, 6);
  AttentionData bad = good;
  const std::size_t spoilt = 67;
  for (std::size_t i = 0; i < bad.width(); ++i) bad.qkv[0][spoilt * bad.width() + i] = bad_value;
  for (const OpTarget& target : targets()) {
    INFO(target.name);
    for (const std::vector<int>& cuts : {std::vector<int>{}, std::vector<int>{40}}) {
      const auto wanted = run_attention(target, good, {0, 1}, cuts, 1);
      const auto got = run_attention(target, bad, {0, 1}, cuts, 1);
      CHECK(same_bits(got[1], wanted[1]));
      CHECK(same_bits(got[0].data(), wanted[0].data(), spoilt * good.out_width()));
      const float later = got[0][(spoilt + 1) * good.out_width()];
      CHECK(later != later);
    }
  }
}
