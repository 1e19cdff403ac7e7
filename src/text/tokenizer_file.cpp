// tokenizer.json, read event by event: the vocabulary and the merges go straight into their tables,
// only the small sections become trees.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "base/json.hpp"
#include "base/try.hpp"
#include "text/fields.hpp"
#include "text/tokenizer_state.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::size_t kMaxSectionNodes = 20'000;
constexpr std::size_t kMaxDepth = 64;
// The search for added tokens may take as many steps at every byte of a text.
constexpr std::size_t kMaxAddedTokenBytes = 256;
constexpr std::size_t kMaxNormalizedBytes = 2 * kMaxAddedTokenBytes;
constexpr std::size_t kIdsOfAnyFile = std::size_t{1} << 18;

/// A scalar event.
struct Scalar {
  JsonValue::Kind kind = JsonValue::Kind::null;
  std::int64_t integer = 0;
  double number = 0;
  std::string_view text = {};
};

class FileReader final : public JsonEvents {
 public:
  /// `merges_only`: the second reading of a file whose merges came before its vocabulary.
  FileReader(TokenizerState& state, bool merges_only) : state_(state), merges_only_(merges_only) {}

  struct Sections {
    std::optional<JsonValue> normalizer, pre_tokenizer, post_processor, decoder;
  } sections;
  std::optional<std::string> unk_token;
  bool merges_deferred = false;
  bool saw_vocabulary = false;
  bool saw_merges = false;

  Result<void> null() override { return scalar({}); }
  Result<void> boolean(bool value) override {
    return scalar({.kind = JsonValue::Kind::boolean, .integer = value});
  }
  Result<void> integer(std::int64_t value) override {
    return scalar({.kind = JsonValue::Kind::integer, .integer = value});
  }
  Result<void> unsigned_integer(std::uint64_t value) override {
    // Larger ones than any id are refused where they stand; their exact value does not matter.
    constexpr std::uint64_t kLargest = std::uint64_t{1} << 62;
    return integer(static_cast<std::int64_t>(std::min(value, kLargest)));
  }
  Result<void> number(double value) override {
    return scalar({.kind = JsonValue::Kind::number, .number = value});
  }
  Result<void> string(std::string_view value) override {
    return scalar({.kind = JsonValue::Kind::string, .text = value});
  }
  Result<void> key(std::string_view name) override {
    if (where_ == Where::tree) return tree_->key(name);
    if (where_ != Where::skip) key_ = name;
    return {};
  }
  Result<void> begin_object() override { return begin(JsonValue::Kind::object); }
  Result<void> end_object() override { return end(JsonValue::Kind::object); }
  Result<void> begin_array() override { return begin(JsonValue::Kind::array); }
  Result<void> end_array() override { return end(JsonValue::Kind::array); }

 private:
  enum class Where : std::uint8_t {
    outside,
    root,
    skip,
    tree,
    added_list,
    added_item,
    model,
    vocabulary,
    merges,
    merge_pair,
  };

  static Error wanted(std::string_view field, std::string_view what, JsonValue::Kind got) {
    return Error(ErrorCode::bad_model, {field, ": wanted ", what, ", got ", describe(got)});
  }
  std::string merge_path() const { return "model.merges[" + std::to_string(merge_) + "]"; }
  std::string added_path() const { return "added_tokens[" + std::to_string(item_) + "]"; }

  std::optional<JsonValue>* section(std::string_view name) {
    if (name == "normalizer") return &sections.normalizer;
    if (name == "pre_tokenizer") return &sections.pre_tokenizer;
    if (name == "post_processor") return &sections.post_processor;
    if (name == "decoder") return &sections.decoder;
    return nullptr;
  }

