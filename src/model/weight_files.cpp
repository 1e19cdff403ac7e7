#include "ciuic/model/weight_files.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/keyed_hash.hpp"
#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "model/model_files.hpp"
#include "model/safetensors_text.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

}  // namespace

struct WeightFiles::Tables {
  std::vector<SafetensorsFile> files;
  // With several files, tensors are numbered through; first[i] is the number of file i's first one.
  std::vector<std::uint32_t> first;
  NameTable by_name;
  std::uint64_t parameter_bytes = 0;

  const TensorInfo& tensor(std::uint32_t number) const {
    const auto after = std::ranges::upper_bound(first, number);
    const auto file = static_cast<std::size_t>(after - first.begin()) - 1;
    return files[file].tensors()[number - first[file]];
  }
  auto name_of() const {
    return [this](std::uint32_t number) { return tensor(number).name; };
  }
};

/// Follows an index, opening each shard where it is first named, so that every line is checked as
/// it is read and none needs to be kept.
class WeightFiles::IndexReader final : public JsonEvents {
 public:
  IndexReader(const std::filesystem::path& directory, const LoadLimits& limits, Tables& tables)
      : directory_(directory), limits_(limits), tables_(tables) {}

  Result<void> null() override { return other_value(); }
  Result<void> boolean(bool) override { return other_value(); }
  Result<void> integer(std::int64_t) override { return other_value(); }
  Result<void> unsigned_integer(std::uint64_t) override { return other_value(); }
  Result<void> number(double) override { return other_value(); }
  Result<void> string(std::string_view value) override {
    if (!in_map_ || depth_ != 2) return other_value();
    return check_entry(value);
  }
  Result<void> key(std::string_view name) override {
    if (depth_ == 1) in_map_ = name == "weight_map";
    if (in_map_ && depth_ == 2) tensor_ = name;
    return {};
  }
  Result<void> begin_object() override {
    if (depth_ != 1) CIUIC_TRY(other_container());
    if (depth_ == 1 && in_map_) seen_map_ = true;
    ++depth_;
    return {};
  }
  Result<void> end_object() override { return close(); }
  Result<void> begin_array() override {
    if (depth_ <= 1) CIUIC_TRY(other_value());
    CIUIC_TRY(other_container());
    ++depth_;
    return {};
  }
  Result<void> end_array() override { return close(); }

  /// Why a shard cannot be read, when that was the reason to stop: it is not the index's fault.
  const std::optional<Error>& shard_error() const noexcept { return shard_error_; }

  Result<void> finish() const {
    if (!seen_map_) {
      return Error(ErrorCode::bad_model, "weight_map: wanted an object, got nothing");
    }
    if (tables_.files.empty()) {
      return Error(ErrorCode::bad_model, "weight_map: wanted tensors, got none");
    }
    return {};
  }

 private:
  /// Values outside of weight_map are nobody's business; inside of it only strings are.
  Result<void> other_value() const {
    if (depth_ == 0) return Error(ErrorCode::bad_model, "wanted an object at the top");
    if (!in_map_) return {};
    if (depth_ == 1) {
      return Error(ErrorCode::bad_model, "weight_map: wanted an object, got something else");
    }
    return entry_error("wanted a file name, got something else");
  }
  Result<void> other_container() const {
    return in_map_ && depth_ >= 2 ? entry_error("wanted a file name, got something else")
                                  : Result<void>();
  }
  Result<void> close() {
    --depth_;
    return {};
  }
  Result<void> entry_error(std::string_view what, ErrorCode code = ErrorCode::bad_model) const {
    return Error(code, {"weight_map: tensor ", quoted_excerpt(tensor_), ": ", what});
  }

  Result<void> check_entry(std::string_view file_name) {
    if (last_ == shard_of_.end() || last_->first != file_name) {
      last_ = shard_of_.find(file_name);
      if (last_ == shard_of_.end()) CIUIC_TRY(open_shard(file_name));
    }
    const SafetensorsFile& file = tables_.files[last_->second];
    if (file.find(tensor_) == nullptr) {
      return entry_error("wanted in " + quoted_excerpt(file_name) + ", which has no such tensor");
    }
    return {};
  }

  Result<void> open_shard(std::string_view file_name) {
    if (!file_name.ends_with(".safetensors")) {
      return entry_error("wanted the name of a .safetensors file, got " +
                         quoted_excerpt(file_name));
    }
    if (tables_.files.size() >= limits_.max_shards) {
      return entry_error("wanted at most " + std::to_string(limits_.max_shards) +
                         " files in all, got more");
    }
    Result<std::filesystem::path> path = resolve_model_file(directory_, file_name);
    if (!path) return entry_error(path.error().message(), path.error().code());
    const auto shard = static_cast<std::uint32_t>(tables_.files.size());
    LoadLimits rest = limits_;
    rest.max_tensors -= tensors_;  // so that no file is read past what all of them may hold
    Result<SafetensorsFile> file = SafetensorsFile::open(*path, file_name, rest, shard);
    if (!file) {
      shard_error_ = file.error();
      return file.error();
    }
    tensors_ += file->tensors().size();
    tables_.files.push_back(*std::move(file));
    last_ = shard_of_.emplace(file_name, shard).first;
    return {};
  }

