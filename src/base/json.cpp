#include "base/json.hpp"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/keyed_hash.hpp"
#include "base/try.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

using Sax = nlohmann::json_sax<nlohmann::json>;

/// The keys of one object, as 127 bits of hash each instead of a copy: a false alarm is less likely
/// than 2^-80. Used again for the next object at the same depth, so that a file of a million small
/// objects allocates nothing per object.
class KeySet {
 public:
  std::size_t size() const noexcept { return size_; }
  /// False when the key is there already.
  bool insert(std::string_view name, const KeyedHash& hash1, const KeyedHash& hash2) {
    if (size_ * 8 >= slots_.size() * 7) grow();
    const Key key{hash1(name) | 1u, hash2(name)};
    Key& slot = find(key);
    if (slot == key) return false;
    slot = key;
    ++size_;
    return true;
  }
  void clear() {
    size_ = 0;
    // A large table goes, so that clearing costs no more than filling did.
    if (slots_.size() > kSmall) return std::vector<Key>().swap(slots_);
    slots_.assign(slots_.size(), Key{});
  }

 private:
  static constexpr std::size_t kSmall = 64;
  struct Key {
    std::uint64_t a = 0, b = 0;  // a is odd; an even one marks a free slot
    bool operator==(const Key&) const = default;
  };

  Key& find(const Key& key) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(key.b) & mask;
    while (slots_[at].a != 0 && slots_[at] != key) at = (at + 1) & mask;
    return slots_[at];
  }
  void grow() {
    std::vector<Key> old(slots_.empty() ? 8 : slots_.size() * (slots_.size() < kSmall ? 2 : 4));
    old.swap(slots_);
    for (const Key& key : old) {
      if (key.a != 0) find(key) = key;
    }
  }

  std::vector<Key> slots_;
  std::size_t size_ = 0;
};

/// Between nlohmann's callbacks and ours: enforces the limits, remembers the first error.
class Guard final : public Sax {
 public:
  Guard(JsonEvents& events, const JsonLimits& limits) : events_(events), limits_(limits) {}

  bool null() override { return pass(events_.null()); }
  bool boolean(bool value) override { return pass(events_.boolean(value)); }
  bool number_integer(std::int64_t value) override { return pass(events_.integer(value)); }
  bool number_unsigned(std::uint64_t value) override {
    return pass(events_.unsigned_integer(value));
  }
  bool number_float(double value, const std::string& text) override {
    if (!std::isfinite(value)) return fail("number out of range: ", quoted_excerpt(text));
    return pass(events_.number(value));
  }
  bool string(std::string& value) override { return pass(events_.string(value)); }
  bool binary(nlohmann::json::binary_t&) override { return fail("binary value", ""); }
  bool start_object(std::size_t) override {
    if (!enter()) return false;
    if (objects_ == keys_.size()) keys_.emplace_back();
    keys_[objects_++].clear();
    return pass(events_.begin_object());
  }
  bool key(std::string& name) override {
    if (depth_ == 1 && !limits_.check_root_keys) return pass(events_.key(name));
    KeySet& keys = keys_[objects_ - 1];
    if (keys.size() >= limits_.max_keys_per_object) return fail("too many keys", "");
    if (!keys.insert(name, hash1_, hash2_)) return fail("duplicate key: ", quoted_excerpt(name));
    return pass(events_.key(name));
  }
  bool end_object() override {
    --objects_;
    --depth_;
    return pass(events_.end_object());
  }
  bool start_array(std::size_t) override { return enter() && pass(events_.begin_array()); }
  bool end_array() override {
    --depth_;
    return pass(events_.end_array());
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    std::string_view what =
        e.what();  // "[json.exception…] parse error at line…: reason; last read…"
    if (const auto at = what.find("- "); at != std::string_view::npos) what.remove_prefix(at + 2);
    if (what.size() > 160) what = what.substr(0, 160);
    std::string printable(what);
    for (char& c : printable) {
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
      if (static_cast<unsigned char>(c) >= 0x7F) c = '?';  // may be half a character
    }
    error_ = Error(ErrorCode::bad_model,
                   {"malformed JSON at byte ", std::to_string(position), ": ", printable});
    return false;
  }

  std::optional<Error> take_error() { return std::move(error_); }

 private:
  bool enter() {
    if (++depth_ > limits_.max_depth) {
      return fail("nested deeper than ", std::to_string(limits_.max_depth));
    }
    return true;
  }
  bool pass(Result<void> result) {
    if (!result) error_ = std::move(result).error();
    return result.has_value();
  }
  bool fail(std::string_view what, std::string_view detail) {
    error_ = Error(ErrorCode::bad_model, {"JSON: ", what, detail});
    return false;
  }

  JsonEvents& events_;
  const JsonLimits& limits_;
  std::size_t depth_ = 0;
  std::size_t objects_ = 0;  // open now; keys_[i] belongs to the i-th of them
  std::vector<KeySet> keys_;
  KeyedHash hash1_, hash2_;
  std::optional<Error> error_;
};

// The longest number that anybody needs to write: every digit of the least double there is.
constexpr std::size_t kMaxLiteralBytes = 2048;

