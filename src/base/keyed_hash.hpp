// Hash tables over names that come from files, safe against files written to make them slow.
#pragma once

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A 64-bit hash under a key that the author of a file cannot know: two of them made at different
/// times or places disagree. Not for secrets. Immutable.
class KeyedHash {
 public:
  KeyedHash() noexcept {
    const auto ticks = std::chrono::steady_clock::now().time_since_epoch().count();
    key_ = mix(static_cast<std::uint64_t>(ticks) ^ 0x9E3779B97F4A7C15u,
               std::bit_cast<std::uintptr_t>(this) ^ 0xD1B54A32D192ED03u) |
           1u;
  }
  std::uint64_t operator()(std::string_view text) const noexcept {
    std::uint64_t hash = key_ ^ text.size();
    for (; text.size() >= 8; text.remove_prefix(8)) hash = mix(hash ^ load(text), key_);
    if (!text.empty()) hash = mix(hash ^ load(text), key_);
    return mix(hash ^ 0xA0761D6478BD642Fu, key_ ^ 0xE7037ED1A0B428DBu);
  }

 private:
  static std::uint64_t load(std::string_view text) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data(), text.size() < 8 ? text.size() : 8);
    return word;
  }
  /// Folds the 128-bit product: every bit of the inputs reaches every bit of the result.
  static std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
  }
  std::uint64_t key_;
};

/// Finds the number of a name among up to 2^32 - 1 whose text somebody else keeps; `name_of(i)`
/// gives it back. Linear probing over 4-byte slots. Thread-safety: thread-compatible.
class NameTable {
 public:
  NameTable() = default;
  /// With room for `count` names, and no more.
  explicit NameTable(std::size_t count)
      : slots_(count == 0 ? 0 : std::bit_ceil(count + count / 3 + 1)) {}

  /// Remembers `index` under `name`; the index already there, if any, stays and is returned.
  template <class NameOf>
  std::optional<std::uint32_t> insert(std::string_view name, std::uint32_t index,
                                      const NameOf& name_of) {
    std::uint32_t& slot = slots_[probe(name, name_of)];
    if (slot != 0) return slot - 1;
    slot = index + 1;
    return std::nullopt;
  }
  template <class NameOf>
  std::optional<std::uint32_t> find(std::string_view name, const NameOf& name_of) const {
    if (slots_.empty()) return std::nullopt;
    const std::uint32_t slot = slots_[probe(name, name_of)];
    if (slot == 0) return std::nullopt;
    return slot - 1;
  }

 private:
  /// The slot that holds `name`, or the free one where it belongs.
  template <class NameOf>
  std::size_t probe(std::string_view name, const NameOf& name_of) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(hash_(name)) & mask;
    while (slots_[at] != 0 && name_of(slots_[at] - 1) != name) at = (at + 1) & mask;
    return at;
  }

  KeyedHash hash_;
  std::vector<std::uint32_t> slots_;  // 0: free; otherwise index + 1
};

}  // namespace ciuic::inline CIUIC_ABI
