#include "ciuic/text/tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "base/file.hpp"
#include "base/try.hpp"
#include "text/tokenizer_state.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::uint64_t kStepsOfAToken = 100'000;

/// One call of encode: the way from text to ids.
class Encoder final : public PieceSink {
 public:
  Encoder(const TokenizerState& state, const EncodeOptions& options, std::vector<std::int32_t>& out,
          std::size_t text_bytes)
      : state_(state),
        options_(options),
        out_(out),
        scratch_(text_bytes),
        normalized_left_(longest_rewritten(text_bytes, kRewrittenTextBase)) {}

  Result<void> run(std::string_view text) {
    if (state_.raw_finder.empty()) return raw_part(text);
    std::vector<AddedTokenFinder::Part> parts;
    state_.raw_finder.split(text, options_.parse_special, parts);
    for (const AddedTokenFinder::Part& part : parts) {
      if (part.id >= 0) {
        out_.push_back(part.id);
      } else {
        CIUIC_TRY(raw_part(part.text));
      }
    }
    return {};
  }

  Result<void> piece(std::string_view text) override {
    return state_.bpe.encode(text, bpe_scratch_, out_);
  }

 private:
  Result<void> raw_part(std::string_view text) {
    if (!state_.normalizer.empty()) {
      normalized_ = text;
      CIUIC_TRY(state_.normalizer.apply(normalized_, normalized_left_, scratch_));
      normalized_left_ -= normalized_.size();
      text = normalized_;
    }
    if (state_.normalized_finder.empty()) return cut(text);
    std::vector<AddedTokenFinder::Part> parts;
    state_.normalized_finder.split(text, options_.parse_special, parts);
    for (const AddedTokenFinder::Part& part : parts) {
      if (part.id >= 0) {
        out_.push_back(part.id);
      } else {
        CIUIC_TRY(cut(part.text));
      }
    }
    return {};
  }
  Result<void> cut(std::string_view text) {
    if (text.empty()) return {};
    return state_.pre_tokenizer.apply(text, scratch_, *this);
  }

  const TokenizerState& state_;
  const EncodeOptions& options_;
  std::vector<std::int32_t>& out_;
  MatchScratch scratch_;
  BpeScratch bpe_scratch_;
  std::string normalized_;
  std::size_t normalized_left_;  // how long all parts together may still become
};

}  // namespace

const AddedToken* TokenizerState::find_added(std::int32_t id) const noexcept {
  const auto at = std::lower_bound(
      added.begin(), added.end(), id,
      [](const AddedToken& token, std::int32_t wanted) { return token.id < wanted; });
  return at != added.end() && at->id == id ? &*at : nullptr;
}

const AddedToken* TokenizerState::find_added(std::string_view content) const noexcept {
  const auto at = std::lower_bound(
      by_content.begin(), by_content.end(), content,
      [&](std::uint32_t index, std::string_view wanted) { return added[index].content < wanted; });
  return at != by_content.end() && added[*at].content == content ? &added[*at] : nullptr;
}

Result<Tokenizer> Tokenizer::load(const std::string& path, const TokenizerLimits& limits) {
  CIUIC_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, limits.max_file_bytes, path));
  return parse(text, path, limits);
}

Result<Tokenizer> Tokenizer::parse(std::string_view json_text, std::string_view file_name,
                                   const TokenizerLimits& limits) {
  if (json_text.size() > limits.max_file_bytes) {
    return Error(ErrorCode::bad_model, {file_name, ": ", std::to_string(json_text.size()),
                                        " bytes, limit ", std::to_string(limits.max_file_bytes)});
  }
  auto state = std::make_shared<TokenizerState>();
  Result<void> read = read_tokenizer_file(json_text, *state);
  if (!read) return read.error().with_prefix(std::string(file_name) + ": ");
  return Tokenizer(std::move(state));
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text,
                                                    const EncodeOptions& options) const {
  if (text.size() >= (std::size_t{1} << 31)) {
    return Error(ErrorCode::oversize,
                 {"text: ", std::to_string(text.size()), " bytes, limit 2147483647"});
  }
  std::string repaired;
  if (!is_valid_utf8(text)) {
    append_repaired_utf8(repaired, text);
    text = repaired;
  }
  std::vector<std::int32_t> ids;
  if (options.add_special_tokens) ids = state_->post_processor.before;
  CIUIC_TRY(Encoder(*state_, options, ids, text.size()).run(text));
  if (options.add_special_tokens) {
    const auto& after = state_->post_processor.after;
    ids.insert(ids.end(), after.begin(), after.end());
  }
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const std::int32_t> ids,
                                      const DecodeOptions& options) const {
  StreamDecoder decoder(*this, options);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) {
      return Error(ErrorCode::invalid_argument,
                   {"ids[", std::to_string(i), "]: ", std::to_string(ids[i])});
    }
    decoder.append(ids[i]);
    if (decoder.error_) return *decoder.error_;
  }
  decoder.end();
  return std::move(decoder.ready_);
}

std::int32_t Tokenizer::vocab_size() const noexcept { return state_->vocab_size; }

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
  if (const AddedToken* added = state_->find_added(token)) return added->id;
  if (!is_valid_utf8(token)) return std::nullopt;
  const Vocabulary& vocabulary = state_->bpe.vocabulary;
  std::int32_t id = -1;
  std::string bytes;
  if (state_->pre_tokenizer.byte_level() && append_byte_level_bytes(bytes, token)) {
    id = vocabulary.find(bytes, Vocabulary::Kind::bytes);
  } else {
    id = vocabulary.find(token, Vocabulary::Kind::text);
  }
  if (id < 0) return std::nullopt;
  return id;
}

