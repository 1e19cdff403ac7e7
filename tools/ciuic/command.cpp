#include "command.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

namespace ciuic::tool {

void ModelFlags::add_to(CLI::App& app) {
  app.add_option("--model", directory, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  app.add_option("--weights", weights, "Hold weights as f32 (bf16, i8 and i4 are to come)")
      ->check(CLI::IsMember({"f32", "bf16", "i8", "i4"}));
  app.add_option("--threads", threads, "CPU threads of a step; 0 = all")
      ->check(CLI::Range(0, 1024));
  app.add_option("--device", device, "cpu (cuda:N is to come)");
  app.add_flag("--json", json, "Print one JSON object on stdout");
}

LanguageModel ModelFlags::load() const {
  if (device != "cpu")
    throw Failure(kWrongUsage, "--device: wanted cpu, the only one of this build, got " + device);
  const auto dtype = dtype_from_string(weights);
  if (dtype != DType::f32) {
    throw Failure(kWrongUsage,
                  "--weights: wanted f32, the only one of this version, got " + weights);
  }
  Result<LanguageModel> model = load_model(directory, {.weights = *dtype, .threads = threads});
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

void print_json(const Json& document) {
  const std::string text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                       std::fputc('\n', stdout) != EOF && std::fflush(stdout) == 0;
  if (!written) throw Failure(kRequestFailed, "stdout: cannot be written");
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

}  // namespace ciuic::tool
