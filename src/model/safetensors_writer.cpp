// Writing a safetensors file.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "base/json.hpp"
#include "ciuic/base/checked.hpp"
#include "ciuic/model/safetensors.hpp"
#include "model/safetensors_text.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

std::optional<FileDType> file_dtype(DType dtype) noexcept {
  for (std::size_t i = 0; i <= static_cast<std::size_t>(FileDType::u64); ++i) {
    const auto candidate = static_cast<FileDType>(i);
    if (compute_dtype(candidate) == dtype) return candidate;
  }
  return std::nullopt;
}

}  // namespace

void append_header_entry(std::string& text, std::string_view name, FileDType dtype,
                         const Shape& shape, std::uint64_t begin, std::uint64_t end) {
  text += text.size() == 1 ? "" : ",";
  append_json_string(text, name);
  text.append(":{\"dtype\":\"").append(to_string(dtype)).append("\",\"shape\":[");
  for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
    text += axis == 0 ? "" : ",";
    text += std::to_string(shape[axis]);
  }
  text += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

Result<void> write_safetensors(const std::filesystem::path& path,
                               std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& item : tensors) order.push_back(&item);
  // Widest elements first keeps every tensor aligned to its elements.
  std::ranges::sort(order, [](const NamedTensor* a, const NamedTensor* b) {
    const std::size_t bits_a = bits_of(a->tensor.dtype), bits_b = bits_of(b->tensor.dtype);
    return bits_a != bits_b ? bits_a > bits_b : a->name < b->name;
  });
  std::string header = "{";
  std::vector<std::span<const std::byte>> parts(2);
  std::uint64_t end = 0;
  for (const NamedTensor* item : order) {
    const std::optional<FileDType> dtype = file_dtype(item->tensor.dtype);
    if (!dtype) {
      return Error(ErrorCode::unsupported,
                   {"tensor ", quoted_excerpt(item->name), ": dtype: safetensors has no ",
                    to_string(item->tensor.dtype)});
    }
    const std::optional<std::uint64_t> bytes = bytes_of(item->tensor.dtype, item->tensor.shape);
    const auto next = bytes ? checked_add(end, *bytes) : std::nullopt;
    if (!next) {
      return Error(ErrorCode::invalid_argument,
                   {"tensor ", quoted_excerpt(item->name), ": shape: its size wraps"});
    }
    append_header_entry(header, item->name, *dtype, item->tensor.shape, end, *next);
    parts.emplace_back(item->tensor.data, static_cast<std::size_t>(*bytes));
    end = *next;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  // What cannot be read back must not be written: repeated or reserved names, invalid UTF-8,
  // limits.
  if (Result<SafetensorsHeader> checked = SafetensorsHeader::parse(header, end); !checked) {
    return Error(ErrorCode::invalid_argument, {"write_safetensors: ", checked.error().message()});
  }
  const std::uint64_t length = header.size();
  parts[0] = std::as_bytes(std::span(&length, 1));
  parts[1] = std::as_bytes(std::span(header));
  return write_file_atomically(path, parts);
}

}  // namespace ciuic::inline CIUIC_ABI
