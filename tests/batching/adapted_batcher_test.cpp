// AdaptedBatcher: raw requests in, raw answers out. Oracle: a plain function of one request.
#include "ciuic/batching/adapted_batcher.hpp"

#include <atomic>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/padded_adapter.hpp"
#include "ciuic/batching/text_adapter.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using ciuic::testing::ManualClock;

namespace {

using Features = std::vector<float>;
constexpr std::size_t kWidth = 3;

/// One head of attention over a sequence with its own rows as queries, keys and values: every
/// position's answer depends on all others, so that padding, or a neighbour, would show.
void attend(std::span<const float> rows, std::span<float> out) {
  const std::size_t length = rows.size() / kWidth;
  for (std::size_t q = 0; q < length; ++q) {
    float total = 0, sums[kWidth] = {};
    for (std::size_t k = 0; k < length; ++k) {
      float dot = 0;
      for (std::size_t d = 0; d < kWidth; ++d) dot += rows[q * kWidth + d] * rows[k * kWidth + d];
      const float weight = std::exp(dot);
      total += weight;
      for (std::size_t d = 0; d < kWidth; ++d) sums[d] += weight * rows[k * kWidth + d];
    }
    for (std::size_t d = 0; d < kWidth; ++d) out[q * kWidth + d] = sums[d] / total;
  }
}
Rows<float> attend_alone(const Features& rows) {
  Rows<float> out;
  attend(rows, out.resize(rows.size() / kWidth, kWidth));
  return out;
}
/// The same over a rectangle: where the mask is 1, wherever that is.
void attend_padded(const PaddedInput<float>& in, Rows<float>& out) {
  const auto to = out.resize(in.rows * in.length, kWidth);
  for (std::size_t row = 0; row < in.rows; ++row) {
    std::size_t first = 0;
    while (first < in.length && in.mask[row * in.length + first] == 0) ++first;
    std::size_t length = 0;
    while (first + length < in.length && in.mask[row * in.length + first + length] == 1) ++length;
    const std::size_t at = (row * in.length + first) * kWidth;
    attend(std::span(in.values).subspan(at, length * kWidth), to.subspan(at, length * kWidth));
  }
}
void attend_packed(const PackedInput<float>& in, Rows<float>& out) {
  const auto to = out.resize(in.positions.size(), kWidth);
  for (std::size_t i = 0; i < in.requests; ++i) {
    const auto at = static_cast<std::size_t>(in.cu_seqlens[i]) * kWidth;
    attend(in.sequence(i), to.subspan(at, in.sequence(i).size()));
  }
}

Features random_features(std::mt19937& random, std::size_t longest) {
  std::uniform_real_distribution<float> value(-1.0f, 1.0f);
  Features rows((1 + random() % longest) * kWidth);
  for (float& x : rows) x = value(random);
  return rows;
}

constexpr SequenceOptions kEach{.width = kWidth, .output = OutputPer::position};

/// Ids in, their double out, in any batch.
using Packed = PackedAdapter<int, int>;
void double_ids(const PackedInput<int>& in, Rows<int>& out) {
  const auto to = out.resize(in.values.size(), 1);
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = 2 * in.values[i];
}
constexpr SequenceOptions kSplitAt4{
    .max_length = 4, .output = OutputPer::position, .long_requests = LongRequests::split};
std::vector<int> values_of(const Result<Rows<int>>& answer) {
  REQUIRE(answer);
  return {answer->values().begin(), answer->values().end()};
}
template <class T>
std::string message(Future<T> future) {
  const Result<T> answer = future.get();
  return answer ? "no error" : std::string(answer.error().message());
}
template <class T>
ErrorCode code(Future<T> future) {
  const Result<T> answer = future.get();
  return answer ? ErrorCode::internal : answer.error().code();
}

}  // namespace

