// PaddedAdapter and BucketedAdapter: sequences of several lengths as one rectangle.
//
//   padded     to the longest of the batch, or the next multiple: least padding, any length
//   bucketed   to one of a few lengths, and only requests of the same one share a batch: the model
//              sees few shapes, and short requests do not pay for long ones
//
// Where the model can take sequences without padding, packed_adapter.hpp wastes nothing.
#pragma once

#include "ciuic/batching/sequence_adapter.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The model's input: a rectangle and what of it is real. Valid during the model's call.
/// `Mask` is the element type of the mask; some exported models want std::int64_t.
template <class T, class Mask = std::uint8_t>
struct PaddedInput {
  std::size_t requests = 0;           ///< the first rows; those behind them are padding
  std::size_t rows = 0;               ///< `requests`, or the next multiple of `batch_multiple`
  std::size_t length = 0;             ///< positions of a row
  std::size_t width = 1;              ///< elements of a position
  std::vector<T> values;              ///< [rows, length, width], row-major
  std::vector<Mask> mask;             ///< [rows, length]: 1 = a real position, 0 = padding
  std::vector<std::int32_t> lengths;  ///< [rows]: real positions; 0 for a row of padding
};

enum class PadSide : std::uint8_t { right, left };

template <class T>
struct PaddingOptions {
  T value{};                        ///< what padding is filled with
  PadSide side = PadSide::right;    ///< where it lies
  std::size_t length_multiple = 1;  ///< lengths are rounded up to a multiple of this
  /// The number of rows is rounded up to a multiple of this, for models of a fixed batch size. The
  /// rows added cost the model time, but do not count in `max_batch_cost`.
  std::size_t batch_multiple = 1;
};

/// Fills rectangles. Thread-safety: immutable.
template <class T, class Out, class Mask>
class RectangleAdapter : public SequenceAdapter<T, Out> {
  using Base = SequenceAdapter<T, Out>;

 public:
  using typename Base::Answer;
  using typename Base::Item;
  using typename Base::Output;
  using Input = PaddedInput<T, Mask>;

  /// The rows of the i-th request, without those of padding.
  Result<Answer> unpack(const Input& input, const Output& output, std::size_t i) const {
    if (options_.output == OutputPer::request) return this->read(output, input.rows, i, 1);
    const auto length = static_cast<std::size_t>(input.lengths[i]);
    const std::size_t before = padding_.side == PadSide::left ? input.length - length : 0;
    return this->read(output, input.rows * input.length, i * input.length + before, length);
  }

 protected:
  RectangleAdapter(const SequenceOptions& options, const PaddingOptions<T>& padding) noexcept
      : Base(options), padding_(padding) {}

  Result<void> validate_padding() const {
    if (padding_.length_multiple == 0) {
      return Error(ErrorCode::invalid_argument, "length_multiple: wanted at least 1, got 0");
    }
    if (padding_.batch_multiple == 0) {
      return Error(ErrorCode::invalid_argument, "batch_multiple: wanted at least 1, got 0");
    }
    return this->validate_sequences();
  }
  /// The cheapest request costs `least`, which is what `name` says: there must be room for it.
  static Result<void> validate_least(const char* name, std::uint64_t least,
                                     std::uint64_t max_batch_cost) {
    if (least <= max_batch_cost) return {};
    return Error(ErrorCode::invalid_argument,
                 {"max_batch_cost: wanted at least ", name, ", ", std::to_string(least), ", got ",
                  std::to_string(max_batch_cost)});
  }
  /// `input` becomes `items` in rows of `length` positions.
  Result<void> fill(std::span<const Item* const> items, std::size_t length, Input& input) const {
    const std::size_t width = options_.width, multiple = padding_.batch_multiple;
    const std::size_t rows = ceil_div(items.size(), multiple) * multiple;
    const auto cells = checked_mul(rows, length);
    const auto elements = cells ? checked_mul(*cells, width) : std::nullopt;
    if (!elements || length > std::numeric_limits<std::int32_t>::max()) {
      return Base::too_many_elements();
    }
    input.requests = items.size();
    input.rows = rows;
    input.length = length;
    input.width = width;
    input.values.resize(*elements);
    input.mask.resize(*cells);
    input.lengths.resize(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::span<const T> item =
          row < items.size() ? std::span<const T>(*items[row]) : std::span<const T>();
      const std::size_t real = item.size() / width;
      const std::size_t before = padding_.side == PadSide::left ? length - real : 0;
      input.lengths[row] = static_cast<std::int32_t>(real);
      write(input.values.data() + row * length * width, before * width, item,
            (length - before) * width - item.size(), padding_.value);
      Mask* const mask = input.mask.data() + row * length;
      std::fill(std::fill_n(std::fill_n(mask, before, Mask{0}), real, Mask{1}), mask + length,
                Mask{0});
    }
    return {};
  }

  using Base::options_;
  PaddingOptions<T> padding_;

 private:
  static void write(T* out, std::size_t before, std::span<const T> item, std::size_t after,
                    T padding) noexcept {
    std::fill_n(std::copy(item.begin(), item.end(), std::fill_n(out, before, padding)), after,
                padding);
  }
};

/// Pads to the longest request of a batch. A request costs its length, rounded up; a batch costs
/// its requests times the longest of them, and `max_batch_cost` bounds that.
/// Thread-safety: immutable.
template <class T, class Out = float, class Mask = std::uint8_t>
class PaddedAdapter : public RectangleAdapter<T, Out, Mask> {
  using Base = RectangleAdapter<T, Out, Mask>;