/// Bounds every token before the parser sees any, because it copies tokens several times, and
/// refuses NUL, which it takes for the end of the text, so that it would not see what follows.
Result<void> check_tokens(std::string_view text, const JsonLimits& limits) {
  bool in_string = false;
  std::size_t begin = 0;  // of the string, or of the run of characters that are no punctuation
  for (std::size_t at = 0; at < text.size(); ++at) {
    switch (text[at]) {
      case '\0':
        return Error(ErrorCode::bad_model,
                     {"malformed JSON at byte ", std::to_string(at), ": NUL character"});
      case '"':
        in_string = !in_string;
        begin = at + 1;
        break;
      case '\\':
        if (in_string && at + 1 < text.size() && text[at + 1] != '\0') ++at;
        break;
      case ' ':
      case '\t':
      case '\n':
      case '\r':
      case ',':
      case ':':
      case '[':
      case ']':
      case '{':
      case '}':
        if (!in_string) begin = at + 1;
        break;
      default:
        break;
    }
    const std::size_t most = in_string ? limits.max_string_bytes : kMaxLiteralBytes;
    if (at + 1 - begin > most) {
      return Error(ErrorCode::bad_model,
                   {"JSON: ", in_string ? "string" : "literal", " too long: at byte ",
                    std::to_string(begin), ", wanted at most ", std::to_string(most), " bytes"});
    }
  }
  return {};
}

}  // namespace

Result<void> parse_json(std::string_view text, JsonEvents& events, const JsonLimits& limits) {
  CIUIC_TRY(check_tokens(text, limits));
  Guard guard(events, limits);
  const bool complete = nlohmann::json::sax_parse(text.begin(), text.end(), &guard);
  if (std::optional<Error> error = guard.take_error()) return *std::move(error);
  if (!complete) return Error(ErrorCode::bad_model, "malformed JSON");
  return {};
}

Result<void> JsonTreeBuilder::null() { return scalar(JsonValue()); }
Result<void> JsonTreeBuilder::boolean(bool value) {
  return scalar(make(JsonValue::Kind::boolean, value));
}
Result<void> JsonTreeBuilder::integer(std::int64_t value) {
  return scalar(make(JsonValue::Kind::integer, value));
}
Result<void> JsonTreeBuilder::unsigned_integer(std::uint64_t value) {
  if (value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return integer(static_cast<std::int64_t>(value));
  }
  return number(static_cast<double>(value));
}
Result<void> JsonTreeBuilder::number(double value) {
  JsonValue node = make(JsonValue::Kind::number, 0);
  node.number_ = value;
  return scalar(std::move(node));
}
Result<void> JsonTreeBuilder::string(std::string_view value) {
  JsonValue node = make(JsonValue::Kind::string, 0);
  node.string_ = value;
  return scalar(std::move(node));
}
Result<void> JsonTreeBuilder::key(std::string_view name) {
  key_ = name;
  return {};
}

JsonValue JsonTreeBuilder::make(JsonValue::Kind kind, std::int64_t integer) {
  JsonValue node;
  node.kind_ = kind;
  node.integer_ = integer;
  return node;
}
Result<JsonValue*> JsonTreeBuilder::place(JsonValue node) {
  if (nodes_left_ == 0) return Error(ErrorCode::bad_model, "JSON: too many values");
  --nodes_left_;
  if (open_.empty()) {
    root_ = std::move(node);
    return &root_;
  }
  JsonValue& parent = *open_.back();
  if (parent.is_array()) return &parent.items_.emplace_back(std::move(node));
  return &parent.members_.emplace_back(std::move(key_), std::move(node)).second;
}
Result<void> JsonTreeBuilder::scalar(JsonValue node) {
  Result<JsonValue*> placed = place(std::move(node));
  if (!placed) return placed.error();
  return {};
}
Result<void> JsonTreeBuilder::open(JsonValue::Kind kind) {
  Result<JsonValue*> placed = place(make(kind, 0));
  if (!placed) return placed.error();
  open_.push_back(*placed);  // stays put: only the innermost open container grows
  return {};
}
Result<void> JsonTreeBuilder::close() {
  open_.pop_back();
  return {};
}

Result<JsonValue> JsonValue::parse(std::string_view text, const JsonLimits& limits,
                                   std::size_t max_nodes) {
  JsonTreeBuilder builder(max_nodes);
  Result<void> parsed = parse_json(text, builder, limits);
  if (!parsed) return parsed.error();
  return builder.take();
}

const JsonValue* JsonValue::find(std::string_view name) const noexcept {
  for (const auto& [key, value] : members_) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string_view describe(JsonValue::Kind kind) noexcept {
  switch (kind) {
    case JsonValue::Kind::null:
      return "null";
    case JsonValue::Kind::boolean:
      return "a boolean";
    case JsonValue::Kind::integer:
      return "an integer";
    case JsonValue::Kind::number:
      return "a number";
    case JsonValue::Kind::string:
      return "a string";
    case JsonValue::Kind::array:
      return "an array";
    case JsonValue::Kind::object:
      return "an object";
  }
  return "nothing";
}

void append_json_string(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[(c >> 4) & 15];
          out += kHex[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

std::string quoted_excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string out;
  if (text.size() <= kLongest) {
    append_json_string(out, text);
    return out;
  }
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) --end;
  append_json_string(out, text.substr(0, end));
  return out += "…";
}

}  // namespace ciuic::inline CIUIC_ABI