TEMPLATE_TEST_CASE_SIG(
    "Padded, bucketed and packed give each request what it gets alone, to the bit", "",
    ((int way), way), 0, 1, 2, 3) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    const auto run = [&](auto batcher) {
      std::mt19937 random(seed);
      std::vector<Features> requests;
      std::vector<Future<Rows<float>>> futures;
      for (int i = 0; i < 100; ++i) {
        requests.push_back(random_features(random, 12));
        futures.push_back(batcher.submit(requests.back()));
      }
      for (std::size_t i = 0; i < futures.size(); ++i) {
        const auto answer = futures[i].get();
        REQUIRE(answer);
        REQUIRE(*answer == attend_alone(requests[i]));
      }
      CHECK(batcher.stats().mean_batch() > 1.0);
    };
    const BatcherOptions options{.max_batch_size = 8, .max_queue_delay = 1ms, .workers = 2};
    const PaddingOptions<float> left{.value = 9.0f, .side = PadSide::left, .length_multiple = 5};
    if constexpr (way == 0) {
      run(AdaptedBatcher(attend_padded, PaddedAdapter<float>(kEach, {.value = 7.0f}), options));
    } else if constexpr (way == 1) {
      run(AdaptedBatcher(attend_padded, PaddedAdapter<float>(kEach, left), options));
    } else if constexpr (way == 2) {
      run(AdaptedBatcher(attend_padded, BucketedAdapter<float>({2, 4, 8, 16}, kEach), options));
    } else {
      run(AdaptedBatcher(attend_packed, PackedAdapter<float>(kEach), options));
    }
  }
}

TEST_CASE(
    "Requests of different buckets, or of different groups of the caller, never share a batch") {
  std::mt19937 random(3);
  const std::vector<std::size_t> lengths{3, 6, 12};
  std::vector<std::size_t> batches(lengths.size());
  int mixed = 0;
  AdaptedBatcher batcher(
      [&](const PaddedInput<int>& in, Rows<int>& out) {
        const auto to = out.resize(in.rows, 1);
        for (std::size_t i = 0; i < in.rows; ++i) {
          to[i] = in.values[i * in.length];  // the caller's group
          mixed += to[i] != to[0];
          const auto bucket = std::lower_bound(lengths.begin(), lengths.end(),
                                               static_cast<std::size_t>(in.lengths[i]));
          mixed += *bucket != in.length;
          ++batches[static_cast<std::size_t>(bucket - lengths.begin())];
        }
      },
      BucketedAdapter<int, int>(lengths),
      {.max_batch_size = 16, .min_batch_size = 1, .max_groups = 4, .workers = 0});
  std::vector<std::pair<std::uint16_t, Future<Rows<int>>>> futures;
  for (int i = 0; i < 500; ++i) {
    const auto group = static_cast<std::uint16_t>(random() % 4);
    futures.emplace_back(
        group, batcher.submit(std::vector<int>(1 + random() % 12, group), {.group = group}));
  }
  REQUIRE(batcher.drain());
  for (auto& [group, future] : futures) CHECK(values_of(future.get()) == std::vector<int>{group});
  CHECK(mixed == 0);
  for (const std::size_t n : batches) CHECK(n > 0);
  CHECK(batcher.stats().batches() < 60);  // and yet batches formed
}

TEST_CASE("max_batch_cost bounds what the model computes: padded, bucketed or packed") {
  std::mt19937 random(4);
  std::size_t largest = 0;
  const auto note = [&](std::size_t cells, std::size_t requests, Rows<int>& out) {
    largest = std::max(largest, cells);
    out.resize(requests, 1);
  };
  const BatcherOptions options{
      .max_batch_size = 32, .min_batch_size = 1, .max_batch_cost = 100, .workers = 0};
  const auto run = [&](auto batcher) {
    largest = 0;
    std::vector<Future<Rows<int>>> futures;
    for (int i = 0; i < 400; ++i) {
      futures.push_back(batcher.submit(std::vector<int>(1 + random() % 40)));
    }
    REQUIRE(batcher.drain());
    for (auto& future : futures) CHECK(future.get());
    CHECK(largest <= 100);
    CHECK(largest > 80);  // near the limit, so that it is the limit that held
  };
  const auto rectangle = [&](const PaddedInput<int>& in, Rows<int>& out) {
    note(in.rows * in.length, in.rows, out);
  };
  run(AdaptedBatcher(rectangle, PaddedAdapter<int, int>({}, {.length_multiple = 4}), options));
  run(AdaptedBatcher(rectangle, BucketedAdapter<int, int>({10, 20, 40}), options));
  run(AdaptedBatcher(
      [&](const PackedInput<int>& in, Rows<int>& out) { note(in.values.size(), in.requests, out); },
      PackedAdapter<int, int>(), options));
}

