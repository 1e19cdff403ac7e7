#include "cpu/isa.hpp"

#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

// The set whose kernels on bytes are used, and the set for all others.
#define CIUIC_CPU_KERNELS(bytes, floats)                                             \
  {                                                                                  \
#bytes, &floats::gemm_f32, &floats::gemm_bf16, &bytes::gemm_i8, &bytes::gemm_i4, \
        &bytes::quantize_rows_i8, &bytes::quantize_rows_i4, &floats::rms_norm,       \
        &floats::rotate_and_store, &floats::attention, &floats::merge_attention      \
  }

constexpr Kernels kScalar = CIUIC_CPU_KERNELS(scalar, scalar);
#if defined(__x86_64__)
constexpr Kernels kAvx2 = CIUIC_CPU_KERNELS(avx2, avx2);
constexpr Kernels kAvx2Vnni = CIUIC_CPU_KERNELS(avx2vnni, avx2);
constexpr Kernels kAvx512 = CIUIC_CPU_KERNELS(avx512, avx512);
constexpr Kernels kAvx512Vnni = CIUIC_CPU_KERNELS(avx512vnni, avx512);

/// AVX-VNNI, for which the compiler's own test has no name yet: leaf 7, subleaf 1, EAX bit 4.
bool has_avx_vnni() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 0x10u) != 0;
}
#endif
#if defined(__aarch64__)
constexpr Kernels kNeonDot = CIUIC_CPU_KERNELS(neondot, neondot);
#endif
#undef CIUIC_CPU_KERNELS

/// All that the flags of src/cpu/CMakeLists.txt let the compiler use, operating system included.
bool is_supported(CpuIsa isa) noexcept {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::avx512vnni:
      return is_supported(CpuIsa::avx512) && __builtin_cpu_supports("avx512vnni");
    case CpuIsa::avx512:
      return is_supported(CpuIsa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case CpuIsa::avx2vnni:
      return is_supported(CpuIsa::avx2) && has_avx_vnni();
    case CpuIsa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("f16c");
#endif
#if defined(__aarch64__) && defined(__linux__)
    case CpuIsa::neondot:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__aarch64__)
    case CpuIsa::neondot:
      return true;  // every 64-bit Arm but early ones, which run Linux
#endif
    case CpuIsa::scalar:
    case CpuIsa::best:
      return true;
    default:
      return false;
  }
}

const Kernels& table_of(CpuIsa isa) noexcept {
  switch (isa) {
#if defined(__x86_64__)
    case CpuIsa::avx512vnni:
      return kAvx512Vnni;
    case CpuIsa::avx512:
      return kAvx512;
    case CpuIsa::avx2vnni:
      return kAvx2Vnni;
    case CpuIsa::avx2:
      return kAvx2;
#endif
#if defined(__aarch64__)
    case CpuIsa::neondot:
      return kNeonDot;
#endif
    default:
      return kScalar;
  }
}

std::string_view name_of(CpuIsa isa) noexcept {
  switch (isa) {
    case CpuIsa::avx512vnni:
      return "avx512vnni";
    case CpuIsa::avx512:
      return "avx512";
    case CpuIsa::avx2vnni:
      return "avx2vnni";
    case CpuIsa::avx2:
      return "avx2";
    case CpuIsa::neondot:
      return "neondot";
    default:
      return "scalar";
  }
}

}  // namespace

Result<const Kernels*> kernels_for(CpuIsa isa) noexcept {
  if (isa == CpuIsa::best) {
    isa = CpuIsa::scalar;
    for (const CpuIsa better :
         {CpuIsa::avx512vnni, CpuIsa::avx512, CpuIsa::avx2vnni, CpuIsa::avx2, CpuIsa::neondot}) {
      if (is_supported(better)) {
        isa = better;
        break;
      }
    }
  }
  if (!is_supported(isa)) {
    return Error(ErrorCode::unsupported, {"cpu_backend: isa: wanted ", name_of(isa),
                                          ", which this processor does not have"});
  }
  return &table_of(isa);
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
