// The model of the whole-model benchmarks: a random Llama of 110 M parameters (d_model 768, 12
// layers, 12 heads, d_ff 2048, vocabulary 32,000, untied), as a directory in bf16.
#pragma once

#include <filesystem>

#include "ciuic/base/error.hpp"

namespace ciuic::bench {

inline constexpr int kRandomModelVocab = 32000;

/// Multiply-adds and adds of one token in the matrices of all layers; the head is not counted.
inline constexpr double kRandomModelBlockFlops = 2.0 * 12 * (4.0 * 768 * 768 + 3.0 * 768 * 2048);
/// Bytes of the matrices that one generated token reads in f32, the head included.
inline constexpr double kRandomModelReadBytes =
    2.0 * kRandomModelBlockFlops + 4.0 * 768 * kRandomModelVocab;

/// Prints the error and ends the program: what a benchmark does with one.
[[noreturn]] void fail(const Error& error);

/// Writes the directory unless it is there. Always the same weights. With fewer layers than the 12
/// it is a smaller model for what needs many short runs.
void ensure_random_model(const std::filesystem::path& directory, int layers = 12);

}  // namespace ciuic::bench
