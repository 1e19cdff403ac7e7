// Any bytes as text for byte-level tokenizers: the ids decode to the text again, at once and as a
// stream, and are those of the plain algorithm.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/text/tokenizer.hpp"

namespace {

using Ids = std::vector<std::int32_t>;

/// Spells a byte in the byte-level alphabet: printable Latin-1 as itself, the rest from U+0100 on.
std::string spell(unsigned byte) {
  unsigned next = 0x100, code = 0;
  for (unsigned b = 0; b <= byte; ++b) {
    const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    code = itself ? b : next++;
  }
  std::string out;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else {
    out += static_cast<char>(0xC0u | code >> 6);
    out += static_cast<char>(0x80u | (code & 63u));
  }
  return out;
}

/// All bytes, and merges that overlap in every way the letters a and b allow, and some of the bytes
/// of Chinese.
struct Toy {
  std::vector<std::string> tokens;
  std::vector<std::pair<std::int32_t, std::int32_t>> merges;

  Toy() {
    for (unsigned b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
    for (const char* pair : {"a,a", "a,b", "aa,b", "b,a", "ab,ab", "aa,aa", "ba,b", "aab,a", " ,a",
                             "b,b", "bb,bb", "\xE4,\xB8", "\xE4\xB8,\xAD", "abab,abab", " , "}) {
      const std::string both(pair);
      const std::size_t comma = both.find(',');
      merges.emplace_back(id(both.substr(0, comma)), id(both.substr(comma + 1)));
      tokens.push_back(both.substr(0, comma) + both.substr(comma + 1));
    }
  }
  std::int32_t id(const std::string& token) const {
    return static_cast<std::int32_t>(std::find(tokens.begin(), tokens.end(), token) -
                                     tokens.begin());
  }
  std::string spelled(std::int32_t token) const {
    std::string out;
    for (const char c : tokens[static_cast<std::size_t>(token)]) {
      out += spell(static_cast<unsigned char>(c));
    }
    return out;
  }
  static std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    return out + "\"";
  }
  ciuic::Tokenizer tokenizer(const std::string& pre_tokenizer) const {
    std::string json = "{\"added_tokens\":[{\"id\":1000,\"content\":\"<s>\",\"special\":true}],";
    json += pre_tokenizer + "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",";
    json += "\"vocab\":{";
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) json += ',';
      json += quoted(spelled(static_cast<std::int32_t>(i))) + ':' + std::to_string(i);
    }
    json += "},\"merges\":[";
    for (std::size_t i = 0; i < merges.size(); ++i) {
      if (i > 0) json += ',';
      json +=
          '[' + quoted(spelled(merges[i].first)) + ',' + quoted(spelled(merges[i].second)) + ']';
    }
    return ciuic::Tokenizer::parse(json + "]}}").value();
  }
  /// The plain algorithm on one piece.
  Ids naive(std::string_view text) const {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    while (true) {
      std::size_t best = merges.size(), at = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        for (std::size_t m = 0; m < best; ++m) {
          if (merges[m] == std::pair(ids[i], ids[i + 1])) {
            best = m;
            at = i;
          }
        }
      }
      if (best == merges.size()) return ids;
      ids[at] = static_cast<std::int32_t>(256 + best);
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }
};

void require(bool condition) {
  if (!condition) std::abort();
}

void round_trip(const ciuic::Tokenizer& tokenizer, std::string_view text) {
  const Ids ids = tokenizer.encode(text).value();
  const std::string decoded = tokenizer.decode(ids).value();
  // Valid text comes back as it was; repaired text stays as it is.
  require(tokenizer.decode(tokenizer.encode(decoded).value()).value() == decoded);
  bool ascii = true;
  for (const char c : text) ascii = ascii && static_cast<unsigned char>(c) < 0x80;
  if (ascii) require(decoded == text);
  ciuic::StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const std::int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  require(streamed == decoded);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Toy toy;
  static const ciuic::Tokenizer whole = toy.tokenizer(
      R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},)");
  static const ciuic::Tokenizer gpt2 =
      toy.tokenizer(R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)");
  static const ciuic::Tokenizer llama3 = toy.tokenizer(
      R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)"
      R"("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+)"
      R"([\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},)"
      R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},)");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const ciuic::Tokenizer* tokenizer : {&whole, &gpt2, &llama3}) round_trip(*tokenizer, text);
  if (size <= 512) {
    const std::string valid = whole.decode(whole.encode(text).value()).value();
    require(whole.encode(valid).value() == toy.naive(valid));
  }
  (void)llama3.encode(text, {.parse_special = true}).value();
  return 0;
}
