// Quantized directories made to break their reader: each takes a valid one, spoils one thing, and
// must be refused with one line that names the file and what is wrong. What cannot be told from a
// valid one by its table, wild bytes in the weights, must load and run without touching memory that
// is not its own (under ASan), read or mapped.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ciuic/model/language_model.hpp"
#include "ciuic/model/quantize.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

/// A safetensors file in two halves.
struct Image {
  std::string header, data;

  explicit Image(const std::string& bytes) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    header = bytes.substr(8, static_cast<std::size_t>(length));
    data = bytes.substr(8 + static_cast<std::size_t>(length));
  }
  /// Every `from` of the header becomes `to`; there must be one.
  void replace(const std::string& from, const std::string& to) {
    std::size_t at = header.find(from);
    REQUIRE(at != std::string::npos);
    for (; at != std::string::npos; at = header.find(from, at + to.size()))
      header.replace(at, from.size(), to);
  }
  /// Only the first.
  void replace_first(const std::string& from, const std::string& to) {
    const std::size_t at = header.find(from);
    REQUIRE(at != std::string::npos);
    header.replace(at, from.size(), to);
  }
  void write(const fs::path& directory) const {
    write_file(directory / "model.safetensors", safetensors_image(header, data));
  }
};

struct Case {
  std::string name;
  std::function<void(Image&)> spoil;
  std::string field;  ///< what the message must name
};

const std::string kFirst = "model.embed_tokens";

/// Each `from` in the header becomes `to`.
Case edit(std::string name, std::string from, std::string to, std::string field) {
  return {
      std::move(name),
      [from = std::move(from), to = std::move(to)](Image& image) { image.replace_first(from, to); },
      std::move(field)};
}

std::string escaped(const std::string& json) {  // as the table stands in the header
  std::string text;
  for (const char c : json) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text;
}
/// The same within the table.
Case entry(std::string name, const std::string& from, const std::string& to, std::string field) {
  return edit(std::move(name), escaped(from), escaped(to), std::move(field));
}
/// The whole table becomes this text.
Case table(std::string name, std::string text, std::string field) {
  return {std::move(name),
          [text = std::move(text)](Image& image) {
            const std::string begin = "{\"__metadata__\":{\"ciuic\":\"";
            REQUIRE(image.header.starts_with(begin));
            std::size_t end = begin.size();
            while (image.header[end] != '"') end += image.header[end] == '\\' ? 2u : 1u;
            image.header.replace(begin.size(), end - begin.size(), escaped(text));
          },
          std::move(field)};
}