TEST_CASE("A policy of one's own decides beside the padded limit") {
  struct Pairs final : BatchPolicy {
    BatchDecision decide(const QueueView&) noexcept override {
      return {.dispatch = true, .max_count = 2};
    }
  };
  std::vector<std::size_t> rows;
  AdaptedBatcher batcher(
      [&](const PaddedInput<int>& in, Rows<int>& out) {
        rows.push_back(in.rows);
        out.resize(in.rows, 1);
      },
      PaddedAdapter<int, int>(), {.max_batch_cost = 17, .workers = 0}, Pairs());
  std::vector<Future<Rows<int>>> futures;
  for (const int n : {2, 2, 1, 9, 1, 1}) {
    futures.push_back(batcher.submit(std::vector<int>(static_cast<std::size_t>(n))));
  }
  REQUIRE(batcher.drain());
  CHECK(rows == std::vector<std::size_t>{2, 1, 1, 2});       // 2 2 | 1 | 9 | 1 1
  CHECK(batcher.stats().closed_by(CloseReason::cost) == 2);  // 1 and 9: together padded to 18
}

TEST_CASE("oversize request: refused at submit, by the model's length and by the batch's cost") {
  AdaptedBatcher batcher(double_ids, Packed({.max_length = 8, .output = OutputPer::position}),
                         {.max_batch_cost = 6, .workers = 0});
  CHECK(message(batcher.submit(std::vector<int>(9))) ==
        "request: wanted at most 6 positions, got 9");
  CHECK(code(batcher.submit(std::vector<int>(7))) == ErrorCode::oversize);
  Future<Rows<int>> fits = batcher.submit({1, 2, 3, 4, 5, 6});
  REQUIRE(batcher.drain());
  CHECK(values_of(fits.get()) == std::vector<int>{2, 4, 6, 8, 10, 12});
}

TEST_CASE("oversize request: split, and its answers merged in order") {
  std::size_t longest = 0, costliest = 0;
  AdaptedBatcher batcher(
      [&](const PackedInput<int>& in, Rows<int>& out) {
        longest = std::max(longest, static_cast<std::size_t>(in.max_length));
        costliest = std::max(costliest, in.values.size());
        double_ids(in, out);
      },
      Packed(kSplitAt4),
      {.max_batch_size = 3, .min_batch_size = 1, .max_batch_cost = 9, .workers = 0});
  std::vector<std::vector<int>> requests;
  std::vector<Future<Rows<int>>> futures;
  for (int n = 1; n <= 40; ++n) {
    std::vector<int> request;
    for (int i = 0; i < n; ++i) request.push_back(100 * n + i);
    requests.push_back(request);
    futures.push_back(batcher.submit(std::move(request)));
  }
  REQUIRE(batcher.drain());
  for (std::size_t r = 0; r < requests.size(); ++r) {
    std::vector<int> doubled = requests[r];
    for (int& x : doubled) x *= 2;
    CHECK(values_of(futures[r].get()) == doubled);
  }
  CHECK(longest == 4);
  CHECK(costliest <= 9);
  CHECK(batcher.stats().completed == 220);  // the sum of n / 4, rounded up
}

TEST_CASE("Split request with one answer a piece: a row a piece, in order") {
  AdaptedBatcher batcher(
      [](const PaddedInput<int>& in, Rows<int>& out) {
        const auto to = out.resize(in.rows, 1);
        for (std::size_t i = 0; i < in.rows; ++i) to[i] = in.values[i * in.length];
      },
      PaddedAdapter<int, int>({.max_length = 2, .long_requests = LongRequests::split}),
      {.workers = 0});
  Future<Rows<int>> future = batcher.submit({1, 2, 3, 4, 5});
  REQUIRE(batcher.drain());
  CHECK(values_of(future.get()) == std::vector<int>{1, 3, 5});
}

