// Byte-pair encoding: the merges, and the cutting of one piece into tokens.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ciuic/base/error.hpp"
#include "text/vocabulary.hpp"

namespace ciuic::inline CIUIC_ABI {

inline constexpr std::size_t kMaxMerges = (std::size_t{1} << 22) - 1;

/// Which neighbours join to which token, in order of preference. Thread-safety: const calls are
/// thread-safe.
class MergeTable {
 public:
  /// The next merge in rank. A pair given twice counts with its last rank.
  /// Errors: `bad_model` for 2^22 merges or more.
  Result<void> add(std::int32_t left, std::int32_t right, std::int32_t result);

  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
  /// The rank of the merge of two neighbours, or kNone.
  std::uint32_t rank(std::int32_t left, std::int32_t right) const noexcept;
  std::int32_t result(std::uint32_t rank) const noexcept { return results_[rank]; }
  std::size_t count() const noexcept { return results_.size(); }

 private:
  bool place(std::uint64_t pair, std::uint32_t rank) noexcept;

  std::vector<std::uint64_t> slots_;  // pair << 22 | rank; kFree where empty
  std::vector<std::int32_t> results_;
  std::size_t pairs_ = 0;
};

/// Memory for one caller's merging; grows to the longest piece. Thread-safety: thread-compatible.
struct BpeScratch {
  std::vector<std::int32_t> symbols;
  std::vector<std::uint32_t> ranks;
  std::vector<std::uint32_t> next, previous;
  std::vector<std::uint64_t> heap;
};

struct BpeOptions {
  bool ignore_merges = false;       ///< a piece that is a token is not cut at all
  bool byte_fallback = false;       ///< unknown characters become the tokens <0x00> … <0xFF>
  bool fuse_unknown = false;        ///< neighbouring unknown characters become one unknown token
  std::int32_t unknown = -1;        ///< -1: unknown characters vanish, as in the reference
  bool unknown_is_missing = false;  ///< the file names an unknown token that does not exist
};

/// The model half of a tokenizer. Thread-safety: const calls are thread-safe.
class Bpe {
 public:
  Vocabulary vocabulary;
  MergeTable merges;
  BpeOptions options;

  /// Prepares the tables of single symbols; pieces are raw bytes when `bytes`. To be called once,
  /// after loading.
  Result<void> prepare(bool bytes);

  /// Appends the ids of one piece: raw bytes for a byte-level vocabulary, valid UTF-8 otherwise.
  /// Errors: `bad_model` for an unknown character where the unknown token is missing;
  /// `oversize` for a piece of 2^31 bytes.
  Result<void> encode(std::string_view piece, BpeScratch& scratch,
                      std::vector<std::int32_t>& out) const;

 private:
  Result<void> split(std::string_view piece, BpeScratch& scratch) const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;

  bool bytes_ = false;
  Vocabulary::Kind kind_ = Vocabulary::Kind::text;
  std::vector<std::int32_t> byte_symbols_;  // of <0x00> … <0xFF>, or of each byte; -1 = unknown
};

}  // namespace ciuic::inline CIUIC_ABI
