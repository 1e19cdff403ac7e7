// The tests of the operations, as functions of a target, so that each kind of backend runs them
// all: op_accuracy_test.cpp on the CPU, fake_backend_test.cpp on the fake device.
#pragma once

#include "support/op_target.hpp"

namespace ciuic::testing {

struct MatmulCase {
  int tokens, rows, cols;
  bool gated, bias, accumulate;
};
void check_matmul(const OpTarget& target, const MatmulCase& c, unsigned seed);
void check_matmul_silu(const OpTarget& target);
void check_embed(const OpTarget& target, int tokens, int rows, int cols, unsigned seed);
void check_rms_norm(const OpTarget& target, int tokens, int d, unsigned seed);
void check_rope_table(const OpTarget& target, int tokens, int half, unsigned seed);
void check_gather_rows(const OpTarget& target, int tokens, int d, unsigned seed);

struct AttentionCase {
  int heads, kv_heads, head_dim, page_tokens;
  std::vector<int> context;  ///< per sequence, positions known after the last step
  std::vector<int> cuts;     ///< the steps: every prompt is cut after that many tokens
  DType kv = DType::f32;     ///< what keys and values are kept as
};
/// Tokens of a few sequences and what attention makes of them.
struct AttentionData {
  AttentionData(const AttentionCase& c, unsigned seed);
  AttentionCase shape;
  float scale = 0.0f;
  std::vector<float> frequencies;
  std::vector<std::vector<float>> qkv;  ///< per sequence [context, width], before rotation
  std::size_t width() const {
    return static_cast<std::size_t>((shape.heads + 2 * shape.kv_heads) * shape.head_dim);
  }
  std::size_t out_width() const { return static_cast<std::size_t>(shape.heads * shape.head_dim); }
};
/// Runs rotate_and_store and attention over the listed sequences, step by step as `cuts` says, on
/// pages in an order drawn from `page_seed`. Returns [context, out_width] for each sequence.
std::vector<std::vector<float>> run_attention(const OpTarget& target, const AttentionData& data,
                                              const std::vector<int>& sequences,
                                              const std::vector<int>& cuts, unsigned page_seed);
void check_attention(const OpTarget& target, const AttentionCase& c, unsigned seed);

/// All of the above over fixed shapes (edges of tiles, panels and pages) and `random_cases` drawn
/// from `seed`.
void check_all_operations(const OpTarget& target, unsigned seed, int random_cases);
/// Broken preconditions, and that the first of them is reported, once.
void check_errors(const OpTarget& target);

}  // namespace ciuic::testing
