#include "text/pipeline.hpp"

#include <algorithm>
#include <utility>

#include "base/try.hpp"
#include "text/vocabulary.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kMaxSteps = 64;

/// A component's "type", and the unpacking of Sequences: calls `one(field, type)` for every
/// component that is not a Sequence, in order.
template <class One>
Result<void> for_each_component(const Field& field, std::string_view list, std::size_t& count,
                                One&& one) {
  if (field.is_null()) return {};
  CIUIC_ASSIGN_OR_RETURN(const std::string_view type, field.string("type"));
  if (++count > kMaxSteps) return field.bad("more than 64 steps");
  if (type != "Sequence") return one(field, type);
  CIUIC_ASSIGN_OR_RETURN(const Field items, field.array(list));
  for (std::size_t i = 0; i < items.value().items().size(); ++i) {
    const Field item = items.item(i);
    if (item.is_null()) return item.wanted("an object");
    CIUIC_TRY(for_each_component(item, list, count, one));
  }
  return {};
}

/// {"String": "…"} or {"Regex": "…"}.
Result<Pattern> read_pattern(const Field& component) {
  CIUIC_ASSIGN_OR_RETURN(const Field field, component.at("pattern"));
  if (!field.value().is_object()) return field.wanted("an object");
  const bool literal = field.has("String");
  if (!literal && !field.has("Regex")) return field.bad("wanted \"String\" or \"Regex\"");
  const std::string_view kind = literal ? "String" : "Regex";
  CIUIC_ASSIGN_OR_RETURN(const std::string_view text, field.string(kind));
  const std::string path = member_path(field.path(), kind);
  Result<Pattern> pattern = literal ? Pattern::literal(text, path) : Pattern::regex(text, path);
  if (!pattern) return pattern.error().with_prefix(path + ": ");
  return pattern;
}

Result<SplitBehavior> read_behavior(const Field& component) {
  CIUIC_ASSIGN_OR_RETURN(const Field field, component.at("behavior"));
  CIUIC_ASSIGN_OR_RETURN(const std::string_view name, field.string());
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  return field.unsupported(name);
}

/// Joins matches and what lies between them into pieces, as a SplitBehavior says.
template <class Emit>
class Combiner {
 public:
  Combiner(std::string_view text, SplitBehavior behavior, Emit emit)
      : text_(text), behavior_(behavior), emit_(std::move(emit)) {}

  Result<void> event(std::size_t begin, std::size_t end, bool is_match) {
    const bool before = std::exchange(previous_match_, is_match);
    switch (behavior_) {
      case SplitBehavior::removed:
        return is_match ? Result<void>() : emit(begin, end);
      case SplitBehavior::isolated:
        return emit(begin, end);
      case SplitBehavior::merged_with_previous:
        if (holding_ && is_match && !before) {
          end_ = end;
          return {};
        }
        break;
      case SplitBehavior::contiguous:
        if (holding_ && is_match == before) {
          end_ = end;
          return {};
        }
        break;
      case SplitBehavior::merged_with_next:  // only matches are held
        if (!is_match) {
          const std::size_t from = holding_ ? begin_ : begin;
          holding_ = false;
          return emit(from, end);
        }
        break;
    }
    CIUIC_TRY(finish());
    begin_ = begin;
    end_ = end;
    holding_ = true;
    return {};
  }
  Result<void> finish() {
    if (!std::exchange(holding_, false)) return {};
    return emit(begin_, end_);
  }

 private:
  Result<void> emit(std::size_t begin, std::size_t end) {
    if (begin == end) return {};
    return emit_(text_.substr(begin, end - begin));
  }
  std::string_view text_;
  SplitBehavior behavior_;
  Emit emit_;
  std::size_t begin_ = 0, end_ = 0;
  bool holding_ = false;
  bool previous_match_ = false;
};

template <class Emit>
Result<void> split(std::string_view text, const Pattern& pattern, SplitBehavior behavior,
                   bool invert, MatchScratch& scratch, Emit emit) {
  Combiner combiner(text, behavior, std::move(emit));
  MatchIterator matches(pattern, text, scratch);
  std::size_t done = 0;
  while (true) {
    CIUIC_ASSIGN_OR_RETURN(const std::optional<Pattern::Match> match, matches.next());
    if (!match) break;
    if (done != match->begin) CIUIC_TRY(combiner.event(done, match->begin, invert));
    CIUIC_TRY(combiner.event(match->begin, match->end, !invert));
    done = match->end;
  }
  if (done != text.size()) CIUIC_TRY(combiner.event(done, text.size(), invert));
  return combiner.finish();
}

/// How GPT-2 cuts text: contractions, then runs of letters, of digits or of the rest with the space
/// before them, then white space.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

