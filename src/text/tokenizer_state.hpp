// What a Tokenizer shares between its copies.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/text/tokenizer.hpp"
#include "text/added_tokens.hpp"
#include "text/bpe.hpp"
#include "text/pipeline.hpp"

namespace ciuic::inline CIUIC_ABI {

struct TokenizerState {
  Bpe bpe;
  TextNormalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  TokenDecoder decoder;
  std::vector<AddedToken> added;           // by id; as the file spells them
  std::vector<std::uint32_t> by_content;   // indexes into `added`, sorted by content
  std::vector<std::string> added_decoded;  // what each adds to the decoder's input
  AddedTokenFinder raw_finder;             // looks in the text as it comes
  AddedTokenFinder normalized_finder;      // looks in the normalised text
  std::int32_t vocab_size = 0;

  const AddedToken* find_added(std::int32_t id) const noexcept;
  const AddedToken* find_added(std::string_view content) const noexcept;
};

/// Reads the text of a tokenizer.json. Messages name the field but not the file.
Result<void> read_tokenizer_file(std::string_view json_text, TokenizerState& state);

}  // namespace ciuic::inline CIUIC_ABI
