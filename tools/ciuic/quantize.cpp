// ciuic quantize: a model directory with small weights out of one with large ones.
#include "ciuic/model/quantize.hpp"

#include <cmath>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "command.hpp"
#include "progress.hpp"

namespace ciuic::tool {
namespace {

constexpr std::size_t kSampleTokens = 512;

struct Flags {
  ModelFlags model;
  std::string out, calibrate, weights = "i8";
  std::vector<std::string> keep_f32, keep_bf16, keep_i8;
  std::optional<float> smooth;
  std::optional<double> percentile;
  double max_mib = 0.0, max_error = 0.0;
  bool dynamic = false, report = false;
};

volatile std::sig_atomic_t interrupted = 0;

/// While it lives, a first SIGINT or SIGTERM asks for an orderly end; a second one ends the
/// process.
class Interruptible {
 public:
  Interruptible() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_RESTART);
    ::sigaction(SIGINT, &action, &before_[0]);
    ::sigaction(SIGTERM, &action, &before_[1]);
  }
  ~Interruptible() {
    ::sigaction(SIGINT, &before_[0], nullptr);
    ::sigaction(SIGTERM, &before_[1], nullptr);
  }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  struct sigaction before_[2];
};

/// The calibration text in token ids, cut into pieces; a JSONL file is a text a line.
std::vector<std::vector<TokenId>> read_samples(const Flags& flags) {
  const Tokenizer tokenizer = flags.model.load_tokenizer();
  const Result<ModelConfig> config = ModelConfig::load(flags.model.directory);
  if (!config) throw Failure(flags.model.directory, config.error());
  const auto context = static_cast<std::size_t>(config->max_position_embeddings);
  const std::size_t most = std::min(kSampleTokens, context);
  const std::string content = read_file(flags.calibrate);
  std::vector<std::string> texts;
  if (flags.calibrate.ends_with(".jsonl")) {
    std::istringstream lines(content);
    std::size_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const Json row = Json::parse(line, nullptr, false);
      if (!row.is_object() || !row.contains("text") || !row["text"].is_string()) {
        throw Failure(kBadInput, flags.calibrate + ":" + std::to_string(number) +
                                     ": wanted {\"text\": \"…\"}");
      }
      texts.push_back(row["text"].get<std::string>());
    }
  } else {
    texts.push_back(content);
  }
  std::vector<std::vector<TokenId>> samples;
  for (const std::string& text : texts) {
    if (text.empty()) continue;  // a beginning-of-text alone says nothing about inputs
    const auto ids = tokenizer.encode(text);
    if (!ids) throw Failure(kBadInput, ids.error());
    for (std::size_t at = 0; at < ids->size(); at += most) {
      const auto begin = ids->begin() + static_cast<std::ptrdiff_t>(at);
      const auto count = static_cast<std::ptrdiff_t>(std::min(most, ids->size() - at));
      samples.emplace_back(begin, begin + count);
    }
  }
  if (samples.empty()) throw Failure(kBadInput, flags.calibrate + ": wanted text, got none");
  return samples;
}