Result<TextNormalizer> TextNormalizer::read(const Field& field) {
  TextNormalizer normalizer;
  std::size_t count = 0;
  const auto one = [&](const Field& component, std::string_view type) -> Result<void> {
    std::vector<Step>& steps = normalizer.steps_;
    normalizer.fields_.push_back(component.path());
    if (type == "NFC") {
      steps.emplace_back(NormalForm::nfc);
    } else if (type == "NFD") {
      steps.emplace_back(NormalForm::nfd);
    } else if (type == "NFKC") {
      steps.emplace_back(NormalForm::nfkc);
    } else if (type == "NFKD") {
      steps.emplace_back(NormalForm::nfkd);
    } else if (type == "Lowercase") {
      steps.emplace_back(Lowercase{});
    } else if (type == "Strip") {
      CIUIC_ASSIGN_OR_RETURN(const bool left, component.boolean("strip_left", false));
      CIUIC_ASSIGN_OR_RETURN(const bool right, component.boolean("strip_right", false));
      steps.emplace_back(Strip{left, right});
    } else if (type == "Replace") {
      CIUIC_ASSIGN_OR_RETURN(Pattern pattern, read_pattern(component));
      CIUIC_ASSIGN_OR_RETURN(const std::string_view content, component.string("content"));
      steps.emplace_back(Replace{std::move(pattern), std::string(content)});
    } else if (type == "Prepend") {
      CIUIC_ASSIGN_OR_RETURN(const std::string_view text, component.string("prepend"));
      steps.emplace_back(Prepend{std::string(text)});
    } else {
      return Error(ErrorCode::unsupported, {component.path(), ".type: unsupported ", quoted(type)});
    }
    return {};
  };
  CIUIC_TRY(for_each_component(field, "normalizers", count, one));
  return normalizer;
}

namespace {

Error too_long(std::string_view field, std::size_t max_bytes) {
  return Error(ErrorCode::bad_model,
               {field, ": makes more than ", std::to_string(max_bytes), " bytes of this text"});
}

}  // namespace

Result<void> replace_matches(std::string& text, const Pattern& pattern, std::string_view content,
                             std::size_t max_bytes, std::string_view field, MatchScratch& scratch) {
  std::string next;
  const auto append = [&](std::string_view more) {
    if (more.size() > max_bytes - next.size()) return false;
    next += more;
    return true;
  };
  MatchIterator matches(pattern, text, scratch);
  std::size_t done = 0;
  while (true) {
    CIUIC_ASSIGN_OR_RETURN(const std::optional<Pattern::Match> match, matches.next());
    const std::size_t end = match ? match->begin : text.size();
    if (!append(std::string_view(text).substr(done, end - done))) return too_long(field, max_bytes);
    if (!match) break;
    if (!append(content)) return too_long(field, max_bytes);
    done = match->end;
  }
  text.swap(next);
  return {};
}

Result<void> TextNormalizer::apply(std::string& text, std::size_t max_bytes,
                                   MatchScratch& scratch) const {
  std::string next;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    // Also what is cheap for one step counts, for there may be many, on many texts.
    if (!scratch.spend(1 + text.size())) {
      return Error(ErrorCode::unsupported, {fields_[i], ": takes too many steps on this text"});
    }
    next.clear();
    if (const auto* form = std::get_if<NormalForm>(&step)) {
      append_normalized(next, text, *form);
    } else if (std::holds_alternative<Lowercase>(step)) {
      append_lowercase(next, text);
    } else if (const auto* strip = std::get_if<Strip>(&step)) {
      std::string_view rest = text;
      while (strip->left && !rest.empty() && is_white_space(read_valid_utf8(rest).code)) {
        rest.remove_prefix(utf8_length(rest[0]));
      }
      while (strip->right && !rest.empty()) {
        std::size_t last = rest.size() - 1;
        while ((static_cast<unsigned char>(rest[last]) & 0xC0u) == 0x80) --last;
        if (!is_white_space(read_valid_utf8(rest.substr(last)).code)) break;
        rest = rest.substr(0, last);
      }
      next = rest;
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      CIUIC_TRY(replace_matches(text, replace->pattern, replace->content, max_bytes, fields_[i],
                                scratch));
      continue;
    } else if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (prepend->text.size() > max_bytes) return too_long(fields_[i], max_bytes);
      if (!text.empty()) next = prepend->text + text;
    }
    if (next.size() > max_bytes) return too_long(fields_[i], max_bytes);
    text.swap(next);
  }
  return {};
}

