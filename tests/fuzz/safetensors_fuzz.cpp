// libFuzzer target: a safetensors header, and the file that is said to go on after it.
//
// Input: 1 byte that chooses how much data the file claims to hold, then the JSON text. With the
// top bit set the input is a whole file instead, length prefix and all. Whatever is accepted must
// keep the promises of SafetensorsHeader; they are checked again here, by other means.
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
  if ((data[0] & 0x80u) != 0) {
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
