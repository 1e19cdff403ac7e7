// How long a model directory takes to its first token, and how much memory.
//
//   load_time --dir DIR [--weights f32|bf16|i8|i4] [--group 64] [--map] [--threads 2] [--rounds 5]
//
// Each round reads the weights' file twice plainly, on one thread: into fresh memory as large as
// the file, and a megabyte at a time into memory that stays; and loads the model once, then
// computes one token. The table gives medians. The file is in the page cache after the first round,
// which is not counted. Peak memory is the process's largest resident size during the first load,
// before anything else.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ciuic/model/language_model.hpp"
#include "support/machine_probe.hpp"
#include "support/random_model.hpp"

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// `piece`: bytes read at a time, all into the same memory.
double plain_read(const std::filesystem::path& file, std::size_t piece) {
  const double start = now();
  const auto bytes = static_cast<std::size_t>(std::filesystem::file_size(file));
  piece = piece < bytes ? piece : bytes;
  const int descriptor = ::open(file.c_str(), O_RDONLY);
  auto* memory = static_cast<char*>(
      ::mmap(nullptr, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::size_t at = 0; at < bytes;) {
    const std::size_t inside = at % piece;
    const std::size_t wanted = piece - inside < bytes - at ? piece - inside : bytes - at;
    const auto got = ::pread(descriptor, memory + inside, wanted, static_cast<off_t>(at));
    if (got <= 0) std::exit(1);
    at += static_cast<std::size_t>(got);
  }
  const double seconds = now() - start;
  ::munmap(memory, piece);
  ::close(descriptor);
  return seconds;
}

/// A line of /proc/self/status, in MiB.
double status_mib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::atof(line.c_str() + key.size() + 1) / 1024.0;
  }
  return 0.0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace ciuic;
  using namespace ciuic::bench;
  std::filesystem::path directory;
  ModelOptions options{.threads = 2};
  int rounds = 5;
  for (int i = 1; i < argc; ++i) {
    const auto next = [&] { return i + 1 < argc ? argv[++i] : argv[i]; };
    if (std::strcmp(argv[i], "--dir") == 0) directory = next();
    if (std::strcmp(argv[i], "--weights") == 0)
      options.weights.dtype = dtype_from_string(next()).value_or(DType::f32);
    if (std::strcmp(argv[i], "--group") == 0) options.weights.group = std::atoi(next());
    if (std::strcmp(argv[i], "--threads") == 0) options.threads = std::atoi(next());
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::atoi(next());
    if (std::strcmp(argv[i], "--map") == 0) options.map_weights = true;
  }
  std::vector<double> reads, streams, loads, tokens;
  double peak = 0.0, weights = 0.0;
  const double before = status_mib("VmRSS");
  for (int round = 0; round <= rounds; ++round) {
    const double start = now();
    Result<LanguageModel> model = LanguageModel::load(directory, options);
    if (!model) fail(model.error());
    const double loaded = now();
    if (round == 0) peak = status_mib("VmHWM") - before;
    if (const Result<void> reserved = model->reserve(1, 1, 1); !reserved) fail(reserved.error());
    const TokenId token = 1;
    const std::int32_t page = 0;
    StepResult result;
    const SequenceStep step{.tokens = {&token, 1}, .pages = {&page, 1}};
    if (const Result<void> done = model->step({&step, 1}, {&result, 1}); !done) fail(done.error());
    const double first = now();
    weights = static_cast<double>(model->memory().weights_bytes) / 1048576.0;
    if (round == 0) continue;
    loads.push_back(loaded - start);
    tokens.push_back(first - start);
    model = Error(ErrorCode::internal);  // gives its memory back
    reads.push_back(plain_read(directory / "model.safetensors", ~std::size_t{0}));
    streams.push_back(plain_read(directory / "model.safetensors", std::size_t{1} << 20));
  }
  std::printf(
      "| weights MiB | peak MiB | of weights | read into fresh memory s | into one MiB s | load s "
      "| "
      "first token s | of the first read | of the second "
      "|\n|---|---|---|---|---|---|---|---|---|\n");
  std::printf("| %.0f | %.0f | %.3f | %.3f | %.3f | %.3f | %.3f | %.2f | %.2f |\n", weights, peak,
              peak / weights, median(reads), median(streams), median(loads), median(tokens),
              median(tokens) / median(reads), median(tokens) / median(streams));
}