Result<PreTokenizer> PreTokenizer::read(const Field& field) {
  PreTokenizer pre_tokenizer;
  std::size_t count = 0;
  const auto one = [&](const Field& component, std::string_view type) -> Result<void> {
    if (pre_tokenizer.byte_level_) {
      return component.unsupported("a step after ByteLevel");  // would cut bytes' stand-ins
    }
    std::vector<Step>& steps = pre_tokenizer.steps_;
    if (type == "ByteLevel") {
      CIUIC_ASSIGN_OR_RETURN(const bool prefix, component.boolean("add_prefix_space", true));
      CIUIC_ASSIGN_OR_RETURN(const bool use_regex, component.boolean("use_regex", true));
      ByteLevel step{prefix, std::nullopt};
      if (use_regex) {
        CIUIC_ASSIGN_OR_RETURN(step.pattern, Pattern::regex(kGpt2, component.path()));
      }
      steps.emplace_back(std::move(step));
      pre_tokenizer.byte_level_ = true;
    } else if (type == "Split") {
      CIUIC_ASSIGN_OR_RETURN(Pattern pattern, read_pattern(component));
      CIUIC_ASSIGN_OR_RETURN(const SplitBehavior behavior, read_behavior(component));
      CIUIC_ASSIGN_OR_RETURN(const bool invert, component.boolean("invert", false));
      steps.emplace_back(Split{std::move(pattern), behavior, invert});
    } else if (type == "Digits") {
      CIUIC_ASSIGN_OR_RETURN(const bool individual, component.boolean("individual_digits", false));
      steps.emplace_back(Digits{individual});
    } else {
      return Error(ErrorCode::unsupported, {component.path(), ".type: unsupported ", quoted(type)});
    }
    return {};
  };
  CIUIC_TRY(for_each_component(field, "pretokenizers", count, one));
  return pre_tokenizer;
}

Result<void> PreTokenizer::run(std::size_t step, std::string_view text, MatchScratch& scratch,
                               PieceSink& sink) const {
  if (step == steps_.size()) return sink.piece(text);
  const auto next = [&](std::string_view piece) { return run(step + 1, piece, scratch, sink); };
  if (const auto* split_step = std::get_if<Split>(&steps_[step])) {
    return split(text, split_step->pattern, split_step->behavior, split_step->invert, scratch,
                 next);
  }
  if (const auto* digits = std::get_if<Digits>(&steps_[step])) {
    Combiner combiner(
        text, digits->individual ? SplitBehavior::isolated : SplitBehavior::contiguous, next);
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Char c = read_valid_utf8(text.substr(at));
      if (is_numeric(c.code)) {
        if (done < at) CIUIC_TRY(combiner.event(done, at, false));
        CIUIC_TRY(combiner.event(at, at + c.length, true));
        done = at + c.length;
      }
      at += c.length;
    }
    if (done < text.size()) CIUIC_TRY(combiner.event(done, text.size(), false));
    return combiner.finish();
  }
  const auto& byte_level = std::get<ByteLevel>(steps_[step]);
  std::string prefixed;
  if (byte_level.add_prefix_space && text[0] != ' ') {
    prefixed.reserve(text.size() + 1);
    prefixed += ' ';
    prefixed += text;
    text = prefixed;
  }
  if (!byte_level.pattern) return next(text);
  return split(text, *byte_level.pattern, SplitBehavior::isolated, false, scratch, next);
}

namespace {

Result<std::int32_t> read_id(const Field& field) {
  if (!field.value().is_integer()) return field.wanted("an integer");
  const std::int64_t id = field.value().as_integer();
  if (id < 0 || id > kMaxTokenId) {
    return field.bad("id " + std::to_string(id) + ", wanted 0 to " + std::to_string(kMaxTokenId));
  }
  return static_cast<std::int32_t>(id);
}

/// ["[CLS]", 101]
Result<std::int32_t> read_token_pair(const Field& component, std::string_view name) {
  CIUIC_ASSIGN_OR_RETURN(const Field pair, component.array(name));
  if (pair.value().items().size() != 2) return pair.bad("wanted a token and its id");
  return read_id(pair.item(1));
}

}  // namespace