TEST_CASE("Split request: the first error is its own, and what is left of it is not computed") {
  int computed = 0;
  AdaptedBatcher batcher(
      [&](const PackedInput<int>& in, Rows<int>& out) {
        ++computed;
        if (in.values[0] == 5) throw std::runtime_error("five");
        double_ids(in, out);
      },
      Packed(kSplitAt4), {.max_batch_size = 1, .workers = 0});
  Future<Rows<int>> bad = batcher.submit({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13});
  Future<Rows<int>> mate = batcher.submit({1});
  REQUIRE(batcher.drain());
  CHECK(message(std::move(bad)) == "piece 2 of 4: model threw: five");
  CHECK(values_of(mate.get()) == std::vector<int>{2});
  CHECK(computed == 3);
  CHECK(batcher.stats().cancelled == 2);
}

TEST_CASE("Split request: given up, expired, stopped, too many; always whole, always once") {
  ManualClock clock;
  const BatcherOptions options{.max_batch_size = 8,
                               .max_queue_delay = 1h,
                               .queue_capacity = 6,
                               .workers = 0,
                               .host = {.clock = &clock}};
  AdaptedBatcher batcher(double_ids, Packed(kSplitAt4), options);
  const std::vector<int> three_pieces(12), two_pieces(8);
  SECTION("cancelled by hand, by a dropped future, by a stop token: the pieces leave the queue") {
    Future<Rows<int>> by_hand = batcher.submit(three_pieces);
    CHECK(batcher.stats().pending() == 3);
    CHECK(by_hand.cancel());
    CHECK(code(std::move(by_hand)) == ErrorCode::cancelled);
    CHECK(batcher.stats().pending() == 0);

    { const Future<Rows<int>> dropped = batcher.submit(three_pieces); }
    CHECK(batcher.stats().pending() == 0);

    std::stop_source stop;
    Future<Rows<int>> by_token = batcher.submit(three_pieces, {.stop_token = stop.get_token()});
    stop.request_stop();
    CHECK(code(std::move(by_token)) == ErrorCode::cancelled);
    CHECK(code(batcher.submit(three_pieces, {.stop_token = stop.get_token()})) ==
          ErrorCode::cancelled);
    CHECK(batcher.stats().pending() == 0);
    CHECK(batcher.stats().cancelled == 9);
  }
  SECTION("detached: it runs on") {
    batcher.submit(three_pieces).detach();
    REQUIRE(batcher.drain());
    CHECK(batcher.stats().completed == 3);
  }
  SECTION("expired: at its one deadline") {
    Future<Rows<int>> future = batcher.submit(three_pieces, {.timeout = 5ms});
    batcher.run_one(clock.advance(5ms - 1ns));
    CHECK_FALSE(future.is_ready());
    batcher.run_one(clock.advance(1ns));
    CHECK(code(std::move(future)) == ErrorCode::expired);
  }
  SECTION("refused whole when a piece is refused, and never when it could never fit") {
    Future<Rows<int>> first = batcher.submit(three_pieces);
    Future<Rows<int>> second = batcher.submit(two_pieces);
    CHECK(code(batcher.submit(two_pieces)) == ErrorCode::queue_full);
    CHECK(batcher.stats().pending() == 5);
    CHECK(message(batcher.submit(std::vector<int>(25))) ==
          "request: wanted at most queue_capacity, 6, pieces, got 7");
    CHECK(code(batcher.submit(three_pieces, {.timeout = -1ns})) == ErrorCode::invalid_argument);
    REQUIRE(batcher.drain());
    CHECK(first.get());
    CHECK(second.get());
  }
  SECTION("the batcher stops, and is destroyed, before the future is read") {
    Future<Rows<int>> future = batcher.submit(three_pieces);
    { const AdaptedBatcher<Packed> gone = std::move(batcher); }
    CHECK(code(std::move(future)) == ErrorCode::shutting_down);
    CHECK_FALSE(batcher.status());
    CHECK(code(batcher.submit({1})) == ErrorCode::invalid_argument);
  }
}

