#include "text/pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/try.hpp"
#include "text/pattern_translator.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kMaxExpressionBytes = std::size_t{1} << 16;
constexpr std::uint32_t kHeapLimitKib = 256u << 10;
constexpr std::uint64_t kFirstSteps = 64;     // what an honest attempt at one place takes at most
constexpr std::uint64_t kStepsOfASearch = 4;  // what such an attempt counts

Result<std::shared_ptr<const pcre2_code>> compile(std::string_view expression, bool recent) {
  CIUIC_ASSIGN_OR_RETURN(const std::string translated, translate_to_pcre2(expression, recent));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) return Error(ErrorCode::out_of_memory);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C,
      &code, &offset, context);
  pcre2_compile_context_free(context);
  if (compiled == nullptr) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(code, message, sizeof message);
    return Error(ErrorCode::bad_model, reinterpret_cast<const char*>(message));
  }
  return std::shared_ptr<const pcre2_code>(compiled,
                                           [](pcre2_code* pointer) { pcre2_code_free(pointer); });
}

}  // namespace

MatchScratch::~MatchScratch() {
  pcre2_match_data_free(data_);
  pcre2_match_context_free(context_);
}

Result<Pattern> Pattern::literal(std::string_view text, std::string field) {
  if (text.empty()) return Error(ErrorCode::bad_model, "an empty string matches nothing");
  Pattern pattern;
  pattern.field_ = std::move(field);
  pattern.literal_ = text;
  return pattern;
}

Result<Pattern> Pattern::regex(std::string_view expression, std::string field) {
  if (expression.size() > kMaxExpressionBytes) {
    return Error(ErrorCode::bad_model, {"an expression of ", std::to_string(expression.size()),
                                        " bytes, limit ", std::to_string(kMaxExpressionBytes)});
  }
  if (expression.empty()) return Error(ErrorCode::bad_model, "an empty expression");
  Pattern pattern;
  pattern.field_ = std::move(field);
  CIUIC_ASSIGN_OR_RETURN(pattern.plain_, compile(expression, false));
  CIUIC_ASSIGN_OR_RETURN(pattern.recent_, compile(expression, true));
  return pattern;
}

int Pattern::run(std::string_view text, std::size_t from, bool recent, std::uint32_t options,
                 std::uint64_t steps, MatchScratch& scratch) const {
  if (scratch.data_ == nullptr) scratch.data_ = pcre2_match_data_create(1, nullptr);
  if (scratch.context_ == nullptr) {
    scratch.context_ = pcre2_match_context_create(nullptr);
    if (scratch.context_ == nullptr) return PCRE2_ERROR_NOMEMORY;
    pcre2_set_heap_limit(scratch.context_, kHeapLimitKib);
    const auto on_callout = [](pcre2_callout_block* block, void* data) {
      auto& owner = *static_cast<MatchScratch*>(data);
      const std::size_t before = std::exchange(owner.position_, block->current_position);
      if (block->callout_number == kCalloutBeforeRepeat) return 0;
      const std::size_t now = owner.position_;
      return owner.spend(1 + (now > before ? now - before : before - now)) ? 0
                                                                           : PCRE2_ERROR_CALLOUT;
    };
    pcre2_set_callout(scratch.context_, on_callout, &scratch);
  }
  if (scratch.data_ == nullptr) return PCRE2_ERROR_NOMEMORY;
  pcre2_set_match_limit(scratch.context_, static_cast<std::uint32_t>(std::min<std::uint64_t>(
                                              steps, std::numeric_limits<std::uint32_t>::max())));
  return pcre2_match(recent ? recent_.get() : plain_.get(),
                     reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                     PCRE2_NO_UTF_CHECK | options, scratch.data_, scratch.context_);
}

Result<std::optional<Pattern::Match>> Pattern::find(std::string_view text, std::size_t from,
                                                    bool recent, MatchScratch& scratch) const {
  if (!literal_.empty()) {
    if (from > text.size()) return std::optional<Match>();
    // memmem is linear for any needle; string_view::find is not.
    const void* found =
        ::memmem(text.data() + from, text.size() - from, literal_.data(), literal_.size());
    if (found == nullptr) return std::optional<Match>();
    const auto at = static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
    return std::optional<Match>(Match{at, at + literal_.size()});
  }
  const auto too_many = [&] {
    return Error(ErrorCode::unsupported, {field_, field_.empty() ? "" : ": ",
                                          "the expression takes too many steps on this text"});
  };
  // PCRE2 limits the steps from each place where a match may start, and tells nobody how many it
  // took. So each place gets a few; where they do not suffice, the search goes on place by place
  // with growing limits, which are counted in full.
  int found = run(text, from, recent, 0, kFirstSteps, scratch);
  if (found == PCRE2_ERROR_MATCHLIMIT) {
    std::size_t at = from;
    while (true) {
      std::uint64_t steps = kFirstSteps;
      if (!scratch.spend(kStepsOfASearch)) return too_many();
      found = run(text, at, recent, PCRE2_ANCHORED, steps, scratch);
      while (found == PCRE2_ERROR_MATCHLIMIT) {
        steps *= 4;
        if (!scratch.spend(steps)) return too_many();
        found = run(text, at, recent, PCRE2_ANCHORED, steps, scratch);
      }
      if (found != PCRE2_ERROR_NOMATCH || at >= text.size()) break;
      at += utf8_length(text[at]);
    }
  }
  if (found == PCRE2_ERROR_CALLOUT || found == PCRE2_ERROR_DEPTHLIMIT ||
      found == PCRE2_ERROR_HEAPLIMIT) {
    return too_many();
  }
  if (found == PCRE2_ERROR_NOMEMORY) return Error(ErrorCode::out_of_memory);
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
    return Error(ErrorCode::internal, {"matching failed with status ", std::to_string(found)});
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(scratch.data_);
  const std::size_t tried = (found == PCRE2_ERROR_NOMATCH ? text.size() : ends[0]) - from;
  if (!scratch.spend(kStepsOfASearch * (1 + tried))) return too_many();
  if (found == PCRE2_ERROR_NOMATCH) return std::optional<Match>();
  return std::optional<Match>(Match{ends[0], ends[1]});
}

MatchIterator::MatchIterator(const Pattern& pattern, std::string_view text,
                             MatchScratch& scratch) noexcept
    : pattern_(pattern),
      text_(text),
      scratch_(scratch),
      recent_(pattern.literal_.empty() && has_recent(text)) {}

Result<std::optional<Pattern::Match>> MatchIterator::next() {
  while (from_ <= text_.size()) {
    CIUIC_ASSIGN_OR_RETURN(const std::optional<Pattern::Match> match,
                           pattern_.find(text_, from_, recent_, scratch_));
    if (!match) break;
    if (match->begin == match->end && last_end_ == match->end) {
      from_ += from_ < text_.size() ? utf8_length(text_[from_]) : 1;
      continue;
    }
    from_ = match->end;
    last_end_ = match->end;
    return match;
  }
  from_ = text_.size() + 1;
  return std::optional<Pattern::Match>();
}

}  // namespace ciuic::inline CIUIC_ABI
