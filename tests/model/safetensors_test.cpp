#include "ciuic/model/safetensors.hpp"

#include <array>
#include <cstring>
#include <vector>

#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

std::string failure(const std::string& header, std::uint64_t data_bytes,
                    const LoadLimits& limits = {}) {
  const Result<SafetensorsHeader> parsed = SafetensorsHeader::parse(header, data_bytes, limits);
  return parsed ? "" : std::string(parsed.error().message());
}

std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                  std::string_view offsets) {
  return std::string("\"")
      .append(name)
      .append("\":{\"dtype\":\"")
      .append(dtype)
      .append("\",\"shape\":")
      .append(shape)
      .append(",\"data_offsets\":")
      .append(offsets)
      .append("}");
}

}  // namespace

TEST_CASE("A header gives its tensors in order and by name") {
  const std::string text = "{\"__metadata__\":{\"format\":\"pt\"}," +
                           entry("b\\u00e9", "BF16", "[2,3]", "[4,16]") + "," +
                           entry("scalar", "F32", "[]", "[0,4]") + "," +
                           entry("empty", "I64", "[5,0]", "[4,4]") + "}   ";
  const Result<SafetensorsHeader> header = SafetensorsHeader::parse(text, 16);
  REQUIRE(header);
  REQUIRE(header->tensors().size() == 3);
  const TensorInfo& first = header->tensors()[0];
  CHECK(first.name == "b\xC3\xA9");
  CHECK(first.dtype == FileDType::bf16);
  CHECK(Shape(first.shape) == Shape{2, 3});
  CHECK(first.offset == 4);
  CHECK(first.bytes == 12);
  CHECK(header->find("b\xC3\xA9") == &first);
  CHECK(header->find("scalar")->shape.empty());
  CHECK(header->find("empty")->bytes == 0);
  CHECK(header->find("absent") == nullptr);
  CHECK(header->find("") == nullptr);
}

TEST_CASE("Every dtype of the format parses, with its size") {
  const std::vector<std::pair<std::string, int>> types = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  for (const auto& [name, bits] : types) {
    CAPTURE(name);
    const std::string end = std::to_string(bits);  // 8 elements
    const Result<SafetensorsHeader> header = SafetensorsHeader::parse(
        "{" + entry("x", name, "[8]", "[0," + end + "]") + "}", static_cast<unsigned>(bits));
    REQUIRE(header);
    CHECK(to_string(header->tensors()[0].dtype) == name);
    CHECK(bits_of(header->tensors()[0].dtype) == static_cast<unsigned>(bits));
  }
  CHECK(failure("{" + entry("x", "F4", "[3]", "[0,2]") + "}", 2) ==
        "header: tensor \"x\": shape: wanted whole bytes, got 3 elements of 4 bits");
}

TEST_CASE("A wrong header is refused with the tensor, the field, what was wanted and got") {
  CHECK(failure("{}", 0).empty());
  CHECK(failure("{}", 1) == "data_offsets: wanted the tensors to end with the file, at 1, got 0");
  CHECK(failure(" {}", 0) == "header: wanted an object that begins at its first byte");
  CHECK(failure("{" + entry("x", "F32", "[2]", "[0,4]") + "}", 4) ==
        "header: tensor \"x\": data_offsets: wanted 8 bytes for its dtype and shape, got 4");
  CHECK(failure("{" + entry("x", "F99", "[2]", "[0,4]") + "}", 4) ==
        "header: tensor \"x\": dtype: wanted a type of the format, for example \"BF16\", got "
        "\"F99\"");
  CHECK(failure("{" + entry("x", "U8", "[4294967296,4294967296]", "[0,0]") + "}", 0) ==
        "header: tensor \"x\": shape: wanted at most 1099511627776 elements, got more");
  CHECK(
      failure("{" + entry("x", "U8", "[1]", "[0,1]") + "," + entry("y", "U8", "[1]", "[2,3]") + "}",
              3) == "tensor \"y\": data_offsets: hole: wanted begin 1, got 2");
  CHECK(
      failure("{" + entry("x", "U8", "[2]", "[0,2]") + "," + entry("y", "U8", "[2]", "[1,3]") + "}",
              3) == "tensor \"y\": data_offsets: overlap: wanted begin 2, got 1");
  CHECK(failure("{" + entry("x", "U8", "[]", "[0,1]") + "," + entry("y", "U8", "[]", "[1,2]") + "}",
                2, {.max_tensors = 1}) == "header: tensors: wanted at most 1, got more");
  CHECK(failure("{\"x\\n\":3}", 2) == "header: tensor \"x\\n\": wanted an object, got 3");
}

