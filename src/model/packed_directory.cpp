#include "model/packed_directory.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/json.hpp"
#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::uint64_t kAlignment = 64;  // of every matrix in the file

std::string_view form_name(PackedMatrix::Form form) noexcept {
  return form == PackedMatrix::Form::gated ? "gated" : "plain";
}

std::optional<PackedLayout> layout_of(const MatrixSpec& spec, const MatrixFormat& format) noexcept {
  return PackedLayout::of(spec.rows, spec.cols, spec.form == PackedMatrix::Form::gated, format);
}

constexpr std::string_view kEntryKeys[] = {"dtype", "group", "rows", "cols", "form", "input_scale"};

/// Reads one entry of the table and checks it against what the model needs.
class EntryReader {
 public:
  EntryReader(std::string_view file, const MatrixSpec& spec) : file_(file), spec_(spec) {}

  Result<PackedEntry> read(const JsonValue* object) const {
    if (object == nullptr || !object->is_object()) return wrong("the table", "an entry", "none");
    PackedEntry entry;
    const JsonValue* dtype = object->find("dtype");
    const auto type = dtype != nullptr && dtype->is_string() ? dtype_from_string(dtype->as_string())
                                                             : std::nullopt;
    if (!type) return wrong("dtype", "f32, bf16, i8 or i4", shown(dtype));
    entry.format.dtype = *type;
    if (*type == DType::i4) {
      const JsonValue* group = object->find("group");
      const bool known =
          group != nullptr && group->is_integer() &&
          (group->as_integer() == 32 || group->as_integer() == 64 || group->as_integer() == 128);
      if (!known) return wrong("group", "32, 64 or 128", shown(group));
      entry.format.group = static_cast<std::int32_t>(group->as_integer());
    }
    if (!entry.format.is_valid()) return wrong("dtype", "f32, bf16, i8 or i4", shown(dtype));
    for (const auto& [key, value] : object->members()) {
      if (key == "group" && *type != DType::i4)
        return wrong("group", "none beside " + std::string(to_string(*type)), shown(&value));
      if (std::ranges::find(kEntryKeys, key) == std::end(kEntryKeys))
        return wrong("the entry", "no other values than version 1 has", quoted_excerpt(key));
    }
    CIUIC_TRY(check_number(*object, "rows", spec_.rows));
    CIUIC_TRY(check_number(*object, "cols", spec_.cols));
    const JsonValue* form = object->find("form");
    if (form == nullptr || !form->is_string() || form->as_string() != form_name(spec_.form)) {
      return wrong("form", form_name(spec_.form), shown(form));
    }
    if (const JsonValue* scale = object->find("input_scale"); scale != nullptr) {
      const double value = scale->is_number() ? scale->as_number() : -1.0;
      constexpr double kLeast = double{std::numeric_limits<float>::min()};  // 1 / it is finite
      if (!(value == 0.0 || value >= kLeast) || value > double{std::numeric_limits<float>::max()}) {
        return wrong("input_scale", "0, or a normal number of f32 above it", shown(scale));
      }
      entry.input_scale = static_cast<float>(value);
    }
    const auto layout = layout_of(spec_, entry.format);
    if (!layout) return wrong("rows, cols", "a size that can be addressed", "more");
    entry.layout = *layout;
    return entry;
  }

  Result<void> find_tensor(const WeightFiles& files, PackedEntry& entry) const {
    const std::string name = packed_name(spec_);
    entry.tensor = files.find(name);
    if (entry.tensor == nullptr) return wrong("the file", "the tensor", "none").error();
    if (entry.tensor->dtype != FileDType::u8) {
      return wrong("dtype in the file", "U8", to_string(entry.tensor->dtype)).error();
    }
    if (entry.tensor->bytes != entry.layout.bytes) {
      return wrong("size", std::to_string(entry.layout.bytes) + " bytes",
                   std::to_string(entry.tensor->bytes))
          .error();
    }
    return {};
  }

