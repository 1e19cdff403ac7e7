#include "text/vocabulary.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/try.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr int kIdBits = 22;  // ids below 2^21, plus one
constexpr std::uint32_t kIdMask = (1u << kIdBits) - 1;
constexpr std::size_t kFirstSlots = 1024;
// Below three quarters full, no honest vocabulary comes near this; a crafted one stops here instead
// of making every look-up walk the table.
constexpr std::size_t kMaxProbes = 512;

std::uint64_t hash_of(std::string_view text, std::uint64_t seed) noexcept {
  constexpr std::uint64_t kMultiplier = 0x9FB21C651E98DF25u;
  std::uint64_t h = (seed + 1) * 0xD6E8FEB86659FD93u + text.size();
  const auto mix = [&](std::uint64_t word) {
    h = (h ^ word) * kMultiplier;
    h ^= h >> 29;
  };
  while (text.size() >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data(), 8);
    mix(word);
    text.remove_prefix(8);
  }
  std::uint64_t word = 0;
  if (!text.empty()) std::memcpy(&word, text.data(), text.size());
  mix(word);
  h *= kMultiplier;
  return h ^ h >> 32;
}

}  // namespace

bool Vocabulary::place(std::uint64_t hash, std::uint32_t id) noexcept {
  const std::size_t mask = slots_.size() - 1;
  const auto tag = static_cast<std::uint32_t>(hash >> 32) & ~kIdMask;
  for (std::size_t i = 0; i < kMaxProbes; ++i) {
    std::uint32_t& slot = slots_[(hash + i) & mask];
    if (slot == 0) {
      slot = tag | (id + 1);
      return true;
    }
  }
  return false;
}

Result<void> Vocabulary::grow(std::size_t slots) {
  slots_.clear();
  slots_.shrink_to_fit();
  slots_.resize(slots);
  for (std::size_t id = 0; id < entries_.size(); ++id) {
    const Entry& entry = entries_[id];
    if (entry.state == State::absent) continue;
    if (!place(hash_of(text_of(entry), entry.state == State::bytes),
               static_cast<std::uint32_t>(id))) {
      return Error(ErrorCode::bad_model, "too many tokens share one hash");
    }
  }
  return {};
}

Result<void> Vocabulary::add(std::string_view token, std::int64_t id) {
  if (token.size() > kMaxTokenBytes) {
    return Error(ErrorCode::bad_model, {"a token of ", std::to_string(token.size()),
                                        " bytes, limit ", std::to_string(kMaxTokenBytes)});
  }
  if (id < 0 || id >= allowed_) {
    return Error(ErrorCode::bad_model, {"id ", std::to_string(id), ", wanted 0 to ",
                                        std::to_string(largest_allowed_id())});
  }
  if (contains(id)) {
    return Error(ErrorCode::bad_model, {"id ", std::to_string(id), " is given twice"});
  }
  if (find(token, Kind::text) >= 0) return Error(ErrorCode::bad_model, "the token is given twice");
  if (arena_.size() + token.size() > 0xFFFFFFFFu) {
    return Error(ErrorCode::bad_model, "more than 4 GiB of tokens");
  }
  if (slots_.empty()) slots_.resize(kFirstSlots);
  if ((count_ + 1) * 4 > slots_.size() * 3) CIUIC_TRY(grow(slots_.size() * 2));
  const auto index = static_cast<std::size_t>(id);
  if (entries_.size() <= index) entries_.resize(index + 1);
  entries_[index] = {static_cast<std::uint32_t>(arena_.size()),
                     static_cast<std::uint16_t>(token.size()), State::text, false};
  arena_ += token;
  ++count_;
  if (!place(hash_of(token, 0), static_cast<std::uint32_t>(id))) {
    return Error(ErrorCode::bad_model, "too many tokens share one hash");
  }
  return {};
}

std::int32_t Vocabulary::find(std::string_view token, Kind kind) const noexcept {
  if (slots_.empty()) return -1;
  const std::uint64_t hash = hash_of(token, kind == Kind::bytes);
  const std::size_t mask = slots_.size() - 1;
  const auto tag = static_cast<std::uint32_t>(hash >> 32) & ~kIdMask;
  const State state = kind == Kind::bytes ? State::bytes : State::text;
  for (std::size_t i = 0; i < kMaxProbes; ++i) {
    const std::uint32_t slot = slots_[(hash + i) & mask];
    if (slot == 0) return -1;
    if ((slot & ~kIdMask) != tag) continue;
    const std::uint32_t id = (slot & kIdMask) - 1;
    const Entry& entry = entries_[id];
    if (entry.state == state && text_of(entry) == token) return static_cast<std::int32_t>(id);
  }
  return -1;
}

std::string_view Vocabulary::token(std::int64_t id) const noexcept {
  return contains(id) ? text_of(entries_[static_cast<std::size_t>(id)]) : std::string_view();
}

Result<void> Vocabulary::to_bytes() {
  std::string bytes;
  for (Entry& entry : entries_) {
    if (entry.state != State::text) continue;
    bytes.clear();
    if (!append_byte_level_bytes(bytes, text_of(entry))) continue;
    // The bytes are never more than the text that stood for them.
    std::copy(bytes.begin(), bytes.end(), arena_.begin() + entry.offset);
    entry.length = static_cast<std::uint16_t>(bytes.size());
    entry.state = State::bytes;
  }
  return slots_.empty() ? Result<void>() : grow(slots_.size());
}

}  // namespace ciuic::inline CIUIC_ABI
