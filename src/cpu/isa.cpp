#include "cpu/isa.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

#define CIUIC_CPU_KERNELS(isa)                                                                   \
  {                                                                                              \
#isa, &isa::pack_rows, &isa::unpack_row, &isa::gemm, &isa::rms_norm, &isa::rotate_and_store, \
        &isa::attention                                                                          \
  }

constexpr Kernels kScalar = CIUIC_CPU_KERNELS(scalar);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = CIUIC_CPU_KERNELS(avx2);
constexpr Kernels kAvx512 = CIUIC_CPU_KERNELS(avx512);
#endif
#undef CIUIC_CPU_KERNELS

/// All that the flags of src/cpu/CMakeLists.txt let the compiler use, operating system included.
bool is_supported(CpuIsa isa) noexcept {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::avx512:
      return is_supported(CpuIsa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuIsa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#else
    case CpuIsa::avx512:
    case CpuIsa::avx2:
      return false;
#endif
    case CpuIsa::scalar:
    case CpuIsa::best:
      return true;
  }
  return false;
}

}  // namespace

Result<const Kernels*> kernels_for(CpuIsa isa) noexcept {
  if (isa == CpuIsa::best) {
    isa = is_supported(CpuIsa::avx512) ? CpuIsa::avx512
          : is_supported(CpuIsa::avx2) ? CpuIsa::avx2
                                       : CpuIsa::scalar;
  }
  if (!is_supported(isa)) {
    return Error(ErrorCode::unsupported,
                 {"cpu_backend: isa: wanted ", isa == CpuIsa::avx512 ? "avx512" : "avx2",
                  ", which this processor does not have"});
  }
#if defined(__x86_64__)
  if (isa == CpuIsa::avx512) return &kAvx512;
  if (isa == CpuIsa::avx2) return &kAvx2;
#endif
  return &kScalar;
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
