// Model directories made to break their reader. Every case takes the valid directory of
// support/model_directory.hpp, spoils one thing and asserts what design.md promises: refused, with
// a code and one line that names the file and the field, within a second, and without allocating
// more than four times the directory's size and 16 MB. Run under ASan and UBSan it must be silent.
//
// A new case is a line in one of the tables below.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "ciuic/model/generation_config.hpp"
#include "ciuic/model/language_model.hpp"
#include "ciuic/model/model_config.hpp"
#include "ciuic/model/weight_files.hpp"
#include "support/catch.hpp"
#include "support/counted_allocations.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

Result<void> open_model_directory(const fs::path& directory) {
  const Result<LanguageModel> model = LanguageModel::load(directory);
  if (!model) return model.error();
  return {};
}

struct Case {
  std::string name;
  std::function<void(const fs::path& directory)> spoil;
  std::string file;   ///< what the message begins with
  std::string field;  ///< what the message must name
};

// The promise is about optimised builds; sanitizers and -O0 slow reading down by a constant.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowdown = 20.0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr double kSlowdown = 20.0;
#elif defined(__OPTIMIZE__)
constexpr double kSlowdown = 1.0;
#else
constexpr double kSlowdown = 3.0;
#endif
#elif defined(__OPTIMIZE__)
constexpr double kSlowdown = 1.0;
#else
constexpr double kSlowdown = 3.0;
#endif
constexpr double kMaxSeconds = 1.0 * kSlowdown;
constexpr double kMaxWaitSeconds = 10.0 * kSlowdown;  // wall clock, on a machine with other work
constexpr std::uint64_t kFreeBytes = 16'000'000;

std::uint64_t bytes_in(const fs::path& directory) {
  std::uint64_t bytes = 0;
  for (const auto& item : fs::directory_iterator(directory)) {
    if (!item.is_symlink() && item.is_regular_file()) bytes += item.file_size();
  }
  return bytes;
}

bool is_one_line(std::string_view text) {
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
}

struct Figures {
  std::size_t cases = 0;
  double slowest_s = 0.0, largest_share = 0.0;  // of the budget for allocation
  std::string slowest, largest;
} figures;

void run(const Case& hostile, void (*write_valid)(const fs::path&)) {
  CAPTURE(hostile.name);
  const TempDirectory directory, healthy;
  write_valid(healthy.path());
  write_valid(directory.path());
  REQUIRE(open_model_directory(directory.path()));
  hostile.spoil(directory.path());

  const std::uint64_t budget = 4 * bytes_in(directory.path()) + kFreeBytes;
  const std::uint64_t before = allocated_bytes.load();
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu_start = std::clock();
  const Result<void> opened = open_model_directory(directory.path());
  const double seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
  const double waited =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::uint64_t allocated = allocated_bytes.load() - before;

  REQUIRE_FALSE(opened);
  const ErrorCode code = opened.error().code();
  const std::string message(opened.error().message());
  CAPTURE(message);
  CHECK((code == ErrorCode::bad_model || code == ErrorCode::unsupported ||
         code == ErrorCode::not_found || code == ErrorCode::io_error));
  CHECK(message.starts_with(hostile.file));
  CHECK(message.find(hostile.field) != std::string::npos);
  CHECK(is_one_line(message));
  CHECK(message.size() < 500);
  CHECK(seconds < kMaxSeconds);
  CHECK(waited < kMaxWaitSeconds);
  CHECK(allocated <= budget);
  CHECK(open_model_directory(healthy.path()));

  ++figures.cases;
  if (seconds > figures.slowest_s) figures.slowest_s = seconds, figures.slowest = hostile.name;
  const double share = static_cast<double>(allocated) / static_cast<double>(budget);
  if (share > figures.largest_share) figures.largest_share = share, figures.largest = hostile.name;
}

// --- ways to spoil
// ----------------------------------------------------------------------------------

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kConfig = "config.json";
constexpr const char* kShard1 = "model-00001-of-00002.safetensors";
constexpr const char* kShard2 = "model-00002-of-00002.safetensors";

/// model.safetensors becomes these bytes.
Case raw(std::string name, std::string bytes, std::string field) {
  return {std::move(name),
          [bytes = std::move(bytes)](const fs::path& d) { write_file(d / kWeights, bytes); },
          kWeights, std::move(field)};
}
/// model.safetensors becomes this header and so many bytes of data.
Case header(std::string name, std::string text, std::size_t data, std::string field) {
  return {std::move(name),
          [text = std::move(text), data](const fs::path& d) {
            write_file(d / kWeights, safetensors_image(text, std::string(data, '\1')));
          },
          kWeights, std::move(field)};
}
/// One tensor "x" with these three values, as JSON.
Case entry(std::string name, const std::string& dtype, const std::string& shape,
           const std::string& offsets, std::size_t data, std::string field) {
  return header(
      std::move(name),
      "{\"x\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
      data, std::move(field));
}
std::string bytes_entry(const std::string& name, std::uint64_t begin, std::uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(end - begin) +
         "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}
std::string repeated(std::size_t count, std::string_view text) {
  std::string all;
  all.reserve(count * text.size());
  for (std::size_t i = 0; i < count; ++i) all += text;
  return all;
}
/// A header of so many tensors of one byte each, in file order or from the last to the first.
std::string many_tensors(std::size_t count, bool backwards) {
  std::string text = "{";
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t begin = backwards ? count - 1 - i : i;
    if (i != 0) text += ',';
    text += bytes_entry(std::to_string(i), begin, begin + 1);
  }
  return text + "}";
}

