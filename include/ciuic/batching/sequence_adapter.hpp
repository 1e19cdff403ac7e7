// SequenceAdapter: what the adapters for sequences have in common: checks, splitting, answers.
//
// A sequence is a std::vector<T> of `width` elements a position: token ids with width 1, rows of
// features with their number. A model's output has one row for each request (an embedding, a
// score) or one for each position (a tag, logits).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/base/checked.hpp"
#include "ciuic/batching/batch_adapter.hpp"
#include "ciuic/batching/batch_limits.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What one row of a model's output is for.
enum class OutputPer : std::uint8_t { request, position };

/// What becomes of a request that is too long for the model or for one batch.
enum class LongRequests : std::uint8_t {
  refuse,  ///< `oversize` at submit
  /// It is cut into full pieces and a rest, each a request of its own to the model; the rows of
  /// their answers are put together in order. With `OutputPer::request` that is a row a piece.
  split,
};

struct SequenceOptions {
  std::size_t width = 1;       ///< elements of one position
  std::size_t max_length = 0;  ///< positions the model takes; 0 = no bound of its own
  OutputPer output = OutputPer::request;
  LongRequests long_requests = LongRequests::refuse;
};

/// Thread-safety: immutable.
template <class T, class Out>
class SequenceAdapter {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);

 public:
  using Request = std::vector<T>;
  using Item = std::vector<T>;
  using Output = Rows<Out>;
  using Answer = Rows<Out>;

  /// Errors: `invalid_argument` for no position, or elements that are no whole positions.
  Result<Item> prepare(Request request) const {
    if (request.empty()) {
      return Error(ErrorCode::invalid_argument, "request: wanted at least 1 position, got none");
    }
    if (request.size() % options_.width != 0) {
      return Error(ErrorCode::invalid_argument,
                   {"request: wanted a multiple of width ", std::to_string(options_.width),
                    " elements, got ", std::to_string(request.size())});
    }
    return request;
  }
  /// The rows of all pieces in order. Errors: `contract_violation` for rows of several widths.
  Result<Answer> merge(std::span<Answer> answers) const {
    Answer all;
    for (const Answer& answer : answers) {
      if (answer.width() != answers[0].width()) {
        return Error(ErrorCode::contract_violation,
                     {"model output: wanted rows of width ", std::to_string(answers[0].width()),
                      " as in the first piece, got ", std::to_string(answer.width())});
      }
      all.append(answer);
    }
    return all;
  }
  const SequenceOptions& options() const noexcept { return options_; }

 protected:
  explicit SequenceAdapter(const SequenceOptions& options) noexcept : options_(options) {}

  /// Errors: `invalid_argument`, naming the field.
  Result<void> validate_sequences() const {
    if (options_.width == 0) {
      return Error(ErrorCode::invalid_argument, "width: wanted at least 1, got 0");
    }
    return {};
  }
  std::size_t length(const Item& item) const noexcept { return item.size() / options_.width; }

  /// How many pieces of at most `longest` positions `item` makes.
  Result<std::size_t> pieces_of(const Item& item, std::uint64_t longest) const {
    const std::size_t positions = length(item);
    if (positions <= longest) return std::size_t{1};
    if (options_.long_requests == LongRequests::refuse || longest == 0) {
      return Error(ErrorCode::oversize, {"request: wanted at most ", std::to_string(longest),
                                         " positions, got ", std::to_string(positions)});
    }
    return ceil_div(positions, static_cast<std::size_t>(longest));
  }
  std::vector<Item> split_at(const Item& item, std::uint64_t longest) const {
    const std::size_t step = static_cast<std::size_t>(longest) * options_.width;
    std::vector<Item> pieces;
    for (std::size_t at = 0; at < item.size(); at += step) {
      const auto piece = std::span(item).subspan(at, std::min(step, item.size() - at));
      pieces.emplace_back(piece.begin(), piece.end());
    }
    return pieces;
  }
  /// Rows [first, first + count) of `output`, which must have `wanted` of them.
  /// Errors: `contract_violation`.
  Result<Answer> read(const Output& output, std::size_t wanted, std::size_t first,
                      std::size_t count) const {
    if (!output.whole()) {
      return Error(ErrorCode::contract_violation,
                   {"model output: wanted whole rows of width ", std::to_string(output.width()),
                    ", got ", std::to_string(output.values().size()), " elements"});
    }
    if (output.rows() != wanted) {
      return Error(ErrorCode::contract_violation,
                   {"model output: wanted ", std::to_string(wanted), " rows, one for each ",
                    options_.output == OutputPer::request ? "request" : "position", ", got ",
                    std::to_string(output.rows())});
    }
    const std::size_t width = output.width();
    return Answer(output.values().subspan(first * width, count * width), width);
  }

  static Error too_many_elements() {
    return Error(ErrorCode::oversize, "batch: its number of elements does not fit its index type");
  }

  SequenceOptions options_;
};

}  // namespace ciuic::inline CIUIC_ABI
