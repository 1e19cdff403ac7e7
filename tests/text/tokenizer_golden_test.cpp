// Oracle: the ids and texts of the reference implementation, checked in by
// tests/golden/tokenizer/make_tokenizer_golden.py. All must be equal.
#include <chrono>
#include <cstdio>

#include "base/json.hpp"
#include "golden_files.hpp"

using namespace ciuic;

namespace {

std::vector<std::int32_t> parse_ids(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::int32_t> ids;
  for (std::int32_t id = 0; in >> id;) ids.push_back(id);
  return ids;
}

std::string hash_of(const std::vector<std::int32_t>& ids) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      h = (h ^ (static_cast<std::uint32_t>(id) >> shift & 255u)) * 0x100000001B3u;
    }
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
  return text;
}

std::string repeat(const std::string& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("Ids and texts equal the reference's on every golden line") {
  const std::vector<std::string> lines = golden_lines("lines.jsonl");
  REQUIRE(lines.size() >= 2000);
  for (const std::string name : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = golden_tokenizer(name);
    const std::vector<std::string> golden = golden_lines(name + ".ids");
    REQUIRE(golden.size() == 3 * lines.size());
    std::size_t wrong_parsed = 0, wrong_plain = 0, wrong_decoded = 0, wrong_round = 0;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string text = JsonValue::parse(lines[i])->as_string();
      const std::vector<std::int32_t> parsed = parse_ids(golden[3 * i]);
      const std::vector<std::int32_t> plain =
          golden[3 * i + 1] == "=" ? parsed : parse_ids(golden[3 * i + 1]);
      const std::string decoded =
          golden[3 * i + 2] == "=" ? text : JsonValue::parse(golden[3 * i + 2])->as_string();
      INFO(name << " line " << i + 1 << ": " << lines[i].substr(0, 200));
      const auto ours = tokenizer.encode(text, {.parse_special = true}).value();
      if (ours != parsed && ++wrong_parsed <= 3) CHECK(ours == parsed);
      const auto ours_plain = tokenizer.encode(text).value();
      if (ours_plain != plain && ++wrong_plain <= 3) CHECK(ours_plain == plain);
      const auto ours_decoded = tokenizer.decode(parsed, {.skip_special_tokens = false}).value();
      if (ours_decoded != decoded && ++wrong_decoded <= 3) CHECK(ours_decoded == decoded);
      // Without a normaliser and without tokens that swallow space, encoding loses nothing.
      if (name == "llama3") {
        const auto ids = tokenizer.encode(text, {.add_special_tokens = false}).value();
        wrong_round += tokenizer.decode(ids).value() != text;
      }
    }
    std::printf("%s: %zu lines, differing: %zu parsed, %zu plain, %zu decoded, %zu round trips\n",
                name.c_str(), lines.size(), wrong_parsed, wrong_plain, wrong_decoded, wrong_round);
    CHECK(wrong_parsed + wrong_plain + wrong_decoded + wrong_round == 0);
  }
}

TEST_CASE("A line of 1 MB takes seconds at most and gives the reference's ids") {
  const std::pair<std::string, std::string> texts[] = {
      {"run_of_a", std::string(1'000'000, 'a')},
      {"run_of_spaces", std::string(999'999, ' ') + "x"},
      {"words", repeat("the quick brown fox 123 ", 40'000)},
      {"chinese", repeat("中文分词", 83'000)},
  };
  const JsonValue golden = *JsonValue::parse(read_golden("long.json"));
  for (const std::string name : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = golden_tokenizer(name);
    for (const auto& [key, text] : texts) {
      const auto start = std::chrono::steady_clock::now();
      const auto ids = tokenizer.encode(text, {.add_special_tokens = false}).value();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      std::printf("%s %s: %zu bytes, %zu ids, %.3f s\n", name.c_str(), key.c_str(), text.size(),
                  ids.size(), took.count());
      const auto& wanted = golden.find(name)->find(key)->items();
      CHECK(static_cast<std::int64_t>(ids.size()) == wanted[0].as_integer());
      CHECK(hash_of(ids) == wanted[1].as_string());
    }
  }
}
