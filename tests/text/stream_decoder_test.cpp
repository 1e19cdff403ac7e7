#include <optional>
#include <random>

#include "base/json.hpp"
#include "ciuic/engine/step_model.hpp"
#include "golden_files.hpp"

using namespace ciuic;

namespace {
using Ids = std::vector<std::int32_t>;

/// The JSON parser, not the tokenizer, is the judge of whole characters.
bool is_text(std::string_view bytes) {
  std::string json;
  append_json_string(json, bytes);
  return JsonValue::parse(json).has_value();
}

static_assert(TokenTextStream<StreamDecoder>);  // what the engine asks of a model's text
}  // namespace

TEST_CASE("A stream gives the text of decode, in whole characters") {
  const Tokenizer t = golden_tokenizer("llama3");
  StreamDecoder stream(t);
  const std::string text = "Grüße 中文 👨‍👩‍👧‍👦 end";
  std::string got;
  const Ids ids = t.encode(text).value();
  for (const std::int32_t id : ids) {
    const std::string piece(stream.push(id));
    CHECK(is_text(piece));
    got += piece;
  }
  got += stream.finish();
  CHECK(got == text);
}

TEST_CASE("Whatever the ids, pieces are whole and add up to decode") {
  std::mt19937 random(3);
  std::size_t pieces = 0;
  for (const std::string name : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer t = golden_tokenizer(name);
    StreamDecoder stream(t, {.skip_special_tokens = false});
    for (int round = 0; round < 2000; ++round) {
      Ids ids;
      // Ids below 300 are mostly single bytes: the hard case.
      const auto bound = static_cast<std::uint32_t>(round % 2 == 0 ? 300 : t.vocab_size() + 5);
      for (std::size_t n = random() % 12; n > 0; --n) {
        ids.push_back(static_cast<std::int32_t>(random() % bound));
      }
      std::string got;
      for (const std::int32_t id : ids) {
        const std::string piece(stream.push(id));
        if (!is_text(piece)) FAIL(name << " gave half a character");
        got += piece;
        ++pieces;
      }
      got += stream.finish();
      if (got != t.decode(ids, {.skip_special_tokens = false}).value()) FAIL(name << ": differs");
    }
  }
  CHECK(pieces > 10'000);
}

TEST_CASE("Every way of cutting bytes into tokens gives the same text") {
  const Tokenizer t = golden_tokenizer("llama3");
  const std::string bytes = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80\xFF\xE4\xB8";
  const std::string expected = "aé中😀\uFFFD\uFFFD";
  Ids ids;
  const auto id_of_byte = [&](unsigned char byte) {
    for (std::int32_t id = 0; id < t.vocab_size(); ++id) {
      const auto token = t.token_of(id);
      if (!token || token->size() > 2) continue;
      // The byte-level alphabet: Latin-1 for the printable ones, U+0100 … in order for the rest.
      unsigned next = 0x100;
      for (unsigned b = 0; b < 256; ++b) {
        const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        const unsigned code = itself ? b : next++;
        if (b != byte) continue;
        std::string spelled;
        if (code < 0x80) {
          spelled += static_cast<char>(code);
        } else {
          spelled += static_cast<char>(0xC0u | code >> 6);
          spelled += static_cast<char>(0x80u | (code & 63u));
        }
        if (*token == spelled) return id;
      }
    }
    return -1;
  };
  for (const char c : bytes) ids.push_back(id_of_byte(static_cast<unsigned char>(c)));
  CHECK(t.decode(ids).value() == expected);
  StreamDecoder stream(t);
  std::vector<std::string> pieces;
  for (const std::int32_t id : ids) pieces.emplace_back(stream.push(id));
  pieces.emplace_back(stream.finish());
  CHECK(pieces == std::vector<std::string>{"a", "", "é", "", "", "中", "", "", "", "😀", "\uFFFD",
                                           "", "", "\uFFFD"});
  CHECK(std::string(stream.finish()).empty());  // as new
}

TEST_CASE("A stream outlives its tokenizer") {
  std::optional<StreamDecoder> stream;
  Ids ids;
  {
    const Tokenizer t = golden_tokenizer("qwen2");
    ids = t.encode("good morning").value();
    stream.emplace(t);
  }
  std::string got;
  for (const std::int32_t id : ids) got += stream->push(id);
  got += stream->finish();
  CHECK(got == "good morning");
  CHECK(stream->push(-1).empty());
}