  const std::filesystem::path& directory_;
  const LoadLimits& limits_;
  Tables& tables_;
  std::size_t depth_ = 0;
  bool in_map_ = false, seen_map_ = false;
  std::optional<Error> shard_error_;
  std::uint64_t tensors_ = 0;  // of the files that are open, at most limits_.max_tensors
  std::string tensor_;         // whose value comes next
  std::map<std::string, std::uint32_t, std::less<>> shard_of_;
  std::map<std::string, std::uint32_t, std::less<>>::const_iterator last_ = shard_of_.end();
};

namespace {

Error not_found_in(const std::filesystem::path& directory, const Error& error) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) return error;
  return Error(ErrorCode::not_found, {kSingleFile, ": not found, and ", kIndexFile, " neither"});
}

}  // namespace

Result<WeightFiles> WeightFiles::open(const std::filesystem::path& directory,
                                      const LoadLimits& limits) {
  auto tables = std::make_unique<Tables>();
  if (Result<std::filesystem::path> single = resolve_model_file(directory, kSingleFile); single) {
    CIUIC_ASSIGN_OR_RETURN(SafetensorsFile file,
                           SafetensorsFile::open(*single, kSingleFile, limits, 0));
    tables->files.push_back(std::move(file));
  } else if (single.error().code() != ErrorCode::not_found) {
    return single.error();
  } else {
    Result<std::string> text = read_model_text(directory, kIndexFile, limits.max_header_bytes);
    if (!text && text.error().code() == ErrorCode::not_found) {
      return not_found_in(directory, text.error());
    }
    if (!text) return text.error();
    IndexReader reader(directory, limits, *tables);
    Result<void> read = parse_json(*text, reader);
    if (read) read = reader.finish();
    if (reader.shard_error()) return *reader.shard_error();
    if (!read) return read.error().with_prefix(std::string(kIndexFile) + ": ");
  }

  std::uint64_t total = 0;
  for (const SafetensorsFile& file : tables->files) {
    tables->first.push_back(static_cast<std::uint32_t>(total));
    total += file.tensors().size();
    for (const TensorInfo& tensor : file.tensors()) {
      const auto sum = checked_add(tables->parameter_bytes, tensor.bytes);
      if (!sum) return Error(ErrorCode::bad_model, {file.name(), ": total size wraps"});
      tables->parameter_bytes = *sum;
    }
  }
  if (tables->files.size() == 1) return WeightFiles(std::move(tables));

  auto by_name = NameTable::make(static_cast<std::uint32_t>(total), tables->name_of());
  if (const std::uint32_t* twin = std::get_if<std::uint32_t>(&by_name)) {
    const TensorInfo& tensor = tables->tensor(*twin);
    const auto first = std::ranges::find_if(tables->files, [&](const SafetensorsFile& file) {
      return file.find(tensor.name) != nullptr;
    });
    return Error(ErrorCode::bad_model,
                 {tables->files[tensor.shard].name(), ": tensor ", quoted_excerpt(tensor.name),
                  ": is in ", first->name(), " as well"});
  }
  tables->by_name = std::get<NameTable>(std::move(by_name));
  return WeightFiles(std::move(tables));
}

Result<WeightFiles> WeightFiles::random(std::span<const NamedShape> tensors, std::uint64_t seed) {
  std::string text = "{";
  std::uint64_t end = 0;
  for (const auto& [name, shape] : tensors) {
    const std::optional<std::uint64_t> bytes = bytes_of(DType::f32, shape);
    const auto next = bytes ? checked_add(end, *bytes) : std::nullopt;
    if (!next) {
      return Error(ErrorCode::bad_model,
                   {"tensor ", quoted_excerpt(name), ": shape: its size wraps"});
    }
    append_header_entry(text, name, FileDType::f32, shape, end, *next);
    end = *next;
  }
  CIUIC_ASSIGN_OR_RETURN(SafetensorsHeader header, SafetensorsHeader::parse(text += '}', end));
  auto tables = std::make_unique<Tables>();
  // Seeds are far apart, so that no two of them give the same numbers one tensor later.
  tables->files.push_back(
      SafetensorsFile("random weights", nullptr, std::move(header), seed << 44));
  tables->first.push_back(0);
  tables->parameter_bytes = end;
  return WeightFiles(std::move(tables));
}

WeightFiles::WeightFiles(std::unique_ptr<const Tables> tables) noexcept
    : tables_(std::move(tables)) {}
WeightFiles::WeightFiles(WeightFiles&&) noexcept = default;
WeightFiles& WeightFiles::operator=(WeightFiles&&) noexcept = default;
WeightFiles::~WeightFiles() = default;

const TensorInfo* WeightFiles::find(std::string_view name) const noexcept {
  if (tables_->files.size() == 1) return tables_->files[0].find(name);
  const std::optional<std::uint32_t> number = tables_->by_name.find(name, tables_->name_of());
  return number ? &tables_->tensor(*number) : nullptr;
}

std::vector<const TensorInfo*> WeightFiles::tensors() const {
  std::vector<const TensorInfo*> all;
  for (const SafetensorsFile& file : tables_->files) {
    for (const TensorInfo& tensor : file.tensors()) all.push_back(&tensor);
  }
  return all;
}

std::uint64_t WeightFiles::parameter_bytes() const noexcept { return tables_->parameter_bytes; }
std::span<const SafetensorsFile> WeightFiles::files() const noexcept { return tables_->files; }
const SafetensorsFile& WeightFiles::file_of(const TensorInfo& tensor) const noexcept {
  return tables_->files[tensor.shard];
}

}  // namespace ciuic::inline CIUIC_ABI