TEST_CASE("Rows are read as f32 whatever the dtype and the alignment") {
  // 1 byte first, so that every later tensor starts at an odd offset.
  constexpr std::int64_t kRows = 5, kCols = 700;  // more than one block of the widening loop
  std::mt19937 random(3);
  const TestTensor wide = f32_tensor("wide", {kRows, kCols}, random);
  std::vector<float> values(kRows * kCols);
  std::memcpy(values.data(), wide.bytes.data(), wide.bytes.size());
  TestTensor half{"half", "F16", {kRows, kCols}, {}}, brain{"brain", "BF16", {kRows, kCols}, {}};
  std::vector<float> as_half, as_brain;
  for (float value : values) {
    const f16 h = f16::from_float(value);
    const bf16 b = bf16::from_float(value);
    half.bytes.append(reinterpret_cast<const char*>(&h), 2);
    brain.bytes.append(reinterpret_cast<const char*>(&b), 2);
    as_half.push_back(h.to_float());
    as_brain.push_back(b.to_float());
  }
  const TempDirectory directory;
  write_file(directory / "x.safetensors",
             safetensors_of({{"odd", "U8", {1}, "z"},
                             wide,
                             half,
                             brain,
                             {"scalar", "F32", {}, std::string("\0\0\xC0\x3F", 4)}}));
  const Result<SafetensorsFile> file = SafetensorsFile::open(directory / "x.safetensors");
  REQUIRE(file);
  CHECK(file->name() == "x.safetensors");
  const std::vector<std::pair<std::string, std::vector<float>>> expected = {
      {"wide", values}, {"half", as_half}, {"brain", as_brain}};
  for (const auto& [name, all] : expected) {
    CAPTURE(name);
    const TensorInfo& tensor = *file->find(name);
    std::vector<float> out(all.size());
    REQUIRE(file->read_rows_f32(tensor, 0, out));
    CHECK(out == all);
    out.assign(2 * kCols, 0.0f);
    REQUIRE(file->read_rows_f32(tensor, 3, out));
    CHECK(out == std::vector<float>(all.begin() + 3 * kCols, all.end()));
    CHECK(file->read_rows_f32(tensor, 4, out).error().code() == ErrorCode::invalid_argument);
    CHECK(file->read_rows_f32(tensor, -1, out).error().code() == ErrorCode::invalid_argument);
    CHECK(file->read_rows_f32(tensor, 0, std::span(out).first(7)).error().message() ==
          "x.safetensors: tensor \"" + name + "\": out: wanted whole rows of 700 elements, got 7");
  }
  float scalar = 0.0f;
  REQUIRE(file->read_rows_f32(*file->find("scalar"), 0, {&scalar, 1}));
  CHECK(scalar == 1.5f);
  CHECK(file->read_rows_f32(*file->find("odd"), 0, {&scalar, 1}).error().code() ==
        ErrorCode::unsupported);
}

TEST_CASE("A file that changes while it is open is an error, not a signal") {
  std::mt19937 random(4);
  const std::string image = safetensors_of({f32_tensor("x", {64, 64}, random)});
  const TempDirectory directory;
  const fs::path path = directory / "x.safetensors";
  std::vector<float> out(64 * 64);
  const auto read_after = [&](auto change) {
    write_file(path, image);
    const Result<SafetensorsFile> file = SafetensorsFile::open(path);
    change();
    return file->read_rows_f32(*file->find("x"), 0, out).error();
  };
  const Error shorter = read_after([&] { fs::resize_file(path, image.size() - 1); });
  CHECK(shorter.code() == ErrorCode::io_error);
  CHECK(shorter.message() == "x.safetensors: changed while it was open: wanted " +
                                 std::to_string(image.size()) + " bytes, got " +
                                 std::to_string(image.size() - 1));
  CHECK(read_after([&] { fs::resize_file(path, 0); }).code() == ErrorCode::io_error);
  CHECK(read_after([&] { fs::resize_file(path, image.size() + 9); }).code() == ErrorCode::io_error);
  CHECK(read_after([&] {
          fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(2));
        }).message() == "x.safetensors: was modified while it was open");
}

TEST_CASE("What is written reads back, and a failure leaves the old file") {
  const TempDirectory directory;
  const fs::path path = directory / "out.safetensors";
  const std::array<float, 6> f{1, 2, 3, 4, 5, 6};
  const std::array<std::int8_t, 3> i{-1, 0, 1};
  const auto view = [](const auto& data, DType dtype, Shape shape) {
    return ConstTensorView{std::as_bytes(std::span(data)).data(), dtype, shape};
  };
  const std::vector<NamedTensor> tensors = {{"bytes", view(i, DType::i8, {3})},
                                            {"lo\"gits", view(f, DType::f32, {2, 3})},
                                            {"none", {nullptr, DType::bf16, {0, 4}}}};
  REQUIRE(write_safetensors(path, tensors));
  const Result<SafetensorsFile> file = SafetensorsFile::open(path);
  REQUIRE(file);
  CHECK(file->tensors()[0].name == "lo\"gits");  // widest elements first
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, read_file(path).data(), sizeof header_bytes);
  CHECK(header_bytes % 8 == 0);
  std::array<float, 6> out{};
  REQUIRE(file->read_rows_f32(*file->find("lo\"gits"), 0, out));
  CHECK(out == f);
  CHECK(file->find("bytes")->dtype == FileDType::i8);

  const std::string before = read_file(path);
  const std::vector<NamedTensor> twins = {tensors[0], tensors[0]};
  CHECK(write_safetensors(path, twins).error().code() == ErrorCode::invalid_argument);
  CHECK(write_safetensors(path, std::vector<NamedTensor>{{"x", view(i, DType::i4, {6})}})
            .error()
            .code() == ErrorCode::unsupported);
  CHECK(write_safetensors(directory / "no/such/dir.safetensors", tensors).error().code() ==
        ErrorCode::not_found);
  CHECK(read_file(path) == before);
  fs::create_directory(directory / "occupied");
  write_file(directory / "occupied/file", "x");
  CHECK_FALSE(write_safetensors(directory / "occupied", tensors));
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& item : fs::directory_iterator(directory.path())) ++entries;
  CHECK(entries == 2);  // no temporary file is left behind
}
