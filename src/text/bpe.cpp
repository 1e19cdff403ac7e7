#include "text/bpe.hpp"

#include <algorithm>
#include <string>

#include "base/try.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr int kRankBits = 22;
constexpr std::uint64_t kRankMask = (std::uint64_t{1} << kRankBits) - 1;
constexpr std::uint64_t kFree = ~std::uint64_t{0};  // takes a rank above the largest
constexpr std::size_t kFirstSlots = 1024;
constexpr std::size_t kMaxProbes = 512;
/// Above this many symbols a heap beats rescanning the row.
constexpr std::size_t kShortSymbols = 48;

constexpr std::uint64_t pair_of(std::int32_t left, std::int32_t right) noexcept {
  return static_cast<std::uint64_t>(left) << 21 | static_cast<std::uint64_t>(right);
}
constexpr std::uint64_t spread(std::uint64_t pair) noexcept {
  pair *= 0x9E3779B97F4A7C15u;
  return pair ^ pair >> 32;
}

}  // namespace

bool MergeTable::place(std::uint64_t pair, std::uint32_t rank) noexcept {
  const std::size_t mask = slots_.size() - 1;
  const std::uint64_t hash = spread(pair);
  for (std::size_t i = 0; i < kMaxProbes; ++i) {
    std::uint64_t& slot = slots_[(hash + i) & mask];
    if (slot != kFree && slot >> kRankBits != pair) continue;
    if (slot == kFree) ++pairs_;
    slot = pair << kRankBits | rank;
    return true;
  }
  return false;
}

Result<void> MergeTable::add(std::int32_t left, std::int32_t right, std::int32_t result) {
  if (results_.size() >= kMaxMerges) {
    return Error(ErrorCode::bad_model, {"more than ", std::to_string(kMaxMerges), " merges"});
  }
  if (slots_.empty()) slots_.resize(kFirstSlots, kFree);
  if ((pairs_ + 1) * 4 > slots_.size() * 3) {
    std::vector<std::uint64_t> old(slots_.size() * 2, kFree);
    old.swap(slots_);
    pairs_ = 0;
    for (const std::uint64_t slot : old) {
      if (slot != kFree &&
          !place(slot >> kRankBits, static_cast<std::uint32_t>(slot & kRankMask))) {
        return Error(ErrorCode::bad_model, "too many merges share one hash");
      }
    }
  }
  if (!place(pair_of(left, right), static_cast<std::uint32_t>(results_.size()))) {
    return Error(ErrorCode::bad_model, "too many merges share one hash");
  }
  results_.push_back(result);
  return {};
}

std::uint32_t MergeTable::rank(std::int32_t left, std::int32_t right) const noexcept {
  if (slots_.empty()) return kNone;
  const std::uint64_t pair = pair_of(left, right);
  const std::size_t mask = slots_.size() - 1;
  const std::uint64_t hash = spread(pair);
  for (std::size_t i = 0; i < kMaxProbes; ++i) {
    const std::uint64_t slot = slots_[(hash + i) & mask];
    if (slot == kFree) return kNone;
    if (slot >> kRankBits == pair) return static_cast<std::uint32_t>(slot & kRankMask);
  }
  return kNone;
}

Result<void> Bpe::prepare(bool bytes) {
  bytes_ = bytes;
  kind_ = bytes ? Vocabulary::Kind::bytes : Vocabulary::Kind::text;
  byte_symbols_.assign(256, -1);
  bool complete = true;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (bytes) {
      const char single = static_cast<char>(static_cast<unsigned char>(byte));
      byte_symbols_[byte] = vocabulary.find(std::string_view(&single, 1), kind_);
    } else if (options.byte_fallback) {
      constexpr std::string_view kHex = "0123456789ABCDEF";
      const char name[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
      byte_symbols_[byte] = vocabulary.find(std::string_view(name, sizeof name), kind_);
    }
    complete = complete && byte_symbols_[byte] >= 0;
  }
  if (bytes && !complete && options.byte_fallback) {
    return Error(ErrorCode::unsupported,
                 "model.byte_fallback: unsupported with a byte-level vocabulary that lacks bytes");
  }
  // A token that its own merges build from scratch, with nothing left over, needs no merging when
  // it is met as a whole piece. Marking these now makes most words one look-up.
  BpeScratch scratch;
  for (std::int32_t id = 0; id < vocabulary.id_bound(); ++id) {
    if (!vocabulary.contains(id) || vocabulary.kind(id) != kind_) continue;
    const std::string_view token = vocabulary.token(id);
    if (token.empty()) continue;
    if (options.ignore_merges) {
      vocabulary.mark(id);
      continue;
    }
    if (token.size() > kShortSymbols) continue;
    if (!split(token, scratch)) continue;
    merge_short(scratch);
    if (scratch.symbols.size() == 1 && scratch.symbols[0] == id) vocabulary.mark(id);
  }
  return {};
}