  Result<void> begin(JsonValue::Kind kind) {
    const bool is_object = kind == JsonValue::Kind::object;
    switch (where_) {
      case Where::outside:
        if (!is_object) return Error(ErrorCode::bad_model, "wanted an object, got an array");
        where_ = Where::root;
        return {};
      case Where::root:
        if (key_ == "model") {
          if (!is_object) return wanted(key_, "an object", kind);
          where_ = Where::model;
          return {};
        }
        if (merges_only_) return skip();
        if (key_ == "added_tokens") {
          if (is_object) return wanted(key_, "an array", kind);
          where_ = Where::added_list;
          item_ = 0;
          return {};
        }
        if (section(key_) != nullptr) {
          if (!is_object) return wanted(key_, "an object", kind);
          tree_ = std::make_unique<JsonTreeBuilder>(kMaxSectionNodes);
          where_ = Where::tree;
          depth_ = 1;
          return tree_->begin_object();
        }
        return skip();
      case Where::skip:
        ++depth_;
        return {};
      case Where::tree: {
        ++depth_;
        Result<void> begun = is_object ? tree_->begin_object() : tree_->begin_array();
        if (!begun) return begun.error().with_prefix(key_ + ": ");
        return {};
      }
      case Where::added_list:
        if (!is_object) return wanted(added_path(), "an object", kind);
        where_ = Where::added_item;
        added_ = AddedToken();
        added_id_.reset();
        added_has_normalized_ = false;
        return {};
      case Where::added_item:
        return wanted(member_path(added_path(), key_), "a scalar", kind);
      case Where::model:
        if (key_ == "vocab") {
          if (!is_object) return wanted("model.vocab", "an object", kind);
          if (merges_only_) return skip();
          where_ = Where::vocabulary;
          return {};
        }
        if (key_ == "merges") {
          if (is_object) return wanted("model.merges", "an array", kind);
          if (!saw_vocabulary && !merges_only_) {
            merges_deferred = true;
            return skip();
          }
          where_ = Where::merges;
          merge_ = 0;
          return {};
        }
        if (key_ == "type") return wanted("model.type", "a string", kind);
        return skip();
      case Where::vocabulary:
        return wanted("model.vocab[" + quoted(key_) + "]", "an integer", kind);
      case Where::merges:
        if (is_object) return wanted(merge_path(), "a pair or a string", kind);
        where_ = Where::merge_pair;
        parts_ = 0;
        return {};
      case Where::merge_pair:
        return wanted(merge_path(), "two strings", kind);
    }
    return Error(ErrorCode::internal, "tokenizer.json reader: no such place");
  }

  Result<void> skip() {
    after_skip_ = where_;
    where_ = Where::skip;
    depth_ = 1;
    return {};
  }

  Result<void> end(JsonValue::Kind kind) {
    switch (where_) {
      case Where::skip:
        if (--depth_ == 0) where_ = after_skip_;
        return {};
      case Where::tree:
        CIUIC_TRY(kind == JsonValue::Kind::object ? tree_->end_object() : tree_->end_array());
        if (--depth_ == 0) {
          *section(key_) = tree_->take();
          tree_.reset();
          where_ = Where::root;
        }
        return {};
      case Where::added_item:
        where_ = Where::added_list;
        return finish_added();
      case Where::added_list:
      case Where::model:
        where_ = Where::root;
        return {};
      case Where::vocabulary:
        saw_vocabulary = true;
        where_ = Where::model;
        return {};
      case Where::merges:
        saw_merges = true;
        where_ = Where::model;
        return {};
      case Where::merge_pair:
        if (parts_ != 2) return Error(ErrorCode::bad_model, {merge_path(), ": wanted two strings"});
        where_ = Where::merges;
        return merge(left_, right_);
      case Where::root:
      case Where::outside:
        break;
    }
    where_ = Where::outside;
    return {};
  }

  Result<void> scalar(const Scalar& value) {
    switch (where_) {
      case Where::outside:
        return Error(ErrorCode::bad_model, {"wanted an object, got ", describe(value.kind)});
      case Where::root:
        return root_scalar(value);
      case Where::skip:
        return {};
      case Where::tree:
        return tree_scalar(value);
      case Where::added_list:
        return wanted(added_path(), "an object", value.kind);
      case Where::added_item:
        return added_scalar(value);
      case Where::model:
        return model_scalar(value);
      case Where::vocabulary: {
        const bool is_integer = value.kind == JsonValue::Kind::integer;
        const auto path = [&] { return "model.vocab[" + quoted(key_) + "]"; };
        if (!is_integer) return wanted(path(), "an integer", value.kind);
        Result<void> added = state_.bpe.vocabulary.add(key_, value.integer);
        if (!added) return added.error().with_prefix(path() + ": ");
        return {};
      }
      case Where::merges: {
        if (value.kind != JsonValue::Kind::string) {
          return wanted(merge_path(), "a pair or a string", value.kind);
        }
        if (value.text.starts_with("#version")) return {};
        const std::size_t space = value.text.find(' ');
        if (space == std::string_view::npos ||
            value.text.find(' ', space + 1) != std::string_view::npos) {
          return Error(ErrorCode::bad_model, {merge_path(),
                                              ": wanted two tokens with one space "
                                              "between, got ",
                                              quoted(value.text)});
        }
        return merge(value.text.substr(0, space), value.text.substr(space + 1));
      }
      case Where::merge_pair:
        if (value.kind != JsonValue::Kind::string || parts_ == 2) {
          return Error(ErrorCode::bad_model, {merge_path(), ": wanted two strings"});
        }
        (parts_++ == 0 ? left_ : right_) = value.text;
        return {};
    }
    return {};
  }

