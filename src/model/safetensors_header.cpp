#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <memory_resource>
#include <numeric>
#include <utility>
#include <vector>

#include "base/json.hpp"
#include "base/keyed_hash.hpp"
#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "ciuic/model/safetensors.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors on disk are little-endian");

struct FileDTypeRow {
  FileDType dtype;
  std::string_view name;
  std::uint8_t bits;
  std::optional<DType> compute;
};
constexpr auto kFileDTypes = std::to_array<FileDTypeRow>({
    {FileDType::boolean, "BOOL", 8, std::nullopt},
    {FileDType::f4, "F4", 4, std::nullopt},
    {FileDType::f6_e2m3, "F6_E2M3", 6, std::nullopt},
    {FileDType::f6_e3m2, "F6_E3M2", 6, std::nullopt},
    {FileDType::u8, "U8", 8, DType::u8},
    {FileDType::i8, "I8", 8, DType::i8},
    {FileDType::f8_e5m2, "F8_E5M2", 8, std::nullopt},
    {FileDType::f8_e4m3, "F8_E4M3", 8, std::nullopt},
    {FileDType::f8_e8m0, "F8_E8M0", 8, std::nullopt},
    {FileDType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8, std::nullopt},
    {FileDType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8, std::nullopt},
    {FileDType::i16, "I16", 16, std::nullopt},
    {FileDType::u16, "U16", 16, std::nullopt},
    {FileDType::f16, "F16", 16, DType::f16},
    {FileDType::bf16, "BF16", 16, DType::bf16},
    {FileDType::i32, "I32", 32, DType::i32},
    {FileDType::u32, "U32", 32, std::nullopt},
    {FileDType::f32, "F32", 32, DType::f32},
    {FileDType::c64, "C64", 64, std::nullopt},
    {FileDType::f64, "F64", 64, std::nullopt},
    {FileDType::i64, "I64", 64, std::nullopt},
    {FileDType::u64, "U64", 64, std::nullopt},
});
constexpr bool rows_in_order() {
  for (std::size_t i = 0; i < kFileDTypes.size(); ++i) {
    if (static_cast<std::size_t>(kFileDTypes[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_in_order());

constexpr const FileDTypeRow& row_of(FileDType dtype) noexcept {
  return kFileDTypes[static_cast<std::size_t>(dtype)];
}

// The shortest text that one more tensor can add to a header. Bounds how many there can be.
constexpr std::size_t kMinEntryBytes =
    std::string_view(R"("":{"dtype":"U8","shape":[],"data_offsets":[0,0]})").size();

// Of a name as written, or of a line of metadata.
constexpr std::size_t kMaxStringBytes = std::size_t{2} << 20;

}  // namespace

std::string_view to_string(FileDType dtype) noexcept { return row_of(dtype).name; }
std::uint64_t bits_of(FileDType dtype) noexcept { return row_of(dtype).bits; }
std::optional<DType> compute_dtype(FileDType dtype) noexcept { return row_of(dtype).compute; }

/// Names and extents lie in the arena, which never moves them.
struct SafetensorsHeader::Tables {
  std::pmr::monotonic_buffer_resource arena{std::pmr::new_delete_resource()};
  std::vector<TensorInfo> tensors;
  NameTable by_name;
  std::string_view own_metadata;

  auto name_of() const {
    return [this](std::uint32_t i) { return tensors[i].name; };
  }

  std::string_view keep(std::string_view text) {
    if (text.empty()) return {};
    char* copy = static_cast<char*>(arena.allocate(text.size(), 1));
    std::memcpy(copy, text.data(), text.size());
    return {copy, text.size()};
  }
  std::span<const std::int64_t> keep(std::span<const std::int64_t> extents) {
    if (extents.empty()) return {};
    auto* copy =
        static_cast<std::int64_t*>(arena.allocate(extents.size_bytes(), alignof(std::int64_t)));
    std::copy(extents.begin(), extents.end(), copy);
    return {copy, extents.size()};
  }
};

/// Turns the events of a header into tensors. Each state waits for one kind of event; every other
/// is refused by `unexpected`.
class SafetensorsHeader::Reader final : public JsonEvents {
 public:
  Reader(Tables& tables, const LoadLimits& limits, std::uint32_t shard) noexcept
      : tables_(tables), limits_(limits), shard_(shard) {}

  Result<void> null() override { return unexpected("null"); }
  Result<void> boolean(bool) override { return unexpected("a boolean"); }
  Result<void> integer(std::int64_t value) override { return unexpected(std::to_string(value)); }
  Result<void> number(double value) override { return unexpected(std::to_string(value)); }

  Result<void> unsigned_integer(std::uint64_t value) override {
    if (state_ == State::shape_extent) {
      if (rank_ == Shape::kMaxRank) {
        return field_error("shape", "at most " + std::to_string(Shape::kMaxRank) + " extents",
                           "more");
      }
      if (value > limits_.max_elements) {
        return field_error("shape", "extents of at most " + std::to_string(limits_.max_elements),
                           std::to_string(value));
      }
      extents_[rank_++] = static_cast<std::int64_t>(value);
      return {};
    }
    if (state_ == State::offset) {
      if (num_offsets_ == 2) return field_error("data_offsets", "2 offsets", "more");
      offsets_[num_offsets_++] = value;
      return {};
    }
    return unexpected(std::to_string(value));
  }

  Result<void> string(std::string_view value) override {
    if (state_ == State::metadata_value) {
      if (std::exchange(own_metadata_, false)) tables_.own_metadata = tables_.keep(value);
      return go(State::metadata_key);
    }
    if (state_ != State::dtype) return unexpected("a string");
    const auto row = std::ranges::find(kFileDTypes, value, &FileDTypeRow::name);
    if (row == kFileDTypes.end()) {
      return field_error("dtype", "a type of the format, for example \"BF16\"",
                         quoted_excerpt(value));
    }
    tensor_.dtype = row->dtype;
    return go(State::field);
  }

  Result<void> key(std::string_view name) override {
    switch (state_) {
      case State::tensor_name:
        return begin_entry(name);
      case State::field:
        return begin_field(name);
      case State::metadata_key:
        own_metadata_ = name == "ciuic";
        return go(State::metadata_value);
      default:
        return unexpected("a key");
    }
  }

  Result<void> begin_object() override {
    switch (state_) {
      case State::root:
        return go(State::tensor_name);
      case State::entry:
        return go(State::field);
      case State::metadata:
        return go(State::metadata_key);
      default:
        return unexpected("an object");
    }
  }
  Result<void> end_object() override {
    switch (state_) {
      case State::field:
        CIUIC_TRY(finish_tensor());
        return go(State::tensor_name);
      case State::metadata_key:
        return go(State::tensor_name);
      default:
        return go(State::end);  // of the root: in every other state a value is due
    }
  }
  Result<void> begin_array() override {
    switch (state_) {
      case State::shape:
        return go(State::shape_extent);
      case State::offsets:
        return go(State::offset);
      default:
        return unexpected("an array");
    }
  }
  Result<void> end_array() override { return go(State::field); }

 private:
  enum class State : std::uint8_t {
    root,
    tensor_name,
    entry,
    field,
    dtype,
    shape,
    shape_extent,
    offsets,
    offset,
    metadata,
    metadata_key,
    metadata_value,
    end
  };
  enum Field : unsigned { kDType = 1, kShape = 2, kOffsets = 4 };

  Result<void> go(State state) noexcept {
    state_ = state;
    return {};
  }

  Result<void> begin_entry(std::string_view name) {
    if (name == "__metadata__") {
      if (std::exchange(seen_metadata_, true)) {
        return Error(ErrorCode::bad_model, "duplicate key: \"__metadata__\"");
      }
      return go(State::metadata);
    }
    if (tables_.tensors.size() >= limits_.max_tensors) {
      return Error(ErrorCode::bad_model,
                   {"tensors: wanted at most ", std::to_string(limits_.max_tensors), ", got more"});
    }
    if (name.size() > limits_.max_name_bytes) {
      return Error(
          ErrorCode::bad_model,
          {"tensor ", quoted_excerpt(name), ": name: wanted at most ",
           std::to_string(limits_.max_name_bytes), " bytes, got ", std::to_string(name.size())});
    }
    tensor_ = {};
    tensor_.name = tables_.keep(name);
    tensor_.shard = shard_;
    seen_ = 0;
    rank_ = num_offsets_ = 0;
    return go(State::entry);
  }
  Result<void> begin_field(std::string_view name) {
    if (name == "dtype") {
      seen_ |= kDType;
      return go(State::dtype);
    }
    if (name == "shape") {
      seen_ |= kShape;
      return go(State::shape);
    }
    if (name == "data_offsets") {
      seen_ |= kOffsets;
      return go(State::offsets);
    }
    return field_error(quoted_excerpt(name), "dtype, shape or data_offsets", "another field");
  }

  Result<void> finish_tensor() {
    if ((seen_ & kDType) == 0) return field_error("dtype", "a string", "nothing");
    if ((seen_ & kShape) == 0) return field_error("shape", "an array", "nothing");
    if ((seen_ & kOffsets) == 0) return field_error("data_offsets", "an array", "nothing");
    if (num_offsets_ != 2) {
      return field_error("data_offsets", "2 offsets", std::to_string(num_offsets_));
    }
    const auto [begin, end] = offsets_;
    if (begin > end) {
      return field_error("data_offsets", "begin <= end",
                         "[" + std::to_string(begin) + ", " + std::to_string(end) + "]");
    }
    CIUIC_ASSIGN_OR_RETURN(const std::uint64_t bytes, size_by_shape());
    if (bytes != end - begin) {
      return field_error("data_offsets", std::to_string(bytes) + " bytes for its dtype and shape",
                         std::to_string(end - begin));
    }
    tensor_.shape = tables_.keep(std::span<const std::int64_t>(extents_.data(), rank_));
    tensor_.offset = begin;
    tensor_.bytes = bytes;
    tables_.tensors.push_back(tensor_);
    return {};
  }

  /// The product of all extents but the zeros stays below the limit, so that no product of some of
  /// them can wrap later.
  Result<std::uint64_t> size_by_shape() const {
    std::uint64_t nonzero_product = 1;
    bool empty = false;
    for (std::size_t i = 0; i < rank_; ++i) {
      const auto extent = static_cast<std::uint64_t>(extents_[i]);
      empty = empty || extent == 0;
      const auto product = checked_mul(nonzero_product, std::max<std::uint64_t>(extent, 1));
      if (!product || *product > limits_.max_elements) {
        return field_error("shape", "at most " + std::to_string(limits_.max_elements) + " elements",
                           "more")
            .error();
      }
      nonzero_product = *product;
    }
    const auto bits = checked_mul(empty ? 0 : nonzero_product, bits_of(tensor_.dtype));
    if (!bits || *bits % 8 != 0) {
      return field_error("shape", "whole bytes",
                         std::to_string(nonzero_product) + " elements of " +
                             std::to_string(bits_of(tensor_.dtype)) + " bits")
          .error();
    }
    return *bits / 8;
  }

  Result<void> unexpected(std::string_view got) const {
    switch (state_) {
      case State::entry:
        return Error(ErrorCode::bad_model,
                     {"tensor ", quoted_excerpt(tensor_.name), ": wanted an object, got ", got});
      case State::dtype:
        return field_error("dtype", "a string", got);
      case State::shape:
        return field_error("shape", "an array", got);
      case State::shape_extent:
        return field_error("shape", "non-negative integers", got);
      case State::offsets:
        return field_error("data_offsets", "an array", got);
      case State::offset:
        return field_error("data_offsets", "non-negative integers", got);
      case State::metadata:
        return Error(ErrorCode::bad_model, {"__metadata__: wanted an object, got ", got});
      case State::metadata_value:
        return Error(ErrorCode::bad_model, {"__metadata__: wanted strings, got ", got});
      default:
        return Error(ErrorCode::bad_model, {"header: wanted an object, got ", got});
    }
  }
  Result<void> field_error(std::string_view field, std::string_view wanted,
                           std::string_view got) const {
    return Error(ErrorCode::bad_model, {"tensor ", quoted_excerpt(tensor_.name), ": ", field,
                                        ": wanted ", wanted, ", got ", got});
  }

  Tables& tables_;
  const LoadLimits& limits_;
  const std::uint32_t shard_;
  State state_ = State::root;
  bool seen_metadata_ = false, own_metadata_ = false;
  TensorInfo tensor_;  // being read
  unsigned seen_ = 0;
  std::array<std::int64_t, Shape::kMaxRank> extents_{};
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t rank_ = 0, num_offsets_ = 0;
};

namespace {

/// From one tensor to the next there is neither hole nor overlap, and the last ends the file.
Result<void> check_coverage(std::span<const TensorInfo> tensors, std::uint64_t data_bytes) {
  const auto before = [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  };
  std::vector<std::uint32_t> order;  // stays empty in the usual case of tensors in file order
  if (!std::is_sorted(tensors.begin(), tensors.end(), before)) {
    order.resize(tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [&](std::uint32_t a, std::uint32_t b) { return before(tensors[a], tensors[b]); });
  }
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[order.empty() ? i : order[i]];
    if (tensor.offset != end) {
      return Error(ErrorCode::bad_model,
                   {"tensor ", quoted_excerpt(tensor.name),
                    ": data_offsets: ", tensor.offset < end ? "overlap" : "hole", ": wanted begin ",
                    std::to_string(end), ", got ", std::to_string(tensor.offset)});
    }
    end += tensor.bytes;  // cannot wrap: offset + bytes was one 64-bit number in the file
  }
  if (end != data_bytes) {
    return Error(ErrorCode::bad_model,
                 {"data_offsets: wanted the tensors to end with the file, at ",
                  std::to_string(data_bytes), ", got ", std::to_string(end)});
  }
  return {};
}

}  // namespace

Result<std::uint64_t> SafetensorsHeader::text_bytes(std::span<const std::byte, kPrefixBytes> prefix,
                                                    std::uint64_t file_bytes,
                                                    const LoadLimits& limits) {
  std::uint64_t length = 0;
  std::memcpy(&length, prefix.data(), kPrefixBytes);
  if (length < 2 || length > limits.max_header_bytes) {
    return Error(ErrorCode::bad_model,
                 {"header length: wanted 2 to ", std::to_string(limits.max_header_bytes), ", got ",
                  std::to_string(length)});
  }
  if (file_bytes < kPrefixBytes || length > file_bytes - kPrefixBytes) {
    return Error(ErrorCode::bad_model,
                 {"header length: wanted at most the ",
                  std::to_string(file_bytes < kPrefixBytes ? 0 : file_bytes - kPrefixBytes),
                  " bytes that follow it, got ", std::to_string(length)});
  }
  return length;
}

Result<SafetensorsHeader> SafetensorsHeader::parse(std::string_view text, std::uint64_t data_bytes,
                                                   const LoadLimits& limits, std::uint32_t shard) {
  if (!text.starts_with('{')) {
    return Error(ErrorCode::bad_model, "header: wanted an object that begins at its first byte");
  }
  auto tables = std::make_unique<Tables>();
  const auto braces = static_cast<std::size_t>(std::ranges::count(text, '{')) - 1;
  tables->tensors.reserve(std::min(
      {braces, text.size() / kMinEntryBytes, static_cast<std::size_t>(limits.max_tensors)}));
  Reader reader(*tables, limits, shard);
  // Repeated names are found below; the parser would need a set of them to do the same.
  const JsonLimits json{
      .max_depth = 3, .max_string_bytes = kMaxStringBytes, .check_root_keys = false};
  if (Result<void> parsed = parse_json(text, reader, json); !parsed) {
    return parsed.error().with_prefix("header: ");
  }
  auto by_name =
      NameTable::make(static_cast<std::uint32_t>(tables->tensors.size()), tables->name_of());
  if (const std::uint32_t* twin = std::get_if<std::uint32_t>(&by_name)) {
    return Error(ErrorCode::bad_model,
                 {"header: duplicate key: ", quoted_excerpt(tables->tensors[*twin].name)});
  }
  tables->by_name = std::get<NameTable>(std::move(by_name));
  CIUIC_TRY(check_coverage(tables->tensors, data_bytes));
  return SafetensorsHeader(std::move(tables));
}

SafetensorsHeader::SafetensorsHeader(std::unique_ptr<const Tables> tables) noexcept
    : tables_(std::move(tables)) {}
SafetensorsHeader::SafetensorsHeader(SafetensorsHeader&&) noexcept = default;
SafetensorsHeader& SafetensorsHeader::operator=(SafetensorsHeader&&) noexcept = default;
SafetensorsHeader::~SafetensorsHeader() = default;

std::span<const TensorInfo> SafetensorsHeader::tensors() const noexcept { return tables_->tensors; }
std::string_view SafetensorsHeader::own_metadata() const noexcept { return tables_->own_metadata; }

const TensorInfo* SafetensorsHeader::find(std::string_view name) const noexcept {
  const std::optional<std::uint32_t> index = tables_->by_name.find(name, tables_->name_of());
  return index ? &tables_->tensors[*index] : nullptr;
}

}  // namespace ciuic::inline CIUIC_ABI