std::optional<std::string> Tokenizer::token_of(std::int32_t id) const {
  if (const AddedToken* added = state_->find_added(id)) return added->content;
  const Vocabulary& vocabulary = state_->bpe.vocabulary;
  if (!vocabulary.contains(id)) return std::nullopt;
  const std::string_view token = vocabulary.token(id);
  if (vocabulary.kind(id) == Vocabulary::Kind::text) return std::string(token);
  std::string spelled;
  for (const char c : token) append_utf8(spelled, byte_level_char(static_cast<unsigned char>(c)));
  return spelled;
}

bool Tokenizer::is_special(std::int32_t id) const noexcept {
  const AddedToken* added = state_->find_added(id);
  return added != nullptr && added->special;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : state_(tokenizer.state_), options_(options), to_strip_(state_->decoder.strip_start) {}

std::string_view StreamDecoder::push(std::int32_t id) {
  ready_.clear();
  if (id >= 0 && !error_) append(id);
  return ready_;
}

std::string_view StreamDecoder::finish() {
  ready_.clear();
  end();
  error_.reset();
  return ready_;
}

void StreamDecoder::end() {
  if (state_->decoder.kind == TokenDecoder::Kind::byte_level) {
    append_repaired_utf8(ready_, pending_);
    pending_.clear();
  } else {
    flush_bytes();
  }
  to_strip_ = state_->decoder.strip_start;
  first_ = true;
}

Result<void> StreamDecoder::status() const {
  if (error_) return *error_;
  return {};
}

void StreamDecoder::append(std::int32_t id) {
  const TokenizerState& state = *state_;
  const AddedToken* added = state.find_added(id);
  if (added == nullptr && !state.bpe.vocabulary.contains(id)) return;
  if (added != nullptr && added->special && options_.skip_special_tokens) return;
  if (state.decoder.kind != TokenDecoder::Kind::byte_level) {
    append_token(
        added != nullptr
            ? std::string_view(
                  state.added_decoded[static_cast<std::size_t>(added - state.added.data())])
            : state.bpe.vocabulary.token(id));
    return;
  }
  if (added != nullptr) {
    pending_ += state.added_decoded[static_cast<std::size_t>(added - state.added.data())];
  } else {
    const std::string_view token = state.bpe.vocabulary.token(id);
    if (state.bpe.vocabulary.kind(id) == Vocabulary::Kind::bytes ||
        !append_byte_level_bytes(pending_, token)) {
      pending_ += token;
    }
  }
  // Whole characters, and what can no longer become one, are text; the start of one waits.
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char c = read_utf8(rest);
    if (c.truncated) break;
    ready_ += c.valid ? rest.substr(0, c.length) : kReplacement;
    rest.remove_prefix(c.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
}

/// A token's way through the decoder's steps.
void StreamDecoder::append_token(std::string_view text) {
  const TokenDecoder& decoder = state_->decoder;
  if (decoder.kind == TokenDecoder::Kind::words) {
    if (!std::exchange(first_, false)) ready_ += ' ';
    ready_ += text;
    return;
  }
  work_ = text;
  if (!decoder.replacements.empty()) {
    MatchScratch scratch(text.size(), kStepsOfAToken);
    const std::size_t longest = longest_rewritten(text.size(), kRewrittenTokenBase);
    for (const TokenDecoder::Replace& replace : decoder.replacements) {
      Result<void> replaced =
          replace_matches(work_, replace.pattern, replace.content, longest, replace.field, scratch);
      if (!replaced) {
        error_ = replaced.error();
        return;
      }
    }
  }
  if (decoder.byte_fallback && work_.size() == 6 && work_.starts_with("<0x") && work_[5] == '>') {
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                    : -1;
    };
    const int high = digit(work_[3]), low = digit(work_[4]);
    if (high >= 0 && low >= 0) {
      pending_ += static_cast<char>(static_cast<unsigned char>(high * 16 + low));
      return;
    }
  }
  flush_bytes();
  emit(work_);
}

/// A run of byte tokens: text if it is valid as a whole, else one U+FFFD for each byte.
void StreamDecoder::flush_bytes() {
  if (pending_.empty()) return;
  if (is_valid_utf8(pending_)) {
    emit(pending_);
  } else {
    std::string replaced;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if (state_->decoder.fuse) {
        replaced += kReplacement;
      } else {
        emit(kReplacement);
      }
    }
    if (!replaced.empty()) emit(replaced);
  }
  pending_.clear();
}

/// The last step: what Strip leaves of a token, or of the whole text where tokens are fused.
void StreamDecoder::emit(std::string_view text) {
  const TokenDecoder& decoder = state_->decoder;
  if (!decoder.fuse) to_strip_ = decoder.strip_start;
  while (to_strip_ > 0 && !text.empty()) {
    const Utf8Char c = read_valid_utf8(text);
    if (c.code != decoder.strip) {
      to_strip_ = 0;
      break;
    }
    --to_strip_;
    text.remove_prefix(c.length);
  }
  for (std::size_t i = 0; i < decoder.strip_stop && !text.empty(); ++i) {
    std::size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0u) == 0x80) --last;
    if (read_valid_utf8(text.substr(last)).code != decoder.strip) break;
    text = text.substr(0, last);
  }
  ready_ += text;
}

}  // namespace ciuic::inline CIUIC_ABI