  Result<void> root_scalar(const Scalar& value) {
    if (merges_only_ && key_ != "model") return {};
    if (key_ == "model" || (key_ == "added_tokens" && value.kind != JsonValue::Kind::null)) {
      return wanted(key_, key_ == "model" ? "an object" : "an array", value.kind);
    }
    if (section(key_) != nullptr && value.kind != JsonValue::Kind::null) {
      return wanted(key_, "an object or null", value.kind);
    }
    if (key_ == "version") {
      if (value.kind != JsonValue::Kind::string) return wanted(key_, "a string", value.kind);
      if (value.text != "1.0") {
        return Error(ErrorCode::unsupported, {"version: unsupported ", quoted(value.text)});
      }
    }
    return {};
  }

  Result<void> tree_scalar(const Scalar& value) {
    const auto pass = [&]() -> Result<void> {
      switch (value.kind) {
        case JsonValue::Kind::boolean:
          return tree_->boolean(value.integer != 0);
        case JsonValue::Kind::integer:
          return tree_->integer(value.integer);
        case JsonValue::Kind::number:
          return tree_->number(value.number);
        case JsonValue::Kind::string:
          return tree_->string(value.text);
        default:
          return tree_->null();
      }
    };
    Result<void> passed = pass();
    if (!passed) return passed.error().with_prefix(key_ + ": ");
    return {};
  }

  Result<void> added_scalar(const Scalar& value) {
    const std::string path = member_path(added_path(), key_);
    if (key_ == "id") {
      if (value.kind != JsonValue::Kind::integer) return wanted(path, "an integer", value.kind);
      const std::int32_t largest = state_.bpe.vocabulary.largest_allowed_id();
      if (value.integer < 0 || value.integer > largest) {
        return Error(ErrorCode::bad_model, {path, ": ", std::to_string(value.integer),
                                            ", wanted 0 to ", std::to_string(largest)});
      }
      added_id_ = static_cast<std::int32_t>(value.integer);
      return {};
    }
    if (key_ == "content") {
      if (value.kind != JsonValue::Kind::string) return wanted(path, "a string", value.kind);
      if (value.text.size() > kMaxAddedTokenBytes) {
        return Error(ErrorCode::bad_model, {path, ": ", std::to_string(value.text.size()),
                                            " bytes, limit ", std::to_string(kMaxAddedTokenBytes)});
      }
      added_.content = value.text;
      return {};
    }
    bool* flag = key_ == "single_word"  ? &added_.single_word
                 : key_ == "lstrip"     ? &added_.lstrip
                 : key_ == "rstrip"     ? &added_.rstrip
                 : key_ == "normalized" ? &added_.normalized
                 : key_ == "special"    ? &added_.special
                                        : nullptr;
    if (flag == nullptr) return {};
    if (value.kind != JsonValue::Kind::boolean) return wanted(path, "a boolean", value.kind);
    *flag = value.integer != 0;
    added_has_normalized_ = added_has_normalized_ || key_ == "normalized";
    return {};
  }

  Result<void> finish_added() {
    if (!added_id_) return Error(ErrorCode::bad_model, {added_path(), ".id: missing"});
    if (added_.content.empty()) {
      return Error(ErrorCode::bad_model, {added_path(), ".content: missing or empty"});
    }
    if (!added_has_normalized_) added_.normalized = !added_.special;
    added_.id = *added_id_;
    state_.added.push_back(std::move(added_));
    ++item_;
    return {};
  }

