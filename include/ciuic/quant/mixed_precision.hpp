// Mixed precision: which matrix is held as what, by rules that a person writes or by a choice from
// measured errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/ops/matrix_format.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Matrices whose name matches are held as `format`.
struct FormatRule {
  std::string pattern{};  ///< `*` stands for any characters, `?` for one, all else for itself
  MatrixFormat format{};
};

/// Whether all of `name` is what `pattern` describes (see FormatRule).
constexpr bool matches(std::string_view pattern, std::string_view name) noexcept {
  // On a mismatch, the last star takes one more character.
  std::size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// The format of the first rule that matches `name`, else `otherwise`.
inline MatrixFormat format_of(std::string_view name, std::span<const FormatRule> rules,
                              MatrixFormat otherwise) noexcept {
  for (const FormatRule& rule : rules) {
    if (matches(rule.pattern, name)) return rule.format;
  }
  return otherwise;
}

/// One way to hold a matrix, and what it costs.
struct FormatChoice {
  MatrixFormat format{};
  std::uint64_t bytes = 0;
  double error = 0.0;  ///< of any measure that adds up over matrices, for example noise over signal
};

/// What `choose_formats` must keep to. With both, it stops where the first one is reached.
struct PrecisionBudget {
  std::uint64_t max_bytes = 0;  ///< of all matrices together; 0: no bound
  double max_error = 0.0;  ///< of all matrices together, to be reached; 0: as low as bytes allow
};

/// Chooses one of its `candidates` for each matrix; returns their indices. All start as their
/// smallest candidate; then, again and again, the change that takes away the most error for each
/// byte it adds is made, as long as `max_bytes` holds, until the sum of errors is `max_error` or
/// nothing is left to gain. Greedy: within one step of the best where gains per byte diminish.
/// When even the smallest candidates exceed `max_bytes`, those are returned.
inline std::vector<std::size_t> choose_formats(
    std::span<const std::vector<FormatChoice>> candidates, const PrecisionBudget& budget) {
  std::vector<std::size_t> chosen(candidates.size(), 0);
  std::uint64_t bytes = 0;
  double error = 0.0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    for (std::size_t c = 1; c < candidates[i].size(); ++c) {
      const FormatChoice &a = candidates[i][c], &b = candidates[i][chosen[i]];
      if (a.bytes < b.bytes || (a.bytes == b.bytes && a.error < b.error)) chosen[i] = c;
    }
    if (candidates[i].empty()) continue;
    bytes += candidates[i][chosen[i]].bytes;
    error += candidates[i][chosen[i]].error;
  }
  while (!(error <= budget.max_error)) {
    double best_rate = 0.0;
    std::size_t best = candidates.size(), best_candidate = 0;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      for (std::size_t c = 0; c < candidates[i].size(); ++c) {
        const FormatChoice &to = candidates[i][c], &from = candidates[i][chosen[i]];
        if (to.bytes <= from.bytes || !(to.error < from.error)) continue;
        const std::uint64_t more = to.bytes - from.bytes;
        if (budget.max_bytes != 0 && (bytes > budget.max_bytes || more > budget.max_bytes - bytes))
          continue;
        const double rate = (from.error - to.error) / static_cast<double>(more);
        if (rate > best_rate) {
          best_rate = rate;
          best = i;
          best_candidate = c;
        }
      }
    }
    if (best == candidates.size()) break;
    bytes += candidates[best][best_candidate].bytes - candidates[best][chosen[best]].bytes;
    error += candidates[best][best_candidate].error - candidates[best][chosen[best]].error;
    chosen[best] = best_candidate;
  }
  return chosen;
}

}  // namespace ciuic::inline CIUIC_ABI
