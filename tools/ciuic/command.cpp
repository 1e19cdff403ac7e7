#include "command.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

#include "ciuic/model/weight_files.hpp"

namespace ciuic::tool {

void ModelFlags::add_to(CLI::App& app) {
  app.add_option("--model", directory, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  app.add_option("--weights", weights,
                 "Hold matrices as f32, bf16, i8 or i4; a quantized directory keeps its own")
      ->check(CLI::IsMember({"f32", "bf16", "i8", "i4"}));
  app.add_option("--group", group, "i4: weights that share a scale")
      ->check(CLI::IsMember({32, 64, 128}));
  app.add_flag("--map", map, "Use the weights of a quantized directory in place, without reading");
  app.add_option("--kv", kv,
                 "Keep keys and values as f32, f16 or i8; by default f32 beside weights "
                 "of f32, else f16")
      ->check(CLI::IsMember({"f32", "f16", "i8"}));
  app.add_option("--threads", threads, "CPU threads of a step; 0 = all")
      ->check(CLI::Range(0, 1024));
  app.add_option("--device", device, "cpu (cuda:N is to come)");
  app.add_flag("--json", json, "Print one JSON object on stdout");
}

ModelOptions ModelFlags::options() const {
  if (device != "cpu")
    throw Failure(kWrongUsage, "--device: wanted cpu, the only one of this build, got " + device);
  ModelOptions options{
      .weights = format_of(weights.value_or("f32"), group), .map_weights = map, .threads = threads};
  if (!kv.empty()) options.kv = dtype_from_string(kv);
  return options;
}

MatrixFormat format_of(const std::string& weights, std::optional<int> group) {
  if (group && weights != "i4") {
    throw Failure(kWrongUsage, "--group: wanted --weights i4 with it, got " + weights);
  }
  return {dtype_from_string(weights).value(), group.value_or(64)};
}

bool is_quantized(const std::string& directory) {
  const Result<WeightFiles> files = WeightFiles::open(directory);
  return files && !files->files().front().own_metadata().empty();
}

LanguageModel ModelFlags::load() const {
  const ModelOptions wanted = options();
  if (weights && is_quantized(directory)) {
    throw Failure(kWrongUsage,
                  "--weights: wanted none with a quantized directory, got " + *weights);
  }
  if (map && !is_quantized(directory)) {
    std::error_code ignored;
    if (std::filesystem::is_directory(directory, ignored))
      throw Failure(kWrongUsage, "--map: wanted a quantized directory, got another: " + directory);
  }
  Result<LanguageModel> model = load_model(directory, wanted);
  if (!model) throw Failure(directory, model.error());
  return *std::move(model);
}

Tokenizer ModelFlags::load_tokenizer() const {
  Result<Tokenizer> tokenizer =
      Tokenizer::load((std::filesystem::path(directory) / "tokenizer.json").string());
  if (!tokenizer) throw Failure(directory, tokenizer.error());
  return *std::move(tokenizer);
}

std::string read_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw Failure(kBadInput, path + ": wanted a file, got a directory");
  }
  constexpr std::size_t kMaxBytes = std::size_t{1} << 30, kPiece = std::size_t{1} << 16;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  while (file) {
    const std::size_t held = text.size();
    if (held > kMaxBytes) throw Failure(kBadInput, path + ": wanted at most 1 GiB, got more");
    text.resize(held + kPiece);
    file.read(text.data() + held, kPiece);
    text.resize(held + static_cast<std::size_t>(file.gcount()));
  }
  if (!file.eof()) throw Failure(kBadInput, path + ": cannot be read");
  return text;
}

std::function<std::string(const std::string&)> between(double low, double high) {
  return [low, high](const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (!text.empty() && *end == '\0' && value >= low && value <= high) return std::string();
    std::ostringstream wanted;
    wanted << std::setprecision(12) << "wanted a number from " << low << " to " << high << ", got "
           << text;
    return wanted.str();
  };
}

std::vector<std::string> split_list(const std::string& flag, const std::string& list) {
  std::vector<std::string> items;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    constexpr const char* kBlank = " \t\r\n";
    std::string item = list.substr(at, end - at);
    item.erase(item.find_last_not_of(kBlank) + 1);
    item.erase(0, item.find_first_not_of(kBlank));
    if (item.empty()) {
      throw Failure(kWrongUsage, flag + ": wanted items such as 1,8,32, got an empty one: " + list);
    }
    items.push_back(std::move(item));
    at = end + 1;
  }
  return items;
}

void print_json(const Json& document) {
  const std::string text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                       std::fputc('\n', stdout) != EOF && std::fflush(stdout) == 0;
  if (!written) throw Failure(kRequestFailed, "stdout: cannot be written");
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

}  // namespace ciuic::tool