  Result<void> model_scalar(const Scalar& value) {
    if (merges_only_) return {};
    const std::string path = member_path("model", key_);
    const bool is_null = value.kind == JsonValue::Kind::null;
    const bool is_string = value.kind == JsonValue::Kind::string;
    if (key_ == "type") {
      if (!is_string) return wanted(path, "a string", value.kind);
      if (value.text != "BPE") {
        return Error(ErrorCode::unsupported, {path, ": unsupported ", quoted(value.text)});
      }
    } else if (key_ == "vocab") {
      return wanted(path, "an object", value.kind);
    } else if (key_ == "merges") {
      return wanted(path, "an array", value.kind);
    } else if (key_ == "unk_token") {
      if (is_string) {
        unk_token = value.text;
      } else if (!is_null) {
        return wanted(path, "a string or null", value.kind);
      }
    } else if (key_ == "dropout") {
      const bool none = is_null || (value.kind == JsonValue::Kind::integer && value.integer == 0) ||
                        (value.kind == JsonValue::Kind::number && value.number == 0);
      if (!none) return Error(ErrorCode::unsupported, {path, ": unsupported, wanted null"});
    } else if (key_ == "continuing_subword_prefix" || key_ == "end_of_word_suffix") {
      if (!is_null && !is_string) return wanted(path, "a string or null", value.kind);
      if (is_string && !value.text.empty()) {
        return Error(ErrorCode::unsupported, {path, ": unsupported ", quoted(value.text)});
      }
    } else {
      bool* flag = key_ == "fuse_unk"        ? &state_.bpe.options.fuse_unknown
                   : key_ == "byte_fallback" ? &state_.bpe.options.byte_fallback
                   : key_ == "ignore_merges" ? &state_.bpe.options.ignore_merges
                                             : nullptr;
      if (flag != nullptr && !is_null) {
        if (value.kind != JsonValue::Kind::boolean) return wanted(path, "a boolean", value.kind);
        *flag = value.integer != 0;
      }
    }
    return {};
  }

  Result<void> merge(std::string_view left, std::string_view right) {
    const Vocabulary& vocabulary = state_.bpe.vocabulary;
    const auto id_of = [&](std::string_view token) {
      return vocabulary.find(token, Vocabulary::Kind::text);
    };
    const auto missing = [&](std::string_view what, std::string_view token) {
      return Error(ErrorCode::bad_model,
                   {merge_path(), ": ", what, quoted(token), " is not in the vocabulary"});
    };
    const std::int32_t left_id = id_of(left), right_id = id_of(right);
    if (left_id < 0) return missing("", left);
    if (right_id < 0) return missing("", right);
    if (left.empty() || right.empty()) {
      return Error(ErrorCode::bad_model, {merge_path(), ": an empty token"});
    }
    joined_.assign(left);
    joined_ += right;
    const std::int32_t result = id_of(joined_);
    if (result < 0) return missing("the result ", joined_);
    Result<void> added = state_.bpe.merges.add(left_id, right_id, result);
    if (!added) return added.error().with_prefix(merge_path() + ": ");
    ++merge_;
    return {};
  }

  TokenizerState& state_;
  const bool merges_only_;
  Where where_ = Where::outside;
  Where after_skip_ = Where::outside;
  std::size_t depth_ = 0;
  std::string key_;
  std::unique_ptr<JsonTreeBuilder> tree_;
  std::size_t item_ = 0, merge_ = 0;
  AddedToken added_;
  std::optional<std::int32_t> added_id_;
  bool added_has_normalized_ = false;
  int parts_ = 0;
  std::string left_, right_, joined_;
};

Field section_field(const std::optional<JsonValue>& section, const char* name) {
  static const JsonValue kNull;
  return Field(section ? *section : kNull, name);
}

/// Puts the added tokens in order and checks that they agree with the vocabulary.
Result<void> finish_added_tokens(TokenizerState& state) {
  const Vocabulary& vocabulary = state.bpe.vocabulary;
  std::vector<AddedToken>& added = state.added;
  std::sort(added.begin(), added.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  const auto path = [](const AddedToken& token) {
    return "added_tokens: " + quoted(token.content) + ": ";
  };
  for (std::size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    const std::int32_t known = vocabulary.find(token.content, Vocabulary::Kind::text);
    if (known >= 0 && known != token.id) {
      return Error(ErrorCode::bad_model, {path(token), "id ", std::to_string(token.id),
                                          ", but model.vocab says ", std::to_string(known)});
    }
    if (known < 0 && vocabulary.contains(token.id)) {
      return Error(ErrorCode::bad_model,
                   {path(token), "id ", std::to_string(token.id), " belongs to ",
                    quoted(vocabulary.token(token.id)), " in model.vocab"});
    }
    if (i > 0 && added[i - 1].id == token.id) {
      return Error(ErrorCode::bad_model,
                   {path(token), "id ", std::to_string(token.id), " is given twice"});
    }
  }
  state.by_content.resize(added.size());
  for (std::size_t i = 0; i < added.size(); ++i) {
    state.by_content[i] = static_cast<std::uint32_t>(i);
  }
  std::sort(state.by_content.begin(), state.by_content.end(),
            [&](std::uint32_t a, std::uint32_t b) { return added[a].content < added[b].content; });
  for (std::size_t i = 1; i < added.size(); ++i) {
    const AddedToken& token = added[state.by_content[i]];
    if (token.content == added[state.by_content[i - 1]].content) {
      return Error(ErrorCode::bad_model, {path(token), "given twice"});
    }
  }

  std::vector<AddedToken> raw, normalized;
  std::size_t bytes = 0;
  for (const AddedToken& token : added) bytes += token.content.size();
  MatchScratch scratch(bytes);  // one for all of them
  std::size_t left = longest_rewritten(bytes, kRewrittenTextBase);
  for (const AddedToken& token : added) {
    AddedToken wanted = token;
    if (token.normalized) {
      Result<void> applied =
          state.normalizer.apply(wanted.content, std::min(left, kMaxNormalizedBytes), scratch);
      if (!applied) return applied.error().with_prefix(path(token));
      left -= wanted.content.size();
      if (wanted.content.empty()) {
        return Error(ErrorCode::bad_model, {path(token), "the normalizer leaves nothing of it"});
      }
    }
    std::string& decoded = state.added_decoded.emplace_back();
    if (state.decoder.kind != TokenDecoder::Kind::byte_level ||
        !append_byte_level_bytes(decoded, wanted.content)) {
      decoded = wanted.content;
    }
    (token.normalized ? normalized : raw).push_back(std::move(wanted));
  }
  state.raw_finder.build(std::move(raw));
  state.normalized_finder.build(std::move(normalized));
  return {};
}

}  // namespace

