// Reading tensors of an open safetensors file.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "ciuic/base/sync.hpp"
#include "ciuic/model/safetensors.hpp"

namespace ciuic::inline CIUIC_ABI {

static_assert(std::endian::native == std::endian::little, "tensors on disk are little-endian");

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path,
                                              const LoadLimits& limits) {
  return open(path, {}, limits, 0);
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path,
                                              std::string_view name, const LoadLimits& limits,
                                              std::uint32_t shard) {
  CIUIC_ASSIGN_OR_RETURN(ReadOnlyFile opened, ReadOnlyFile::open(path, name));
  auto file = std::make_unique<const ReadOnlyFile>(std::move(opened));
  const auto named = [&](const Error& error) { return error.with_prefix(file->name() + ": "); };
  if (file->size() < SafetensorsHeader::kPrefixBytes) {
    return named(Error(ErrorCode::bad_model,
                       {"size: wanted at least 8 bytes, got ", std::to_string(file->size())}));
  }
  std::array<std::byte, SafetensorsHeader::kPrefixBytes> prefix{};
  CIUIC_TRY(file->read_at(0, prefix));
  const Result<std::uint64_t> length = SafetensorsHeader::text_bytes(prefix, file->size(), limits);
  if (!length) return named(length.error());
  std::string text(static_cast<std::size_t>(*length), '\0');
  CIUIC_TRY(file->read_at(prefix.size(), std::as_writable_bytes(std::span(text))));
  const std::uint64_t data_begin = prefix.size() + *length;
  Result<SafetensorsHeader> header =
      SafetensorsHeader::parse(text, file->size() - data_begin, limits, shard);
  if (!header) return named(header.error());
  std::string called = file->name();
  return SafetensorsFile(std::move(called), std::move(file), *std::move(header), data_begin);
}

/// The one mapping of a file, made when it is first asked for.
struct SharedMapping {
  Mutex mutex;
  ReadOnlyFile::Mapping mapping CIUIC_GUARDED_BY(mutex);
};

SafetensorsFile::SafetensorsFile(std::string name, std::unique_ptr<const ReadOnlyFile> file,
                                 SafetensorsHeader header, std::uint64_t data_begin)
    : name_(std::move(name)),
      file_(std::move(file)),
      mapping_(std::make_unique<SharedMapping>()),
      header_(std::move(header)),
      data_begin_(data_begin) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

namespace {

/// Widens `out.size()` 16-bit elements that lie in the upper half of out's own memory. Element i is
/// read before its place is written, because the source of every later one lies behind it; going
/// through a small block lets the compiler use whole vectors.
template <class Half>
void widen_in_place(std::span<float> out) noexcept {
  constexpr std::size_t kBlock = 256;
  std::array<Half, kBlock> block;
  const std::byte* source = reinterpret_cast<const std::byte*>(out.data()) + out.size_bytes() / 2;
  for (std::size_t first = 0; first < out.size(); first += kBlock) {
    const std::size_t count = std::min(kBlock, out.size() - first);
    std::memcpy(block.data(), source + first * sizeof(Half), count * sizeof(Half));
    for (std::size_t i = 0; i < count; ++i) out[first + i] = block[i].to_float();
  }
}

/// Element i is a function of first + i: the four 16-bit parts of a hash (the finalizer of
/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), whose
/// sum is close to normally distributed, brought to mean 0 and standard deviation 0.02.
void fill_random(std::uint64_t first, std::span<float> out) noexcept {
  constexpr float kMean = 4 * 65535.0f / 2, kScale = 0.02f / 37837.2f;  // 65536 * sqrt(4 / 12)
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint64_t x = (first + i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    const std::uint64_t sum = (x & 0xFFFF) + (x >> 16 & 0xFFFF) + (x >> 32 & 0xFFFF) + (x >> 48);
    out[i] = (static_cast<float>(sum) - kMean) * kScale;
  }
}

}  // namespace