 private:
  Result<PackedEntry> wrong(std::string_view field, std::string_view wanted,
                            std::string_view got) const {
    return Error(ErrorCode::bad_model, {file_, ": ", packed_name(spec_), ": ", field, ": wanted ",
                                        wanted, ", got ", got});
  }
  static std::string shown(const JsonValue* value) {
    if (value == nullptr) return "nothing";
    if (value->is_string()) return quoted_excerpt(value->as_string());
    if (value->is_integer()) return std::to_string(value->as_integer());
    if (value->is_number()) return std::to_string(value->as_number());
    return std::string(describe(value->kind()));
  }
  Result<void> check_number(const JsonValue& object, std::string_view key,
                            std::int64_t wanted) const {
    const JsonValue* value = object.find(key);
    if (value != nullptr && value->is_integer() && value->as_integer() == wanted) return {};
    return wrong(key, std::to_string(wanted) + " (config.json)", shown(value)).error();
  }

  const std::string_view file_;
  const MatrixSpec& spec_;
};

void append_float(std::string& text, float value) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;  // reads back exactly
  text.append(digits, end);
}

void append_tensor(std::string& header, std::string_view name, std::string_view dtype,
                   std::uint64_t extent, std::uint64_t begin, std::uint64_t end) {
  header += ',';
  append_json_string(header, name);
  header.append(":{\"dtype\":\"").append(dtype).append("\",\"shape\":[");
  header += std::to_string(extent) + "],\"data_offsets\":[" + std::to_string(begin) + ',' +
            std::to_string(end) + "]}";
}

}  // namespace

std::string packed_name(const MatrixSpec& spec) { return spec.name + ".packed"; }

bool is_packed(const WeightFiles& files) noexcept {
  return !files.files().front().own_metadata().empty();
}

Result<std::vector<PackedEntry>> parse_packed_table(std::string_view text, std::string_view file,
                                                    std::span<const MatrixSpec> specs) {
  const auto wrong = [&](ErrorCode code, std::string_view what) {
    return Error(code, {file, ": __metadata__.ciuic: ", what});
  };
  // An entry has up to six values; many more than that are no table of this model.
  Result<JsonValue> table = JsonValue::parse(text, {.max_depth = 4}, 16 + 8 * specs.size());
  if (!table) return wrong(table.error().code(), table.error().message());
  const JsonValue* version = table->find("version");
  if (version == nullptr || !version->is_integer()) {
    return wrong(ErrorCode::bad_model, "version: wanted a number, got none");
  }
  if (version->as_integer() != kPackedVersion) {
    return wrong(ErrorCode::unsupported, "version: wanted " + std::to_string(kPackedVersion) +
                                             ", the only one of this build, got " +
                                             std::to_string(version->as_integer()));
  }
  const JsonValue* matrices = table->find("matrices");
  if (matrices == nullptr || !matrices->is_object()) {
    return wrong(ErrorCode::bad_model, "matrices: wanted an object");
  }
  for (const auto& [key, value] : table->members()) {
    if (key != "version" && key != "matrices") {
      return wrong(ErrorCode::bad_model,
                   "wanted version and matrices alone, got " + quoted_excerpt(key));
    }
  }
  std::vector<PackedEntry> entries;
  std::size_t at = 0;  // entries usually come in the order of the specs
  for (const MatrixSpec& spec : specs) {
    const auto& members = matrices->members();
    const bool next = at < members.size() && members[at].first == spec.name;
    const EntryReader reader(file, spec);
    CIUIC_ASSIGN_OR_RETURN(PackedEntry entry,
                           reader.read(next ? &members[at].second : matrices->find(spec.name)));
    entries.push_back(entry);
    ++at;
  }
  // Every spec has its entry and keys are unique: what is more belongs to none.
  for (const auto& [name, entry] : matrices->members()) {
    if (matrices->members().size() == specs.size()) break;
    if (std::ranges::none_of(specs, [&](const MatrixSpec& spec) { return spec.name == name; })) {
      return wrong(ErrorCode::bad_model,
                   "matrices: wanted those of config.json alone, got " + quoted_excerpt(name));
    }
  }
  return entries;
}

