// Which kernels this processor can run.
#pragma once

#include "ciuic/base/error.hpp"
#include "ciuic/ops/cpu_backend.hpp"
#include "cpu/kernels.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {

/// The kernels of `isa`. Errors: `unsupported` when the processor, or this build, lacks it.
Result<const Kernels*> kernels_for(CpuIsa isa) noexcept;

}  // namespace ciuic::inline CIUIC_ABI::cpu
