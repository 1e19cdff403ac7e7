// What a caller asks of a generation and what comes back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/generation.hpp"
#include "ciuic/base/priority.hpp"
#include "ciuic/batching/request_terms.hpp"

namespace ciuic::inline CIUIC_ABI {

struct GenerateOptions {
  std::int32_t max_new_tokens = 128;  ///< the answer is cut after so many; at least 1
  SamplingOptions sampling{};         ///< greedy by default
  /// The answer ends before the first of these to complete. At most 64, of 1 to 1,024 bytes.
  std::vector<std::string> stop{};
  std::vector<TokenId> stop_tokens{};  ///< besides the model's own end tokens; at most 64
  bool ignore_end_tokens = false;      ///< go on past the model's end tokens (for measurements)
  bool parse_special = false;         ///< literals of special tokens in the prompt are those tokens
  std::optional<Duration> timeout{};  ///< for the whole answer, from now
  std::optional<TimePoint> deadline{};  ///< likewise, absolute; the earlier of both counts
  Priority priority = Priority::normal;
  TenantId tenant = 0;  ///< counts when `EngineOptions::max_tenants` is above 1
  /// 0 or more: report the log-probability of each token of the answer and of so many of the
  /// likeliest in its place, at most 20. -1: none.
  std::int32_t top_logprobs = -1;
  LogitsHook logits_hook{};  ///< sees and may change the logits before each choice
  /// Bytes of text the reader may leave unread before this request pauses, and goes on when it has
  /// read: back-pressure for slow readers. 0 = never. Lifted by waiting for the whole answer
  /// (`finish`, `wait_for`, `on_ready`, `co_await`) and by `detach`.
  std::size_t max_unread = 0;
  /// Guesses a step may check for this request, made from its own past (prompt look-up): text that
  /// repeats itself comes faster, and the answer is the same token for token. 0 = none, at most
  /// 1,024; all requests of a step share `EngineOptions::max_draft_tokens`.
  std::int32_t draft_tokens = 0;
};

/// Why an answer ended. Failures are errors, not reasons.
enum class FinishReason : std::uint8_t {
  end_of_text,  ///< the model said so
  stop,         ///< a stop text or stop token of the request
  length,       ///< max_new_tokens, or the model's context is full
};

constexpr std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::end_of_text:
      return "end_of_text";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
  }
  return "unknown";
}

/// What the model thought of one token of an answer.
struct TokenLogprobs {
  float logprob = 0.0f;             ///< of the token itself
  std::vector<TokenLogprob> top{};  ///< the likeliest in its place, in order
};

/// A finished answer.
struct Generation {
  std::string text;             ///< valid UTF-8; the stop text is not part of it
  std::vector<TokenId> tokens;  ///< new ones; end-of-text excluded, a stop text's included
  std::vector<TokenLogprobs> logprobs{};  ///< one for each of `tokens`, if asked for
  std::int32_t prompt_tokens = 0;
  std::int32_t cached_tokens = 0;  ///< of the prompt, found computed already
  FinishReason reason = FinishReason::length;
  Duration queue_time{};           ///< from submit to the first step
  Duration time_to_first_token{};  ///< from submit
  Duration total_time{};           ///< from submit
};

}  // namespace ciuic::inline CIUIC_ABI