Result<std::vector<PackedEntry>> read_packed_table(const WeightFiles& files,
                                                   std::span<const MatrixSpec> specs) {
  const SafetensorsFile& file = files.files().front();
  CIUIC_ASSIGN_OR_RETURN(std::vector<PackedEntry> entries,
                         parse_packed_table(file.own_metadata(), file.name(), specs));
  for (std::size_t i = 0; i < specs.size(); ++i)
    CIUIC_TRY(EntryReader(file.name(), specs[i]).find_tensor(files, entries[i]));
  return entries;
}

Result<PackedSource> packed_source(const WeightFiles& files, const MatrixSpec& spec,
                                   const PackedEntry& entry, bool map) {
  PackedSource source;
  source.rows = spec.rows;
  source.cols = spec.cols;
  source.form = spec.form;
  source.format = entry.format;
  source.input_scale = entry.input_scale;
  const SafetensorsFile& file = files.file_of(*entry.tensor);
  if (map) {
    CIUIC_ASSIGN_OR_RETURN(SafetensorsFile::MappedTensor mapped, file.map_tensor(*entry.tensor));
    if (reinterpret_cast<std::uintptr_t>(mapped.bytes.data()) % kAlignment == 0) {
      source.mapped = mapped.bytes;
      source.owner = std::move(mapped.owner);
      return source;
    }
  }
  source.read = [&file, tensor = entry.tensor](std::size_t offset, std::span<std::byte> out) {
    return file.read_bytes(*tensor, offset, out);
  };
  return source;
}

Result<PackedFileLayout> lay_out_packed_file(std::span<const MatrixSpec> specs,
                                             std::span<const PackedEntry> entries,
                                             std::span<const VectorSpec> vectors) {
  std::string table = "{\"version\":" + std::to_string(kPackedVersion) + ",\"matrices\":{";
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const PackedEntry& entry = entries[i];
    if (i != 0) table += ',';
    append_json_string(table, specs[i].name);
    table.append(":{\"dtype\":\"").append(to_string(entry.format.dtype)).append("\"");
    if (entry.format.dtype == DType::i4)
      table += ",\"group\":" + std::to_string(entry.format.group);
    table += ",\"rows\":" + std::to_string(specs[i].rows) +
             ",\"cols\":" + std::to_string(specs[i].cols) + ",\"form\":\"";
    table.append(form_name(specs[i].form)).append("\"");
    if (entry.input_scale != 0.0f) {
      table += ",\"input_scale\":";
      append_float(table, entry.input_scale);
    }
    table += '}';
  }
  table += "}}";

  PackedFileLayout layout;
  std::string header = "{\"__metadata__\":{\"ciuic\":";
  append_json_string(header, table);
  header += '}';
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::uint64_t begin = end;
    end += entries[i].layout.bytes;
    layout.matrices.push_back(begin);
    append_tensor(header, packed_name(specs[i]), "U8", end - begin, begin, end);
  }
  for (const VectorSpec& vector : vectors) {
    const std::uint64_t begin = end;
    end += static_cast<std::uint64_t>(vector.size) * sizeof(float);
    layout.vectors.push_back(begin);
    append_tensor(header, vector.name, "F32", static_cast<std::uint64_t>(vector.size), begin, end);
  }
  header += '}';
  const std::uint64_t prefix = SafetensorsHeader::kPrefixBytes;
  header.append((kAlignment - (prefix + header.size()) % kAlignment) % kAlignment, ' ');
  if (Result<SafetensorsHeader> checked = SafetensorsHeader::parse(header, end); !checked) {
    return Error(ErrorCode::internal, {"packed file: ", checked.error().message()});
  }
  const std::uint64_t length = header.size();
  layout.head.append(reinterpret_cast<const char*>(&length), prefix).append(header);
  for (auto* offsets : {&layout.matrices, &layout.vectors}) {
    for (std::uint64_t& offset : *offsets) offset += layout.head.size();
  }
  return layout;
}

}  // namespace ciuic::inline CIUIC_ABI