Result<void> SafetensorsFile::read_rows_f32(const TensorInfo& tensor, std::int64_t first_row,
                                            std::span<float> out) const {
  const auto wrong = [&](ErrorCode code, std::string_view what) {
    return Error(code, {name(), ": tensor ", quoted_excerpt(tensor.name), ": ", what});
  };
  const std::uint64_t element_bits = bits_of(tensor.dtype);
  if (tensor.dtype != FileDType::f32 && tensor.dtype != FileDType::f16 &&
      tensor.dtype != FileDType::bf16) {
    return wrong(
        ErrorCode::unsupported,
        std::string("dtype: wanted F32, F16 or BF16, got ").append(to_string(tensor.dtype)));
  }
  const std::uint64_t rows = tensor.shape.empty() ? 1 : static_cast<std::uint64_t>(tensor.shape[0]);
  std::uint64_t row = 1;  // elements; the validator has bounded every such product
  for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) {
    row *= static_cast<std::uint64_t>(tensor.shape[axis]);
  }
  if (out.empty()) return {};
  if (row == 0 || out.size() % row != 0) {
    return wrong(ErrorCode::invalid_argument, "out: wanted whole rows of " + std::to_string(row) +
                                                  " elements, got " + std::to_string(out.size()));
  }
  const std::uint64_t count = out.size() / row;
  if (first_row < 0 || static_cast<std::uint64_t>(first_row) > rows ||
      count > rows - static_cast<std::uint64_t>(first_row)) {
    return wrong(ErrorCode::invalid_argument, "rows: wanted some of " + std::to_string(rows) +
                                                  ", got " + std::to_string(count) + " from " +
                                                  std::to_string(first_row));
  }
  const std::uint64_t place =
      tensor.offset + static_cast<std::uint64_t>(first_row) * row * (element_bits / 8);
  if (!file_) {
    if (tensor.shape.size() == 1) {
      std::ranges::fill(out, 1.0f);
    } else {
      fill_random(data_begin_ + place / sizeof(float), out);
    }
    return {};
  }
  const std::uint64_t offset = data_begin_ + place;
  const std::span<std::byte> bytes = std::as_writable_bytes(out);
  if (tensor.dtype == FileDType::f32) return file_->read_at(offset, bytes);
  CIUIC_TRY(file_->read_at(offset, bytes.subspan(bytes.size() / 2)));
  if (tensor.dtype == FileDType::bf16) {
    widen_in_place<bf16>(out);
  } else {
    widen_in_place<f16>(out);
  }
  return {};
}

namespace {

Error no_bytes(const std::string& name) {
  return Error(ErrorCode::unsupported, {name, ": random weights have no bytes, only elements"});
}

}  // namespace

Result<void> SafetensorsFile::read_bytes(const TensorInfo& tensor, std::uint64_t offset,
                                         std::span<std::byte> out) const {
  if (offset > tensor.bytes || out.size() > tensor.bytes - offset) {
    return Error(ErrorCode::invalid_argument,
                 {name(), ": tensor ", quoted_excerpt(tensor.name), ": wanted ",
                  std::to_string(out.size()), " bytes from ", std::to_string(offset), " on, got ",
                  std::to_string(tensor.bytes), " in all"});
  }
  if (file_ == nullptr) return no_bytes(name());
  return file_->read_at(data_begin_ + tensor.offset + offset, out);
}

Result<SafetensorsFile::MappedTensor> SafetensorsFile::map_tensor(const TensorInfo& tensor) const {
  if (file_ == nullptr) return no_bytes(name());
  const Lock lock(mapping_->mutex);
  if (mapping_->mapping.owner == nullptr) {
    CIUIC_ASSIGN_OR_RETURN(mapping_->mapping, file_->map());
  }
  return MappedTensor{
      mapping_->mapping.bytes.subspan(static_cast<std::size_t>(data_begin_ + tensor.offset),
                                      static_cast<std::size_t>(tensor.bytes)),
      mapping_->mapping.owner};
}

}  // namespace ciuic::inline CIUIC_ABI