/// Something else stands where `file` was.
Case in_place_of(std::string name, std::string file, std::function<void(const fs::path&)> put,
                 std::string field) {
  return {std::move(name),
          [file, put = std::move(put)](const fs::path& d) {
            fs::remove(d / file);
            put(d / file);
          },
          file, std::move(field)};
}
void put_fifo(const fs::path& path) { REQUIRE(::mkfifo(path.c_str(), 0600) == 0); }
void put_directory(const fs::path& path) { fs::create_directory(path); }
void put_socket(const fs::path& path) {
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  REQUIRE(text.size() < sizeof address.sun_path);
  std::copy(text.begin(), text.end(), address.sun_path);
  REQUIRE(::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  ::close(descriptor);
}
std::function<void(const fs::path&)> put_link(std::string target) {
  return [target = std::move(target)](const fs::path& path) { fs::create_symlink(target, path); };
}
/// A link to a complete and valid file, but outside of the directory.
void put_link_to_twin(const fs::path& path) {
  const fs::path outside = path.parent_path().string() + ".outside";
  fs::create_directory(outside);
  const std::string name = path.filename().string();
  if (name.starts_with("model-")) {
    write_sharded_tiny_llama(outside);
  } else {
    write_tiny_llama(outside);
  }
  fs::create_symlink(outside / name, path);
}

/// The index becomes this text.
Case index(std::string name, std::string text, std::string field) {
  return {std::move(name),
          [text = std::move(text)](const fs::path& d) { write_file(d / kIndex, text); }, kIndex,
          std::move(field)};
}
/// The index puts the last tensor into this file (as JSON).
Case mapped(std::string name, std::string file, std::string field = "tensor \"lm_head.weight\"") {
  return {std::move(name),
          [file = std::move(file)](const fs::path& d) {
            std::string text = read_file(d / kIndex);
            const std::string last = "\"" + std::string(kShard2) + "\"";
            text.replace(text.rfind(last), last.size(), file);
            write_file(d / kIndex, text);
          },
          kIndex, std::move(field)};
}

std::string config_with(const std::string& key, const std::string& value) {
  std::string text = tiny_llama_config();
  const std::string quoted = "\"" + key + "\":";
  const std::size_t at = text.find(quoted);
  if (at == std::string::npos) return "{" + quoted + value + "," + text.substr(1);
  const std::size_t begin = at + quoted.size();
  std::size_t end = text.find(",\"", begin);
  if (end == std::string::npos) end = text.size() - 1;
  return text.replace(begin, end - begin, value);
}
/// config.json says this.
Case config(std::string name, std::string key, std::string value) {
  return {std::move(name),
          [key, value = std::move(value)](const fs::path& d) {
            write_file(d / kConfig, config_with(key, value));
          },
          kConfig, key};
}
Case config_text(std::string name, std::string text, std::string field) {
  return {std::move(name),
          [text = std::move(text)](const fs::path& d) { write_file(d / kConfig, text); }, kConfig,
          std::move(field)};
}
Case config_without(const std::string& key) {
  return {"config without " + key,
          [key](const fs::path& d) {
            std::string text = tiny_llama_config();
            text.insert(text.find("\"" + key + "\"") + 1, "not_");
            write_file(d / kConfig, text);
          },
          kConfig, key};
}
Case rope(std::string name, const std::string& value, const std::string& field) {
  Case made = config(std::move(name), "rope_scaling", value);
  made.field = "rope_scaling." + field;
  return made;
}
/// config.json, valid in itself, says this, which the weights contradict.
Case contradicted(std::string name, std::string key, std::string value, std::string tensor) {
  Case made = config(std::move(name), std::move(key), std::move(value));
  made.file = kWeights;
  made.field = std::move(tensor);
  return made;
}
/// The weights are changed before they are written.
Case tensors(std::string name, std::function<void(std::vector<TestTensor>&)> change,
             std::string field) {
  return {std::move(name),
          [change = std::move(change)](const fs::path& d) {
            std::vector<TestTensor> all = tiny_llama_tensors();
            change(all);
            write_file(d / kWeights, safetensors_of(all));
          },
          kWeights, std::move(field)};
}

// --- the tables
// -------------------------------------------------------------------------------------

std::vector<Case> length_and_text_cases() {
  const std::string valid = safetensors_of(tiny_llama_tensors());
  const std::string deep(100'000, '[');
  return {
      raw("empty file", "", "size"),
      raw("seven bytes", "1234567", "size"),
      raw("header length 0", safetensors_image("", ""), "header length"),
      raw("header length 1", safetensors_image("{", ""), "header length"),
      raw("length without a header", u64_bytes(2), "header length"),
      raw("header length 2^64 - 1", u64_bytes(~std::uint64_t{0}) + "{}", "header length"),
      raw("header length that wraps with its prefix", u64_bytes(~std::uint64_t{0} - 7) + "{}",
          "header length"),
      raw("header length 2^63", u64_bytes(std::uint64_t{1} << 63) + "{}", "header length"),
      raw("header one byte longer than the file", u64_bytes(3) + "{}", "header length"),
      {"header length 100,000,001 in a file that has it",
       [](const fs::path& d) {
         write_file(d / kWeights, u64_bytes(100'000'001) + "{}");
         fs::resize_file(d / kWeights, 100'000'009);
       },
       kWeights, "header length"},
      raw("big-endian header length", std::string("\0\0\0\0\0\0\0\2{}", 10), "header length"),
      {"file one byte short",
       [valid](const fs::path& d) { write_file(d / kWeights, valid.substr(0, valid.size() - 1)); },
       kWeights, "data_offsets"},
      {"file cut in its header",
       [valid](const fs::path& d) { write_file(d / kWeights, valid.substr(0, 500)); }, kWeights,
       "header length"},
      raw("trailing byte", valid + "x", "data_offsets"),
      raw("archive appended", valid + "PK\3\4" + std::string(100, '\0'), "data_offsets"),
      raw("a pickle", std::string("\x80\x02}q\x00.", 6) + std::string(100, 'x'), "header length"),
      header("header begins with a space", " {}", 0, "header"),
      header("header begins with a byte order mark", "\xEF\xBB\xBF{}", 0, "header"),
      header("header is an array", "[]", 0, "header"),
      header("header is cut", "{\"x\":{\"dtype\":\"U8\"", 0, "malformed JSON"),
      header("header never closes", "{" + std::string(1'000'000, ' '), 0, "malformed JSON"),
      header("second object in the header", "{}{}", 0, "malformed JSON"),
      header("bytes behind a NUL in the header", std::string("{}\0{\"x\":1}", 10), 0, "NUL"),
      header("comment in the header", "{/**/}", 0, "malformed JSON"),
      header("trailing comma", "{" + bytes_entry("x", 0, 1) + ",}", 1, "malformed JSON"),
      header("name is not UTF-8", "{" + bytes_entry("\xFF\xFE", 0, 1) + "}", 1, "malformed JSON"),
      header("name is overlong UTF-8", "{" + bytes_entry("\xC0\xAF", 0, 1) + "}", 1, "malformed"),
      header("name is half a surrogate pair", "{" + bytes_entry("\\ud800", 0, 1) + "}", 1,
             "malformed JSON"),
      header("raw control character in a name", "{" + bytes_entry("a\nb", 0, 1) + "}", 1,
             "malformed JSON"),
      header("arrays 10^5 deep", "{\"x\":" + deep, 0, "tensor \"x\""),
      header("arrays 10^5 deep in a shape", "{\"x\":{\"shape\":" + deep, 0, "nested deeper"),
      header("objects 10^5 deep", repeated(100'000, "{\"a\":"), 0, "dtype, shape or data_offsets"),
  };
}

std::vector<Case> entry_cases() {
  const std::string two_32 = "4294967296";
  return {
      header("entry is null", "{\"x\":null}", 0, "tensor \"x\""),
      header("entry is an array", "{\"x\":[]}", 0, "tensor \"x\""),
      header("entry is empty", "{\"x\":{}}", 0, "dtype"),
      header("no dtype", R"({"x":{"shape":[1],"data_offsets":[0,1]}})", 1, "dtype"),
      header("no shape", R"({"x":{"dtype":"U8","data_offsets":[0,1]}})", 1, "shape"),
      header("no data_offsets", R"({"x":{"dtype":"U8","shape":[1]}})", 1, "data_offsets"),
      header("another field", R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"y":1}})", 1,
             "\"y\""),
      header("field twice",
             R"({"x":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
             "duplicate key: \"dtype\""),
      header("tensor twice", "{" + bytes_entry("x", 0, 1) + "," + bytes_entry("x", 1, 2) + "}", 2,
             "duplicate key: \"x\""),
      header("tensor twice, once escaped",
             "{" + bytes_entry("x", 0, 1) + "," + bytes_entry("\\u0078", 1, 2) + "}", 2,
             "duplicate key: \"x\""),
      entry("unknown dtype", "\"F33\"", "[1]", "[0,4]", 4, "dtype"),
      entry("dtype in lower case", "\"f32\"", "[1]", "[0,4]", 4, "dtype"),
      entry("dtype is empty", "\"\"", "[1]", "[0,0]", 0, "dtype"),
      entry("dtype is a number", "32", "[1]", "[0,4]", 4, "dtype"),
      entry("dtype is a megabyte long", "\"" + std::string(1'000'000, 'F') + "\"", "[1]", "[0,4]",
            4, "dtype"),
      entry("shape is a number", "\"U8\"", "1", "[0,1]", 1, "shape"),
      entry("shape is nested", "\"U8\"", "[[1]]", "[0,1]", 1, "nested deeper"),
      entry("negative extent", "\"U8\"", "[-1]", "[0,1]", 1, "shape"),
      entry("negative zero extent", "\"U8\"", "[-0]", "[0,0]", 0, "shape"),
      entry("fractional extent", "\"U8\"", "[1.0]", "[0,1]", 1, "shape"),
      entry("extent is a string", "\"U8\"", "[\"1\"]", "[0,1]", 1, "shape"),
      entry("extent 2^63", "\"U8\"", "[9223372036854775808]", "[0,1]", 1, "shape"),
      entry("extent 2^64", "\"U8\"", "[18446744073709551616]", "[0,1]", 1, "shape"),
      entry("extents whose product wraps to 0", "\"U8\"", "[" + two_32 + "," + two_32 + "]",
            "[0,0]", 0, "shape"),
      entry("extents whose product wraps to 1", "\"U8\"",
            "[641,6700417,4294967297,18446744073709551615]", "[0,1]", 1, "shape"),
      entry("bytes that wrap to 4", "\"F32\"", "[4611686018427387905]", "[0,4]", 4, "shape"),
      entry("bits that wrap to 0", "\"F64\"", "[288230376151711744]", "[0,0]", 0, "shape"),
      entry("no elements, but an extent of 2^62", "\"U8\"", "[0,4611686018427387904]", "[0,0]", 0,
            "shape"),
      entry("no elements, but extents whose product wraps", "\"U8\"",
            "[0," + two_32 + "," + two_32 + "]", "[0,0]", 0, "shape"),
      entry("rank 9", "\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]", 1, "shape"),
      entry("rank 10^6", "\"U8\"", "[1" + repeated(1'000'000, ",1") + "]", "[0,1]", 1, "shape"),
      entry("half a byte", "\"F4\"", "[1]", "[0,1]", 1, "shape"),
      entry("six bits", "\"F6_E2M3\"", "[3]", "[0,3]", 3, "shape"),
      entry("more bytes than the shape", "\"F32\"", "[1]", "[0,8]", 8, "data_offsets"),
      entry("fewer bytes than the shape", "\"F32\"", "[2]", "[0,4]", 4, "data_offsets"),
      entry("begin after end", "\"U8\"", "[1]", "[1,0]", 1, "data_offsets"),
      entry("begin after end by what wraps", "\"U8\"", "[1]", "[18446744073709551615,0]", 1,
            "data_offsets"),
      entry("end after the file", "\"U8\"", "[9]", "[0,9]", 8, "data_offsets"),
      entry("end far after the file", "\"U8\"", "[1099511627776]", "[0,1099511627776]", 8,
            "data_offsets"),
      entry("negative offset", "\"U8\"", "[2]", "[-1,1]", 1, "data_offsets"),
      entry("fractional offset", "\"U8\"", "[1]", "[0.0,1]", 1, "data_offsets"),
      entry("offset with exponent", "\"U8\"", "[10]", "[0,1e1]", 10, "data_offsets"),
      entry("offset 2^64", "\"U8\"", "[1]", "[0,18446744073709551616]", 1, "data_offsets"),
      entry("offset 2^64 - 1", "\"U8\"", "[1]", "[18446744073709551614,18446744073709551615]", 1,
            "data_offsets"),
      entry("offset 1e400", "\"U8\"", "[1]", "[0,1e400]", 1, "header"),
      entry("offset NaN", "\"U8\"", "[1]", "[0,NaN]", 1, "malformed JSON"),
      entry("offset of 10^6 digits", "\"U8\"", "[1]", "[0," + std::string(1'000'000, '1') + "]", 1,
            "header"),
      {"offset of 10^7 digits",
       [](const fs::path& d) {
         write_file(d / kWeights,
                    safetensors_image(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,)" +
                                          std::string(10'000'000, '1') + "]}}",
                                      "x"));
       },
       kWeights, "literal too long"},
      header("metadata of 10^7 bytes",
             "{\"__metadata__\":{\"a\":\"" + std::string(10'000'000, 'x') + "\"}}", 0,
             "string too long"),
      header("a word of 10^7 letters", "{\"x\":" + std::string(10'000'000, 't') + "}", 0,
             "literal too long"),
      entry("one offset", "\"U8\"", "[1]", "[1]", 1, "data_offsets"),
      entry("three offsets", "\"U8\"", "[1]", "[0,1,1]", 1, "data_offsets"),
      entry("offsets are an object", "\"U8\"", "[1]", "{}", 1, "data_offsets"),
      entry("offset is a string", "\"U8\"", "[1]", "[\"0\",1]", 1, "data_offsets"),
      entry("offset is true", "\"U8\"", "[1]", "[0,true]", 1, "data_offsets"),
      entry("hole before the first tensor", "\"U8\"", "[1]", "[1,2]", 2, "hole"),
      header("hole between tensors",
             "{" + bytes_entry("x", 0, 1) + "," + bytes_entry("y", 2, 3) + "}", 3, "\"y\""),
      header("overlap", "{" + bytes_entry("x", 0, 2) + "," + bytes_entry("y", 1, 3) + "}", 3,
             "overlap"),
      header("two names for the same bytes",
             "{" + bytes_entry("x", 0, 2) + "," + bytes_entry("y", 0, 2) + "}", 2, "overlap"),
      header("one tensor inside another",
             "{" + bytes_entry("x", 0, 4) + "," + bytes_entry("y", 1, 2) + "}", 4, "overlap"),
      header("metadata is a string", "{\"__metadata__\":\"x\"}", 0, "__metadata__"),
      header("metadata is null", "{\"__metadata__\":null}", 0, "__metadata__"),
      header("metadata holds a number", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"),
      header("metadata holds an object", "{\"__metadata__\":{\"a\":{}}}", 0, "__metadata__"),
      header("metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key"),
      header("name that would break the line of a message",
             "{\"a\\r\\n\\u001b[2Jb\":{\"dtype\":\"?\"}}", 0, "dtype"),
      header("name longer than a megabyte",
             "{" + bytes_entry(std::string(1'100'000, 'n'), 0, 1) + "}", 1, "name"),
      header("2^18 tensors of no model", many_tensors(1u << 18, false), 1u << 18,
             "model.embed_tokens.weight"),
      header("2^18 tensors in reverse", many_tensors(1u << 18, true), 1u << 18,
             "model.embed_tokens.weight"),
      header("2^18 + 1 tensors", many_tensors((1u << 18) + 1, false), (1u << 18) + 1, "tensors"),
      header("10^6 tensors", many_tensors(1'000'000, false), 1'000'000, "tensors"),
      header("10^6 objects in one entry",
             "{\"x\":{\"dtype\":{" + repeated(1'000'000, "},\"a\":{") + "}}}", 0, "dtype"),
  };
}

std::vector<Case> place_cases() {
  return {
      in_place_of("weights are a FIFO", kWeights, put_fifo, "FIFO"),
      in_place_of("weights are a directory", kWeights, put_directory, "directory"),
      in_place_of("weights are a socket", kWeights, put_socket, "socket"),
      in_place_of("weights are a device", kWeights, put_link("/dev/zero"), "link"),
      in_place_of("weights link to a file of the host", kWeights, put_link("/etc/passwd"), "link"),
      in_place_of("weights link to a valid file elsewhere", kWeights, put_link_to_twin, "link"),
      in_place_of("weights link to nothing", kWeights, put_link("nothing"), "not found"),
      in_place_of("weights link to themselves", kWeights, put_link(kWeights), "opened"),
      in_place_of(
          "no weights", kWeights, [](const fs::path&) {}, "not found"),
      in_place_of("config is a FIFO", kConfig, put_fifo, "FIFO"),
      in_place_of("config is a directory", kConfig, put_directory, "directory"),
      in_place_of("config is a device", kConfig, put_link("/dev/zero"), "link"),
      in_place_of("config links to a valid file elsewhere", kConfig, put_link_to_twin, "link"),
      in_place_of("config links to itself", kConfig, put_link(kConfig), "opened"),
      in_place_of(
          "no config", kConfig, [](const fs::path&) {}, "opened"),
      in_place_of("generation config is a FIFO", "generation_config.json", put_fifo, "FIFO"),
  };
}

std::vector<Case> index_cases() {
  const auto map = [](const std::string& inside) { return "{\"weight_map\":{" + inside + "}}"; };
  return {
      mapped("shard in the parent directory", "\"../model.safetensors\""),
      mapped("shard at an absolute path", "\"/etc/passwd\""),
      mapped("shard through a directory and out", "\"a/../../b.safetensors\""),
      mapped("shard in a subdirectory", "\"sub/x.safetensors\""),
      mapped("shard by a path that stays", "\"./" + std::string(kShard2) + "\""),
      mapped("shard named .", "\".\""),
      mapped("shard named ..", "\"..\""),
      mapped("shard named nothing", "\"\""),
      mapped("shard with a NUL in its name", "\"" + std::string(kShard2) + "\\u0000.safetensors\""),
      mapped("shard with a backslash", "\"..\\\\x.safetensors\""),
      mapped("shard with a line break", "\"a\\nb.safetensors\""),
      mapped("shard of 4000 characters", "\"" + std::string(4000, 'x') + ".safetensors\""),
      mapped("shard that is missing", "\"model-00003-of-00002.safetensors\""),
      mapped("shard that is another file", "\"config.json\""),
      mapped("tensor said to be in the wrong shard", "\"" + std::string(kShard1) + "\""),
      mapped("shard is a number", "1"),
      mapped("shard is null", "null"),
      mapped("shard is an array", "[\"x\"]"),
      mapped("shard is an object", "{}"),
      index("index is empty", "", "malformed JSON"),
      index("index is an array", "[]", "object"),
      index("index is a string", "\"x\"", "object"),
      index("index without weight_map", "{\"metadata\":{}}", "weight_map"),
      index("weight_map is an array", "{\"weight_map\":[]}", "weight_map"),
      index("weight_map is a string", "{\"weight_map\":\"x\"}", "weight_map"),
      index("weight_map is empty", map(""), "weight_map"),
      index("weight_map twice", "{\"weight_map\":{},\"weight_map\":{}}", "duplicate key"),
      index("tensor twice in the index",
            map("\"model.norm.weight\":\"" + std::string(kShard2) + "\",\"model.norm.weight\":\"" +
                kShard2 + "\""),
            "duplicate key: \"model.norm.weight\""),
      index("tensor of no shard", map("\"a\\nb\":\"" + std::string(kShard1) + "\""), "a\\nb"),
      index("index 10^5 deep", "{\"metadata\":" + std::string(100'000, '['), "nested deeper"),
      index("index is not UTF-8", "{\"weight_map\":{\"\xFF\":\"x\"}}", "malformed JSON"),
      in_place_of("index is a FIFO", kIndex, put_fifo, "FIFO"),
      in_place_of("index is a directory", kIndex, put_directory, "directory"),
      in_place_of("index links elsewhere", kIndex, put_link("/etc/passwd"), "link"),
      {"shard is a FIFO",
       [](const fs::path& d) {
         fs::remove(d / kShard2);
         put_fifo(d / kShard2);
       },
       kShard2, "FIFO"},
      {"shard links to a valid file elsewhere",
       [](const fs::path& d) {
         fs::remove(d / kShard2);
         put_link_to_twin(d / kShard2);
       },
       kIndex, "link"},
      {"shard one byte short",
       [](const fs::path& d) { fs::resize_file(d / kShard2, fs::file_size(d / kShard2) - 1); },
       kShard2, "data_offsets"},
      {"tensor in two shards",
       [](const fs::path& d) {
         std::vector<TestTensor> all = tiny_llama_tensors();
         all.resize(11);
         write_file(d / kShard1, safetensors_of(all));
       },
       kShard2, "model.layers.1.input_layernorm.weight"},
      {"the same shard under two names",
       [](const fs::path& d) {
         fs::create_hard_link(d / kShard1, d / "model-00003-of-00002.safetensors");
         std::string text = read_file(d / kIndex);
         const std::string first = "\"" + std::string(kShard1) + "\"";
         text.replace(text.find(first), first.size(), "\"model-00003-of-00002.safetensors\"");
         write_file(d / kIndex, text);
       },
       kShard1, "model.embed_tokens.weight"},
  };
}

std::vector<Case> config_cases() {
  const std::string llama3 = R"("rope_type":"llama3","factor":8,"low_freq_factor":1)";
  std::vector<Case> all = {
      config_text("config is empty", "", "malformed JSON"),
      config_text("config is an array", "[]", "object"),
      config_text("config is an empty object", "{}", "model_type"),
      config_text("config is cut", "{\"model_type\":\"llama\",", "malformed JSON"),
      config_text("config is not UTF-8", "{\"model_type\":\"\xFF\"}", "malformed JSON"),
      config_text("config with a key twice", "{\"hidden_size\":8," + tiny_llama_config().substr(1),
                  "hidden_size"),
      config_text("config 10^5 deep", std::string(100'000, '['), "nested deeper"),
      config_text("config of 10^5 objects", "[{}" + repeated(100'000, ",{}") + "]", "too many"),
      config_text("config longer than its limit", std::string((4u << 20) + 1, ' '), "size"),
      config_text("config with a NUL", tiny_llama_config() + std::string(1, '\0'), "NUL"),
      config("model_type of a stranger", "model_type", "\"gpt2\""),
      config("model_type is a number", "model_type", "1"),
      config("model_type with a line break", "model_type", "\"a\\nb\""),
      config("architecture of a stranger", "architectures", "[\"LlamaForSequenceClassification\"]"),
      config("architectures is a string", "architectures", "\"LlamaForCausalLM\""),
      config("quantized", "quantization_config", "{\"quant_method\":\"gptq\"}"),
      config("hidden_act of a stranger", "hidden_act", "\"gelu\""),
      config("hidden_size 0", "hidden_size", "0"),
      config("hidden_size negative", "hidden_size", "-16"),
      config("hidden_size 2^31", "hidden_size", "2147483648"),
      config("hidden_size 2^64", "hidden_size", "18446744073709551616"),
      config("hidden_size fractional", "hidden_size", "16.0"),
      config("hidden_size is a string", "hidden_size", "\"16\""),
      config("hidden_size is an array", "hidden_size", "[16]"),
      config("intermediate_size 0", "intermediate_size", "0"),
      config("intermediate_size 2^32 + 24", "intermediate_size", "4294967320"),
      config("no layers", "num_hidden_layers", "0"),
      config("2^31 layers", "num_hidden_layers", "2147483648"),
      config("1001 layers", "num_hidden_layers", "1001"),
      config("layers are negative", "num_hidden_layers", "-1"),
      config("no heads", "num_attention_heads", "0"),
      config("heads that do not divide", "num_attention_heads", "7"),
      config("more heads than hidden", "num_attention_heads", "32"),
      config("no key-value heads", "num_key_value_heads", "0"),
      config("key-value heads that do not divide", "num_key_value_heads", "3"),
      config("more key-value heads than heads", "num_key_value_heads", "8"),
      config("head_dim odd", "head_dim", "3"),
      config("head_dim 0", "head_dim", "0"),
      config("head_dim 2^30", "head_dim", "1073741824"),
      config("rms_norm_eps 0", "rms_norm_eps", "0"),
      config("rms_norm_eps negative", "rms_norm_eps", "-1e-6"),
      config("rms_norm_eps 1e300", "rms_norm_eps", "1e300"),
      config("rms_norm_eps is a string", "rms_norm_eps", "\"1e-6\""),
      config("rope_theta 0", "rope_theta", "0"),
      config("rope_theta negative", "rope_theta", "-10000.0"),
      config("rope_theta 1e308", "rope_theta", "1e308"),
      config("rope_theta is true", "rope_theta", "true"),
      config_text("rope_theta NaN", config_with("rope_theta", "NaN"), "malformed JSON"),
      config_text("rope_theta Infinity", config_with("rope_theta", "Infinity"), "malformed JSON"),
      config_text("rope_theta 1e999", config_with("rope_theta", "1e999"), "number"),
      config("rope_scaling is a string", "rope_scaling", "\"linear\""),
      config("rope_parameters is an array", "rope_parameters", "[]"),
      config("partial rotation", "partial_rotary_factor", "0.5"),
      rope("rope_scaling of a stranger", R"({"type":"yarn","factor":4})", "rope_type"),
      rope("rope type is a number", R"({"rope_type":3})", "rope_type"),
      rope("linear without a factor", R"({"type":"linear"})", "factor"),
      rope("linear by 0", R"({"type":"linear","factor":0.0})", "factor"),
      rope("linear by a negative factor", R"({"type":"linear","factor":-2})", "factor"),
      rope("llama3 without high_freq_factor", "{" + llama3 + "}", "high_freq_factor"),
      rope("llama3 with equal factors", "{" + llama3 + ",\"high_freq_factor\":1}",
           "high_freq_factor"),
      rope("llama3 with low_freq_factor 0",
           R"({"rope_type":"llama3","factor":8,"low_freq_factor":0,"high_freq_factor":4})",
           "low_freq_factor"),
      rope("llama3 trained on no positions",
           "{" + llama3 + ",\"high_freq_factor\":4,\"original_max_position_embeddings\":0}",
           "original_max_position_embeddings"),
      config("no positions", "max_position_embeddings", "0"),
      config("2^31 positions", "max_position_embeddings", "2147483648"),
      config("vocabulary 0", "vocab_size", "0"),
      config("vocabulary 2^21 + 1", "vocab_size", "2097153"),
      config("vocabulary negative", "vocab_size", "-32"),
      config("tying is a number", "tie_word_embeddings", "1"),
      config("attention_bias is a string", "attention_bias", "\"false\""),
      config("bos outside of the vocabulary", "bos_token_id", "32"),
      config("eos outside of the vocabulary", "eos_token_id", "32"),
      config("eos negative", "eos_token_id", "-1"),
      config("eos nested", "eos_token_id", "[[2]]"),
      config("eos of 5000 ids", "eos_token_id", "[1" + repeated(4999, ",1") + "]"),
      config("pad outside of the vocabulary", "pad_token_id", "2147483647"),
      config("dtype of a stranger", "torch_dtype", "\"float8\""),
  };
  for (const char* key : {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size"}) {
    all.push_back(config_without(key));
  }
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"eos_token_id", "[2,32]"},
                                                        {"temperature", "-1"},
                                                        {"top_p", "2"},
                                                        {"top_k", "-1"},
                                                        {"repetition_penalty", "0"},
                                                        {"max_new_tokens", "2147483648"},
                                                        {"do_sample", "1"}}) {
    all.push_back({"generation config: " + key,
                   [key, value](const fs::path& d) {
                     write_file(d / "generation_config.json", "{\"" + key + "\":" + value + "}");
                   },
                   "generation_config.json", key});
  }
  return all;
}

std::vector<Case> contradiction_cases() {
  return {
      contradicted("vocabulary larger than the embedding", "vocab_size", "33",
                   "model.embed_tokens.weight: wanted shape [33, 16] (vocab_size, hidden_size), "
                   "got [32, 16]"),
      contradicted("vocabulary smaller than the embedding", "vocab_size", "31",
                   "model.embed_tokens.weight"),
      contradicted("hidden size of another model", "hidden_size", "32", "[32, 32]"),
      contradicted("feed-forward size of another model", "intermediate_size", "25",
                   "model.layers.0.mlp.gate_proj.weight"),
      contradicted("one layer too many", "num_hidden_layers", "3",
                   "model.layers.2.input_layernorm.weight"),
      contradicted("key-value heads of another model", "num_key_value_heads", "1",
                   "model.layers.0.self_attn.k_proj.weight"),
      contradicted("head_dim of another model", "head_dim", "8",
                   "model.layers.0.self_attn.q_proj.weight"),
      contradicted("biases that are not there", "attention_bias", "true",
                   "model.layers.0.self_attn.q_proj.bias"),
      contradicted("feed-forward biases that are not there", "mlp_bias", "true",
                   "model.layers.0.mlp.gate_proj.bias"),
      tensors(
          "no output head", [](std::vector<TestTensor>& all) { all.pop_back(); }, "lm_head.weight"),
      tensors(
          "no tensors", [](std::vector<TestTensor>& all) { all.clear(); },
          "model.embed_tokens.weight"),
      tensors(
          "a tensor in the middle is missing",
          [](std::vector<TestTensor>& all) { all.erase(all.begin() + 12); },
          "model.layers.1.self_attn.k_proj.weight"),
      tensors(
          "a matrix of the right size is turned",
          [](std::vector<TestTensor>& all) {
            all[7].shape = {16, 24};
          },
          "model.layers.0.mlp.gate_proj.weight"),
      tensors(
          "a matrix of the right size is flat",
          [](std::vector<TestTensor>& all) { all[0].shape = {512}; }, "model.embed_tokens.weight"),
      tensors(
          "integers where numbers belong",
          [](std::vector<TestTensor>& all) { all[20].dtype = "I32"; }, "dtype"),
      tensors(
          "f64 weights",
          [](std::vector<TestTensor>& all) {
            all[19].dtype = "F64";
            all[19].bytes += std::string(all[19].bytes);
          },
          "dtype"),
  };
}

void run_all(const std::vector<Case>& cases, void (*write_valid)(const fs::path&)) {
  for (const Case& hostile : cases) run(hostile, write_valid);
}

}  // namespace

TEST_CASE("Hostile safetensors files are refused") {
  run_all(length_and_text_cases(), write_tiny_llama);
  run_all(entry_cases(), write_tiny_llama);
}
TEST_CASE("Files that are no files are refused") { run_all(place_cases(), write_tiny_llama); }
TEST_CASE("Hostile indexes are refused") { run_all(index_cases(), write_sharded_tiny_llama); }
TEST_CASE("Hostile configs are refused") { run_all(config_cases(), write_tiny_llama); }
TEST_CASE("Weights that contradict their config are refused") {
  run_all(contradiction_cases(), write_tiny_llama);
}

TEST_CASE("Valid directories load within the budget, and figures of all cases") {
  for (const auto write : {write_tiny_llama, write_sharded_tiny_llama}) {
    const TempDirectory directory;
    write(directory.path());
    const std::uint64_t before = allocated_bytes.load();
    CHECK(open_model_directory(directory.path()));
    CHECK(allocated_bytes.load() - before <= 4 * bytes_in(directory.path()) + kFreeBytes);
  }
  CHECK(allocated_bytes.load() > 0);
  std::printf(
      "hostile: %zu cases refused; slowest %.3f s of CPU (%s); largest share of the allocation "
      "budget %.2f (%s)\n",
      figures.cases, figures.slowest_s, figures.slowest.c_str(), figures.largest_share,
      figures.largest.c_str());
}