Result<PostProcessor> PostProcessor::read(const Field& field) {
  PostProcessor processor;
  std::size_t count = 0;
  const auto one = [&](const Field& component, std::string_view type) -> Result<void> {
    std::vector<std::int32_t> before, after;
    if (type == "ByteLevel") return {};  // it moves offsets only
    if (type == "BertProcessing" || type == "RobertaProcessing") {
      CIUIC_ASSIGN_OR_RETURN(const std::int32_t cls, read_token_pair(component, "cls"));
      CIUIC_ASSIGN_OR_RETURN(const std::int32_t sep, read_token_pair(component, "sep"));
      before.push_back(cls);
      after.push_back(sep);
    } else if (type == "TemplateProcessing") {
      CIUIC_ASSIGN_OR_RETURN(const Field single, component.array("single"));
      CIUIC_ASSIGN_OR_RETURN(const Field tokens, component.at("special_tokens"));
      bool seen = false;
      for (std::size_t i = 0; i < single.value().items().size(); ++i) {
        const Field piece = single.item(i);
        if (!piece.value().is_object()) return piece.wanted("an object");
        if (piece.has("Sequence")) {
          CIUIC_ASSIGN_OR_RETURN(const Field sequence, piece.at("Sequence"));
          CIUIC_ASSIGN_OR_RETURN(const std::string_view id, sequence.string("id"));
          if (id != "A") return sequence.bad("wanted \"A\", got " + quoted(id));
          if (std::exchange(seen, true)) return sequence.bad("the text stands here twice");
          continue;
        }
        CIUIC_ASSIGN_OR_RETURN(const Field special, piece.at("SpecialToken"));
        CIUIC_ASSIGN_OR_RETURN(const std::string_view name, special.string("id"));
        if (!tokens.value().is_object()) return tokens.wanted("an object");
        if (!tokens.has(name)) {
          return special.bad(quoted(name) + " is not in special_tokens");
        }
        CIUIC_ASSIGN_OR_RETURN(const Field token, tokens.at(name));
        CIUIC_ASSIGN_OR_RETURN(const Field ids, token.array("ids"));
        for (std::size_t k = 0; k < ids.value().items().size(); ++k) {
          CIUIC_ASSIGN_OR_RETURN(const std::int32_t id, read_id(ids.item(k)));
          (seen ? after : before).push_back(id);
        }
      }
      if (!seen) return single.bad("the text stands nowhere");
    } else {
      return Error(ErrorCode::unsupported, {component.path(), ".type: unsupported ", quoted(type)});
    }
    processor.before.insert(processor.before.begin(), before.begin(), before.end());
    processor.after.insert(processor.after.end(), after.begin(), after.end());
    return {};
  };
  CIUIC_TRY(for_each_component(field, "processors", count, one));
  return processor;
}

Result<TokenDecoder> TokenDecoder::read(const Field& field) {
  TokenDecoder decoder;
  // The steps that occur, in the only order that is supported.
  enum class Stage { none, replace, byte_fallback, fuse, strip, byte_level };
  Stage stage = Stage::none;
  std::size_t count = 0;
  const auto one = [&](const Field& component, std::string_view type) -> Result<void> {
    const auto enter = [&](Stage next) -> Result<void> {
      const bool in_order = next == Stage::byte_level    ? stage == Stage::none
                            : stage == Stage::byte_level ? next == Stage::fuse
                            : next == Stage::replace     ? stage <= Stage::replace
                                                         : stage < next;
      if (!in_order) {
        return Error(ErrorCode::unsupported,
                     {component.path(), ".type: unsupported ", quoted(type), " in this place"});
      }
      if (stage != Stage::byte_level) stage = next;
      return {};
    };
    decoder.kind = Kind::tokens;
    if (type == "ByteLevel") return enter(Stage::byte_level);
    if (type == "Fuse") {
      CIUIC_TRY(enter(Stage::fuse));
      decoder.fuse = true;
    } else if (type == "ByteFallback") {
      CIUIC_TRY(enter(Stage::byte_fallback));
      decoder.byte_fallback = true;
    } else if (type == "Replace") {
      CIUIC_TRY(enter(Stage::replace));
      CIUIC_ASSIGN_OR_RETURN(Pattern pattern, read_pattern(component));
      CIUIC_ASSIGN_OR_RETURN(const std::string_view content, component.string("content"));
      decoder.replacements.push_back({std::move(pattern), std::string(content), component.path()});
    } else if (type == "Strip") {
      CIUIC_TRY(enter(Stage::strip));
      CIUIC_ASSIGN_OR_RETURN(const Field content, component.at("content"));
      CIUIC_ASSIGN_OR_RETURN(const std::string_view text, content.string());
      if (text.empty() || utf8_length(text[0]) != text.size()) {
        return content.bad("wanted one character");
      }
      decoder.strip = read_valid_utf8(text).code;
      for (const std::string_view name : {"start", "stop"}) {
        CIUIC_ASSIGN_OR_RETURN(const std::int64_t n, component.integer(name));
        if (n < 0 || n > 1'000'000) {
          return component.bad(std::string(name) + " out of range");
        }
        (name == "start" ? decoder.strip_start : decoder.strip_stop) = static_cast<std::size_t>(n);
      }
      if (decoder.fuse && decoder.strip_stop > 0) {
        return Error(ErrorCode::unsupported,
                     {component.path(), ".stop: unsupported above 0 after Fuse"});
      }
    } else {
      return Error(ErrorCode::unsupported, {component.path(), ".type: unsupported ", quoted(type)});
    }
    return {};
  };
  CIUIC_TRY(for_each_component(field, "decoders", count, one));
  if (stage == Stage::byte_level) decoder.kind = Kind::byte_level;
  return decoder;
}

}  // namespace ciuic::inline CIUIC_ABI
