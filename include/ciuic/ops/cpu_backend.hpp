// The backend that is always there.
#pragma once

#include <memory>

#include "ciuic/base/host_context.hpp"
#include "ciuic/ops/backend.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The `vnni` sets add the processor's dot product of bytes, for i8 and i4 weights. `neondot` is
/// 64-bit Arm with NEON and its dot product (Armv8.2).
enum class CpuIsa : std::uint8_t { best, scalar, avx2, avx2vnni, avx512, avx512vnni, neondot };

struct CpuBackendOptions {
  CpuIsa isa = CpuIsa::best;  ///< `best`: the widest this processor runs; others are for tests
  HostContext host{};         ///< `memory` holds weights and KV pages
};

/// Kernels for this machine's processor, chosen at run time. The backend must outlive everything
/// made from it. Errors: `unsupported` when the processor lacks the ISA that was asked for.
CIUIC_API Result<std::shared_ptr<const Backend>> cpu_backend(const CpuBackendOptions& options = {});

}  // namespace ciuic::inline CIUIC_ABI
