// What a caller asks of a generation and what comes back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ciuic/base/clock.hpp"
#include "ciuic/base/generation.hpp"

namespace ciuic::inline CIUIC_ABI {

struct GenerateOptions {
  std::int32_t max_new_tokens = 128;   ///< the answer is cut after so many; at least 1
  SamplingOptions sampling{};          ///< greedy by default
  std::vector<std::string> stop{};     ///< the answer ends before the first of these to complete
  std::vector<TokenId> stop_tokens{};  ///< besides the model's own end tokens
  bool ignore_end_tokens = false;      ///< go on past the model's end tokens (for measurements)
  bool parse_special = false;         ///< literals of special tokens in the prompt are those tokens
  std::optional<Duration> timeout{};  ///< for the whole answer, from now
  std::optional<TimePoint> deadline{};  ///< likewise, absolute; the earlier of both counts
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

/// A finished answer.
struct Generation {
  std::string text;             ///< valid UTF-8; the stop text is not part of it
  std::vector<TokenId> tokens;  ///< new ones; end-of-text excluded, a stop text's included
  std::int32_t prompt_tokens = 0;
  FinishReason reason = FinishReason::length;
  Duration queue_time{};           ///< from submit to the first step
  Duration time_to_first_token{};  ///< from submit
  Duration total_time{};           ///< from submit
};

}  // namespace ciuic::inline CIUIC_ABI
