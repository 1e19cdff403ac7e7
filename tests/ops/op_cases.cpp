#include "ops/op_cases.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/op_reference.hpp"

namespace ciuic::testing {
namespace {

std::size_t size(int n) { return static_cast<std::size_t>(n); }

/// A product or sum of floats, rounded to f32 wherever this is compiled.
float rounded(float x) {
  volatile float result = x;
  return result;
}

/// Replaces x, keys or values of one position and head, by what a cache of `kv` gives back of it.
void keep_as(DType kv, std::span<float> x) {
  if (kv == DType::f16) {
    for (float& value : x) value = f16::from_float(value).to_float();
  }
  if (kv == DType::i8) {
    float largest = 0.0f;
    for (float value : x) largest = std::max(largest, std::fabs(value));
    const float factor = largest / 127.0f, inverse = 127.0f / largest;
    for (float& value : x) value = std::nearbyint(rounded(value * inverse)) * factor;
  }
}

/// Compares element by element; a failure names the worst of them.
void check_close(const std::vector<float>& got, const std::vector<Expected>& wanted,
                 std::size_t columns) {
  REQUIRE(got.size() == wanted.size());
  if (got.empty()) return;
  const std::size_t worst = worst_of(got, wanted);
  INFO("worst at row " << worst / columns << ", column " << worst % columns << ": wanted "
                       << wanted[worst].value << " +- " << wanted[worst].tolerance << ", got "
                       << got[worst]);
  CHECK(excess(got[worst], wanted[worst]) <= 0.0);
}

}  // namespace

void check_matmul(const OpTarget& target, const MatmulCase& c, unsigned seed) {
  INFO(target.name << ": matmul tokens " << c.tokens << ", rows " << c.rows << ", cols " << c.cols
                   << ", gated " << c.gated << ", bias " << c.bias << ", accumulate "
                   << c.accumulate << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  const int columns = c.gated ? c.rows / 2 : c.rows;
  const auto x = random_floats(random, size(c.tokens) * size(c.cols));
  const auto w = random_floats(random, size(c.rows) * size(c.cols));
  const auto bias = random_floats(random, size(c.rows));
  const auto before = random_floats(random, size(c.tokens) * size(columns));

  const auto packed =
      run.pack(w, c.rows, c.cols, c.gated ? PackedMatrix::Form::gated : PackedMatrix::Form::plain);
  const DeviceTensor x_there = run.put({c.tokens, c.cols}, x);
  const DeviceTensor bias_there = run.put({c.rows}, bias);
  const DeviceTensor out = run.put({c.tokens, columns}, before);
  MatmulOptions options;
  if (c.bias) options.bias = bias_there;
  options.accumulate = c.accumulate;
  run.queue().matmul(x_there, *packed, out, options);
  const std::vector<float> got = run.get(out);

  std::vector<Expected> wanted;
  for (std::size_t t = 0; t < size(c.tokens); ++t) {
    const auto element = [&](std::size_t row) {
      Expected e = dot(&x[t * size(c.cols)], &w[row * size(c.cols)], size(c.cols));
      if (c.bias) e.value += double{bias[row]};
      e.tolerance += 2 * kEpsilon * std::fabs(e.value);
      return e;
    };
    for (std::size_t j = 0; j < size(columns); ++j) {
      Expected e = element(j);
      if (c.gated) {
        e = gated(e, element(j + size(columns)));
      } else if (c.accumulate) {
        e.value += double{before[t * size(columns) + j]};
        e.tolerance += 2 * kEpsilon * std::fabs(e.value);
      }
      wanted.push_back(e);
    }
  }
  check_close(got, wanted, size(columns));
}

void check_matmul_silu(const OpTarget& target) {
  // x = (g, 1), gate row (1, 0), value row (0, 1): the result is silu(g) and nothing else.
  INFO(target.name);
  OpRunner run(target);
  std::vector<float> x;
  for (float g = -90.0f; g <= 90.0f; g += 0.0137f) x.insert(x.end(), {g, 1.0f});
  const std::vector<float> special = {0.0f, -0.0f, 1e-30f, 3e38f, -3e38f};
  for (float g : special) x.insert(x.end(), {g, 1.0f});
  const std::int64_t tokens = static_cast<std::int64_t>(x.size() / 2);
  const std::vector<float> w = {1, 0, 0, 1};
  const auto packed = run.pack(w, 2, 2, PackedMatrix::Form::gated);
  const DeviceTensor x_there = run.put({tokens, 2}, x);
  const DeviceTensor out = run.make({tokens, 1});
  run.queue().matmul(x_there, *packed, out, {});
  const std::vector<float> got = run.get(out);
  std::vector<Expected> wanted;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double exact = silu(double{x[2 * i]});
    // exp 3 roundings' worth, add and divide half each; e^-x saturates where silu is below 1e-35.
    wanted.push_back({exact, 6 * kEpsilon * std::fabs(exact) + 1e-35});
  }
  check_close(got, wanted, 1);
}

void check_embed(const OpTarget& target, int tokens, int rows, int cols, unsigned seed) {
  INFO(target.name << ": embed tokens " << tokens << ", rows " << rows << ", cols " << cols
                   << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  const auto table = random_floats(random, size(rows) * size(cols));
  std::vector<std::int32_t> ids(size(tokens));
  for (auto& id : ids) id = random_int(random, 0, rows - 1);
  const auto packed = run.pack(table, rows, cols);
  const DeviceTensor ids_there = run.put({tokens}, ids);
  const DeviceTensor out = run.make({tokens, cols});
  run.queue().embed(*packed, ids_there, out);
  const std::vector<float> got = run.get(out);
  bool same = true;
  for (std::size_t i = 0; i < got.size(); ++i)
    same = same && got[i] == table[size(ids[i / size(cols)]) * size(cols) + i % size(cols)];
  CHECK(same);
}

void check_rms_norm(const OpTarget& target, int tokens, int d, unsigned seed) {
  INFO(target.name << ": rms_norm tokens " << tokens << ", d " << d << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  const auto x = random_floats(random, size(tokens) * size(d), 3.0f);
  const auto weight = random_floats(random, size(d));
  const float epsilon = 1e-5f;
  const DeviceTensor x_there = run.put({tokens, d}, x);
  const DeviceTensor weight_there = run.put({d}, weight);
  const DeviceTensor out = run.make({tokens, d});
  run.queue().rms_norm(x_there, weight_there, epsilon, out);
  const std::vector<float> got = run.get(out);
  std::vector<Expected> wanted;
  for (std::size_t t = 0; t < size(tokens); ++t) {
    double squares = 0.0;
    for (std::size_t i = 0; i < size(d); ++i) squares += std::pow(double{x[t * size(d) + i]}, 2);
    const double scale = 1.0 / std::sqrt(squares / d + double{epsilon});
    for (std::size_t i = 0; i < size(d); ++i) {
      const double value = double{x[t * size(d) + i]} * scale * double{weight[i]};
      // A relative error e of the sum becomes e/2 under the root; d terms, all of one sign.
      wanted.push_back({value, (d + 10) * kEpsilon * std::fabs(value)});
    }
  }
  check_close(got, wanted, size(d));
}

void check_rope_table(const OpTarget& target, int tokens, int half, unsigned seed) {
  INFO(target.name << ": rope_table tokens " << tokens << ", half " << half << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  std::vector<std::int32_t> positions(size(tokens));
  for (auto& position : positions) position = random_int(random, 0, 131071);
  std::vector<float> frequencies(size(half));
  for (std::size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = static_cast<float>(std::pow(1e4, -static_cast<double>(i) / half));
  const float factor = 1.25f;
  const DeviceTensor positions_there = run.put({tokens}, positions);
  const DeviceTensor frequencies_there = run.put({half}, frequencies);
  const DeviceTensor table = run.make({tokens, 2, half});
  run.queue().rope_table(positions_there, frequencies_there, factor, table);
  const std::vector<float> got = run.get(table);
  std::vector<Expected> wanted;
  for (std::int32_t position : positions) {
    for (int kind = 0; kind < 2; ++kind) {
      for (float frequency : frequencies) {
        // The angle is the rounded f32 product by definition; one ulp of cosf, one of the product.
        const double angle = double{static_cast<float>(position) * frequency};
        const double value = (kind == 0 ? std::cos(angle) : std::sin(angle)) * double{factor};
        wanted.push_back({value, 4 * kEpsilon * std::fabs(value)});
      }
    }
  }
  check_close(got, wanted, size(half));
}

void check_gather_rows(const OpTarget& target, int tokens, int d, unsigned seed) {
  INFO(target.name << ": gather_rows tokens " << tokens << ", d " << d << ", seed " << seed);
  std::mt19937 random(seed);
  OpRunner run(target);
  const auto x = random_floats(random, size(tokens) * size(d));
  std::vector<std::int32_t> indices(size(random_int(random, 0, 9)));
  for (auto& index : indices) index = random_int(random, 0, tokens - 1);
  const std::int64_t count = static_cast<std::int64_t>(indices.size());
  const DeviceTensor x_there = run.put({tokens, d}, x);
  const DeviceTensor indices_there = run.put({count}, indices);
  const DeviceTensor out = run.make({count, d});
  run.queue().gather_rows(x_there, indices_there, out);
  const std::vector<float> got = run.get(out);
  bool same = true;
  for (std::size_t i = 0; i < got.size(); ++i)
    same = same && got[i] == x[size(indices[i / size(d)]) * size(d) + i % size(d)];
  CHECK(same);
}

AttentionData::AttentionData(const AttentionCase& c, unsigned seed) : shape(c) {
  std::mt19937 random(seed);
  scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  for (int i = 0; i < c.head_dim / 2; ++i)
    frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / c.head_dim)));
  for (int context : c.context) qkv.push_back(random_floats(random, size(context) * width(), 1.5f));
}

std::vector<std::vector<float>> run_attention(const OpTarget& target, const AttentionData& data,
                                              const std::vector<int>& sequences,
                                              const std::vector<int>& cuts, unsigned page_seed) {
  const AttentionCase& c = data.shape;
  OpRunner run(target);
  const int max_context = *std::max_element(c.context.begin(), c.context.end());
  const int max_pages = (max_context + c.page_tokens - 1) / c.page_tokens + 1;
  const int pages = max_pages * static_cast<int>(sequences.size()) + 1;
  std::mt19937 random(page_seed);
  std::vector<std::int32_t> free_pages(size(pages));
  std::iota(free_pages.begin(), free_pages.end(), 0);
  std::shuffle(free_pages.begin(), free_pages.end(), random);
  // Entries beyond a sequence's need are nonsense, and must never be followed.
  std::vector<std::vector<std::int32_t>> tables;
  for (int s : sequences) {
    tables.emplace_back(size(max_pages), -12345);
    for (int p = 0; p * c.page_tokens < c.context[size(s)]; ++p) {
      tables.back()[size(p)] = free_pages.back();
      free_pages.pop_back();
    }
  }
  const std::int32_t layer = 1;
  const auto cache =
      run.backend().make_kv_cache({2, c.kv_heads, c.head_dim, c.page_tokens, pages, c.kv}).value();
  const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, data.scale};
  const DeviceTensor frequencies = run.put({c.head_dim / 2}, data.frequencies);

  std::vector<std::vector<float>> results(sequences.size());
  std::vector<int> done(sequences.size(), 0);
  for (std::size_t step = 0;; ++step) {
    const int cut = step < cuts.size() ? cuts[step] : max_context;
    std::vector<std::int32_t> positions, starts = {0}, contexts, table;
    std::vector<float> qkv;
    std::vector<std::size_t> members;
    int longest = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const int all = c.context[size(sequences[i])];
      const int count = std::min(cut, all - done[i]);
      if (count == 0) continue;
      members.push_back(i);
      for (int t = 0; t < count; ++t) positions.push_back(done[i] + t);
      const float* rows = data.qkv[size(sequences[i])].data();
      qkv.insert(qkv.end(), rows + size(done[i]) * data.width(),
                 rows + size(done[i] + count) * data.width());
      done[i] += count;
      starts.push_back(starts.back() + count);
      contexts.push_back(done[i]);
      table.insert(table.end(), tables[i].begin(), tables[i].end());
      longest = std::max(longest, count);
    }
    if (members.empty()) return results;
    const std::int32_t tokens = starts.back(), count = static_cast<std::int32_t>(members.size());
    const DeviceTensor positions_there = run.put({tokens}, positions);
    const DeviceTensor starts_there = run.put({count + 1}, starts);
    const DeviceTensor contexts_there = run.put({count}, contexts);
    const DeviceTensor tables_there = run.put({count, max_pages}, table);
    const PackedBatch batch{positions_there, starts_there, contexts_there, tables_there,
                            tokens,          count,        longest,        max_context};
    const DeviceTensor qkv_there = run.put({tokens, static_cast<std::int64_t>(data.width())}, qkv);
    const DeviceTensor rope = run.make({tokens, 2, c.head_dim / 2});
    const DeviceTensor out = run.make({tokens, static_cast<std::int64_t>(data.out_width())});
    run.queue().rope_table(positions_there, frequencies, 1.0f, rope);
    run.queue().rotate_and_store(qkv_there, rope, batch, shape, *cache, layer);
    run.queue().attention(qkv_there, batch, shape, *cache, layer, out);
    const std::vector<float> got = run.get(out);
    for (std::size_t m = 0; m < members.size(); ++m) {
      results[members[m]].insert(
          results[members[m]].end(),
          got.begin() + static_cast<std::ptrdiff_t>(size(starts[m]) * data.out_width()),
          got.begin() + static_cast<std::ptrdiff_t>(size(starts[m + 1]) * data.out_width()));
    }
  }
}

