// The model of the whole-model benchmarks: a random Llama of 110 M parameters (d_model 768, 12
// layers, 12 heads, d_ff 2048, vocabulary 32,000, untied), as a directory in bf16.
#pragma once

#include <filesystem>

#include "ciuic/base/error.hpp"

namespace ciuic::bench {

inline constexpr int kRandomModelVocab = 32000;

/// Prints the error and ends the program: what a benchmark does with one.
[[noreturn]] void fail(const Error& error);

/// Writes the directory unless it is there. Always the same weights. With fewer layers than the 12
/// it is a smaller model for what needs many short runs.
void ensure_random_model(const std::filesystem::path& directory, int layers = 12);

}  // namespace ciuic::bench
