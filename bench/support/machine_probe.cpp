#include "support/machine_probe.hpp"

#include <time.h>  // clock_gettime

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ciuic::bench {
namespace {

volatile float g_sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double fma_avx512(int rounds) {
  __m512 sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  __m512 total = sums[0];
  for (int i = 1; i < 16; ++i) total = _mm512_add_ps(total, sums[i]);
  g_sink = _mm512_cvtss_f32(total);
  return 16.0 * 16.0 * 2.0 * rounds;
}
// Spelled out, because g++ 12 keeps moving the sums of the intrinsic about.
#define CIUIC_DOT(sum) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #sum "\n\t"
__attribute__((target("avx512vnni"))) double dot_avx512(int rounds) {
  for (int r = 0; r < rounds; ++r) {
    asm volatile(CIUIC_DOT(0) CIUIC_DOT(1) CIUIC_DOT(2) CIUIC_DOT(3) CIUIC_DOT(4) CIUIC_DOT(5)
                     CIUIC_DOT(6) CIUIC_DOT(7) CIUIC_DOT(8) CIUIC_DOT(9) CIUIC_DOT(10)
                         CIUIC_DOT(11)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                               "xmm8", "xmm9", "xmm10", "xmm11");
  }
  return 12.0 * 64.0 * 2.0 * rounds;
}
#undef CIUIC_DOT
__attribute__((target("avx2,fma"))) double fma_avx2(int rounds) {
  __m256 sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  __m256 total = sums[0];
  for (int i = 1; i < 12; ++i) total = _mm256_add_ps(total, sums[i]);
  g_sink = _mm256_cvtss_f32(total);
  return 12.0 * 8.0 * 2.0 * rounds;
}
#endif

double multiply_add(int rounds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return fma_avx512(rounds);
  if (__builtin_cpu_supports("fma")) return fma_avx2(rounds);
#endif
  float sums[16] = {};
  for (int r = 0; r < rounds; ++r) {
    for (float& sum : sums) sum = sum * 0.999f + 0.001f;
  }
  g_sink = sums[0];
  return 16.0 * 2.0 * rounds;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void read_lines(const std::byte* memory, std::size_t bytes) {
  __m256i sums[8] = {};
  for (std::size_t i = 0; i < bytes; i += 256) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < 8; ++v) {
      sums[v] = _mm256_xor_si256(
          sums[v], _mm256_load_si256(reinterpret_cast<const __m256i*>(memory + i + 32 * v)));
    }
  }
  for (int v = 1; v < 8; ++v) sums[0] = _mm256_xor_si256(sums[0], sums[v]);
  g_sink = static_cast<float>(_mm256_extract_epi32(sums[0], 0));
}
#else
void read_lines(const std::byte* memory, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, memory + i, 8);
    sum ^= word;
  }
  g_sink = static_cast<float>(sum);
}
#endif

/// Runs `body(thread)` on all threads and adds up what they return.
template <class Body>
double on_threads(int threads, const Body& body) {
  std::vector<double> rates(static_cast<std::size_t>(threads));
  {
    std::vector<Thread> team;
    for (int t = 1; t < threads; ++t) {
      team.push_back(Thread::start([&rates, &body, t] {
                       rates[static_cast<std::size_t>(t)] = body(t);
                     }).value());
    }
    rates[0] = body(0);
  }
  double sum = 0.0;
  for (double rate : rates) sum += rate;
  return sum;
}

}  // namespace

double seconds_now(int threads) {
  timespec now;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

const char* clock_name(int threads) { return threads == 1 ? "processor time" : "wall time"; }

double fma_gflops(int threads) {
  return on_threads(threads, [](int) {
    constexpr int kRounds = 300'000;
    const double start = seconds_now();
    const double work = multiply_add(kRounds);
    return work / (seconds_now() - start) * 1e-9;
  });
}

double byte_dot_gops(int threads) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) {
    return on_threads(threads, [](int) {
      constexpr int kRounds = 300'000;
      const double start = seconds_now();
      const double work = dot_avx512(kRounds);
      return work / (seconds_now() - start) * 1e-9;
    });
  }
#endif
  (void)threads;
  return 0.0;
}

double issue_slots_per_ns(int threads) {
  return on_threads(threads, [](int) {
    constexpr int kRounds = 20'000;
    const double start = seconds_now();
    for (int r = 0; r < kRounds; ++r) __asm__ __volatile__(".rept 100\n\tnop\n\t.endr");
    return 100.0 * kRounds / (seconds_now() - start) * 1e-9;
  });
}

namespace {
/// Of `threads` threads; at first the most of a tenth of a second.
double& most_slots(int threads) {
  static std::map<int, double> most;
  const auto [at, fresh] = most.try_emplace(threads, 0.0);
  for (int i = 0; fresh && i < 500; ++i)
    at->second = std::max(at->second, issue_slots_per_ns(threads));
  return at->second;
}
}  // namespace

QuietRuns::QuietRuns(int threads) : threads_(threads) { most_slots(threads); }

void QuietRuns::after() {
  slots_.push_back(std::min(before_, issue_slots_per_ns(threads_)));
  double& most = most_slots(threads_);
  most = std::max(most, slots_.back());
}

std::vector<double> QuietRuns::of(const std::vector<double>& figures) const {
  std::vector<double> quiet;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i] >= 0.9 * most_slots(threads_)) quiet.push_back(figures[i]);
  }
  return quiet;
}

ReadProbe::ReadProbe(std::size_t bytes)
    : memory_(Buffer::allocate(*std::pmr::new_delete_resource(), bytes).value()) {
  std::memset(memory_.data(), 1, memory_.size());
}

double ReadProbe::gigabytes_per_second(int threads) {
  constexpr std::size_t kPiece = std::size_t{16} << 20;
  std::vector<std::size_t> pieces;
  for (int t = 0; t < threads; ++t) {
    pieces.push_back(next_);
    next_ = (next_ + kPiece) % memory_.size();
  }
  return on_threads(threads, [&](int t) {
    const double start = seconds_now();
    read_lines(memory_.data() + pieces[static_cast<std::size_t>(t)], kPiece);
    return static_cast<double>(kPiece) / (seconds_now() - start) * 1e-9;
  });
}

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace ciuic::bench
