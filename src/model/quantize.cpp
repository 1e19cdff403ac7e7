#include "ciuic/model/quantize.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/file.hpp"
#include "base/json.hpp"
#include "base/new_directory.hpp"
#include "base/try.hpp"
#include "ciuic/base/buffer.hpp"
#include "ciuic/model/language_model.hpp"
#include "ciuic/model/llama_weight_map.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "ciuic/quant/calibrate.hpp"
#include "ciuic/quant/packed_rows.hpp"
#include "ciuic/quant/smooth.hpp"
#include "model/decoder_matrices.hpp"
#include "model/in_parallel.hpp"
#include "model/model_files.hpp"
#include "model/packed_directory.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockRows = 64;  // read at once, where rows are only looked at

Error wrong_option(std::string_view option, std::string_view wanted) {
  return Error(ErrorCode::invalid_argument,
               {"quantize_directory: options.", option, ": wanted ", wanted});
}

Result<void> check_format(std::string_view option, const MatrixFormat& format) {
  if (format.is_valid()) return {};
  if (format.dtype == DType::i4) {
    return wrong_option(option,
                        "an i4 group of 32, 64 or 128, got " + std::to_string(format.group));
  }
  return wrong_option(option, "f32, bf16, i8 or i4, got " + std::string(to_string(format.dtype)));
}

/// What was decided about one matrix.
struct MatrixPlan {
  MatrixFormat format{};
  float input_scale = 0.0f;
  std::vector<float> input_max{};        // [cols] of its inputs; empty without samples
  std::vector<double> channel_energy{};  // likewise
  float clipped_max = 0.0f;              // the magnitude that a static scale must reach
  std::vector<float> factors{};          // smoothing, [cols]; empty: none
};

/// The model as it was, what is to become of it, and the steps that find that out.
class Quantizer {
 public:
  Quantizer(const fs::path& source, QuantizeOptions options)
      : source_(source), options_(std::move(options)) {}

  Result<QuantizeReport> run(const fs::path& out) {
    CIUIC_TRY(open());
    CIUIC_TRY(choose_by_rules());
    CIUIC_ASSIGN_OR_RETURN(NewDirectory directory, NewDirectory::create(out));
    if (!options_.samples.empty()) CIUIC_TRY(run_samples());
    if (options_.smooth_alpha >= 0.0f) CIUIC_TRY(smooth());
    if (options_.static_inputs) fix_inputs();
    if (has_budget()) CIUIC_TRY(choose_by_budget());
    CIUIC_ASSIGN_OR_RETURN(QuantizeReport report, write(directory));
    CIUIC_TRY(copy_files(directory));
    CIUIC_TRY(directory.publish());
    return report;
  }

 private:
  bool has_budget() const {
    return options_.budget.max_bytes != 0 || options_.budget.max_error > 0.0;
  }

  Result<void> check_wanted() {
    if (!options_.cancelled || !options_.cancelled()) return {};
    return Error(ErrorCode::cancelled, "quantize_directory: given up");
  }

  Result<void> open() {
    CIUIC_ASSIGN_OR_RETURN(config_, ModelConfig::load(source_, options_.limits));
    CIUIC_ASSIGN_OR_RETURN(WeightFiles files, WeightFiles::open(source_, options_.limits));
    files_.emplace(std::move(files));
    if (is_packed(*files_)) {
      return Error(ErrorCode::unsupported,
                   {files_->files().front().name(), ": the directory is quantized already"});
    }
    CIUIC_TRY(check_llama_weights(config_, *files_));
    if (!options_.backend) {
      CIUIC_ASSIGN_OR_RETURN(options_.backend, cpu_backend({.host = options_.host}));
    }
    specs_ = decoder_matrices(config_);
    plans_.resize(specs_.size());
    return {};
  }

