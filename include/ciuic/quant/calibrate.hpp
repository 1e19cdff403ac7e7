// Calibration: running a model over samples and watching what its matrices are given.
#pragma once

#include <memory>
#include <vector>

#include "ciuic/base/function.hpp"
#include "ciuic/ops/backend.hpp"
#include "ciuic/quant/input_statistics.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Calls `run` with a backend that does what `inner` does and looks at the input of every `matmul`,
/// after the norm if the call has one. `run` loads a model on it and feeds it samples; the backend
/// may not be used after `run` has returned, nor what was made from it. It is slow: every input is
/// copied to the host.
///
/// Returns the statistics of each matrix, in the order in which matrices were first multiplied by.
/// Errors: what `run` returns, `model_failed` when it throws.
CIUIC_API Result<std::vector<InputStatistics>> calibrate(
    std::shared_ptr<const Backend> inner,
    Function<Result<void>(std::shared_ptr<const Backend> observed)> run);

}  // namespace ciuic::inline CIUIC_ABI