Json figure(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json to_json(const QuantizeReport& report) {
  Json matrices = Json::array();
  for (const MatrixReport& m : report.matrices) {
    Json row{{"name", m.name}, {"dtype", to_string(m.format.dtype)}};
    if (m.format.dtype == DType::i4) row["group"] = m.format.group;
    row["rows"] = m.rows;
    row["cols"] = m.cols;
    row["bytes"] = m.bytes;
    if (m.input_scale != 0.0f) row["input_scale"] = m.input_scale;
    row["signal_to_noise_db"] = figure(m.error.signal_to_noise_db());  // null: exact
    row["output_signal_to_noise_db"] = figure(m.error.output_signal_to_noise_db());
    row["worst_row"] = m.error.worst_row();
    row["worst_row_db"] = figure(m.error.worst_row_db());
    row["cosine"] = m.error.cosine();
    matrices.push_back(std::move(row));
  }
  return {{"bytes", report.bytes},
          {"source_bytes", report.source_bytes},
          {"matrices", std::move(matrices)}};
}

void run(const Flags& flags) {
  QuantizeOptions options;
  options.weights = format_of(flags.weights, flags.model.group);
  for (const auto& pattern : flags.keep_f32) options.rules.push_back({pattern, DType::f32});
  for (const auto& pattern : flags.keep_bf16) options.rules.push_back({pattern, DType::bf16});
  for (const auto& pattern : flags.keep_i8) options.rules.push_back({pattern, DType::i8});
  if (!flags.calibrate.empty()) {
    options.samples = read_samples(flags);
    options.static_inputs = !flags.dynamic;
  } else if (flags.smooth || flags.percentile || flags.dynamic) {
    throw Failure(kWrongUsage,
                  "--smooth, --percentile and --dynamic: wanted --calibrate FILE with them");
  }
  if (flags.dynamic && flags.percentile) {
    throw Failure(kWrongUsage, "--percentile: wanted fixed scales, got --dynamic");
  }
  options.smooth_alpha = flags.smooth.value_or(-1.0f);
  options.input_percentile = flags.percentile.value_or(100.0);
  options.budget.max_bytes = static_cast<std::uint64_t>(flags.max_mib * 1048576.0);
  options.budget.max_error = flags.max_error;
  options.report = flags.report || flags.model.json;
  options.threads = flags.model.threads;
  std::optional<Progress> progress;
  options.progress = [&](std::size_t, std::size_t total) {
    if (!progress) progress.emplace("quantize", total);
    progress->advance();
  };
  const Interruptible interruptible;
  options.cancelled = [] { return interrupted != 0; };
  const Result<QuantizeReport> report =
      quantize_directory(flags.model.directory, flags.out, std::move(options));
  progress.reset();
  if (!report) {
    if (report.error().code() == ErrorCode::cancelled)
      throw Failure(kRequestFailed, "interrupted: " + flags.out + " was not written");
    const bool usage = report.error().code() == ErrorCode::invalid_argument;
    if (usage) throw Failure(kWrongUsage, report.error());
    const std::string message(report.error().message());
    if (message.find("cannot be written") != std::string::npos ||
        message.find("cannot be created") != std::string::npos) {
      throw Failure(kRequestFailed, flags.out, report.error());
    }
    throw Failure(flags.model.directory, report.error());
  }
  if (flags.report) {
    const std::string path = flags.out + "/quantization.svg";
    std::ofstream picture(path, std::ios::binary);
    picture << error_picture(report->matrices);
    if (!picture.flush()) throw Failure(kRequestFailed, path + ": cannot be written");
  }
  const double mib = static_cast<double>(report->bytes) / 1048576.0;
  if (flags.model.json) {
    print_json(to_json(*report));
  } else {
    if (flags.report) std::printf("%s\n", error_table(report->matrices).c_str());
    std::printf("%s: %.1f MiB of weights, from %.1f MiB\n", flags.out.c_str(), mib,
                static_cast<double>(report->source_bytes) / 1048576.0);
  }
  if (flags.max_mib > 0.0 && mib > flags.max_mib) {
    char sizes[80];
    std::snprintf(sizes, sizeof sizes, "wanted at most %.3g MiB, the least there is takes %.3g",
                  flags.max_mib, mib);
    throw Failure(kRequestFailed,
                  std::string("--max-size: ") + sizes + "; " + flags.out + " was written so");
  }
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model directory with int8 or int4 weights");
  command->add_option("--model", flags->model.directory, "Hugging Face model directory")
      ->required()
      ->type_name("DIR");
  command->add_option("--out", flags->out, "New or empty directory")->required()->type_name("DIR");
  command->add_option("--weights", flags->weights, "What matrices become: i8, i4 or bf16")
      ->check(CLI::IsMember({"bf16", "i8", "i4"}));
  command->add_option("--group", flags->model.group, "i4: weights that share a scale")
      ->check(CLI::IsMember({32, 64, 128}));
  command
      ->add_option("--calibrate", flags->calibrate,
                   "Text (or JSONL of texts) to run: fixes the scales of inputs")
      ->type_name("FILE");
  command->add_flag("--dynamic", flags->dynamic,
                    "With --calibrate: keep a scale for each row of inputs all the same");
  command
      ->add_option("--percentile", flags->percentile,
                   "Share of input magnitudes, in percent, that a fixed scale reaches")
      ->check(between(0.001, 100));
  command
      ->add_option("--smooth", flags->smooth,
                   "Move the range of inputs into the weights (SmoothQuant), for example 0.5")
      ->check(between(0, 1))
      ->type_name("ALPHA");
  command->add_option("--keep-f32", flags->keep_f32, "Matrices that stay f32, such as *.down_proj")
      ->type_name("PATTERN");
  command->add_option("--keep-bf16", flags->keep_bf16, "Matrices that stay bf16")
      ->type_name("PATTERN");
  command->add_option("--keep-i8", flags->keep_i8, "Matrices that become i8")->type_name("PATTERN");
  command
      ->add_option("--max-size", flags->max_mib,
                   "Hold the most sensitive matrices as i8 or bf16 as far as so many MiB allow")
      ->check(between(1e-6, 1e9))
      ->type_name("MIB");
  command
      ->add_option("--max-error", flags->max_error,
                   "The same, until the matrices' noise over signal adds up to no more than this")
      ->check(between(1e-12, 1e12));
  command->add_flag("--report", flags->report,
                    "Print the error of each matrix, and draw it to OUT/quantization.svg");
  command->add_option("--threads", flags->model.threads, "CPU threads; 0 = all")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--json", flags->model.json, "Print one JSON object on stdout");
  command->callback([flags] { run(*flags); });
}

}  // namespace ciuic::tool