std::vector<Case> cases() {
  const std::string embed = "\"model.embed_tokens\":{\"dtype\":\"i4\",\"group\":32,\"rows\":32";
  const std::string packed = kFirst + ".packed";
  std::string crowd = "{\"version\":1,\"matrices\":{";
  for (int i = 0; i < 20000; ++i) crowd += (i ? ",\"" : "\"") + std::to_string(i) + "\":[]";
  return {
      entry("another version", "{\"version\":1", "{\"version\":2", "version"),
      entry("version 0", "{\"version\":1", "{\"version\":0", "version"),
      entry("version as text", "{\"version\":1", "{\"version\":\"1\"", "version"),
      entry("no version", "{\"version\":1", "{\"versions\":1", "version"),
      table("table that is no JSON", "{\"version\":1,", "__metadata__.ciuic"),
      table("table that is an array", "[1]", "version"),
      table("table without matrices", "{\"version\":1}", "matrices"),
      table("matrices that are a number", "{\"version\":1,\"matrices\":3}", "matrices"),
      table("no matrix at all", "{\"version\":1,\"matrices\":{}}", packed),
      table("matrix that is null", "{\"version\":1,\"matrices\":{\"" + kFirst + "\":null}}",
            packed),
      table("a crowd of matrices", crowd + "}}", "__metadata__.ciuic"),
      table("arrays 10,000 deep", std::string(10000, '['), "__metadata__.ciuic"),
      table("one matrix twice",
            "{\"version\":1,\"matrices\":{\"" + kFirst + "\":{},\"" + kFirst + "\":{}}}",
            "duplicate key"),
      entry("a matrix less", "\"model.embed_tokens\":{", "\"model.embed_tokenz\":{", packed),
      entry("unknown dtype", "\"dtype\":\"i4\"", "\"dtype\":\"i3\"", "dtype"),
      entry("dtype that is not packed", "\"dtype\":\"i4\"", "\"dtype\":\"f16\"", "dtype"),
      entry("dtype as a number", "\"dtype\":\"i4\"", "\"dtype\":4", "dtype"),
      entry("dtype that lies, larger", "\"dtype\":\"i4\",\"group\":32", "\"dtype\":\"i8\"", "size"),
      entry("dtype that lies, f32", "\"dtype\":\"i4\",\"group\":32", "\"dtype\":\"f32\"", "size"),
      entry("group that lies", "\"group\":32", "\"group\":64", "size"),
      entry("group of 48", "\"group\":32", "\"group\":48", "group"),
      entry("group of 0", "\"group\":32", "\"group\":0", "group"),
      entry("group of -32", "\"group\":32", "\"group\":-32", "group"),
      entry("group of 2^32 + 32", "\"group\":32", "\"group\":4294967328", "group"),
      entry("group as text", "\"group\":32", "\"group\":\"32\"", "group"),
      entry("no group", "\"group\":32,", "", "group"),
      entry("group beside i8", "\"dtype\":\"i4\"", "\"dtype\":\"i8\"", "group"),
      entry("group beside f32", "\"dtype\":\"i4\"", "\"dtype\":\"f32\"", "group"),
      entry("a value that no version has", "\"rows\":32", "\"rows\":32,\"zero\":8", "zero"),
      entry("a misspelt scale", "\"form\":\"plain\"}", "\"form\":\"plain\",\"input_scales\":1}",
            "input_scales"),
      entry("a key beside the matrices", "{\"version\":1", "{\"version\":1,\"scheme\":2", "scheme"),
      entry("a matrix more", "\"matrices\":{",
            "\"matrices\":{\"model.layers.99.mlp\":{\"dtype\":\"i8\"},", "model.layers.99.mlp"),
      entry("one row more", "\"rows\":32", "\"rows\":33", "rows"),
      entry("rows below zero", "\"rows\":32", "\"rows\":-32", "rows"),
      entry("rows of 2^63", "\"rows\":32", "\"rows\":9223372036854775808", "rows"),
      entry("rows as text", "\"rows\":32", "\"rows\":\"32\"", "rows"),
      entry("rows and columns exchanged", "\"rows\":32,\"cols\":16", "\"rows\":16,\"cols\":32",
            "rows"),
      entry("one column less", "\"cols\":16", "\"cols\":15", "cols"),
      entry("no columns", "\"cols\":16,", "", "cols"),
      entry("form that lies", "\"form\":\"gated\"", "\"form\":\"plain\"", "form"),
      entry("unknown form", "\"form\":\"plain\"", "\"form\":\"round\"", "form"),
      entry("form as a number", "\"form\":\"plain\"", "\"form\":1", "form"),
      entry("input scale below zero", "\"form\":\"plain\"}",
            "\"form\":\"plain\",\"input_scale\":-1.0}", "input_scale"),
      entry("input scale beyond f32", "\"form\":\"plain\"}",
            "\"form\":\"plain\",\"input_scale\":1e300}", "input_scale"),
      entry("input scale as text", "\"form\":\"plain\"}",
            "\"form\":\"plain\",\"input_scale\":\"nan\"}", "input_scale"),
      edit("matrix's tensor is missing", "\"" + packed + "\":{\"dtype\"",
           "\"" + kFirst + ".pocket\":{\"dtype\"", packed),
      edit("matrix's tensor is F32", "\"" + packed + "\":{\"dtype\":\"U8\"",
           "\"" + packed + "\":{\"dtype\":\"F32\"", packed.substr(0, 12)),
      edit("matrix's tensor is I8", "\"" + packed + "\":{\"dtype\":\"U8\"",
           "\"" + packed + "\":{\"dtype\":\"I8\"", "U8"),
      edit("norm is missing", "\"model.norm.weight\"", "\"model.gnome.weight\"",
           "model.norm.weight"),
      edit("norm of another shape", "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[16]",
           "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4,4]", "model.norm.weight"),
      edit("norm that is no float", "\"model.norm.weight\":{\"dtype\":\"F32\"",
           "\"model.norm.weight\":{\"dtype\":\"I32\"", "model.norm.weight"),
      {"matrix half as long, the next twice",
       [](Image& image) {
         const std::size_t at = image.header.find("\"data_offsets\":[0,");
         const std::size_t end = image.header.find(']', at);
         const std::size_t begin = at + std::string("\"data_offsets\":[0,").size();
         const std::string bytes = image.header.substr(begin, end - begin);
         const std::string half = std::to_string(std::stoull(bytes) / 2);
         image.replace("[" + bytes + ",", "[" + half + ",");      // where the next begins
         image.replace("[0," + bytes + "]", "[0," + half + "]");  // where this ends
         image.replace_first("\"shape\":[" + bytes + "]", "\"shape\":[" + half + "]");
       },
       "tensor"},
      {"overlapping tensors",
       [](Image& image) {  // the head begins a line early, and ends so
         const std::string key = "\"data_offsets\":[";
         const std::size_t at =
             image.header.find(key, image.header.find("lm_head.packed\":{\"dtype")) + key.size();
         const std::size_t end = image.header.find(']', at);
         const std::string pair = image.header.substr(at, end - at);
         const std::size_t comma = pair.find(',');
         image.header.replace(at, end - at,
                              std::to_string(std::stoull(pair.substr(0, comma)) - 64) + "," +
                                  std::to_string(std::stoull(pair.substr(comma + 1)) - 64));
       },
       "overlap"},
      {"one byte short", [](Image& image) { image.data.pop_back(); }, "data_offsets"},
      {"one byte more", [](Image& image) { image.data += 'x'; }, "data_offsets"},
      {"no data", [](Image& image) { image.data.clear(); }, "data_offsets"},
  };
}

