#include "model/choose.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/try.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/model/sampler.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

/// One choice: raw log-probabilities, then the hook, then the sampler.
Result<TokenId> choose_one(const SequenceStep& step, std::span<const TokenId> context,
                           std::int64_t position, std::span<float> logits,
                           std::vector<float>& scratch, std::span<TokenLogprob> logprobs) {
  if (!logprobs.empty()) scratch.assign(logits.begin(), logits.end());
  if (step.logits_hook != nullptr) {
    CIUIC_TRY(call_guarded(ErrorCode::model_failed, "logits_hook",
                           [&] { (*step.logits_hook)(context, logits); }));
  }
  const SamplingOptions greedy;
  CIUIC_ASSIGN_OR_RETURN(
      const TokenId token,
      sample(logits, step.sampling != nullptr ? *step.sampling : greedy, context, position));
  if (!logprobs.empty()) logprobs[0] = log_probabilities(scratch, token, logprobs.subspan(1));
  return token;
}

}  // namespace

void choose(const SequenceStep& step, std::span<float> logits, std::vector<float>& scratch,
            StepResult& result) {
  const auto drafts = static_cast<std::size_t>(step.drafts);
  const std::span<const TokenId> guesses = step.tokens.last(drafts);
  const std::size_t vocab = logits.size() / (drafts + 1);
  const auto first = static_cast<std::size_t>(step.first_position) + step.tokens.size() - drafts;
  const std::size_t width = step.logprobs.empty() ? 0 : step.logprobs.size() / (drafts + 1);
  for (std::size_t i = 0; i <= drafts; ++i) {
    const std::size_t position = first + i;
    Result<TokenId> token = Error(ErrorCode::internal);
    const Result<void> chosen = call_guarded(ErrorCode::internal, "sampling", [&] {
      token = choose_one(step, step.history.first(std::min(step.history.size(), position)),
                         static_cast<std::int64_t>(position), logits.subspan(i * vocab, vocab),
                         scratch, step.logprobs.subspan(i * width, width));
    });
    if (!chosen) token = chosen.error();
    if (!token) {  // its batch mates have their tokens all the same
      result.error = std::move(token).error();
      return;
    }
    result.token = *token;
    if (i == drafts || *token != guesses[i]) return;
    ++result.accepted_drafts;
  }
}

TokenLogprob log_probabilities(std::span<const float> logits, TokenId token,
                               std::span<TokenLogprob> top) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  const double log_sum = std::log(sum);
  const auto logprob = [&](TokenId of) {
    const double distance = static_cast<double>(logits[static_cast<std::size_t>(of)] - largest);
    return static_cast<float>(distance - log_sum);
  };
  const auto likelier = [&](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
  };
  // A heap of the best so far, the worst of them in front; `logprob` holds the logit meanwhile.
  std::size_t kept = 0;
  for (std::size_t i = 0; !top.empty() && i < logits.size(); ++i) {
    const TokenLogprob candidate{static_cast<TokenId>(i), logits[i]};
    if (kept == top.size()) {
      if (!likelier(candidate, top.front())) continue;
      std::pop_heap(top.begin(), top.end(), likelier);
      --kept;
    }
    top[kept++] = candidate;
    std::push_heap(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(kept), likelier);
  }
  const std::span<TokenLogprob> found = top.first(kept);
  std::sort(found.begin(), found.end(), likelier);
  for (TokenLogprob& entry : found) entry.logprob = logprob(entry.token);
  std::fill(top.begin() + static_cast<std::ptrdiff_t>(kept), top.end(), TokenLogprob());
  return {token, logprob(token)};
}

}  // namespace ciuic::inline CIUIC_ABI
