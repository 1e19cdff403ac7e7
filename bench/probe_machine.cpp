// What the processor and its memory can do at this moment, as one line of JSON: the median of a
// number of short probes on each number of threads.
//
//   probe_machine [--rounds 15]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "support/machine_probe.hpp"

int main(int argc, char** argv) {
  using namespace ciuic::bench;
  const int rounds = argc == 3 && std::strcmp(argv[1], "--rounds") == 0 ? std::atoi(argv[2]) : 15;
  ReadProbe reads;
  std::printf("{\"what\": \"probe\"");
  for (const int threads : {1, 2}) {
    std::vector<double> fma, bytes, read;
    for (int i = 0; i < rounds; ++i) {
      fma.push_back(fma_gflops(threads));
      bytes.push_back(byte_dot_gops(threads));
      read.push_back(reads.gigabytes_per_second(threads));
    }
    std::printf(
        ", \"t%d\": {\"fma_gflops\": %.1f, \"byte_dot_gops\": %.1f, \"read_gb_per_s\": %.2f}",
        threads, median(fma), median(bytes), median(read));
  }
  std::printf("}\n");
}
