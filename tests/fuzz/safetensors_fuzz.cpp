// libFuzzer target: a safetensors header, and the file that is said to go on after it.
//
// Input: 1 byte that chooses what the others are, by its upper two bits:
//   0x   the JSON text of a header; the lower seven bits are how much data the file claims to hold
//   10   a whole file, length prefix and all
//   11   instructions for a header that is right but for small slips (`HeaderMaker`): bytes alone
//   hardly
//        ever change two numbers of a text in a way that fits
// Whatever is accepted must keep the promises of SafetensorsHeader; they are checked again here, by
// other means.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "ciuic/model/safetensors.hpp"

using namespace ciuic;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check_promises(const SafetensorsHeader& header, std::uint64_t data_bytes,
                    const LoadLimits& limits) {
  std::map<std::uint64_t, std::uint64_t> ranges;  // of the tensors that have bytes: begin, end
  std::uint64_t total = 0;
  for (const TensorInfo& tensor : header.tensors()) {
    require(header.find(tensor.name) == &tensor);
    require(tensor.shape.size() <= Shape::kMaxRank);
    double elements = 1.0;
    for (std::int64_t extent : tensor.shape) {
      require(extent >= 0);
      elements *= static_cast<double>(extent);
    }
    require(elements <= static_cast<double>(limits.max_elements));
    require(elements * static_cast<double>(bits_of(tensor.dtype)) ==
            8.0 * static_cast<double>(tensor.bytes));
    require(tensor.offset <= data_bytes && tensor.bytes <= data_bytes - tensor.offset);
    total += tensor.bytes;
    if (tensor.bytes != 0) {
      require(ranges.emplace(tensor.offset, tensor.offset + tensor.bytes).second);
    }
  }
  std::uint64_t end = 0;
  for (const auto& [begin, next] : ranges) {
    require(begin == end);
    end = next;
  }
  require(end == data_bytes && total == data_bytes);
}

/// Writes the header of a few tensors one after the other, each number a little wrong where the
/// input says so.
class HeaderMaker {
 public:
  explicit HeaderMaker(std::string_view input) noexcept : input_(input) {}

  std::string text() {
    std::string all = "{";
    for (int i = 0; i < 6 && !input_.empty(); ++i) {
      all += (i == 0 ? "\"t" : ",\"t") + std::to_string(i % 5) + "\":" + entry();
    }
    return all + "}";
  }
  /// Where the tensors end, or what they add up to: the two differ when there is a hole or overlap.
  std::uint64_t data_bytes() const { return num_slips_ % 2 == 0 ? end_ : total_; }

 private:
  unsigned next() {
    if (input_.empty()) return 0;
    const unsigned byte = static_cast<unsigned char>(input_.front());
    input_.remove_prefix(1);
    return byte;
  }
  /// Mostly 0, else a small step up or down, or a large one.
  std::uint64_t slip() {
    const unsigned byte = next();
    if (byte < 200) return 0;
    ++num_slips_;
    if (byte >= 250) return std::uint64_t{1} << (8 * (byte - 248));
    return std::uint64_t{byte % 8} - 4;
  }
  std::string entry() {
    const auto dtype = static_cast<FileDType>(next() % 22);
    std::uint64_t size = bits_of(dtype);
    std::string shape;
    for (unsigned rank = next() % 4; rank > 0; --rank) {
      const std::uint64_t extent = next() % 7 + slip();
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
      size *= extent;  // may wrap, as it would in a careless reader
    }
    const std::uint64_t begin = end_ + slip();
    end_ = begin + size / 8 + slip();
    total_ += size / 8;
    return "{\"dtype\":\"" + std::string(to_string(dtype)) + "\",\"shape\":[" + shape +
           "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end_) + "]}";
  }

  std::string_view input_;
  std::uint64_t end_ = 0, total_ = 0, num_slips_ = 0;
};

void check_refusal(const Error& error) {
  require(error.code() == ErrorCode::bad_model);
  require(error.message().size() < 500);
  for (char c : error.message()) require(static_cast<unsigned char>(c) >= 0x20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const LoadLimits limits{.max_header_bytes = std::uint64_t{1} << 20, .max_tensors = 1000};
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::uint64_t data_bytes = data[0] & 0x7Fu;
  std::string made;
  if (data[0] >= 0xC0u) {
    HeaderMaker maker(text);
    made = maker.text();
    data_bytes = maker.data_bytes();
    text = made;
  } else if (data[0] >= 0x80u) {
    if (text.size() < SafetensorsHeader::kPrefixBytes) return 0;
    const auto prefix =
        std::as_bytes(std::span(text.data(), text.size())).first<SafetensorsHeader::kPrefixBytes>();
    const Result<std::uint64_t> length = SafetensorsHeader::text_bytes(prefix, text.size(), limits);
    if (!length) {
      check_refusal(length.error());
      return 0;
    }
    require(*length <= text.size() - prefix.size());
    data_bytes = text.size() - prefix.size() - *length;
    text = text.substr(prefix.size(), static_cast<std::size_t>(*length));
  }
  const Result<SafetensorsHeader> header = SafetensorsHeader::parse(text, data_bytes, limits);
  if (header) {
    check_promises(*header, data_bytes, limits);
  } else {
    check_refusal(header.error());
  }
  return 0;
}
