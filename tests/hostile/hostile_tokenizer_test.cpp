// Files that are broken on purpose: each is refused with one line that names the file and the
// field, in under a second, within 4 x the file + 16 MB of memory, and the next good file loads.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "ciuic/text/tokenizer.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

// The promise is about optimised builds; sanitizers and -O0 slow reading down by a constant.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowdown = 20.0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr double kSlowdown = 20.0;
#elif defined(__OPTIMIZE__)
constexpr double kSlowdown = 1.0;
#else
constexpr double kSlowdown = 5.0;
#endif
#elif defined(__OPTIMIZE__)
constexpr double kSlowdown = 1.0;
#else
constexpr double kSlowdown = 5.0;
#endif

/// Processor time: other work on the machine is no fault of ours.
double seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

struct Measured {
  Result<Tokenizer> result;
  std::size_t peak, total;
  double seconds;
};

Measured load(const std::string& json) {
  const std::clock_t start = std::clock();
  const std::size_t live = live_bytes;
  const std::size_t total = allocated_bytes;
  peak_bytes = live;
  Result<Tokenizer> result = Tokenizer::parse(json, "m/tokenizer.json");
  const double seconds = seconds_since(start);
  return {std::move(result), peak_bytes - live, allocated_bytes - total, seconds};
}

constexpr double kMega = 1e6;
std::size_t bound(const std::string& json) { return 4 * json.size() + (std::size_t{16} << 20); }

/// A good file whose parts can be replaced.
struct Parts {
  std::string vocab = R"({"a":0,"b":1,"ab":2})";
  std::string merges = R"(["a b"])";
  std::string model = "";     // more fields of the model
  std::string sections = "";  // more sections
  std::string type = R"("type":"BPE",)";
  std::string str() const {
    return R"({"version":"1.0",)" + sections + R"("model":{)" + type + model + R"("vocab":)" +
           vocab + R"(,"merges":)" + merges + "}}";
  }
};

std::string pre(const std::string& component) {
  return Parts{.sections = R"("pre_tokenizer":)" + component + ","}.str();
}
std::string split(const std::string& regex) {
  return pre(R"({"type":"Split","pattern":{"Regex":")" + regex +
             R"("},"behavior":"Isolated","invert":false})");
}
std::string added(const std::string& tokens) {
  return Parts{.sections = R"("added_tokens":)" + tokens + ","}.str();
}
std::string repeat(const std::string& text, std::size_t n) {
  std::string out;
  out.reserve(text.size() * n);
  for (std::size_t i = 0; i < n; ++i) out += text;
  return out;
}
/// Short names, the most tokens a file can hold per byte.
std::string name_of(std::size_t i) {
  std::string name;
  do {
    name += static_cast<char>('A' + i % 57 + (i % 57 > 26 ? 1 : 0));  // no backslash
    i /= 57;
  } while (i > 0);
  return name;
}
std::string many_tokens(std::size_t n) {
  std::string vocab = "{";
  for (std::size_t i = 0; i < n; ++i) {
    vocab += (i == 0 ? "\"" : ",\"") + name_of(i) + "\":" + std::to_string(i);
  }
  return vocab + "}";
}

struct Case {
  const char* name;
  std::string json;
  std::string wanted;  // a part of the message
};