void check_attention(const OpTarget& target, const AttentionCase& c, unsigned seed) {
  INFO(target.name << ": attention heads " << c.heads << "/" << c.kv_heads << ", head_dim "
                   << c.head_dim << ", page_tokens " << c.page_tokens << ", kv " << to_string(c.kv)
                   << ", sequences " << c.context.size() << " (first " << c.context[0] << "), seed "
                   << seed);
  const AttentionData data(c, seed);
  std::vector<int> all(c.context.size());
  std::iota(all.begin(), all.end(), 0);
  const auto got = run_attention(target, data, all, c.cuts, seed + 1);

  // What rotation makes is known to the bit: each product and sum is one rounded f32 operation,
  // with the table as the device computes it. So is what a cache keeps of it.
  OpRunner run(target);
  const int longest = *std::max_element(c.context.begin(), c.context.end());
  std::vector<std::int32_t> positions(size(longest));
  std::iota(positions.begin(), positions.end(), 0);
  const DeviceTensor positions_there = run.put({longest}, positions);
  const DeviceTensor frequencies = run.put({c.head_dim / 2}, data.frequencies);
  const DeviceTensor table_there = run.make({longest, 2, c.head_dim / 2});
  run.queue().rope_table(positions_there, frequencies, 1.0f, table_there);
  const std::vector<float> table = run.get(table_there);

  const std::size_t d = size(c.head_dim), group = size(c.heads / c.kv_heads);
  for (std::size_t s = 0; s < c.context.size(); ++s) {
    const std::size_t context = size(c.context[s]);
    std::vector<float> kept = data.qkv[s];
    for (std::size_t t = 0; t < context; ++t) {
      const float* cosine = &table[t * d];
      const float* sine = cosine + d / 2;
      for (std::size_t h = 0; h < size(c.heads + 2 * c.kv_heads); ++h) {
        float* x = &kept[t * data.width() + h * d];
        for (std::size_t i = 0; h < size(c.heads + c.kv_heads) && i < d / 2; ++i) {
          const float a = x[i], b = x[i + d / 2];
          x[i] = rounded(rounded(a * cosine[i]) - rounded(b * sine[i]));
          x[i + d / 2] = rounded(rounded(b * cosine[i]) + rounded(a * sine[i]));
        }
        if (h >= size(c.heads)) keep_as(c.kv, std::span(x, d));
      }
    }
    std::vector<Expected> wanted;
    for (std::size_t t = 0; t < context; ++t) {
      for (std::size_t h = 0; h < size(c.heads); ++h) {
        const float* q = &kept[t * data.width() + h * d];
        const auto row_of = [&](std::size_t position, std::size_t what) {
          return &kept[position * data.width() + (what + h / group) * d];
        };
        std::vector<double> weights;
        double norm = 0.0;  // the largest sum of |q k| decides how well a score is known
        for (std::size_t p = 0; p <= t; ++p) {
          const float* k = row_of(p, size(c.heads));
          double score = 0.0, here = 0.0;
          for (std::size_t i = 0; i < d; ++i) {
            const double product = double{q[i]} * double{k[i]};
            score += product;
            here += std::fabs(product);
          }
          norm = std::max(norm, here);
          weights.push_back(score * double{data.scale});
        }
        const double maximum = *std::max_element(weights.begin(), weights.end());
        double sum = 0.0;
        for (double& weight : weights) sum += weight = std::exp(weight - maximum);
        // A score is a dot product of d rounded terms, rounded a few times more (the scale,
        // log2(e), a factor of i8); its weight is off by about the error of the score, of the
        // maximum, and a few roundings of the exponential. Sums of t + 1 terms of one sign, and of
        // values.
        const double relative = (2.0 * static_cast<double>(d + 6) * norm * double{data.scale} + 20 +
                                 static_cast<double>(t)) *
                                kEpsilon;
        for (std::size_t i = 0; i < d; ++i) {
          double value = 0.0, magnitude = 0.0;
          for (std::size_t p = 0; p <= t; ++p) {
            const double v = double{row_of(p, size(c.heads + c.kv_heads))[i]};
            value += weights[p] * v / sum;
            magnitude += weights[p] * std::fabs(v) / sum;
          }
          wanted.push_back({value, 2.0 * relative * magnitude});
        }
      }
    }
    check_close(got[s], wanted, data.out_width());
  }
}