TEST_CASE("model throws, forgets rows or is misconfigured: every request hears it") {
  AdaptedBatcher forgetful(
      [](const PackedInput<int>& in, Rows<int>& out) { out.resize(in.requests - 1, 1); }, Packed(),
      {.max_batch_size = 3, .workers = 0});
  std::vector<Future<Rows<int>>> futures;
  for (int i = 0; i < 3; ++i) futures.push_back(forgetful.submit({i}));
  REQUIRE(forgetful.drain());
  for (auto& future : futures) {
    CHECK(message(std::move(future)) == "model output: wanted 3 rows, one for each request, got 2");
  }
  AdaptedBatcher failing(
      [](const PackedInput<int>&, Rows<int>&) -> Result<void> {
        return Error(ErrorCode::device_lost, "gone");
      },
      Packed(), {.workers = 0});
  Future<Rows<int>> lost = failing.submit({1});
  REQUIRE(failing.drain());
  CHECK(code(std::move(lost)) == ErrorCode::device_lost);

  CHECK(code(failing.submit({})) == ErrorCode::invalid_argument);
  AdaptedBatcher groups(double_ids, Packed(), {.max_groups = 2, .workers = 0});
  CHECK(message(groups.submit({1}, {.group = 2})) == "group: wanted below max_groups, 2, got 2");
  AdaptedBatcher zero(double_ids, Packed({.width = 0}), {.workers = 0});
  CHECK(message(zero.submit({1})) == "width: wanted at least 1, got 0");
  AdaptedBatcher none(double_ids, Packed(), {.max_batch_size = 0});
  CHECK_FALSE(none.status());
  const auto rows = [](const PaddedInput<int>& in, Rows<int>& out) { out.resize(in.rows, 1); };
  AdaptedBatcher many(rows, BucketedAdapter<int, int>({1, 2, 3}), {.max_groups = 100});
  CHECK(message(many.submit({1})) ==
        "max_groups: wanted 1 to 256 with those of the adapter, got 100 times 3");
  AdaptedBatcher none_fits(rows, PaddedAdapter<int, int>({}, {.length_multiple = 64}),
                           {.max_batch_cost = 32});
  CHECK(message(none_fits.submit({1})) ==
        "max_batch_cost: wanted at least length_multiple, 64, got 32");
}

TEST_CASE("A model that writes nothing gives no answer of an earlier batch away") {
  bool write = true;
  AdaptedBatcher batcher(
      [&](const PackedInput<int>& in, Rows<int>& out) {
        if (write) double_ids(in, out);
      },
      Packed(), {.workers = 0});
  Future<Rows<int>> first = batcher.submit({1});
  batcher.run_one();
  CHECK(values_of(first.get()) == std::vector<int>{2});
  write = false;
  Future<Rows<int>> second = batcher.submit({2});
  REQUIRE(batcher.drain());
  CHECK(message(std::move(second)) == "model output: wanted 1 rows, one for each request, got 0");
}

namespace {

/// An adapter by hand, after the sketch in batch_adapter.hpp: one number in, its square out, odd
/// and even apart. The largest promise it breaks: number 99 belongs to no group.
struct Squares {
  using Request = long;
  using Item = long;
  using Input = std::vector<long>;
  using Output = std::vector<long>;
  using Answer = long;
  Result<Item> prepare(Request x) const { return x; }
  std::uint64_t cost(const Item&) const { return 1; }
  std::size_t groups() const { return 2; }
  std::uint16_t compatible(const Item& x) const {
    return static_cast<std::uint16_t>(x == 99 ? 2 : x % 2);
  }
  Result<void> pack(std::span<const Item* const> items, Input& input) const {
    input.clear();
    for (const Item* x : items) input.push_back(*x);
    return {};
  }
  Result<Answer> unpack(const Input&, const Output& output, std::size_t i) const {
    if (i >= output.size()) return Error(ErrorCode::contract_violation, "too short");
    return output[i];
  }
};

}  // namespace

