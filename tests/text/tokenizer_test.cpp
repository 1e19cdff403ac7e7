#include "ciuic/text/tokenizer.hpp"

#include <cstdio>
#include <filesystem>
#include <thread>

#include "golden_files.hpp"

using namespace ciuic;

namespace {
using Ids = std::vector<std::int32_t>;

/// A tiny byte-level tokenizer: the letters a to e, a few merges, what `more` adds to the file.
std::string tiny(const std::string& more = R"("pre_tokenizer":{"type":"ByteLevel"})",
                 const std::string& model = "") {
  return R"({"version":"1.0","model":{"type":"BPE")" + model +
         R"(,"vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"Ġ":5,"ab":6,"abc":7,"cd":8,"Ġa":9},)"
         R"("merges":["a b","c d",["ab","c"],"Ġ a"]},)" +
         R"("decoder":{"type":"ByteLevel"},)" + more + "}";
}
const std::string kNoPrefix =
    R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
}  // namespace

TEST_CASE("Merges apply by rank, then from the left") {
  const Tokenizer t = Tokenizer::parse(tiny(kNoPrefix)).value();
  CHECK(t.encode("abcd").value() == Ids{6, 8});  // "a b" and "c d" come before "ab c"
  CHECK(t.encode("abc").value() == Ids{7});
  CHECK(t.encode("abab").value() == Ids{6, 6});
  CHECK(t.encode("e abc").value() == Ids{4, 5, 7});  // "Ġ a" comes last, too late
  CHECK(t.encode("").value().empty());
}

TEST_CASE("A prefix space is put before the text") {
  const Tokenizer t = Tokenizer::parse(tiny()).value();
  CHECK(t.encode("a").value() == Ids{9});
  CHECK(t.encode(" a").value() == Ids{9});
}

TEST_CASE("Unknown bytes vanish, or become the unknown token") {
  CHECK(Tokenizer::parse(tiny(kNoPrefix)).value().encode("axb").value() == Ids{6});
  const Tokenizer one = Tokenizer::parse(tiny(kNoPrefix, R"(,"unk_token":"e")")).value();
  CHECK(one.encode("axyb").value() == Ids{0, 4, 4, 1});
  const Tokenizer fused =
      Tokenizer::parse(tiny(kNoPrefix, R"(,"unk_token":"e","fuse_unk":true)")).value();
  CHECK(fused.encode("axyb").value() == Ids{0, 4, 1});
  const Tokenizer old = Tokenizer::parse(tiny(kNoPrefix, R"(,"unk_token":"")")).value();
  CHECK(old.encode("ab").value() == Ids{6});
  CHECK(old.encode("x").error().code() == ErrorCode::bad_model);
}

TEST_CASE("Tokens and ids are found by each other as the file spells them") {
  const Tokenizer t =
      Tokenizer::parse(tiny(kNoPrefix +
                            R"(,"added_tokens":[{"id":12,"content":"<s>","special":true},)"
                            R"({"id":11,"content":"中"}])"))
          .value();
  CHECK(t.vocab_size() == 13);
  CHECK(t.id_of("Ġa") == 9);
  CHECK_FALSE(t.id_of(" a"));
  CHECK_FALSE(t.id_of("\xFF"));
  CHECK(t.token_of(9) == "Ġa");
  CHECK(t.token_of(11) == "中");
  CHECK_FALSE(t.token_of(10));
  CHECK_FALSE(t.token_of(-1));
  CHECK_FALSE(t.token_of(13));
  CHECK(t.id_of("<s>") == 12);
  CHECK(t.is_special(12));
  CHECK_FALSE(t.is_special(11));
  CHECK_FALSE(t.is_special(-5));
  CHECK(t.decode(Ids{9, 12, 11, 10, 99}).value() == " a中");
  CHECK(t.decode(Ids{9, 12, 11}, {.skip_special_tokens = false}).value() == " a<s>中");
  CHECK(t.decode(Ids{0, -1}).error().message() == "ids[1]: -1");
}

TEST_CASE("Literals of special tokens are text unless asked for") {
  const Tokenizer t = golden_tokenizer("qwen2");
  const std::int32_t start = t.id_of("<|im_start|>").value();
  const std::string text = "<|im_start|>user";
  CHECK(t.encode(text, {.parse_special = true}).value().front() == start);
  const Ids plain = t.encode(text).value();
  CHECK(std::find(plain.begin(), plain.end(), start) == plain.end());
  CHECK(t.decode(plain).value() == text);
  const std::int32_t think = t.id_of("<think>").value();  // added, not special: always found
  CHECK(t.encode("<think>").value() == Ids{think});
}