void make_valid(const fs::path& source, const fs::path& out, MatrixFormat format) {
  write_tiny_llama(source);
  const auto made = quantize_directory(source, out, {.weights = format, .threads = 1});
  INFO((made ? std::string() : std::string(made.error().message())));
  REQUIRE(made);
}

Result<void> load(const fs::path& directory, bool map) {
  const Result<LanguageModel> model =
      LanguageModel::load(directory, {.map_weights = map, .threads = 1});
  if (!model) return model.error();
  return {};
}

}  // namespace

TEST_CASE("Spoiled quantized directories are refused, read or mapped") {
  const TempDirectory source, scratch;
  const fs::path out = scratch / "out";
  make_valid(source.path(), out, {DType::i4, 32});
  const std::string valid = read_file(out / "model.safetensors");
  std::size_t count = 0;
  for (const Case& hostile : cases()) {
    for (const bool map : {false, true}) {
      CAPTURE(hostile.name, map);
      Image image(valid);
      image.write(out);
      REQUIRE(load(out, map));
      hostile.spoil(image);
      image.write(out);
      const std::uint64_t before = allocated_bytes.load();
      const Result<void> loaded = load(out, map);
      const std::uint64_t allocated = allocated_bytes.load() - before;
      REQUIRE_FALSE(loaded);
      const std::string message(loaded.error().message());
      CAPTURE(message);
      CHECK((loaded.error().code() == ErrorCode::bad_model ||
             loaded.error().code() == ErrorCode::unsupported));
      CHECK(message.starts_with("model.safetensors"));
      CHECK(message.find(hostile.field) != std::string::npos);
      CHECK(message.size() < 500);
      CHECK(
          std::ranges::none_of(message, [](char c) { return static_cast<unsigned char>(c) < 32; }));
      CHECK(allocated <= 4 * (image.header.size() + image.data.size()) + 16'000'000);
    }
    ++count;
  }
  std::printf("hostile: %zu quantized directories refused\n", count);
}

TEST_CASE("config.json that contradicts the table is refused") {
  const TempDirectory source, scratch;
  const fs::path out = scratch / "out";
  make_valid(source.path(), out, DType::i8);
  for (const auto& [from, to] :
       {std::pair<std::string, std::string>{"\"vocab_size\":32", "\"vocab_size\":64"},
        {"\"intermediate_size\":24", "\"intermediate_size\":25"},
        {"\"num_hidden_layers\":2", "\"num_hidden_layers\":3"},
        {"\"num_hidden_layers\":2", "\"num_hidden_layers\":1000"}}) {
    std::string config = tiny_llama_config();
    config.replace(config.find(from), from.size(), to);
    write_file(out / "config.json", config);
    const Result<void> loaded = load(out, false);
    INFO(to);
    REQUIRE_FALSE(loaded);
    CHECK(loaded.error().message().substr(0, 17) == "model.safetensors");
  }
}

TEST_CASE("Wild bytes in the weights give wild numbers, and nothing worse") {
  std::mt19937 random(12);
  for (const MatrixFormat& format : {MatrixFormat(DType::f32), MatrixFormat(DType::bf16),
                                     MatrixFormat(DType::i8), MatrixFormat(DType::i4, 64)}) {
    const TempDirectory source, scratch;
    const fs::path out = scratch / "out";
    make_valid(source.path(), out, format);
    Image image(read_file(out / "model.safetensors"));
    for (int round = 0; round < 6; ++round) {
      for (char& byte : image.data)
        byte = round == 0 ? '\xFF' : round == 1 ? '\x7F' : static_cast<char>(random());
      image.write(out);
      for (const bool map : {false, true}) {
        Result<LanguageModel> model = LanguageModel::load(out, {.map_weights = map, .threads = 2});
        REQUIRE(model);
        const std::vector<TokenId> tokens{1, 2, 3, 31, 0, 7};
        std::vector<float> logits(tokens.size() * 32);
        REQUIRE(model->logits(tokens, logits));
        REQUIRE(model->reserve(4, 8, 2));
        const std::vector<std::int32_t> pages{2};
        const SequenceStep step{.tokens = tokens, .pages = pages, .sample = true};
        StepResult result;
        REQUIRE(model->step({&step, 1}, {&result, 1}));  // a NaN is that sequence's error
      }
    }
  }
}
