// Adapters on their own: layouts of batches, round trips, limits, errors. Oracles: plain loops over
// the requests, and values worked out by hand.
#include "ciuic/batching/batch_adapter.hpp"

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/padded_adapter.hpp"
#include "ciuic/batching/text_adapter.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

using Ids = std::vector<std::int32_t>;

template <class T>
std::vector<const std::vector<T>*> pointers(const std::vector<std::vector<T>>& requests) {
  std::vector<const std::vector<T>*> out;
  for (const auto& request : requests) out.push_back(&request);
  return out;
}

std::vector<std::vector<float>> random_requests(std::mt19937& random, std::size_t width,
                                                std::size_t longest) {
  std::vector<std::vector<float>> requests(1 + random() % 9);
  for (auto& request : requests) {
    request.resize((1 + random() % longest) * width);
    for (float& x : request) x = static_cast<float>(random() % 1000) + 1;  // never the padding
  }
  return requests;
}

/// A model that gives back its input, row by row of `positions` positions.
template <class Input>
Rows<float> echo(const Input& input) {
  Rows<float> out;
  const auto to = out.resize(input.values.size() / input.width, input.width);
  std::copy(input.values.begin(), input.values.end(), to.begin());
  return out;
}

template <class T>
std::string message(const Result<T>& result) {
  return result ? "no error" : std::string(result.error().message());
}
template <class T>
ErrorCode code(const Result<T>& result) {
  return result ? ErrorCode::internal : result.error().code();
}

}  // namespace

TEST_CASE("Padded: values, mask and lengths of a batch, worked out by hand") {
  const std::vector<Ids> requests{{1, 2, 3}, {4}, {5, 6, 7, 8, 9}};
  PaddedInput<std::int32_t> in;
  SECTION("on the right, to the longest") {
    const PaddedAdapter<std::int32_t> adapter({}, {.value = -1});
    REQUIRE(adapter.pack(pointers(requests), in));
    CHECK(in.requests == 3);
    CHECK(in.rows == 3);
    CHECK(in.length == 5);
    CHECK(in.values == Ids{1, 2, 3, -1, -1, 4, -1, -1, -1, -1, 5, 6, 7, 8, 9});
    CHECK(in.mask == std::vector<std::uint8_t>{1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1});
    CHECK(in.lengths == std::vector<std::int32_t>{3, 1, 5});
    CHECK(adapter.cost(requests[0]) == 3);
  }
  SECTION("on the left, to multiples of 6 positions and 4 rows") {
    const PaddedAdapter<std::int32_t> adapter(
        {}, {.value = 0, .side = PadSide::left, .length_multiple = 6, .batch_multiple = 4});
    REQUIRE(adapter.pack(pointers(requests), in));
    CHECK(in.requests == 3);
    CHECK(in.rows == 4);
    CHECK(in.values == Ids{0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 4, 0, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0});
    CHECK(in.mask == std::vector<std::uint8_t>{0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1,
                                               0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0});
    CHECK(in.lengths == std::vector<std::int32_t>{3, 1, 5, 0});
    CHECK(adapter.cost(requests[1]) == 6);
  }
  SECTION("two features a position, a mask of 64-bit integers") {
    const PaddedAdapter<std::int32_t, float, std::int64_t> adapter({.width = 2}, {.value = 9});
    const std::vector<Ids> rows{{1, 2}, {3, 4, 5, 6}};
    PaddedInput<std::int32_t, std::int64_t> wide;
    REQUIRE(adapter.pack(pointers(rows), wide));
    CHECK(wide.length == 2);
    CHECK(wide.values == Ids{1, 2, 9, 9, 3, 4, 5, 6});
    CHECK(wide.mask == std::vector<std::int64_t>{1, 0, 1, 1});
  }
}

TEST_CASE("Bucketed: the least bucket that holds a request, padded to its length") {
  const BucketedAdapter<std::int32_t> adapter({2, 4, 8});
  CHECK(adapter.groups() == 3);
  CHECK(adapter.compatible(Ids(1)) == 0);
  CHECK(adapter.compatible(Ids(2)) == 0);
  CHECK(adapter.compatible(Ids(3)) == 1);
  CHECK(adapter.compatible(Ids(8)) == 2);
  CHECK(adapter.cost(Ids(3)) == 4);
  PaddedInput<std::int32_t> in;
  REQUIRE(adapter.pack(pointers(std::vector<Ids>{{1, 2, 3}, {4, 5, 6}}), in));
  CHECK(in.values == Ids{1, 2, 3, 0, 4, 5, 6, 0});
}

