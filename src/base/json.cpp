#include "base/json.hpp"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

namespace ciuic::inline CIUIC_ABI {
namespace {

/// The keys of one object: 64 bits of hash in an open table instead of copies, so that a vocabulary
/// of millions stays small. Chance of a false alarm for 2^21 honest keys: below 2^-22.
class KeySet {
 public:
  /// False when the key was there.
  bool insert(std::string_view name) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    hash = (hash ^ hash >> 32) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    if (hash == kFree) hash = 1;
    if ((size_ + 1) * 4 > slots_.size() * 3) {
      std::vector<std::uint64_t> old(slots_.empty() ? 16 : slots_.size() * 2, kFree);
      old.swap(slots_);
      for (std::uint64_t h : old) {
        if (h != kFree) slots_[find(h)] = h;
      }
    }
    std::uint64_t& slot = slots_[find(hash)];
    if (slot == hash) return false;
    slot = hash;
    ++size_;
    return true;
  }
  std::size_t size() const noexcept { return size_; }

 private:
  static constexpr std::uint64_t kFree = 0;
  std::size_t find(std::uint64_t hash) const noexcept {
    std::size_t at = hash & (slots_.size() - 1);
    while (slots_[at] != kFree && slots_[at] != hash) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::vector<std::uint64_t> slots_;
  std::size_t size_ = 0;
};

using Sax = nlohmann::json_sax<nlohmann::json>;

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
    if (!std::isfinite(value)) return fail("number out of range: ", clip(text));
    return pass(events_.number(value));
  }
  bool string(std::string& value) override {
    if (value.size() > limits_.max_string_bytes) return fail("string too long: ", clip(value));
    return pass(events_.string(value));
  }
  bool binary(nlohmann::json::binary_t&) override { return fail("binary value", ""); }
  bool start_object(std::size_t) override {
    if (!enter()) return false;
    keys_.emplace_back();
    return pass(events_.begin_object());
  }
  bool key(std::string& name) override {
    if (name.size() > limits_.max_string_bytes) return fail("key too long: ", clip(name));
    if (keys_.back().size() >= limits_.max_keys_per_object) return fail("too many keys", "");
    if (!keys_.back().insert(name)) return fail("duplicate key: ", clip(name));
    return pass(events_.key(name));
  }
  bool end_object() override {
    keys_.pop_back();
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
    }
    error_ = Error(ErrorCode::bad_model,
                   {"malformed JSON at byte ", std::to_string(position), ": ", printable});
    return false;
  }

  std::optional<Error> take_error() { return std::move(error_); }

 private:
  static std::string clip(std::string_view text) {
    std::string out;
    append_json_string(out, text.substr(0, 60));
    return out;
  }
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
  std::vector<KeySet> keys_;
  std::optional<Error> error_;
};

}  // namespace

Result<void> parse_json(std::string_view text, JsonEvents& events, const JsonLimits& limits) {
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

}  // namespace ciuic::inline CIUIC_ABI