  Result<void> choose_by_rules() {
    CIUIC_TRY(check_format("weights", options_.weights));
    if (options_.samples.empty() && (options_.static_inputs || options_.smooth_alpha >= 0.0f)) {
      return wrong_option("samples", "some, for static_inputs and smooth_alpha");
    }
    if (options_.smooth_alpha > 1.0f || std::isnan(options_.smooth_alpha)) {
      return wrong_option("smooth_alpha", "at most 1");
    }
    if (std::isnan(options_.budget.max_error)) return wrong_option("budget.max_error", "a number");
    if (!(options_.input_percentile > 0.0 && options_.input_percentile <= 100.0)) {
      return wrong_option("input_percentile", "more than 0 and at most 100");
    }
    if (options_.smooth_alpha >= 0.0f && options_.input_percentile < 100.0) {
      return wrong_option("input_percentile", "100 beside smooth_alpha, which moves the extremes");
    }
    for (const FormatRule& rule : options_.rules) {
      CIUIC_TRY(check_format("rules", rule.format));
    }
    if (const FormatRule* unused = unused_rule(options_.rules, specs_); unused != nullptr) {
      return wrong_option("rules",
                          "patterns that match a matrix, got " + quoted_excerpt(unused->pattern));
    }
    for (std::size_t i = 0; i < specs_.size(); ++i)
      plans_[i].format = format_of(specs_[i].name, options_.rules, options_.weights);
    return {};
  }

  /// Where a matrix stands in the order in which the decoder multiplies: layers, then the head.
  std::size_t first_use(std::size_t i) const {
    const std::size_t before = config_.tie_word_embeddings ? 1 : 2;
    return i >= before ? i - before : specs_.size() - before;
  }

