// Hash tables over names that come from files, safe against files written to make them slow.
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <variant>
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

/// Finds the number of a name among up to 2^31 whose text somebody else keeps; `name_of(i)`
/// gives it back. Linear probing over 8-byte slots. Thread-safety: thread-compatible.
class NameTable {
 public:
  NameTable() = default;

  /// Makes the table of names 0 … count - 1, or returns the first number whose name came before.
  template <class NameOf>
  static std::variant<NameTable, std::uint32_t> make(std::uint32_t count, const NameOf& name_of) {
    // A large table misses every cache, so slots are asked for some names ahead of their use.
    constexpr std::uint32_t kAhead = 16;
    NameTable table;
    if (count != 0) table.slots_.resize(std::bit_ceil(std::size_t{count} + count / 4 + 1));
    const std::size_t mask = table.slots_.size() - 1;
    std::array<std::uint64_t, kAhead> hashes{};
    for (std::uint32_t i = 0; i < count + kAhead; ++i) {
      std::uint64_t& hash = hashes[i % kAhead];
      if (i >= kAhead && i - kAhead < count) {
        const std::uint32_t number = i - kAhead;
        Slot& slot = table.slots_[table.probe(hash, name_of(number), name_of)];
        if (slot.number != 0) return number;
        slot = {tag_of(hash), number + 1};
      }
      if (i < count) {
        hash = table.hash_(name_of(i));
        __builtin_prefetch(&table.slots_[static_cast<std::size_t>(hash) & mask], 1);
      }
    }
    return table;
  }

  template <class NameOf>
  std::optional<std::uint32_t> find(std::string_view name, const NameOf& name_of) const {
    if (slots_.empty()) return std::nullopt;
    const Slot slot = slots_[probe(hash_(name), name, name_of)];
    if (slot.number == 0) return std::nullopt;
    return slot.number - 1;
  }

 private:
  struct Slot {
    std::uint32_t tag = 0;     // spares most looks at names that differ
    std::uint32_t number = 0;  // 0: free; otherwise index + 1
  };
  static std::uint32_t tag_of(std::uint64_t hash) noexcept {
    return static_cast<std::uint32_t>(hash >> 32);
  }

  /// The slot that holds `name`, or the free one where it belongs.
  template <class NameOf>
  std::size_t probe(std::uint64_t hash, std::string_view name, const NameOf& name_of) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(hash) & mask;
    while (slots_[at].number != 0 &&
           (slots_[at].tag != tag_of(hash) || name_of(slots_[at].number - 1) != name)) {
      at = (at + 1) & mask;
    }
    return at;
  }

  KeyedHash hash_;
  std::vector<Slot> slots_;
};

}  // namespace ciuic::inline CIUIC_ABI