Result<void> read_tokenizer_file(std::string_view json_text, TokenizerState& state) {
  const JsonLimits limits{.max_depth = kMaxDepth,
                          .max_string_bytes = json_text.size(),
                          .max_keys_per_object = static_cast<std::size_t>(kMaxTokenId) + 1};
  // An honest file spends more than four bytes on a token.
  const std::size_t id_bound = kIdsOfAnyFile + json_text.size() / 4;
  if (id_bound <= static_cast<std::size_t>(kMaxTokenId)) {
    state.bpe.vocabulary.set_id_bound(static_cast<std::int32_t>(id_bound));
  }
  FileReader reader(state, false);
  CIUIC_TRY(parse_json(json_text, reader, limits));
  Bpe& bpe = state.bpe;
  if (!reader.saw_vocabulary) return Error(ErrorCode::bad_model, "model.vocab: missing");
  if (bpe.vocabulary.count() == 0) return Error(ErrorCode::bad_model, "model.vocab: empty");
  if (reader.merges_deferred) {
    FileReader again(state, true);
    CIUIC_TRY(parse_json(json_text, again, limits));
  } else if (!reader.saw_merges) {
    return Error(ErrorCode::bad_model, "model.merges: missing");
  }
  if (reader.unk_token) {
    bpe.options.unknown = bpe.vocabulary.find(*reader.unk_token, Vocabulary::Kind::text);
    bpe.options.unknown_is_missing = bpe.options.unknown < 0;
    if (bpe.options.unknown_is_missing && !reader.unk_token->empty()) {  // old files write ""
      return Error(ErrorCode::bad_model,
                   {"model.unk_token: ", quoted(*reader.unk_token), " is not in the vocabulary"});
    }
  }
  const auto& sections = reader.sections;
  CIUIC_ASSIGN_OR_RETURN(state.normalizer,
                         TextNormalizer::read(section_field(sections.normalizer, "normalizer")));
  CIUIC_ASSIGN_OR_RETURN(state.pre_tokenizer, PreTokenizer::read(section_field(
                                                  sections.pre_tokenizer, "pre_tokenizer")));
  CIUIC_ASSIGN_OR_RETURN(state.post_processor, PostProcessor::read(section_field(
                                                   sections.post_processor, "post_processor")));
  CIUIC_ASSIGN_OR_RETURN(state.decoder,
                         TokenDecoder::read(section_field(sections.decoder, "decoder")));
  CIUIC_TRY(finish_added_tokens(state));
  if (state.pre_tokenizer.byte_level()) {
    Result<void> converted = bpe.vocabulary.to_bytes();
    if (!converted) return converted.error().with_prefix("model.vocab: ");
  }
  CIUIC_TRY(bpe.prepare(state.pre_tokenizer.byte_level()));
  state.vocab_size = bpe.vocabulary.id_bound();
  if (!state.added.empty())
    state.vocab_size = std::max(state.vocab_size, state.added.back().id + 1);
  for (const auto* ids : {&state.post_processor.before, &state.post_processor.after}) {
    for (const std::int32_t id : *ids) {
      if (!bpe.vocabulary.contains(id) && state.find_added(id) == nullptr) {
        return Error(ErrorCode::bad_model,
                     {"post_processor: id ", std::to_string(id), " is not in the vocabulary"});
      }
    }
  }
  return {};
}

}  // namespace ciuic::inline CIUIC_ABI
