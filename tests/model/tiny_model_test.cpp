// The model that ships, against transformers (tests/golden/tiny/make_tiny_golden.py) and against
// arithmetic: sums it never saw.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "ciuic/ciuic.hpp"
#include "support/catch.hpp"

using namespace ciuic;

namespace {

const std::string kModel = CIUIC_SOURCE_DIR "/examples/models/ciuic-tiny";
const std::string kGolden = CIUIC_SOURCE_DIR "/tests/golden/tiny/";

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<TokenId> ids_of(const JsonValue& array) {
  std::vector<TokenId> ids;
  for (const JsonValue& id : array.items()) ids.push_back(static_cast<TokenId>(id.as_integer()));
  return ids;
}

double log_probability(std::span<const float> row, TokenId token) {
  double largest = -INFINITY, sum = 0.0;
  for (float logit : row) largest = std::max(largest, static_cast<double>(logit));
  for (float logit : row) sum += std::exp(static_cast<double>(logit) - largest);
  return static_cast<double>(row[static_cast<std::size_t>(token)]) - largest - std::log(sum);
}

}  // namespace

TEST_CASE("The shipped model says what transformers says it says, prompts and chats together") {
  const Result<JsonValue> golden = JsonValue::parse(read(kGolden + "expected.json"));
  REQUIRE(golden);
  Result<LanguageModel> model = load_model(kModel);
  REQUIRE(model);
  const ChatFormat chat = ChatFormat::load(kModel).value();
  const Tokenizer tokenizer = *model->tokenizer();
  AsyncInferenceEngine engine(*std::move(model));
  std::vector<TextStream> streams;
  const auto& cases = golden->find("greedy")->items();
  REQUIRE(cases.size() >= 12);
  for (const JsonValue& item : cases) {
    const std::string& prompt = item.find("prompt")->as_string();
    if (!item.find("chat")->as_boolean()) {
      streams.push_back(engine.generate(prompt, {.max_new_tokens = 256}));
      continue;
    }
    const ChatMessage message{"user", prompt, {}};
    const std::string text = chat.apply({&message, 1}).value();
    streams.push_back(engine.generate(
        tokenizer.encode(text, {.add_special_tokens = false, .parse_special = true}).value(),
        {.max_new_tokens = 256}));
  }
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].find("prompt")->as_string());
    const Result<Generation> answer = streams[i].finish();
    REQUIRE(answer);
    CHECK(answer->tokens == ids_of(*cases[i].find("ids")));
    CHECK(answer->text == cases[i].find("text")->as_string());
  }
}

TEST_CASE("The perplexity of held-out text is that of transformers") {
  const Result<JsonValue> golden = JsonValue::parse(read(kGolden + "expected.json"));
  REQUIRE(golden);
  const std::string text = read(kGolden + "heldout_text.txt");
  // What smaller keys and values may cost; transformers' are f32.
  const auto [kv, tolerance] = GENERATE(std::pair(DType::f32, 1e-4), std::pair(DType::f16, 2e-4),
                                        std::pair(DType::i8, 5e-3));
  Result<LanguageModel> model = load_model(kModel, {.kv = kv});
  REQUIRE(model);
  const auto vocab = static_cast<std::size_t>(model->config().vocab_size);
  double total = 0.0;
  std::size_t count = 0;
  for (const JsonValue& window : golden->find("windows")->items()) {
    const auto first = static_cast<std::size_t>(window.find("first_byte")->as_integer());
    const auto bytes = static_cast<std::size_t>(window.find("bytes")->as_integer());
    const auto tokens = model->encode(std::string_view(text).substr(first, bytes)).value();
    REQUIRE(tokens.size() == bytes + 1);  // a token is a byte, and one begins the text
    std::vector<float> logits(tokens.size() * vocab);
    REQUIRE(model->logits(tokens, logits));
    double nll = 0.0;
    for (std::size_t i = 0; i < bytes; ++i) {
      nll -= log_probability(std::span(logits).subspan(i * vocab, vocab), tokens[i + 1]);
    }
    CHECK(nll == Approx(window.find("nll")->as_number()).epsilon(tolerance));
    total += nll;
    count += bytes;
  }
  const double perplexity = std::exp(total / static_cast<double>(count));
  CHECK(perplexity == Approx(golden->find("perplexity")->as_number()).epsilon(tolerance));
  std::printf("ciuic-tiny, kv %s: perplexity of held-out text %.5f a byte, transformers %.5f\n",
              std::string(to_string(kv)).c_str(), perplexity,
              golden->find("perplexity")->as_number());
}

TEST_CASE("A model refuses to keep keys and values as what no backend has") {
  for (DType kv : {DType::bf16, DType::i4, DType::i32}) {
    const Result<LanguageModel> model = load_model(kModel, {.kv = kv});
    REQUIRE_FALSE(model);
    CHECK(model.error().code() == ErrorCode::unsupported);
    CHECK(std::string(model.error().message()) ==
          "load: options.kv: wanted f32, f16 or i8, got " + std::string(to_string(kv)));
  }
}

TEST_CASE("Smaller keys and values take fewer bytes of a page") {
  std::size_t bytes[3];
  std::size_t i = 0;
  for (DType kv : {DType::f32, DType::f16, DType::i8})
    bytes[i++] = load_model(kModel, {.kv = kv}).value().limits().page_bytes;
  CHECK(2 * bytes[1] == bytes[0]);
  CHECK(bytes[2] < bytes[1]);
  CHECK(load_model(kModel).value().limits().page_bytes == bytes[0]);
}

TEST_CASE("200 sums that training never saw, all at once") {
  Result<LanguageModel> model = load_model(kModel);
  REQUIRE(model);
  AsyncInferenceEngine engine(*std::move(model));
  std::istringstream lines(read(kGolden + "heldout_sums.jsonl"));
  std::vector<TextStream> streams;
  std::vector<std::string> answers;
  for (std::string line; std::getline(lines, line);) {
    const Result<JsonValue> item = JsonValue::parse(line);
    REQUIRE(item);
    streams.push_back(engine.generate(item->find("prompt")->as_string(), {.max_new_tokens = 32}));
    answers.push_back(item->find("answer")->as_string());
  }
  REQUIRE(answers.size() >= 200);
  std::size_t right = 0;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (streams[i].finish().value().text == answers[i]) ++right;
  }
  std::printf("ciuic-tiny: %zu of %zu unseen sums right\n", right, answers.size());
  CHECK(right * 100 >= answers.size() * 95);
}