std::vector<Case> cases() {
  const std::string mega(1'000'000, 'x');
  return {
      {"empty file", "", "malformed JSON"},
      {"not JSON", "hello", "malformed JSON"},
      {"cut off", Parts{}.str().substr(0, 40), "malformed JSON"},
      {"trailing bytes", Parts{}.str() + "PK", "malformed JSON"},
      {"an array", "[]", "wanted an object, got an array"},
      {"a number", "17", "wanted an object, got an integer"},
      {"broken UTF-8", Parts{.vocab = "{\"\xC3\x28\":0}"}.str(), "malformed JSON"},
      {"lone surrogate", Parts{.vocab = R"({"\ud800":0})"}.str(), "malformed JSON"},
      {"duplicate section", R"({"version":"1.0","version":"1.0"})", "duplicate key: \"version\""},
      {"nested 100,000 deep", repeat("[", 100'000), "wanted an object"},
      {"nested inside a skipped section", R"({"x":)" + repeat("[", 100'000), "nested deeper"},
      {"nested pre-tokenizers", pre(repeat(R"({"type":"Sequence","pretokenizers":[)", 10'000)),
       "nested deeper"},
      {"unknown version", R"({"version":"2.0"})", "version: unsupported \"2.0\""},
      {"no model", R"({"version":"1.0"})", "model.vocab: missing"},
      {"model is a list", R"({"model":[]})", "model: wanted an object, got an array"},
      {"model is null", R"({"model":null})", "model: wanted an object, got null"},
      {"unknown model", R"({"model":{"type":"WordPiece"}})",
       "model.type: unsupported \"WordPiece\""},
      {"model type is a number", R"({"model":{"type":3}})",
       "model.type: wanted a string, got an integer"},
      {"dropout", Parts{.model = R"("dropout":0.1,)"}.str(), "model.dropout: unsupported"},
      {"a subword prefix", Parts{.model = R"("continuing_subword_prefix":"##",)"}.str(),
       "model.continuing_subword_prefix: unsupported \"##\""},
      {"fuse_unk is a string", Parts{.model = R"("fuse_unk":"yes",)"}.str(),
       "model.fuse_unk: wanted a boolean, got a string"},
      {"unknown token that is not there", Parts{.model = R"("unk_token":"<unk>",)"}.str(),
       "model.unk_token: \"<unk>\" is not in the vocabulary"},
      {"empty vocabulary", Parts{.vocab = "{}", .merges = "[]"}.str(), "model.vocab: empty"},
      {"vocabulary is a list", Parts{.vocab = "[]"}.str(),
       "model.vocab: wanted an object, got an array"},
      {"vocabulary is null", Parts{.vocab = "null"}.str(),
       "model.vocab: wanted an object, got null"},
      {"negative id", Parts{.vocab = R"({"a":-1})"}.str(), "model.vocab[\"a\"]: id -1, wanted 0"},
      {"id 2^31", Parts{.vocab = R"({"a":2147483648})"}.str(), "model.vocab[\"a\"]: id 2147483648"},
      {"id 2^64 - 1", Parts{.vocab = R"({"a":18446744073709551615})"}.str(),
       "model.vocab[\"a\"]: id "},
      {"id above the limit", Parts{.vocab = R"({"a":2097152})"}.str(),
       "model.vocab[\"a\"]: id 2097152"},
      {"id is a fraction", Parts{.vocab = R"({"a":1.5})"}.str(),
       "model.vocab[\"a\"]: wanted an integer, got a number"},
      {"id is a string", Parts{.vocab = R"({"a":"0"})"}.str(),
       "model.vocab[\"a\"]: wanted an integer, got a string"},
      {"id is an object", Parts{.vocab = R"({"a":{}})"}.str(), "model.vocab[\"a\"]: wanted"},
      {"one id twice", Parts{.vocab = R"({"a":0,"b":0})"}.str(),
       "model.vocab[\"b\"]: id 0 is given twice"},
      {"one token twice", Parts{.vocab = R"({"a":0,"a":1})"}.str(), "duplicate key: \"a\""},
      {"a token of 1 MB", Parts{.vocab = "{\"" + mega + "\":0}"}.str(),
       "a token of 1000000 bytes, limit 4096"},
      {"a token with a line break in the message", Parts{.vocab = R"({"a\nb":-1})"}.str(),
       "model.vocab[\"a\\nb\"]"},
      {"no merges", R"({"model":{"type":"BPE","vocab":{"a":0}}})", "model.merges: missing"},
      {"merges are an object", Parts{.merges = "{}"}.str(),
       "model.merges: wanted an array, got an object"},
      {"a merge of an unknown piece", Parts{.merges = R"(["a b","a z"])"}.str(),
       "model.merges[1]: \"z\" is not in the vocabulary"},
      {"a merge with an unknown result", Parts{.merges = R"(["b a"])"}.str(),
       "model.merges[0]: the result \"ba\" is not in the vocabulary"},
      {"a merge of one piece", Parts{.merges = R"(["ab"])"}.str(),
       "model.merges[0]: wanted two tokens"},
      {"a merge of three pieces", Parts{.merges = R"(["a b a"])"}.str(),
       "model.merges[0]: wanted two tokens"},
      {"a merge of numbers", Parts{.merges = "[[0,1]]"}.str(),
       "model.merges[0]: wanted two strings"},
      {"a merge of three strings", Parts{.merges = R"([["a","b","a"]])"}.str(),
       "model.merges[0]: wanted two strings"},
      {"a merge of nothing", Parts{.vocab = R"({"":0,"a":1})", .merges = R"([["","a"]])"}.str(),
       "model.merges[0]: an empty token"},
      {"a merge is an object", Parts{.merges = "[{}]"}.str(), "model.merges[0]: wanted a pair"},
      {"deferred merges are wrong too",
       R"({"model":{"merges":["a z"],"type":"BPE","vocab":{"a":0}}})",
       "model.merges[0]: \"z\" is not in the vocabulary"},
      {"added tokens are an object", added("{}"), "added_tokens: wanted an array, got an object"},
      {"added token is a string", added(R"(["<s>"])"), "added_tokens[0]: wanted an object"},
      {"added token without id", added(R"([{"content":"<s>"}])"), "added_tokens[0].id: missing"},
      {"added token with id -1", added(R"([{"id":-1,"content":"<s>"}])"), "added_tokens[0].id: -1"},
      {"added token with a huge id", added(R"([{"id":4294967296,"content":"<s>"}])"),
       "added_tokens[0].id: 4294967296"},
      {"empty added token", added(R"([{"id":5,"content":""}])"),
       "added_tokens[0].content: missing or empty"},
      {"added token of 1 MB", added(R"([{"id":5,"content":")" + mega + R"("}])"),
       "added_tokens[0].content: 1000000 bytes, limit 256"},
      {"added token with a list for content", added(R"([{"id":5,"content":[]}])"),
       "added_tokens[0].content: wanted a scalar, got an array"},
      {"added token with a line break in a field's name", added(R"([{"id":5,"con\ntent":[]}])"),
       R"(added_tokens[0]["con\ntent"]: wanted a scalar)"},
      {"added token with a number for a flag", added(R"([{"id":5,"content":"x","special":1}])"),
       "added_tokens[0].special: wanted a boolean"},
      {"added token with another's id", added(R"([{"id":0,"content":"x"}])"),
       "added_tokens: \"x\": id 0 belongs to \"a\" in model.vocab"},
      {"added token that the vocabulary has elsewhere", added(R"([{"id":7,"content":"a"}])"),
       "added_tokens: \"a\": id 7, but model.vocab says 0"},
      {"two added tokens with one id", added(R"([{"id":7,"content":"x"},{"id":7,"content":"y"}])"),
       "id 7 is given twice"},
      {"one added token twice", added(R"([{"id":7,"content":"x"},{"id":8,"content":"x"}])"),
       "added_tokens: \"x\": given twice"},
      {"added token that the normaliser erases",
       Parts{.sections = R"("normalizer":{"type":"Strip","strip_left":true,"strip_right":true},)"
                         R"("added_tokens":[{"id":7,"content":" ","normalized":true}],)"}
           .str(),
       "added_tokens: \" \": the normalizer leaves nothing of it"},
      {"added token that the normaliser makes longer and longer",
       Parts{.sections =
                 R"("normalizer":{"type":"Sequence","normalizers":[)" +
                 repeat(R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)", 40) +
                 R"({"type":"NFC"}]},"added_tokens":[{"id":0,"content":"a","normalized":true}],)"}
           .str(),
       "added_tokens: \"a\": normalizer.normalizers[9]: makes more than 512 bytes"},
      {"added token with a costly expression",
       Parts{
           .sections =
               R"("normalizer":{"type":"Replace","pattern":{"Regex":"(?:a|a)*[cd]"},"content":""},)"
               R"("added_tokens":[{"id":7,"content":")" +
               std::string(200, 'a') + R"(","normalized":true}],)"}
           .str(),
       "normalizer.pattern.Regex: the expression takes too many steps"},
      {"unknown normaliser", Parts{.sections = R"("normalizer":{"type":"Nmt"},)"}.str(),
       "normalizer.type: unsupported \"Nmt\""},
      {"normaliser is a string", Parts{.sections = R"("normalizer":"NFC",)"}.str(),
       "normalizer: wanted an object or null, got a string"},
      {"normaliser sequence without a list",
       Parts{.sections = R"("normalizer":{"type":"Sequence"},)"}.str(),
       "normalizer.normalizers: missing"},
      {"unknown pre-tokenizer", pre(R"({"type":"X"})"), "pre_tokenizer.type: unsupported \"X\""},
      {"unknown pre-tokenizer in a sequence",
       pre(R"({"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"X"}]})"),
       "pre_tokenizer.pretokenizers[1].type: unsupported \"X\""},
      {"pre-tokenizer without type", pre("{}"), "pre_tokenizer.type: missing"},
      {"65 pre-tokenizers",
       pre(R"({"type":"Sequence","pretokenizers":[)" + repeat(R"({"type":"Digits"},)", 64) +
           R"({"type":"Digits"}]})"),
       "more than 64 steps"},
      {"a step after ByteLevel",
       pre(R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})"),
       "pre_tokenizer.pretokenizers[1]: unsupported"},
      {"a tree of a million values", pre("{\"x\":[" + repeat("0,", 1'000'000) + "0]}"),
       "pre_tokenizer: JSON: too many values"},
      {"invalid expression", split("("), "pre_tokenizer.pattern.Regex: a group is not closed"},
      {"expression PCRE2 refuses", split("(?<=a*)b"), "pre_tokenizer.pattern.Regex: lookbehind"},
      {"expression of another dialect", split("[a&&b]"),
       "pre_tokenizer.pattern.Regex: unsupported \"&& inside"},
      {"expression of 1 MB", split(mega), "pre_tokenizer.pattern.Regex: an expression of 1000000"},
      {"expression with 100,000 groups", split(repeat("(", 10'000)),
       "pre_tokenizer.pattern.Regex: unsupported \"groups nested"},
      {"expression that explodes when compiled", split("(((((a{1000}){1000}){1000}){1000}){1000})"),
       "pre_tokenizer.pattern.Regex: "},
      {"pattern of no kind", pre(R"({"type":"Split","pattern":{},"behavior":"Isolated"})"),
       "pre_tokenizer.pattern: wanted \"String\" or \"Regex\""},
      {"unknown behaviour",
       pre(R"({"type":"Split","pattern":{"String":"a"},"behavior":"Sideways"})"),
       "pre_tokenizer.behavior: unsupported \"Sideways\""},
      {"invert is a number",
       pre(R"({"type":"Split","pattern":{"String":"a"},"behavior":"Removed","invert":1})"),
       "pre_tokenizer.invert: wanted a boolean"},
      {"unknown post-processor", Parts{.sections = R"("post_processor":{"type":"Y"},)"}.str(),
       "post_processor.type: unsupported \"Y\""},
      {"template with an id that is not there",
       Parts{.sections = R"("post_processor":{"type":"TemplateProcessing","single":[)"
                         R"({"SpecialToken":{"id":"s","type_id":0}},{"Sequence":{"id":"A"}}],)"
                         R"("special_tokens":{"s":{"id":"s","ids":[99],"tokens":["s"]}}},)"}
           .str(),
       "post_processor: id 99 is not in the vocabulary"},
      {"template without its token",
       Parts{.sections = R"("post_processor":{"type":"TemplateProcessing","single":[)"
                         R"({"SpecialToken":{"id":"s"}}],"special_tokens":{}},)"}
           .str(),
       "\"s\" is not in special_tokens"},
      {"template without the text",
       Parts{
           .sections =
               R"("post_processor":{"type":"TemplateProcessing","single":[],"special_tokens":{}},)"}
           .str(),
       "post_processor.single: the text stands nowhere"},
      {"unknown decoder", Parts{.sections = R"("decoder":{"type":"CTC"},)"}.str(),
       "decoder.type: unsupported \"CTC\""},
      {"decoder steps in an order nobody uses",
       Parts{.sections = R"("decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},)"
                         R"({"type":"ByteFallback"}]},)"}
           .str(),
       "decoder.decoders[1].type: unsupported \"ByteFallback\" in this place"},
      {"stripping two characters at once",
       Parts{.sections = R"("decoder":{"type":"Strip","content":"ab","start":1,"stop":0},)"}.str(),
       "decoder.content: wanted one character"},
      {"a list of a million numbers for merges",
       Parts{.merges = "[" + repeat("0,", 1'000'000) + "0]"}.str(),
       "model.merges[0]: wanted a pair or a string"},
      {"sparse ids in a short file", Parts{.vocab = R"({"a":2097151,"b":2097152})"}.str(),
       "model.vocab[\"a\"]: id 2097151, wanted 0 to 262"},
      {"100,000 tokens, then a bad merge",
       Parts{.vocab = many_tokens(100'000), .merges = R"(["~ a"])"}.str(),
       "model.merges[0]: \"~\" is not in the vocabulary"},
  };
}

}  // namespace

TEST_CASE("Hostile tokenizer files are refused with file and field") {
  const std::vector<Case> all = cases();
  REQUIRE(all.size() >= 30);
  double worst_peak = 0, worst_seconds = 0;
  for (const Case& c : all) {
    INFO(c.name);
    const Measured m = load(c.json);
    REQUIRE_FALSE(m.result);
    const std::string message(m.result.error().message());
    const ErrorCode code = m.result.error().code();
    CHECK((code == ErrorCode::bad_model || code == ErrorCode::unsupported));
    CHECK(message.rfind("m/tokenizer.json: ", 0) == 0);
    INFO(message << "\n  wanted: " << c.wanted);
    CHECK(message.find(c.wanted) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 400);
    CHECK(m.peak <= bound(c.json));
    worst_peak =
        std::max(worst_peak, static_cast<double>(m.peak) / static_cast<double>(bound(c.json)));
    worst_seconds = std::max(worst_seconds, m.seconds);
    const Result<Tokenizer> good = Tokenizer::parse(Parts{}.str());
    REQUIRE(good);
    CHECK(good->encode("ab").value() == std::vector<std::int32_t>{2});
  }
  std::printf("%zu hostile files refused; largest peak %.0f %% of the bound, slowest %.3f s\n",
              all.size(), worst_peak * 100, worst_seconds);
  CHECK(worst_seconds < 1.0 * kSlowdown);
}

#ifdef NDEBUG
constexpr std::size_t kManyTokens = 1'000'000;
#else
constexpr std::size_t kManyTokens = 300'000;  // a debug build is slow
#endif

TEST_CASE("Large honest files stay within the memory bound") {
  for (const std::size_t tokens : {std::size_t{150'000}, kManyTokens}) {
    const std::string json = Parts{.vocab = many_tokens(tokens), .merges = "[]"}.str();
    const Measured m = load(json);
    REQUIRE(m.result);
    std::printf(
        "%zu tokens, file %.1f MB: peak %.1f MB, allocated in total %.1f MB, bound %.1f MB, %.2f "
        "s\n",
        tokens, static_cast<double>(json.size()) / kMega, static_cast<double>(m.peak) / kMega,
        static_cast<double>(m.total) / kMega, static_cast<double>(bound(json)) / kMega, m.seconds);
    CHECK(m.peak <= bound(json));
  }
}

TEST_CASE("A catastrophic expression makes encode fail, not hang") {
  const Tokenizer t = Tokenizer::parse(split("(?:a|a)*c")).value();
  const std::clock_t start = std::clock();
  const auto ids = t.encode(std::string(5000, 'a') + "bc");
  const double seconds = seconds_since(start);
  REQUIRE_FALSE(ids);
  CHECK(ids.error().code() == ErrorCode::unsupported);
  CHECK(ids.error().message() ==
        "pre_tokenizer.pattern.Regex: the expression takes too many steps on this text");
  CHECK(seconds < 5.0 * kSlowdown);
}

TEST_CASE("The steps of all matches in a text are bounded together") {
  const std::string text(300'000, 'a');
  for (const char* expression : {
           "(?=[^Z]*Z|).",               // each match looks at the whole rest
           "[^Z]*[YZ]",                  // and each place where none starts
           "(?=(?:[^Z]*)Z|).",           // in a group
           "(?=.{0,1000}Z.{0,1000}|).",  // not without bound, but far
           "(?=(?:a|b)*Z|).",            // round by round
           "(?:a?a?a?a?a?a?a?a?a?a?){20}[YZ]",
       }) {
    INFO(expression);
    const Tokenizer t = Tokenizer::parse(split(expression)).value();
    const std::clock_t start = std::clock();
    const auto ids = t.encode(text);
    const double seconds = seconds_since(start);
    std::printf("%s: %.2f s\n", expression, seconds);
    REQUIRE_FALSE(ids);
    CHECK(ids.error().code() == ErrorCode::unsupported);
    CHECK(ids.error().message().find("pre_tokenizer.pattern.Regex: ") == 0);
    CHECK(seconds < 5.0 * kSlowdown);
    CHECK(t.encode("ab"));  // a budget for each text
  }
}

TEST_CASE("Rewriting steps cannot blow a text up") {
  const auto with = [](const std::string& steps) {
    return Tokenizer::parse(Parts{.sections = R"("normalizer":{"type":"Sequence","normalizers":[)" +
                                              steps + "]},"}
                                .str())
        .value();
  };
  const std::string doubling = R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)";
  const std::string regex = R"({"type":"Replace","pattern":{"Regex":"a"},"content":"aa"},)";
  const std::string prepend =
      R"({"type":"Prepend","prepend":")" + std::string(100'000, 'a') + "\"},";
  for (const std::string& step : {doubling, regex, prepend}) {
    const Tokenizer t = with(repeat(step, 40) + R"({"type":"NFKC"})");
    const std::clock_t start = std::clock();
    const std::size_t live = live_bytes;
    peak_bytes = live;
    const auto ids = t.encode("a");
    CHECK(peak_bytes - live < (std::size_t{8} << 20));
    CHECK(seconds_since(start) < 1.0 * kSlowdown);
    REQUIRE_FALSE(ids);
    CHECK(ids.error().code() == ErrorCode::bad_model);
    CHECK(ids.error().message().find("normalizer.normalizers[") == 0);
    CHECK(ids.error().message().find("makes more than 1048592 bytes") != std::string_view::npos);
    CHECK(t.encode("").value().empty());
  }
  // Nor a text that added tokens cut into many parts: the bound is for all of them.
  const Tokenizer parts =
      Tokenizer::parse(Parts{.sections = R"("added_tokens":[{"id":7,"content":"-","special":false,)"
                                         R"("normalized":false}],"normalizer":{"type":"Sequence",)"
                                         R"("normalizers":[)" +
                                         repeat(doubling, 16) + R"({"type":"NFC"}]},)"}
                           .str())
          .value();
  CHECK(parts.encode("a-a-a").value().size() > 65'536);
  CHECK_FALSE(parts.encode(repeat("a-", 1000)));
}

TEST_CASE("A decoder that blows tokens up or takes too long ends in an error") {
  const auto with = [](const std::string& steps) {
    return Tokenizer::parse(
               Parts{.vocab = R"({"a":0,"b":1,"ab":2,")" + std::string(4000, 'x') + R"(":3})",
                     .sections = R"("decoder":{"type":"Sequence","decoders":[)" + steps + "]},"}
                   .str())
        .value();
  };
  const Tokenizer bomb =
      with(repeat(R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)", 40) +
           R"({"type":"Fuse"})");
  const Tokenizer slow =
      with(R"({"type":"Replace","pattern":{"Regex":"(?:x|x)*[cd]"},"content":""},{"type":"Fuse"})");
  const std::pair<const Tokenizer*, std::int32_t> tries[] = {{&bomb, 0}, {&slow, 3}};
  for (const auto& [t, id] : tries) {
    const std::vector<std::int32_t> ids = {1, id, 1};
    const std::clock_t start = std::clock();
    const auto text = t->decode(ids);
    CHECK(seconds_since(start) < 1.0 * kSlowdown);
    REQUIRE_FALSE(text);
    CHECK(text.error().message().find("decoder.decoders[") == 0);
    StreamDecoder stream(*t);
    CHECK(stream.push(1) == "b");
    CHECK(stream.status());
    CHECK(stream.push(id).empty());
    CHECK(stream.status().error().code() == text.error().code());
    CHECK(stream.push(1).empty());  // nothing that would be wrong
    CHECK(stream.finish().empty());
    CHECK(stream.status());  // as new
    CHECK(stream.push(1) == "b");
  }
}

TEST_CASE("Added tokens and literals are looked for in linear time") {
  const auto seconds = [](const Tokenizer& t, const std::string& text) {
    const std::clock_t start = std::clock();
    CHECK(t.encode(text));
    return seconds_since(start);
  };
  const std::string spaces(300'000, ' '), letters(300'000, 'a');
  for (const std::string flags : {R"("lstrip":true)", R"("rstrip":true)",
                                  R"("lstrip":true,"rstrip":true)", R"("special":true)"}) {
    const Tokenizer t =
        Tokenizer::parse(added(R"([{"id":7,"content":" ","normalized":false,)" + flags + "}]"))
            .value();
    CHECK(seconds(t, spaces) < 2.0 * kSlowdown);
  }
  const std::string needle = std::string(255, 'a') + "c";
  const Tokenizer late =
      Tokenizer::parse(added(R"([{"id":7,"content":")" + needle + R"("}])")).value();
  CHECK(seconds(late, letters) < 10.0 * kSlowdown);
  const Tokenizer literal =
      Tokenizer::parse(pre(R"({"type":"Split","pattern":{"String":")" + std::string(100'000, 'a') +
                           R"(c"},"behavior":"Isolated","invert":false})"))
          .value();
  CHECK(seconds(literal, letters) < 2.0 * kSlowdown);
}

TEST_CASE("Flipping any byte of a good file never does harm") {
  std::string good =
      Parts{.sections = R"("added_tokens":[{"id":5,"content":"<s>","special":true}],)"
                        R"("normalizer":{"type":"NFC"},"pre_tokenizer":{"type":)"
                        R"("Sequence","pretokenizers":[{"type":"Split","pattern":)"
                        R"({"Regex":"\\p{L}+|[^a-c]{1,3}"},"behavior":"Removed",)"
                        R"("invert":true},{"type":"ByteLevel"}]},"decoder":)"
                        R"({"type":"ByteLevel"},)"}
          .str();
  REQUIRE(Tokenizer::parse(good));
  std::mt19937 random(11);
  std::size_t loaded = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bad = good;
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      bad[random() % bad.size()] = static_cast<char>(random());
    }
    const Result<Tokenizer> t = Tokenizer::parse(bad);
    if (!t) continue;
    ++loaded;
    const auto ids = t->encode("ab<s> \xC3\xA9 abc 1\xFF");
    if (ids) (void)t->decode(*ids);
  }
  std::printf("%zu of 4000 damaged files still load\n", loaded);
}
