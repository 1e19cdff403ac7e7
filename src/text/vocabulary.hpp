// The vocabulary of a tokenizer: strings in one arena, a compact table from string to id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::int32_t kMaxTokenId = (1 << 21) - 1;
inline constexpr std::size_t kMaxTokenBytes = 4096;

/// Token strings and ids, both ways. Thread-safety: const calls are thread-safe.
///
/// A token is kept either as the text it was given, or, after `to_bytes`, as the bytes that text
/// stands for; the two kinds are told apart, so that a byte string never matches a text.
class Vocabulary {
 public:
  enum class Kind : std::uint8_t { text, bytes };

  /// Ids from `bound` on are refused: tables are sized by the largest id, so a short file must not
  /// name a large one.
  void set_id_bound(std::int32_t bound) noexcept { allowed_ = bound; }
  std::int32_t largest_allowed_id() const noexcept { return allowed_ - 1; }

  /// Errors: `bad_model` for a token above 4 KiB, an id outside 0 … the bound, an id or a token
  /// that is already there. The message does not name the token.
  Result<void> add(std::string_view token, std::int64_t id);

  /// The id, or -1.
  std::int32_t find(std::string_view token, Kind kind) const noexcept;
  bool contains(std::int64_t id) const noexcept {
    return id >= 0 && static_cast<std::size_t>(id) < entries_.size() &&
           entries_[static_cast<std::size_t>(id)].state != State::absent;
  }
  /// The token as kept; empty when there is none of that id. Valid until the next `add`.
  std::string_view token(std::int64_t id) const noexcept;
  Kind kind(std::int32_t id) const noexcept {
    return entries_[static_cast<std::size_t>(id)].state == State::bytes ? Kind::bytes : Kind::text;
  }
  std::size_t count() const noexcept { return count_; }
  /// One more than the largest id.
  std::int32_t id_bound() const noexcept { return static_cast<std::int32_t>(entries_.size()); }

  /// Replaces every token that is written in the byte-level alphabet by the bytes it stands for.
  Result<void> to_bytes();

  /// A mark that the owner keeps per token.
  bool marked(std::int32_t id) const noexcept {
    return entries_[static_cast<std::size_t>(id)].marked;
  }
  void mark(std::int32_t id) noexcept { entries_[static_cast<std::size_t>(id)].marked = true; }

 private:
  enum class State : std::uint8_t { absent, text, bytes };
  struct Entry {
    std::uint32_t offset = 0;
    std::uint16_t length = 0;
    State state = State::absent;
    bool marked = false;
  };

  Result<void> grow(std::size_t slots);
  bool place(std::uint64_t hash, std::uint32_t id) noexcept;
  std::string_view text_of(const Entry& entry) const noexcept {
    return std::string_view(arena_).substr(entry.offset, entry.length);
  }

  std::string arena_;
  std::vector<Entry> entries_;        // by id
  std::vector<std::uint32_t> slots_;  // id + 1 below kIdBits, bits of the hash above; 0 = free
  std::size_t count_ = 0;
  std::int32_t allowed_ = kMaxTokenId + 1;
};

}  // namespace ciuic::inline CIUIC_ABI
