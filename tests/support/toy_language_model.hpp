// A TextModel without weights that remembers what it was fed, page by page, and fails the test when
// the engine breaks its side: a page with two owners, a gap in a context, a stale position.
// The next token is a hash of the whole context, so an answer shows whether the context was right.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/generation.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::testing {

struct ToySettings {
  std::int32_t vocab_size = 128;  // tokens are ASCII codes
  std::int32_t max_context_tokens = 256;
  std::int32_t page_tokens = 4;
  TokenId end_token = 10;  // negative: it never ends
};

/// What the toy says after `context`: letters, now and then the end.
inline TokenId toy_next(std::span<const TokenId> context, const ToySettings& settings) {
  std::uint64_t hash = 1469598103934665603u;
  for (TokenId token : context)
    hash = (hash ^ static_cast<std::uint64_t>(token + 1)) * 1099511628211u;
  hash ^= hash >> 29;
  return hash % 23 == 0 && settings.end_token >= 0 ? settings.end_token
                                                   : static_cast<TokenId>('a' + hash % 26);
}

class ToyLanguageModel {
 public:
  struct Log {  // outlives the model, which an engine swallows
    std::vector<std::size_t> sequences_per_step, tokens_per_step;
    std::string broken;  // the first broken promise of the engine
    Function<Result<void>(std::span<const SequenceStep>)> before_step;  // may fail or throw
    std::int32_t nan_token = -1;   // a context ending in this token fails alone
    std::int32_t wild_token = -1;  // the answer to a context ending in '?', unless -1
  };

  ToyLanguageModel(std::shared_ptr<Log> log, ToySettings settings = {})
      : log_(std::move(log)), settings_(settings), end_(settings.end_token) {}

  StepModelLimits limits() const {
    return {settings_.vocab_size, settings_.max_context_tokens, settings_.page_tokens, 64,
            /*max_drafts=*/64};
  }
  Result<void> reserve(std::int32_t pages, std::int32_t max_tokens, std::int32_t max_sequences,
                       std::int32_t max_drafts = 0) {
    max_drafts_ = max_drafts;
    cache_.assign(static_cast<std::size_t>(pages * settings_.page_tokens), -1);
    max_tokens_ = max_tokens;
    max_sequences_ = max_sequences;
    return {};
  }
  Result<void> step(std::span<const SequenceStep> sequences, std::span<StepResult> results) {
    std::map<std::int32_t, int> users, writers;
    std::size_t tokens = 0;
    std::int32_t drafts = 0;
    for (const SequenceStep& s : sequences) {
      tokens += s.tokens.size();
      drafts += s.drafts;
      for (std::size_t i = 0; i < s.pages.size(); ++i) {
        ++users[s.pages[i]];
        if (static_cast<std::int32_t>(i + 1) * settings_.page_tokens > s.first_position) {
          ++writers[s.pages[i]];
        }
      }
      if (s.tokens.empty()) broken("a sequence without tokens");
      if (s.drafts < 0 || s.drafts >= std::ssize(s.tokens)) broken("nothing but guesses");
    }
    for (const auto& [page, count] : writers) {
      if (users[page] != 1) broken("a page that one writes and another uses");
    }
    if (drafts > max_drafts_) broken("too many guesses");
    if (std::ssize(sequences) > max_sequences_) broken("too many sequences");
    if (tokens > static_cast<std::size_t>(max_tokens_)) broken("too many tokens");
    log_->sequences_per_step.push_back(sequences.size());
    log_->tokens_per_step.push_back(tokens);
    if (log_->before_step) {
      Result<void> injected = log_->before_step(sequences);
      if (!injected) return injected;
    }
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const SequenceStep& s = sequences[i];
      for (std::size_t t = 0; t < s.tokens.size(); ++t)
        cell(s, s.first_position + static_cast<std::int32_t>(t)) = s.tokens[t];
      std::vector<TokenId> context;
      for (std::int32_t p = 0; p < s.first_position + static_cast<std::int32_t>(s.tokens.size());
           ++p) {
        context.push_back(cell(s, p));
      }
      if (!std::equal(context.begin(), context.end(), s.history.begin(),
                      s.history.begin() + std::ssize(context))) {
        broken("the cache does not hold the history");
      }
      results[i] = StepResult();
      if (!s.sample) continue;
      const std::size_t known = context.size() - static_cast<std::size_t>(s.drafts);
      for (std::size_t n = known; n <= context.size(); ++n) {
        choose(std::span(context).first(n), results[i]);
        if (results[i].error || n == context.size() || results[i].token != context[n]) break;
        ++results[i].accepted_drafts;
      }
    }
    return {};
  }

  Result<std::vector<TokenId>> encode(std::string_view text, bool) const {
    std::vector<TokenId> tokens;
    for (char c : text) {
      if (static_cast<unsigned char>(c) >= 128)
        return Error(ErrorCode::invalid_argument, "toy: ASCII only");
      tokens.push_back(c);
    }
    return tokens;
  }
  struct Stream {
    std::string piece;
    std::string_view push(TokenId token) {
      return piece = std::string(1, static_cast<char>(token));
    }
    std::string_view finish() { return {}; }
  };
  Stream text_stream() const { return {}; }
  std::span<const TokenId> end_tokens() const { return {&end_, 1}; }

 private:
  void choose(std::span<const TokenId> context, StepResult& result) const {
    if (context.back() == log_->nan_token) {
      result.error = Error(ErrorCode::model_failed, "logits: a NaN");
    } else if (log_->wild_token != -1 && context.back() == '?') {
      result.token = log_->wild_token;
    } else {
      result.token = toy_next(context, settings_);
    }
  }
  TokenId& cell(const SequenceStep& s, std::int32_t position) {
    const auto page = static_cast<std::size_t>(position / settings_.page_tokens);
    if (page >= s.pages.size()) {
      broken("a position without a page");
      return spare_;
    }
    const auto at = static_cast<std::size_t>(s.pages[page] * settings_.page_tokens +
                                             position % settings_.page_tokens);
    if (at >= cache_.size()) {
      broken("a page beyond the reserve");
      return spare_;
    }
    return cache_[at];
  }
  void broken(const char* what) {
    if (log_->broken.empty()) log_->broken = what;
  }

  std::shared_ptr<Log> log_;
  ToySettings settings_;
  TokenId end_;
  std::vector<TokenId> cache_;
  TokenId spare_ = -1;
  std::int32_t max_tokens_ = 0, max_sequences_ = 0, max_drafts_ = 0;
};

/// The answer the toy gives to a request that runs alone.
inline std::string toy_answer(std::string_view prompt, std::int32_t max_new_tokens,
                              const ToySettings& settings = {}) {
  std::vector<TokenId> context(prompt.begin(), prompt.end());
  std::string text;
  for (std::int32_t i = 0; i < max_new_tokens && std::ssize(context) < settings.max_context_tokens;
       ++i) {
    const TokenId token = toy_next(context, settings);
    if (token == settings.end_token) break;
    context.push_back(token);
    text += static_cast<char>(token);
  }
  return text;
}

}  // namespace ciuic::testing