  Result<void> run_samples() {
    const auto context = static_cast<std::size_t>(config_.max_position_embeddings);
    ModelOptions model_options;
    model_options.threads = options_.threads;
    model_options.limits = options_.limits;
    model_options.host = options_.host;
    model_options.kv = DType::f32;
    // A bf16 directory loses nothing as bf16 and takes half of the memory.
    const TensorInfo* embedding = files_->find(specs_[0].parts[0]);
    if (embedding != nullptr && embedding->dtype == FileDType::bf16)
      model_options.weights = DType::bf16;
    CIUIC_ASSIGN_OR_RETURN(
        const std::vector<InputStatistics> seen,
        calibrate(options_.backend, [&](std::shared_ptr<const Backend> observed) -> Result<void> {
          model_options.backend = std::move(observed);
          CIUIC_ASSIGN_OR_RETURN(LanguageModel model, LanguageModel::load(source_, model_options));
          for (const std::vector<TokenId>& sample : options_.samples) {
            for (std::size_t at = 0; at < sample.size(); at += context) {
              CIUIC_TRY(check_wanted());
              const auto piece = std::span(sample).subspan(at);
              CIUIC_TRY(model.logits(
                  piece.first(std::min(piece.size(), context)),
                  [](std::int64_t, std::span<const float>) { return Result<void>(); }));
            }
          }
          return {};
        }));
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      const bool multiplied = i != 0 || config_.tie_word_embeddings;  // else looked up only
      if (!multiplied || first_use(i) >= seen.size()) continue;
      const InputStatistics& inputs = seen[first_use(i)];
      if (inputs.channels() != static_cast<std::size_t>(specs_[i].cols)) {
        return Error(ErrorCode::internal, {specs_[i].name, ": samples were seen out of order"});
      }
      if (inputs.rows() == 0) {
        return Error(ErrorCode::bad_model,
                     {specs_[i].name, ": inputs: wanted finite ones from some sample, got none"});
      }
      plans_[i].input_max.assign(inputs.channel_max().begin(), inputs.channel_max().end());
      plans_[i].channel_energy = inputs.channel_energy();
      plans_[i].clipped_max = inputs.percentile(options_.input_percentile);
    }
    return {};
  }

  Result<void> smooth() {
    return each_matrix([this](std::size_t i) -> Result<void> {
      const MatrixSpec& spec = specs_[i];
      MatrixPlan& plan = plans_[i];
      if (spec.norm.empty() || plan.input_max.empty()) return {};
      const auto cols = static_cast<std::size_t>(spec.cols);
      std::vector<float> weight_max(cols), factors(cols);
      CIUIC_TRY(each_block(
          i, [&](std::int64_t, std::span<const float> rows) { column_max(rows, weight_max); }));
      smoothing_factors(plan.input_max, weight_max, options_.smooth_alpha, factors);
      plan.clipped_max = 0.0f;
      for (std::size_t j = 0; j < cols; ++j) {
        plan.input_max[j] /= factors[j];
        plan.channel_energy[j] /= double{factors[j]} * double{factors[j]};
        plan.clipped_max = std::max(plan.clipped_max, plan.input_max[j]);
      }
      plan.factors = std::move(factors);
      return {};
    });
  }

  void fix_inputs() {
    for (MatrixPlan& plan : plans_) {
      const bool rounds = plan.format.dtype == DType::i8 || plan.format.dtype == DType::i4;
      const float scale = plan.clipped_max / 127.0f;
      plan.input_scale = rounds && scale >= 0x1p-126f ? scale : 0.0f;
    }
  }

  Result<void> choose_by_budget() {
    std::vector<std::vector<FormatChoice>> candidates(specs_.size());
    const Result<void> measured = each_matrix([&](std::size_t i) -> Result<void> {
      std::vector<MatrixFormat> formats{plans_[i].format};
      const bool named = std::ranges::any_of(options_.rules, [&](const FormatRule& rule) {
        return matches(rule.pattern, specs_[i].name);
      });
      for (const MatrixFormat& format : {MatrixFormat(DType::i8), MatrixFormat(DType::bf16)}) {
        if (!named && !(format == plans_[i].format)) formats.push_back(format);
      }
      for (const MatrixFormat& format : formats) {
        CIUIC_ASSIGN_OR_RETURN(const Held held, hold(i, format, true));
        candidates[i].push_back({format, held.bytes.size(), held.error.relative_output_noise()});
      }
      return {};
    });
    CIUIC_TRY(measured);
    const std::vector<std::size_t> chosen = choose_formats(candidates, options_.budget);
    for (std::size_t i = 0; i < specs_.size(); ++i)
      plans_[i].format = candidates[i][chosen[i]].format;
    if (options_.static_inputs) fix_inputs();
    return {};
  }

  struct Held {
    Buffer bytes;
    MatrixError error;
  };
  /// The packed bytes of a matrix, and how far they are from it when that is to be `measured`.
  Result<Held> hold(std::size_t i, MatrixFormat format, bool measured) {
    const MatrixSpec& spec = specs_[i];
    const bool gated = spec.form == PackedMatrix::Form::gated;
    const auto layout = PackedLayout::of(spec.rows, spec.cols, gated, format);
    if (!layout) return Error(ErrorCode::out_of_memory, {spec.name, ": too large to address"});
    Held held;
    {
      CIUIC_ASSIGN_OR_RETURN(MatrixSource source, smoothed_source(i));
      CIUIC_ASSIGN_OR_RETURN(const std::unique_ptr<PackedMatrix> matrix,
                             options_.backend->pack(std::move(source), format));
      CIUIC_ASSIGN_OR_RETURN(held.bytes, Buffer::allocate(*options_.host.memory, layout->bytes));
      CIUIC_TRY(options_.backend->store_packed(*matrix, held.bytes.as<std::byte>()));
    }
    if (!measured) return held;
    const auto cols = static_cast<std::size_t>(spec.cols);
    std::vector<float> row(cols);
    CIUIC_TRY(each_block(i, [&](std::int64_t first, std::span<const float> rows) {
      for (std::size_t at = 0; at < rows.size(); at += cols, ++first) {
        unpack_row(*layout, format, gated, held.bytes.as<std::byte>(),
                   static_cast<std::size_t>(first), row);
        held.error.add_row(rows.subspan(at, cols), row, plans_[i].channel_energy);
      }
    }));
    return held;
  }

  Result<MatrixSource> smoothed_source(std::size_t i) const {
    CIUIC_ASSIGN_OR_RETURN(MatrixSource source, matrix_source(*files_, specs_[i]));
    if (plans_[i].factors.empty()) return source;
    source.read_rows = [read = std::move(source.read_rows), &factors = plans_[i].factors](
                           std::int64_t first, std::span<float> out) mutable -> Result<void> {
      CIUIC_TRY(read(first, out));
      scale_columns(out, factors);
      return {};
    };
    return source;
  }

  /// Calls use(first, rows) for all rows of a matrix, as they are to be packed, in order.
  template <class Use>
  Result<void> each_block(std::size_t i, const Use& use) const {
    CIUIC_ASSIGN_OR_RETURN(MatrixSource source, smoothed_source(i));
    const auto cols = static_cast<std::size_t>(source.cols);
    std::vector<float> block(kBlockRows * cols);
    for (std::int64_t first = 0; first < source.rows;) {
      const auto rows = std::min(static_cast<std::int64_t>(kBlockRows), source.rows - first);
      const auto some = std::span(block).first(static_cast<std::size_t>(rows) * cols);
      CIUIC_TRY(source.read_rows(first, some));
      use(first, some);
      first += rows;
    }
    return {};
  }

  template <class Work>
  Result<void> each_matrix(const Work& work) {
    return in_parallel(specs_.size(), working_threads(options_.threads, options_.host),
                       [&](std::size_t i) -> Result<void> {
                         CIUIC_TRY(check_wanted());
                         return work(i);
                       });
  }

  Result<QuantizeReport> write(const NewDirectory& directory) {
    std::vector<PackedEntry> entries(specs_.size());
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      const auto layout =
          PackedLayout::of(specs_[i].rows, specs_[i].cols,
                           specs_[i].form == PackedMatrix::Form::gated, plans_[i].format);
      if (!layout)
        return Error(ErrorCode::out_of_memory, {specs_[i].name, ": too large to address"});
      entries[i] = {plans_[i].format, plans_[i].input_scale, *layout, nullptr};
    }
    const std::vector<VectorSpec> vectors = decoder_vectors(config_);
    CIUIC_ASSIGN_OR_RETURN(const PackedFileLayout layout,
                           lay_out_packed_file(specs_, entries, vectors));
    CIUIC_ASSIGN_OR_RETURN(FileWriter file, FileWriter::create(directory / "model.safetensors"));
    CIUIC_TRY(file.write_at(0, std::as_bytes(std::span(layout.head))));

    QuantizeReport report;
    report.matrices.resize(specs_.size());
    report.source_bytes = files_->parameter_bytes();
    Mutex mutex;
    std::size_t done = 0;
    const Result<void> written = each_matrix([&](std::size_t i) -> Result<void> {
      CIUIC_ASSIGN_OR_RETURN(Held held, hold(i, plans_[i].format, options_.report));
      CIUIC_TRY(file.write_at(layout.matrices[i], held.bytes.as<std::byte>()));
      report.matrices[i] = {specs_[i].name,       plans_[i].format,  specs_[i].rows,
                            specs_[i].cols,       held.bytes.size(), plans_[i].input_scale,
                            std::move(held.error)};
      const Lock lock(mutex);
      report.bytes += held.bytes.size();
      if (options_.progress) options_.progress(++done, specs_.size());
      return {};
    });
    CIUIC_TRY(written);
    for (std::size_t i = 0; i < vectors.size(); ++i) {
      CIUIC_ASSIGN_OR_RETURN(const std::vector<float> values, vector_values(vectors[i]));
      CIUIC_TRY(file.write_at(layout.vectors[i], std::as_bytes(std::span(values))));
      report.bytes += values.size() * sizeof(float);
    }
    CIUIC_TRY(file.finish());
    return report;
  }

  Result<std::vector<float>> vector_values(const VectorSpec& vector) const {
    const TensorInfo* tensor = files_->find(vector.name);
    if (tensor == nullptr)
      return Error(ErrorCode::internal, {vector.name, ": lost after the check"});
    std::vector<float> values(static_cast<std::size_t>(vector.size));
    CIUIC_TRY(files_->read_rows_f32(*tensor, 0, values));
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].norm == vector.name && !plans_[i].factors.empty())
        unscale_norm(values, plans_[i].factors);
    }
    return values;
  }

  Result<void> copy_files(const NewDirectory& directory) const {
    for (const char* name : {"config.json", "generation_config.json", "tokenizer.json",
                             "tokenizer_config.json", "special_tokens_map.json",
                             "added_tokens.json", "chat_template.jinja", "README.md", "LICENSE"}) {
      Result<std::string> text = read_model_text(source_, name, TokenizerLimits().max_file_bytes);
      if (!text && text.error().code() == ErrorCode::not_found) continue;
      if (!text) return std::move(text).error();
      const auto part = std::as_bytes(std::span(*text));
      CIUIC_TRY(write_file_atomically(directory / name, {&part, 1}));
    }
    return {};
  }

  const fs::path& source_;
  QuantizeOptions options_;
  ModelConfig config_;
  std::optional<WeightFiles> files_;
  std::vector<MatrixSpec> specs_;
  std::vector<MatrixPlan> plans_;
};

}  // namespace

Result<QuantizeReport> quantize_directory(const fs::path& source, const fs::path& out,
                                          QuantizeOptions options) {
  return Quantizer(source, std::move(options)).run(out);
}

}  // namespace ciuic::inline CIUIC_ABI