void check_all_operations(const OpTarget& target, unsigned seed, int random_cases) {
  std::mt19937 random(seed);
  const auto draw = [&random] { return static_cast<unsigned>(random()); };
  const MatmulCase fixed[] = {
      {1, 64, 64, false, false, false},  {1, 1, 1, false, true, true},
      {6, 128, 256, false, true, false}, {7, 65, 257, false, true, true},
      {12, 63, 512, false, false, true}, {145, 130, 300, false, true, false},
      {2, 64, 64, true, false, false},   {13, 66, 129, true, true, false},
      {3, 2, 5, true, true, false},      {160, 200, 70, true, true, false},
      {0, 64, 64, false, false, false},
  };
  for (const MatmulCase& c : fixed) check_matmul(target, c, 1);
  for (int i = 0; i < random_cases; ++i) {
    const bool gated = random_int(random, 0, 1) == 1;
    const int rows = random_int(random, 1, 150);
    check_matmul(target,
                 {random_int(random, 1, 40), gated ? 2 * rows : rows, random_int(random, 1, 600),
                  gated, random_int(random, 0, 1) == 1, !gated && random_int(random, 0, 1) == 1},
                 draw());
    check_embed(target, random_int(random, 0, 20), random_int(random, 1, 200),
                random_int(random, 1, 100), draw());
    check_rms_norm(target, random_int(random, 0, 20), random_int(random, 1, 500), draw());
    check_rope_table(target, random_int(random, 0, 20), random_int(random, 1, 70), draw());
    check_gather_rows(target, random_int(random, 1, 20), random_int(random, 1, 70), draw());
  }
  check_matmul_silu(target);
  check_rms_norm(target, 3, 2048, 5);

  const AttentionCase attention[] = {
      {1, 1, 2, 16, {1}, {}},
      {4, 2, 64, 16, {1, 15, 16, 17, 63, 64, 65, 130}, {}},
      {8, 1, 80, 32, {70, 3}, {1, 1, 5}},
      {3, 3, 6, 48, {140}, {64, 64}},
      {2, 2, 256, 16, {33, 20}, {7}},
      {60, 1, 16, 64, {20, 70}, {50}},
      {9, 3, 34, 16, {513, 512}, {500, 9}},
  };
  const DType kinds[] = {DType::f32, DType::f16, DType::i8};
  for (AttentionCase c : attention) {
    for (DType kv : kinds) {
      c.kv = kv;
      check_attention(target, c, 2);
    }
  }
  for (int i = 0; i < 2 * random_cases; ++i) {
    AttentionCase c;
    c.kv = kinds[random_int(random, 0, 2)];
    c.kv_heads = random_int(random, 1, 3);
    c.heads = c.kv_heads * random_int(random, 1, 9);
    c.head_dim = 2 * random_int(random, 1, 40);
    c.page_tokens = 16 * random_int(random, 1, 5);
    for (int s = random_int(random, 1, 4); s > 0; --s) {
      // Anywhere, or beside a multiple of a block, of a softmax step or of a page.
      const int units[] = {1, 16, 64, c.page_tokens};
      const int unit = units[random_int(random, 0, 3)];
      const int near = unit * random_int(random, 0, 150 / unit) + random_int(random, -1, 1);
      c.context.push_back(std::max(near, 1));
    }
    for (int n = random_int(random, 0, 3); n > 0; --n) c.cuts.push_back(random_int(random, 1, 90));
    check_attention(target, c, draw());
  }
}

