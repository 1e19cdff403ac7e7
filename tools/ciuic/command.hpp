// What the subcommands share: how they end, where they write, and the options they have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "ciuic/ciuic.hpp"

namespace ciuic::tool {

using Json = nlohmann::ordered_json;  // members in the order in which we write them

/// The contract with scripts (design: "the command line").
enum ExitStatus : int { kDone = 0, kRequestFailed = 1, kWrongUsage = 2, kBadInput = 3 };

/// Ends the command with one line on stderr.
struct Failure : std::runtime_error {
  Failure(ExitStatus exit_status, const std::string& line)
      : std::runtime_error(line), status(exit_status) {}
  Failure(ExitStatus exit_status, const Error& error)
      : Failure(exit_status, std::string(error.message())) {}
  /// The same for something wrong with a file or directory, which the line then names.
  Failure(ExitStatus exit_status, const std::string& path, const Error& error)
      : Failure(exit_status, error.message().find(path) == std::string_view::npos
                                 ? path + ": " + std::string(error.message())
                                 : std::string(error.message())) {}
  Failure(const std::string& directory, const Error& error)
      : Failure(kBadInput, directory, error) {}
  ExitStatus status;
};

/// Options of every command that loads a model.
struct ModelFlags {
  std::string directory;
  std::optional<std::string> weights;  // f32
  std::string kv;                      // empty: what suits the weights
  std::string device = "cpu";
  std::optional<int> group;  // 64
  int threads = 0;
  bool json = false, map = false;

  void add_to(CLI::App& app);
  ModelOptions options() const;  ///< throws Failure, as for flags that would do nothing
  LanguageModel load() const;    ///< throws Failure, likewise
  Tokenizer load_tokenizer() const;
};

void add_generate(CLI::App& app);
void add_score(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_bench(CLI::App& app);
void add_quantize(CLI::App& app);

/// The format that --weights and --group ask for. Throws Failure for a group beside others than i4.
MatrixFormat format_of(const std::string& weights, std::optional<int> group);
/// Whether a model directory holds quantized weights; false too when it cannot be read.
bool is_quantized(const std::string& directory);
std::string read_file(const std::string& path);  ///< throws Failure
/// A check of a flag: a number from `low` to `high`, which NaN is not.
std::function<std::string(const std::string&)> between(double low, double high);
/// The items of a list such as 1,8,32. Throws Failure, naming the flag, for an empty item.
std::vector<std::string> split_list(const std::string& flag, const std::string& list);
void print_json(const Json& document);  ///< one object on stdout, invalid UTF-8 replaced
bool stderr_is_terminal();

}  // namespace ciuic::tool