TEST_CASE("The template's tokens stand around the text only when asked for") {
  const Tokenizer t = golden_tokenizer("llama3");
  const std::int32_t bos = t.id_of("<|begin_of_text|>").value();
  CHECK(t.encode("").value() == Ids{bos});
  CHECK(t.encode("", {.add_special_tokens = false}).value().empty());
}

TEST_CASE("Invalid UTF-8 is read with U+FFFD for each maximal invalid part") {
  const Tokenizer t = golden_tokenizer("llama3");
  const auto same = [&](std::string_view bytes, std::string_view text) {
    CHECK(t.encode(bytes).value() == t.encode(text).value());
  };
  same("a\xFFz", "a\uFFFDz");
  same("\xC0\x80", "\uFFFD\uFFFD");            // overlong
  same("\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD");  // a surrogate
  same("\xE4\xB8", "\uFFFD");                  // the start of a character
  same("\xF0\x9F\x98 x", "\uFFFD x");
  same("\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST_CASE("Merges may stand before the vocabulary in the file") {
  const Tokenizer t =
      Tokenizer::parse(R"({"model":{"merges":["a b"],"vocab":{"a":0,"b":1,"ab":2},"type":"BPE"}})")
          .value();
  CHECK(t.encode("ab").value() == Ids{2});
  CHECK(t.decode(Ids{0, 1}).value() == "a b");  // no decoder: tokens with spaces between
}

TEST_CASE("A Llama-2 set-up works: replaced spaces, byte fallback, fused and stripped") {
  std::string vocab = R"("<unk>":0,"<s>":1,"▁":2,"a":3,"b":4,"▁a":5,"ab":6)";
  for (int i = 0; i < 256; ++i) {
    char name[32];
    std::snprintf(name, sizeof name, ",\"<0x%02X>\":%d", static_cast<unsigned>(i), 100 + i);
    vocab += name;
  }
  const Tokenizer t =
      Tokenizer::parse(
          R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
          R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},)"
          R"("model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"vocab":{)" +
          vocab + R"(},"merges":["▁ a","a b"]},)" +
          R"("decoder":{"type":"Sequence","decoders":[)"
          R"({"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},)"
          R"({"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}})")
          .value();
  CHECK(t.encode("ab a").value() == Ids{5, 4, 5});
  CHECK(t.encode("é").value() == Ids{2, 100 + 0xC3, 100 + 0xA9});
  CHECK(t.decode(Ids{5, 4, 5}).value() == "ab a");
  CHECK(t.decode(Ids{2, 100 + 0xC3, 100 + 0xA9, 3}).value() == "éa");
  CHECK(t.decode(Ids{2, 100 + 0xC3, 3}).value() == "\uFFFDa");
}

TEST_CASE("What a normalizer inserts is cut by its own properties") {
  // U+1E4D0 is a letter since Unicode 15, which the text itself does not have.
  const Tokenizer t =
      Tokenizer::parse(R"({"normalizer":{"type":"Replace","pattern":{"String":"b"},)"
                       R"("content":"\ud839\udcd0"},"pre_tokenizer":{"type":"Split","pattern":)"
                       R"({"Regex":"\\p{L}+"},"behavior":"Isolated","invert":false},"model":)"
                       R"({"type":"BPE","vocab":{"a":0,"\ud839\udcd0":1,"a\ud839\udcd0":2},)"
                       R"("merges":["a \ud839\udcd0"]}})")
          .value();
  CHECK(t.encode("ab").value() == Ids{2});
}

TEST_CASE("A file is loaded from disk, and refused with its path when it is not there") {
  const std::string path = (std::filesystem::temp_directory_path() / "ciuic_no_such.json").string();
  const Result<Tokenizer> missing = Tokenizer::load(path);
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code() == ErrorCode::not_found);
  CHECK(std::string(missing.error().message()) ==
        path + ": cannot be opened: No such file or directory");
  CHECK(Tokenizer::load("/").error().code() == ErrorCode::bad_model);
  CHECK(Tokenizer::load("/dev/zero").error().code() == ErrorCode::bad_model);
  CHECK(Tokenizer::load(golden_path("gpt2.json"), {.max_file_bytes = 100}).error().code() ==
        ErrorCode::bad_model);
}

TEST_CASE("Many threads may use one tokenizer") {
  const Tokenizer t = golden_tokenizer("qwen2");
  const std::string text = "The river's water, 中文 and <think> 12345 \u0301e\u0301";
  const Ids wanted = t.encode(text).value();
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 200; ++n) {
        const Ids ids = t.encode(text).value();
        wrong[i] += ids != wanted || t.decode(ids).value().empty();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}