 public:
  using typename Base::Input;
  using typename Base::Item;
  static constexpr bool kPadsToLongest = true;

  explicit PaddedAdapter(const SequenceOptions& options = {},
                         const PaddingOptions<T>& padding = {}) noexcept
      : Base(options, padding) {}

  /// Errors: `invalid_argument`, naming the field.
  Result<void> validate(std::uint64_t max_batch_cost = kUnlimitedCost) const {
    if (Result<void> valid = this->validate_padding(); !valid) return valid;
    if (options_.max_length % padding_.length_multiple != 0) {
      return Error(ErrorCode::invalid_argument,
                   {"max_length: wanted a multiple of length_multiple ",
                    std::to_string(padding_.length_multiple), ", got ",
                    std::to_string(options_.max_length)});
    }
    return Base::validate_least("length_multiple", padding_.length_multiple, max_batch_cost);
  }
  std::uint64_t cost(const Item& item) const noexcept { return padded(this->length(item)); }
  std::size_t groups() const noexcept { return 1; }
  std::uint16_t compatible(const Item&) const noexcept { return 0; }
  Result<void> pack(std::span<const Item* const> items, Input& input) const {
    std::size_t longest = 0;
    for (const Item* item : items) longest = std::max(longest, this->length(*item));
    return this->fill(items, padded(longest), input);
  }
  Result<std::size_t> pieces(const Item& item, std::uint64_t max_cost) const {
    return this->pieces_of(item, longest(max_cost));
  }
  std::vector<Item> split(const Item& item, std::uint64_t max_cost) const {
    return this->split_at(item, longest(max_cost));
  }

 private:
  using Base::options_;
  using Base::padding_;
  std::size_t padded(std::size_t length) const noexcept {
    return ceil_div(length, padding_.length_multiple) * padding_.length_multiple;
  }
  std::uint64_t longest(std::uint64_t max_cost) const noexcept {
    if (options_.max_length != 0) {
      max_cost = std::min<std::uint64_t>(max_cost, options_.max_length);
    }
    return max_cost - max_cost % padding_.length_multiple;
  }
};

/// Pads to the least of the given lengths that holds a request, its bucket. Requests of different
/// buckets never share a batch. A request costs the length of its bucket, so a batch's cost is
/// exactly what the model computes. Thread-safety: immutable.
template <class T, class Out = float, class Mask = std::uint8_t>
class BucketedAdapter : public RectangleAdapter<T, Out, Mask> {
  using Base = RectangleAdapter<T, Out, Mask>;

 public:
  using typename Base::Input;
  using typename Base::Item;

  /// `lengths` of the buckets, rising, at most 256. `max_length` 0 = the last of them.
  explicit BucketedAdapter(std::vector<std::size_t> lengths, const SequenceOptions& options = {},
                           const PaddingOptions<T>& padding = {}) noexcept
      : Base(options, padding), lengths_(std::move(lengths)) {
    const std::size_t last = lengths_.empty() ? 0 : lengths_.back();
    options_.max_length = options_.max_length == 0 ? last : std::min(options_.max_length, last);
  }

  /// Errors: `invalid_argument`, naming the field.
  Result<void> validate(std::uint64_t max_batch_cost = kUnlimitedCost) const {
    if (Result<void> valid = this->validate_padding(); !valid) return valid;
    if (lengths_.empty() || lengths_.size() > 256) {
      return Error(ErrorCode::invalid_argument,
                   {"lengths: wanted 1 to 256 buckets, got ", std::to_string(lengths_.size())});
    }
    for (std::size_t i = 0, before = 0; i < lengths_.size(); before = lengths_[i++]) {
      if (lengths_[i] <= before || lengths_[i] % padding_.length_multiple != 0) {
        return Error(
            ErrorCode::invalid_argument,
            {"lengths[", std::to_string(i), "]: wanted more than ", std::to_string(before),
             " and a multiple of length_multiple ", std::to_string(padding_.length_multiple),
             ", got ", std::to_string(lengths_[i])});
      }
    }
    return Base::validate_least("lengths[0]", lengths_[0], max_batch_cost);
  }
  std::uint64_t cost(const Item& item) const noexcept { return lengths_[compatible(item)]; }
  std::size_t groups() const noexcept { return lengths_.size(); }
  /// The bucket's number.
  std::uint16_t compatible(const Item& item) const noexcept {
    const auto bucket = std::lower_bound(lengths_.begin(), lengths_.end(), this->length(item));
    return static_cast<std::uint16_t>(bucket - lengths_.begin());
  }
  Result<void> pack(std::span<const Item* const> items, Input& input) const {
    return this->fill(items, items.empty() ? 0 : lengths_[compatible(*items[0])], input);
  }
  Result<std::size_t> pieces(const Item& item, std::uint64_t max_cost) const {
    return this->pieces_of(item, longest(max_cost));
  }
  std::vector<Item> split(const Item& item, std::uint64_t max_cost) const {
    return this->split_at(item, longest(max_cost));
  }

 private:
  using Base::options_;
  using Base::padding_;
  std::uint64_t longest(std::uint64_t max_cost) const noexcept {
    const auto above = std::upper_bound(lengths_.begin(), lengths_.end(), max_cost);
    return above == lengths_.begin() ? 0 : std::min(above[-1], options_.max_length);
  }
  std::vector<std::size_t> lengths_;
};

}  // namespace ciuic::inline CIUIC_ABI
