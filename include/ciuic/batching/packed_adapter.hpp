// PackedAdapter: sequences of several lengths end to end, without padding.
//
// The layout that attention kernels for variable lengths take: all positions in one array, and the
// cumulative lengths (`cu_seqlens`) that say where each sequence begins and ends.
#pragma once

#include "ciuic/batching/sequence_adapter.hpp"

namespace ciuic::inline CIUIC_ABI {

/// The model's input. Valid during the model's call.
template <class T>
struct PackedInput {
  std::size_t requests = 0;
  std::size_t width = 1;                 ///< elements of a position
  std::vector<T> values;                 ///< [positions, width], row-major
  std::vector<std::int32_t> cu_seqlens;  ///< [requests + 1]: 0, then the end of each sequence
  std::vector<std::int32_t> positions;   ///< [positions]: 0, 1, … within each sequence
  std::int32_t max_length = 0;           ///< of the longest sequence

  /// The elements of the i-th request.
  std::span<const T> sequence(std::size_t i) const noexcept {
    const auto begin = static_cast<std::size_t>(cu_seqlens[i]) * width;
    return std::span(values).subspan(begin,
                                     static_cast<std::size_t>(cu_seqlens[i + 1]) * width - begin);
  }
};

/// Packs; a request costs its length. Thread-safety: immutable.
template <class T, class Out = float>
class PackedAdapter : public SequenceAdapter<T, Out> {
  using Base = SequenceAdapter<T, Out>;

 public:
  using typename Base::Answer;
  using typename Base::Item;
  using typename Base::Output;
  using Input = PackedInput<T>;

  explicit PackedAdapter(const SequenceOptions& options = {}) noexcept : Base(options) {}

  /// Errors: `invalid_argument`, naming the field.
  Result<void> validate() const { return this->validate_sequences(); }
  std::uint64_t cost(const Item& item) const noexcept { return this->length(item); }
  std::size_t groups() const noexcept { return 1; }
  std::uint16_t compatible(const Item&) const noexcept { return 0; }

  Result<void> pack(std::span<const Item* const> items, Input& input) const {
    input.requests = items.size();
    input.width = options_.width;
    input.max_length = 0;
    input.values.clear();
    input.positions.clear();
    input.cu_seqlens.assign(1, 0);
    for (const Item* item : items) {
      const std::size_t length = this->length(*item);
      if (length > std::numeric_limits<std::int32_t>::max() - input.positions.size()) {
        return Base::too_many_elements();
      }
      input.values.insert(input.values.end(), item->begin(), item->end());
      const auto count = static_cast<std::int32_t>(length);
      for (std::int32_t at = 0; at < count; ++at) input.positions.push_back(at);
      input.cu_seqlens.push_back(input.cu_seqlens.back() + count);
      input.max_length = std::max(input.max_length, count);
    }
    return {};
  }
  Result<Answer> unpack(const Input& input, const Output& output, std::size_t i) const {
    if (options_.output == OutputPer::request) return this->read(output, input.requests, i, 1);
    const auto begin = static_cast<std::size_t>(input.cu_seqlens[i]);
    const auto end = static_cast<std::size_t>(input.cu_seqlens[i + 1]);
    return this->read(output, input.positions.size(), begin, end - begin);
  }
  Result<std::size_t> pieces(const Item& item, std::uint64_t max_cost) const {
    return this->pieces_of(item, longest(max_cost));
  }
  std::vector<Item> split(const Item& item, std::uint64_t max_cost) const {
    return this->split_at(item, longest(max_cost));
  }

 private:
  using Base::options_;
  std::uint64_t longest(std::uint64_t max_cost) const noexcept {
    return options_.max_length == 0 ? max_cost
                                    : std::min<std::uint64_t>(max_cost, options_.max_length);
  }
};

}  // namespace ciuic::inline CIUIC_ABI