TEST_CASE("An adapter of one's own needs no splitting, and its promises are checked") {
  static_assert(BatchAdapter<Squares> && !SplittingAdapter<Squares> && !PadsToLongest<Squares>);
  bool mixed = false;
  AdaptedBatcher batcher(
      [&](const std::vector<long>& in, std::vector<long>& out) {
        for (const long x : in) {
          mixed |= x % 2 != in[0] % 2;
          out.push_back(x * x);
        }
      },
      Squares(), {.max_batch_cost = 8, .workers = 0});
  std::vector<Future<long>> futures;
  for (long x = 0; x < 20; ++x) futures.push_back(batcher.submit(x));
  CHECK(message(batcher.submit(99)) == "adapter: wanted compatible() below groups(), 2, got 2");
  REQUIRE(batcher.drain());
  for (long x = 0; x < 20; ++x) {
    CHECK(futures[static_cast<std::size_t>(x)].get().value() == x * x);
  }
  CHECK_FALSE(mixed);
}

TEST_CASE("on_failure = bisect works through an adapter: only the culprit fails") {
  AdaptedBatcher batcher(
      [](const PackedInput<int>& in, Rows<int>& out) {
        for (const int x : in.values) {
          if (x == 13) throw std::runtime_error("thirteen");
        }
        double_ids(in, out);
      },
      Packed({.output = OutputPer::position}),
      {.max_batch_size = 32, .on_failure = OnFailure::bisect, .workers = 0});
  std::vector<Future<Rows<int>>> futures;
  for (int i = 0; i < 32; ++i) futures.push_back(batcher.submit({i, i}));
  REQUIRE(batcher.drain());
  for (int i = 0; i < 32; ++i) {
    Future<Rows<int>>& future = futures[static_cast<std::size_t>(i)];
    if (i == 13) {
      CHECK(code(std::move(future)) == ErrorCode::model_failed);
    } else {
      CHECK(values_of(future.get()) == std::vector<int>{2 * i, 2 * i});
    }
  }
}

TEST_CASE("Text in, answers out; a tokenizer that throws harms its own request only") {
  const auto tokenizer = [](std::string_view text) {
    if (text.empty()) throw std::runtime_error("nothing to read");
    return std::vector<int>(text.begin(), text.end());
  };
  AdaptedBatcher batcher(double_ids,
                         TextAdapter(Packed({.output = OutputPer::position}), tokenizer),
                         {.max_queue_delay = 1ms});
  Future<Rows<int>> good = batcher.submit("ab");
  CHECK(message(batcher.submit("")) == "adapter threw: nothing to read");
  CHECK(values_of(good.get()) == std::vector<int>{2 * 'a', 2 * 'b'});
}

TEST_CASE("Many threads, split and whole, cancelled and not: each answer once, and the right one") {
  std::atomic<int> wrong{0}, answered{0};
  AdaptedBatcher batcher(double_ids, Packed(kSplitAt4),
                         {.max_batch_size = 16,
                          .min_batch_size = 4,
                          .max_queue_delay = 100us,
                          .queue_capacity = 4096,
                          .workers = 2});
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 300; ++i) {
        std::vector<int> request(1 + random() % 20, i);
        Future<Rows<int>> future = batcher.submit(request);
        if (random() % 4 == 0) {
          static_cast<void>(future.cancel());
          future = {};
          continue;
        }
        const auto check = [&, request](Result<Rows<int>> answer) {
          ++answered;
          wrong += !answer || answer->rows() != request.size() || (*answer)[0][0] != 2 * request[0];
        };
        if (random() % 2 == 0) {
          std::move(future).on_ready(check);
        } else {
          check(future.get());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(batcher.drain());
  CHECK(wrong == 0);
  CHECK(answered > 500);
  CHECK(batcher.stats().pending() == 0);
}

TEST_CASE("regression: an adapter that splits into other pieces than it said is told so") {
  struct Liar : PackedAdapter<int, float> {
    using PackedAdapter<int, float>::PackedAdapter;
    std::vector<Item> split(const Item&, std::uint64_t) const { return {}; }
  };
  AdaptedBatcher<Liar> batcher(
      [](const PackedInput<int>& in, Rows<float>& out) { out.resize(in.requests, 1); },
      Liar({.max_length = 8, .long_requests = LongRequests::split}), {.max_batch_cost = 4});
  Future<Rows<float>> future = batcher.submit({1, 2, 3, 4, 5, 6});
  CHECK(future.get().error().code() == ErrorCode::contract_violation);
}
