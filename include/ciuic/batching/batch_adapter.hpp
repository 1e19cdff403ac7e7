// BatchAdapter: the bridge between single requests and the arrays that a model takes.
//
// Requests come one by one and differ in length; a model wants one input for many. An adapter says
// what a request costs, who may share a batch, how a batch becomes the model's input, and how the
// model's output becomes answers again. adapted_batcher.hpp runs it; the adapters for sequences
// are in padded_adapter.hpp (padded, bucketed) and packed_adapter.hpp, the one for text in
// text_adapter.hpp. One of your own is a small class:
//
//   struct Pixels {
//     using Request = Image;                      // what callers submit
//     using Item = Image;                         // what waits in the queue
//     using Input = std::vector<float>;           // what the model reads; used again
//     using Output = std::vector<float>;          // what the model writes; used again
//     using Answer = float;                       // what callers get
//     Result<Item> prepare(Request image) const;  // on the caller's thread: check, convert
//     std::uint64_t cost(const Item&) const;      // its share of `max_batch_cost`
//     std::size_t groups() const;                 // at most 256
//     std::uint16_t compatible(const Item&) const;  // below groups(); equal ones share a batch
//     Result<void> pack(std::span<const Item* const>, Input&) const;
//     Result<Answer> unpack(const Input&, const Output&, std::size_t i) const;
//   };
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

/// See the top of this file. All functions are const and called from several threads at once.
/// `pack` fills `input` with the items in order, whatever it held before; an error fails them all.
/// `unpack` reads the answer to the i-th of them. An output that has `clear()` is cleared before
/// the model runs, so that one the model forgets to write is no answer of an earlier batch.
/// An adapter that has `Result<void> validate(max_batch_cost)`, or `validate()`, is asked before
/// anything else whether it can work at all.
template <class A>
concept BatchAdapter = std::default_initializable<typename A::Input> &&
    std::default_initializable<typename A::Output> &&
    requires(const A& adapter, typename A::Request request, const typename A::Item& item,
             std::span<const typename A::Item* const> items, typename A::Input& input,
             const typename A::Input& packed, const typename A::Output& output, std::size_t i) {
  { adapter.prepare(std::move(request)) } -> std::same_as<Result<typename A::Item>>;
  { adapter.cost(item) } -> std::same_as<std::uint64_t>;
  { adapter.groups() } -> std::same_as<std::size_t>;
  { adapter.compatible(item) } -> std::same_as<std::uint16_t>;
  { adapter.pack(items, input) } -> std::same_as<Result<void>>;
  { adapter.unpack(packed, output, i) } -> std::same_as<Result<typename A::Answer>>;
};

/// An adapter that can divide a request that is too large for one batch.
/// - `pieces(item, max_cost)`: how many items of at most `max_cost` it makes; 1 = it may stay as it
///   is. Errors: `oversize`.
/// - `split(item, max_cost)`: those, in order.
/// - `merge(answers)`: the one answer from the answers of the pieces, in the order of the pieces.
template <class A>
concept SplittingAdapter = BatchAdapter<A> && std::default_initializable<typename A::Answer> &&
    requires(const A& adapter, const typename A::Item& item, std::uint64_t max_cost,
             std::span<typename A::Answer> answers) {
  { adapter.pieces(item, max_cost) } -> std::same_as<Result<std::size_t>>;
  { adapter.split(item, max_cost) } -> std::same_as<std::vector<typename A::Item>>;
  { adapter.merge(answers) } -> std::same_as<Result<typename A::Answer>>;
};

/// An adapter whose batch costs the model `items * cost of the longest`, for all are padded to it:
/// `static constexpr bool kPadsToLongest = true`. `max_batch_cost` then bounds that product.
template <class A>
concept PadsToLongest = requires {
  requires A::kPadsToLongest;
};

/// What a model computed: rows of `width` elements, row-major. As a model's output it keeps its
/// memory from batch to batch. Thread-safety: thread-compatible.
template <class T>
class Rows {
  static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);

 public:
  Rows() noexcept = default;
  /// `values` should be whole rows: see whole().
  Rows(std::span<const T> values, std::size_t width)
      : values_(values.begin(), values.end()), width_(width) {}

  /// Room for `rows * width` elements; what was there stays as it is and means nothing.
  std::span<T> resize(std::size_t rows, std::size_t width) {
    width_ = width;
    values_.resize(rows * width);
    return values_;
  }
  void clear() noexcept { values_.clear(); }
  /// False when elements are left over after the last row: an answer is then refused.
  bool whole() const noexcept { return values_.size() == rows() * width_; }
  std::size_t rows() const noexcept { return width_ == 0 ? 0 : values_.size() / width_; }
  std::size_t width() const noexcept { return width_; }
  std::span<T> values() noexcept { return values_; }
  std::span<const T> values() const noexcept { return values_; }
  std::span<T> operator[](std::size_t row) noexcept {
    return std::span(values_).subspan(row * width_, width_);
  }
  std::span<const T> operator[](std::size_t row) const noexcept {
    return std::span(values_).subspan(row * width_, width_);
  }
  /// Puts the rows of `other`, of the same width unless there are none here, behind these.
  void append(const Rows& other) {
    width_ = other.width_;
    values_.insert(values_.end(), other.values_.begin(), other.values_.end());
  }
  friend bool operator==(const Rows&, const Rows&) = default;

 private:
  std::vector<T> values_;
  std::size_t width_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