Result<void> Bpe::split(std::string_view piece, BpeScratch& scratch) const {
  std::vector<std::int32_t>& symbols = scratch.symbols;
  symbols.clear();
  bool unknown = false;
  const auto missing = [&]() -> Result<void> {
    if (options.unknown_is_missing) {
      return Error(ErrorCode::bad_model,
                   "model.unk_token: the text has an unknown character, and the unknown token is "
                   "not in the vocabulary");
    }
    if (options.unknown < 0) return {};
    if (unknown && !options.fuse_unknown) symbols.push_back(options.unknown);
    unknown = true;
    return {};
  };
  const auto known = [&](std::int32_t id) {
    if (unknown) symbols.push_back(options.unknown);
    unknown = false;
    symbols.push_back(id);
  };
  if (bytes_) {
    for (const char c : piece) {
      const std::int32_t id = byte_symbols_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        known(id);
      } else {
        CIUIC_TRY(missing());
      }
    }
  } else {
    while (!piece.empty()) {
      const std::string_view character = piece.substr(0, utf8_length(piece[0]));
      piece.remove_prefix(character.size());
      const std::int32_t id = vocabulary.find(character, kind_);
      if (id >= 0) {
        known(id);
        continue;
      }
      const auto byte_id = [&](char c) { return byte_symbols_[static_cast<unsigned char>(c)]; };
      if (options.byte_fallback && std::all_of(character.begin(), character.end(),
                                               [&](char c) { return byte_id(c) >= 0; })) {
        // As in the reference, an unknown token that is still held back stays so.
        for (const char c : character) symbols.push_back(byte_id(c));
        continue;
      }
      CIUIC_TRY(missing());
    }
  }
  if (unknown) symbols.push_back(options.unknown);
  return {};
}

Result<void> Bpe::encode(std::string_view piece, BpeScratch& scratch,
                         std::vector<std::int32_t>& out) const {
  if (piece.empty()) return {};
  if (piece.size() >= (std::size_t{1} << 31)) {
    return Error(ErrorCode::oversize, "a piece of 2 GiB without a place to split it");
  }
  if (piece.size() <= kMaxTokenBytes) {
    const std::int32_t whole = vocabulary.find(piece, kind_);
    if (whole >= 0 && vocabulary.marked(whole)) {
      out.push_back(whole);
      return {};
    }
  }
  CIUIC_TRY(split(piece, scratch));
  if (scratch.symbols.size() <= kShortSymbols) {
    merge_short(scratch);
  } else {
    merge_long(scratch);
  }
  out.insert(out.end(), scratch.symbols.begin(), scratch.symbols.end());
  return {};
}

/// The plain version: look for the best neighbours, join them, again.
void Bpe::merge_short(BpeScratch& scratch) const {
  std::vector<std::int32_t>& symbols = scratch.symbols;
  std::vector<std::uint32_t>& ranks = scratch.ranks;  // of the pair (i, i + 1)
  if (symbols.size() < 2) return;
  ranks.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    ranks.push_back(merges.rank(symbols[i], symbols[i + 1]));
  }
  while (!ranks.empty()) {
    const auto best = std::min_element(ranks.begin(), ranks.end());  // the leftmost of equals
    if (*best == MergeTable::kNone) break;
    const std::ptrdiff_t at = best - ranks.begin();
    const auto i = static_cast<std::size_t>(at);
    symbols[i] = merges.result(*best);
    symbols.erase(symbols.begin() + at + 1);
    ranks.erase(ranks.begin() + at);
    if (i < ranks.size()) ranks[i] = merges.rank(symbols[i], symbols[i + 1]);
    if (i > 0) ranks[i - 1] = merges.rank(symbols[i - 1], symbols[i]);
  }
}

/// The same for long rows, in O(n log n): a heap of (rank, position), entries that a merge made
/// stale are recognised when they come up.
void Bpe::merge_long(BpeScratch& scratch) const {
  std::vector<std::int32_t>& symbols = scratch.symbols;
  const auto n = static_cast<std::uint32_t>(symbols.size());
  constexpr std::uint32_t kEnd = 0xFFFFFFFFu;
  scratch.next.resize(n);
  scratch.previous.resize(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    scratch.next[i] = i + 1 < n ? i + 1 : kEnd;
    scratch.previous[i] = i > 0 ? i - 1 : kEnd;
  }
  std::vector<std::uint64_t>& heap = scratch.heap;
  heap.clear();
  const auto entry = [&](std::uint32_t left, std::uint32_t right) {
    const std::uint32_t rank = merges.rank(symbols[left], symbols[right]);
    return rank == MergeTable::kNone ? kFree : std::uint64_t{rank} << 32 | left;
  };
  const auto later = [](std::uint64_t a, std::uint64_t b) { return a > b; };
  for (std::uint32_t i = 0; i + 1 < n; ++i) {
    if (const std::uint64_t e = entry(i, i + 1); e != kFree) heap.push_back(e);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](std::uint32_t left, std::uint32_t right) {
    if (const std::uint64_t e = entry(left, right); e != kFree) {
      heap.push_back(e);
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  constexpr std::int32_t kGone = -1;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
    const auto left = static_cast<std::uint32_t>(heap.back());
    heap.pop_back();
    if (symbols[left] == kGone || scratch.next[left] == kEnd) continue;
    const std::uint32_t right = scratch.next[left];
    if (merges.rank(symbols[left], symbols[right]) != rank) continue;
    symbols[left] = merges.result(rank);
    symbols[right] = kGone;
    const std::uint32_t after = scratch.next[right];
    scratch.next[left] = after;
    if (after != kEnd) {
      scratch.previous[after] = left;
      push(left, after);
    }
    if (scratch.previous[left] != kEnd) push(scratch.previous[left], left);
  }
  std::erase(symbols, kGone);
}

}  // namespace ciuic::inline CIUIC_ABI