TEST_CASE("Packed: values, cumulative lengths and positions of a batch, worked out by hand") {
  const PackedAdapter<std::int32_t> adapter({.width = 2});
  const std::vector<Ids> requests{{1, 2, 3, 4}, {5, 6}, {7, 8, 9, 10, 11, 12}};
  PackedInput<std::int32_t> in;
  REQUIRE(adapter.pack(pointers(requests), in));
  CHECK(in.values == Ids{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  CHECK(in.cu_seqlens == std::vector<std::int32_t>{0, 2, 3, 6});
  CHECK(in.positions == std::vector<std::int32_t>{0, 1, 0, 0, 1, 2});
  CHECK(in.max_length == 3);
  CHECK(in.sequence(1).front() == 5);
  CHECK(in.sequence(1).size() == 2);
  CHECK(adapter.cost(requests[2]) == 3);
}

TEST_CASE("What goes in comes out again, for random shapes, one batch after the other") {
  std::mt19937 random(7);
  PaddedInput<float> rectangle;  // used again, so that what an earlier batch left would show
  PackedInput<float> packed;
  for (int round = 0; round < 300; ++round) {
    const std::size_t width = 1 + random() % 4;
    const SequenceOptions each{.width = width, .output = OutputPer::position};
    const auto requests = random_requests(random, width, 20);
    const auto items = pointers(requests);
    const PaddingOptions<float> padding{.value = 0.0f,
                                        .side = random() % 2 == 0 ? PadSide::left : PadSide::right,
                                        .length_multiple = 1 + random() % 5,
                                        .batch_multiple = 1 + random() % 5};
    const auto check = [&](const auto& adapter, auto& input) {
      REQUIRE(adapter.pack(items, input));
      const Rows<float> out = echo(input);
      for (std::size_t i = 0; i < items.size(); ++i) {
        const auto answer = adapter.unpack(input, out, i);
        REQUIRE(answer);
        REQUIRE(std::vector<float>(answer->values().begin(), answer->values().end()) ==
                requests[i]);
        REQUIRE(answer->width() == width);
      }
    };
    const auto check_rectangle = [&](std::size_t multiple) {
      REQUIRE(rectangle.length % multiple == 0);
      REQUIRE(rectangle.rows % padding.batch_multiple == 0);
      std::size_t real = 0, cells = 0;
      for (const auto& request : requests) real += request.size() / width;
      for (std::size_t cell = 0; cell < rectangle.mask.size(); ++cell) {
        cells += rectangle.mask[cell];
        REQUIRE((rectangle.values[cell * width] != 0.0f) == (rectangle.mask[cell] == 1));
      }
      REQUIRE(cells == real);
      REQUIRE(rectangle.mask.size() == rectangle.rows * rectangle.length);
    };
    check(PaddedAdapter<float>(each, padding), rectangle);
    check_rectangle(padding.length_multiple);
    check(BucketedAdapter<float>({20 * padding.length_multiple}, each, padding), rectangle);
    check_rectangle(20 * padding.length_multiple);
    check(PackedAdapter<float>(each), packed);
    REQUIRE(packed.values.size() == static_cast<std::size_t>(packed.cu_seqlens.back()) * width);
  }
}

TEST_CASE("With one row for each request, the rows of padding belong to nobody") {
  const PaddedAdapter<float> adapter({}, {.batch_multiple = 4});
  const std::vector<std::vector<float>> requests{{1, 1}, {2}};
  PaddedInput<float> in;
  REQUIRE(adapter.pack(pointers(requests), in));
  Rows<float> out;
  const auto to = out.resize(4, 2);
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(i);
  const auto second = adapter.unpack(in, out, 1);
  REQUIRE(second);
  CHECK(*second == Rows<float>(std::vector<float>{2, 3}, 2));
}

TEST_CASE("A smaller batch after a larger one takes no memory") {
  const std::vector<Ids> large{Ids(40), Ids(30)}, small{Ids(7), Ids(9)};
  PaddedInput<std::int32_t> rectangle;
  PackedInput<std::int32_t> packed;
  const PaddedAdapter<std::int32_t> padder;
  const PackedAdapter<std::int32_t> packer;
  REQUIRE(padder.pack(pointers(large), rectangle));
  REQUIRE(packer.pack(pointers(large), packed));
  const void* const before[] = {rectangle.values.data(), packed.values.data(),
                                packed.cu_seqlens.data()};
  REQUIRE(padder.pack(pointers(small), rectangle));
  REQUIRE(packer.pack(pointers(small), packed));
  CHECK(rectangle.values.data() == before[0]);
  CHECK(packed.values.data() == before[1]);
  CHECK(packed.cu_seqlens.data() == before[2]);
}

TEST_CASE("A request is refused or cut at the longest piece that fits model and batch") {
  const Ids item{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto lengths = [](const std::vector<Ids>& pieces) {
    std::vector<std::size_t> out;
    for (const Ids& piece : pieces) out.push_back(piece.size());
    return out;
  };
  using Lengths = std::vector<std::size_t>;
  const SequenceOptions cut{.max_length = 8, .long_requests = LongRequests::split};
  SECTION("padded: a multiple of the alignment") {
    const PaddedAdapter<std::int32_t> adapter(cut, {.length_multiple = 4});
    CHECK(adapter.pieces(item, 100).value() == 2);
    CHECK(lengths(adapter.split(item, 100)) == Lengths{8, 2});
    CHECK(lengths(adapter.split(item, 7)) == Lengths{4, 4, 2});
    CHECK(adapter.pieces(Ids(8), 8).value() == 1);
    CHECK(code(adapter.pieces(item, 3)) == ErrorCode::oversize);  // no piece can be so small
  }
  SECTION("bucketed: a bucket") {
    const BucketedAdapter<std::int32_t> adapter({2, 5, 9}, {.long_requests = LongRequests::split});
    CHECK(lengths(adapter.split(item, 100)) == Lengths{9, 1});
    CHECK(lengths(adapter.split(item, 8)) == Lengths{5, 5});
    CHECK(adapter.pieces(item, 4).value() == 5);
    CHECK(code(adapter.pieces(item, 1)) == ErrorCode::oversize);
  }
  SECTION("packed: any length; features stay together, nothing is lost, order is kept") {
    const PackedAdapter<std::int32_t> adapter(
        {.width = 2, .max_length = 2, .long_requests = LongRequests::split});
    CHECK(adapter.split(item, 100) == std::vector<Ids>{{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}});
  }
  SECTION("refused, unless splitting is asked for") {
    const PackedAdapter<std::int32_t> adapter({.max_length = 8});
    CHECK(message(adapter.pieces(item, 100)) == "request: wanted at most 8 positions, got 10");
    CHECK(code(adapter.pieces(item, 100)) == ErrorCode::oversize);
    CHECK(code(adapter.pieces(Ids(8), 7)) == ErrorCode::oversize);
  }
}

TEST_CASE("Answers of pieces are merged in their order, or refused when they differ in width") {
  const PackedAdapter<std::int32_t, int> adapter;
  std::vector<Rows<int>> answers{Rows<int>(std::vector{1, 2, 3, 4}, 2),
                                 Rows<int>(std::vector{5, 6}, 2)};
  CHECK(adapter.merge(answers).value() == Rows<int>(std::vector{1, 2, 3, 4, 5, 6}, 2));
  answers.push_back(Rows<int>(std::vector{7}, 1));
  CHECK(code(adapter.merge(answers)) == ErrorCode::contract_violation);
}

TEST_CASE("Errors say what, where, wanted and got") {
  const PaddedAdapter<std::int32_t> features({.width = 8});
  CHECK(message(features.prepare({})) == "request: wanted at least 1 position, got none");
  CHECK(message(features.prepare(Ids(13))) ==
        "request: wanted a multiple of width 8 elements, got 13");
  CHECK(features.prepare(Ids(16)).value() == Ids(16));

  const PaddedAdapter<std::int32_t> adapter({.output = OutputPer::position});
  PaddedInput<std::int32_t> in;
  REQUIRE(adapter.pack(pointers(std::vector<Ids>{Ids(3), Ids(2)}), in));
  Rows<float> out;
  out.resize(5, 4);
  CHECK(message(adapter.unpack(in, out, 0)) ==
        "model output: wanted 6 rows, one for each position, got 5");
  CHECK(code(adapter.unpack(in, out, 0)) == ErrorCode::contract_violation);
  CHECK(code(adapter.unpack(in, Rows<float>(), 1)) == ErrorCode::contract_violation);
  const std::vector<float> some(27);
  CHECK(message(adapter.unpack(in, Rows<float>(some, 4), 0)) ==  // six rows, and three elements
        "model output: wanted whole rows of width 4, got 27 elements");
  CHECK(code(adapter.unpack(in, Rows<float>(some, 0), 0)) == ErrorCode::contract_violation);

  using Padded = PaddedAdapter<std::int32_t>;
  using Bucketed = BucketedAdapter<std::int32_t>;
  CHECK(message(Padded({.width = 0}).validate()) == "width: wanted at least 1, got 0");
  CHECK(message(Padded({}, {.length_multiple = 0}).validate()) ==
        "length_multiple: wanted at least 1, got 0");
  CHECK(message(Padded({}, {.batch_multiple = 0}).validate()) ==
        "batch_multiple: wanted at least 1, got 0");
  CHECK(message(Padded({.max_length = 100}, {.length_multiple = 8}).validate()) ==
        "max_length: wanted a multiple of length_multiple 8, got 100");
  CHECK(message(Padded({}, {.length_multiple = 8}).validate(7)) ==
        "max_batch_cost: wanted at least length_multiple, 8, got 7");
  CHECK(Padded({}, {.length_multiple = 8}).validate(8));
  CHECK(message(Bucketed({5, 9}).validate(4)) ==
        "max_batch_cost: wanted at least lengths[0], 5, got 4");
  CHECK(Bucketed({5, 9}).validate(5));
  CHECK(message(Bucketed({}).validate()) == "lengths: wanted 1 to 256 buckets, got 0");
  CHECK(message(Bucketed({8, 8}).validate()) ==
        "lengths[1]: wanted more than 8 and a multiple of length_multiple 1, got 8");
  CHECK(message(Bucketed({8, 12}, {}, {.length_multiple = 8}).validate()) ==
        "lengths[1]: wanted more than 8 and a multiple of length_multiple 8, got 12");
  CHECK(Bucketed({8, 16}, {}, {.length_multiple = 8}).validate());
  CHECK(code(PackedAdapter<std::int32_t>({.width = 0}).validate()) == ErrorCode::invalid_argument);
}

TEST_CASE("A batch whose elements cannot be counted is refused before memory is taken") {
  const PaddedAdapter<std::int32_t> adapter(
      {}, {.length_multiple = std::size_t{1} << 62, .batch_multiple = 8});
  PaddedInput<std::int32_t> in;
  CHECK(code(adapter.pack(pointers(std::vector<Ids>{Ids(1)}), in)) == ErrorCode::oversize);
}

namespace {

/// Words are numbered by their length: a tokenizer that knows nothing of ciuic's.
std::vector<long> word_lengths(std::string_view text) {
  std::vector<long> ids;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    ids.push_back(static_cast<long>(end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return ids;
}

struct Bytes {
  Result<std::vector<std::int32_t>> encode(std::string_view text) const {
    if (text == "bad") return Error(ErrorCode::unsupported, "no id for it");
    return std::vector<std::int32_t>(text.begin(), text.end());
  }
};

}  // namespace

TEST_CASE("Text: any tokenizer, by call or by encode(), with a Result or without") {
  static_assert(TextTokenizer<decltype(&word_lengths)>);
  static_assert(TextTokenizer<Bytes>);
  static_assert(!TextTokenizer<int>);
  const TextAdapter words(PackedAdapter<std::int32_t>(), &word_lengths);
  static_assert(SplittingAdapter<decltype(words)>);
  CHECK(words.prepare("the best batcher").value() == Ids{3, 4, 7});
  CHECK(words.cost({3, 4, 7}) == 3);

  const TextAdapter bytes(BucketedAdapter<std::int32_t>({4, 8}), Bytes());
  CHECK(bytes.prepare("abc").value() == Ids{97, 98, 99});
  CHECK(message(bytes.prepare("bad")) == "text: no id for it");
  CHECK(code(bytes.prepare("bad")) == ErrorCode::unsupported);
  CHECK(code(bytes.prepare("")) == ErrorCode::invalid_argument);

  const TextAdapter narrow(PackedAdapter<std::uint8_t>(), [](std::string_view text) {
    return std::vector<int>{1, -static_cast<int>(text.size())};
  });
  CHECK(message(narrow.prepare("xy")) == "text: wanted ids of 8 bits, got -2");
}
