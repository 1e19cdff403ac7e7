// Writing a quantized model directory (docs/quantized-directories.md, docs/quantization.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "ciuic/base/function.hpp"
#include "ciuic/base/generation.hpp"
#include "ciuic/base/host_context.hpp"
#include "ciuic/model/load_limits.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/error_report.hpp"
#include "ciuic/quant/mixed_precision.hpp"

namespace ciuic::inline CIUIC_ABI {

struct QuantizeOptions {
  MatrixFormat weights = DType::i8;
  /// Exceptions, by the names of `ModelOptions::weight_rules`. A pattern that matches no matrix is
  /// an error.
  std::vector<FormatRule> rules{};

  /// Texts as token ids, to be run through the model as it is. They make errors count by what they
  /// do to outputs, and are needed by the next three.
  std::vector<std::vector<TokenId>> samples{};
  /// Fix the scale of every input at what `samples` showed, instead of each row its own.
  bool static_inputs = false;
  /// static_inputs: share of magnitudes, in percent, that the scale must reach; others are cut off.
  double input_percentile = 100.0;
  /// Move the range of inputs into the weights by this much, from 0 to 1 (see quant/smooth.hpp),
  /// wherever a norm comes before a matrix; negative: not at all.
  float smooth_alpha = -1.0f;

  /// Where one is set, each matrix that no rule names is held as `weights`, i8 or bf16, whichever
  /// `choose_formats` takes by the measured noise of the outputs; without samples, of the weights.
  PrecisionBudget budget{};

  bool report = true;                        ///< measure the errors; reads everything once more
  std::shared_ptr<const Backend> backend{};  ///< null: this machine's CPU
  int threads =
      0;  ///< 0 = all; matrices one after the other, if `host` brings an executor or memory
  LoadLimits limits{};
  HostContext host{};  ///< its memory holds matrices while they are made, and the samples' model
  Function<void(std::size_t done, std::size_t total)> progress{};  ///< from any thread, one a time
  /// Asked from any thread, several at a time, between pieces of work: true ends it.
  Function<bool()> cancelled{};
};

struct QuantizeReport {
  std::vector<MatrixReport> matrices{};  ///< `error` is empty without QuantizeOptions::report
  std::uint64_t bytes = 0;               ///< of the new weights
  std::uint64_t source_bytes = 0;        ///< of the tensors that they were made of
};

/// Writes the model of the Hugging Face directory `source` to `out` with its matrices packed, and
/// copies its configuration and tokenizer. `out` must be new or empty; it appears complete or not
/// at all, and what an interrupted call left behind (`out`.tmpN) goes with the next. Holds a few
/// matrices at a time, never the model (but for the samples' run). Errors: those of
/// `LanguageModel::load`; `invalid_argument` naming an option or `out`; `unsupported` for a
/// directory that is quantized already; `cancelled`; `io_error`.
CIUIC_API Result<QuantizeReport> quantize_directory(const std::filesystem::path& source,
                                                    const std::filesystem::path& out,
                                                    QuantizeOptions options = {});

}  // namespace ciuic::inline CIUIC_ABI