void check_errors(const OpTarget& target) {
  INFO(target.name);
  OpRunner run(target);
  Queue& queue = run.queue();
  const std::vector<float> values(64, 1.0f);
  const auto matrix = run.pack(values, 8, 8);
  const auto gated = run.pack(values, 8, 8, PackedMatrix::Form::gated);
  const DeviceTensor x = run.put({2, 8}, std::vector<float>(16, 1.0f));
  const DeviceTensor wrong = run.put({2, 7}, std::vector<float>(14, 1.0f));
  const DeviceTensor out = run.make({2, 8});
  const DeviceTensor half = run.make({2, 4});
  const DeviceTensor weight = run.put({8}, std::vector<float>(8, 1.0f));
  const DeviceTensor ids = run.put({2}, std::vector<std::int32_t>{7, 8});
  const DeviceTensor negative = run.put({2}, std::vector<std::int32_t>{-1, 0});
  const DeviceTensor fine = run.put({2}, std::vector<std::int32_t>{0, 1});
  run.finish();

  const auto check = [&](const std::string& message) {
    const Result<void> result = queue.synchronize();
    REQUIRE_FALSE(result);
    CHECK(result.error().code() == ErrorCode::invalid_argument);
    CHECK(std::string(result.error().message()) == message);
    CHECK(queue.synchronize());  // cleared
  };
  queue.matmul(wrong, *matrix, out, {});
  check("matmul: x: wanted f32 [2, 8], got f32 [2, 7]");
  queue.matmul(x, *matrix, half, {});
  check("matmul: out: wanted f32 [2, 8], got f32 [2, 4]");
  queue.matmul(x, *gated, out, {});
  check("matmul: out: wanted f32 [2, 4], got f32 [2, 8]");
  MatmulOptions options;
  options.bias = x;
  queue.matmul(x, *matrix, out, options);
  check("matmul: options.bias: wanted f32 [8], got f32 [2, 8]");
  options = {};
  options.accumulate = true;
  queue.matmul(x, *gated, half, options);
  check("matmul: options.accumulate: wanted false for the gated form, got true");
  queue.matmul(ids, *matrix, out, {});
  check("matmul: x: wanted rank 2, got i32 [2]");
  ConstTensorView missing = x;
  missing.data = nullptr;
  queue.matmul(missing, *matrix, out, {});
  check("matmul: x: wanted f32 [2, 8], got null");

  // Extents that agree with each other and are still none.
  const auto shaped = [](TensorView view, Shape shape) {
    view.shape = shape;
    return view;
  };
  const std::string extents = ": wanted extents of 0 or more that fit memory, got ";
  queue.matmul(shaped(x, {-1, 8}), *matrix, shaped(out, {-1, 8}), {});
  check("matmul: x" + extents + "f32 [-1, 8]");
  queue.embed(*matrix, shaped(fine, {-1}), shaped(out, {-1, 8}));
  check("embed: ids" + extents + "i32 [-1]");
  queue.rms_norm(shaped(x, {-1, 8}), weight, 1e-6f, shaped(out, {-1, 8}));
  check("rms_norm: x" + extents + "f32 [-1, 8]");
  queue.rms_norm(shaped(x, {0, -8}), shaped(weight, {-8}), 1e-6f, shaped(out, {0, -8}));
  check("rms_norm: x" + extents + "f32 [0, -8]");
  queue.rope_table(shaped(fine, {-1}), weight, 1.0f, shaped(out, {-1, 2, 8}));
  check("rope_table: positions" + extents + "i32 [-1]");
  queue.rope_table(fine, shaped(weight, {-8}), 1.0f, shaped(out, {2, 2, -8}));
  check("rope_table: frequencies" + extents + "f32 [-8]");
  const std::int64_t huge = std::int64_t{1} << 60;
  queue.rms_norm(shaped(x, {huge, 8}), weight, 1e-6f, shaped(out, {huge, 8}));
  check("rms_norm: x" + extents + "f32 [1152921504606846976, 8]");

  queue.embed(*matrix, ids, out);
  check("embed: ids: wanted rows of the table, got 8");
  queue.embed(*matrix, negative, out);
  check("embed: ids: wanted rows of the table, got -1");
  queue.embed(*matrix, weight, out);
  check("embed: ids: wanted i32 [8], got f32 [8]");
  queue.embed(*gated, fine, out);
  check("embed: table: wanted the plain form, got the gated one");
  queue.rms_norm(x, fine, 1e-6f, out);
  check("rms_norm: weight: wanted f32 [8], got i32 [2]");
  queue.rope_table(fine, weight, 1.0f, out);
  check("rope_table: table: wanted f32 [2, 2, 8], got f32 [2, 8]");
  queue.gather_rows(x, negative, out);
  check("gather_rows: indices: wanted rows of x, got -1");

  // The first failure wins, and what follows it does nothing.
  const DeviceTensor untouched = run.put({2, 8}, std::vector<float>(16, 5.0f));
  run.finish();
  queue.matmul(wrong, *matrix, out, {});
  queue.rms_norm(x, fine, 1e-6f, out);
  queue.matmul(x, *matrix, untouched, {});
  check("matmul: x: wanted f32 [2, 8], got f32 [2, 7]");
  CHECK(run.get(untouched) == std::vector<float>(16, 5.0f));

  // Attention follows numbers into memory, so each of them is looked at.
  const AttentionShape shape{2, 1, 4, 0.5f};
  const auto cache = run.backend().make_kv_cache({1, 1, 4, 16, 3}).value();
  const DeviceTensor qkv = run.put({2, 16}, std::vector<float>(32, 1.0f));
  const DeviceTensor rope = run.put({2, 2, 2}, std::vector<float>(8, 1.0f));
  struct Broken {
    std::vector<std::int32_t> positions, starts, contexts, pages;
    std::string message;
  };
  const Broken cases[] = {
      {{0, 2},
       {0, 2},
       {2},
       {0},
       "batch.positions: wanted a position below its sequence's context "
       "length, got 2"},
      {{-1, 1},
       {0, 2},
       {2},
       {0},
       "batch.positions: wanted a position below its sequence's context "
       "length, got -1"},
      {{0, 1}, {1, 2}, {2}, {0}, "batch.sequence_starts[0]: wanted 0, got 1"},
      {{0, 1}, {0, 3}, {2}, {0}, "batch.sequence_starts[sequences]: wanted batch.tokens, got 3"},
      {{0, 1},
       {0, 2},
       {17},
       {0},
       "batch.context_lengths: wanted no more than the page table holds, "
       "got 17"},
      {{0, 1}, {0, 2}, {2}, {3}, "batch.page_tables: wanted a page of the cache, got 3"},
      {{0, 1}, {0, 2}, {2}, {-1}, "batch.page_tables: wanted a page of the cache, got -1"},
  };
  for (const Broken& broken : cases) {
    const DeviceTensor positions = run.put({2}, broken.positions);
    const DeviceTensor starts = run.put({2}, broken.starts);
    const DeviceTensor contexts = run.put({1}, broken.contexts);
    const DeviceTensor pages = run.put({1, 1}, broken.pages);
    run.finish();
    const PackedBatch batch{positions, starts, contexts, pages, 2, 1, 2, 2};
    queue.rotate_and_store(qkv, rope, batch, shape, *cache, 0);
    check("rotate_and_store: " + broken.message);
    queue.attention(qkv, batch, shape, *cache, 0, out);
    check("attention: " + broken.message);
  }
  const DeviceTensor starts = run.put({2}, std::vector<std::int32_t>{0, 2});
  const DeviceTensor contexts = run.put({1}, std::vector<std::int32_t>{2});
  const DeviceTensor pages = run.put({1, 1}, std::vector<std::int32_t>{0});
  run.finish();
  const PackedBatch batch{fine, starts, contexts, pages, 2, 1, 2, 2};
  queue.attention(qkv, batch, shape, *cache, 1, out);
  check("attention: layer: wanted one that the cache has, got 1");
  queue.attention(qkv, batch, {2, 1, 6, 0.5f}, *cache, 0, out);
  check("attention: shape.head_dim: wanted the cache's, got 6");
  queue.attention(qkv, batch, {3, 2, 4, 0.5f}, *cache, 0, out);
  check("attention: shape.kv_heads: wanted the cache's, got 2");
  queue.attention(x, batch, shape, *cache, 0, out);
  check("attention: qkv: wanted f32 [2, 16], got f32 [2, 8]");
  queue.rotate_and_store(qkv, x, batch, shape, *cache, 0);
  check("rotate_and_store: table: wanted f32 [2, 2, 2], got f32 [2, 8]");
}

}  // namespace ciuic::testing
