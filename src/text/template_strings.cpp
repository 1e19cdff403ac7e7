#include "text/template_strings.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "base/try.hpp"
#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

constexpr std::string_view kStringMethods[] = {
    "strip",   "lstrip",  "rstrip",       "split",        "rsplit",     "startswith", "endswith",
    "replace", "upper",   "lower",        "title",        "capitalize", "find",       "count",
    "join",    "isdigit", "removeprefix", "removesuffix", "splitlines"};

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    std::int64_t count) {
  std::string out;
  if (from.empty()) {  // between all characters, and at both ends
    for (const std::string_view c : characters(text)) {
      if (count != 0) {
        out += to;
        --count;
      }
      out += c;
    }
    if (count != 0) out += to;
    return out;
  }
  std::size_t done = 0;
  for (; count != 0; --count) {
    const std::size_t at = text.find(from, done);
    if (at == std::string_view::npos) break;
    out += text.substr(done, at - done);
    out += to;
    done = at + from.size();
  }
  out += text.substr(done);
  return out;
}

Result<Value> split(std::string_view text, const std::string* separator, std::int64_t limit,
                    bool from_right) {
  std::vector<Value> out;
  const auto push = [&](std::string_view part) { out.push_back(Value::string(std::string(part))); };
  if (separator == nullptr) {
    if (from_right && limit >= 0) return value_error("rsplit: a limit needs a separator");
    std::string_view rest = strip(text, true, false, nullptr);
    while (!rest.empty()) {
      if (limit >= 0 && static_cast<std::int64_t>(out.size()) >= limit) {
        push(strip(rest, false, true, nullptr));
        break;
      }
      std::size_t n = 0;
      while (n < rest.size() && !is_white_space(read_valid_utf8(rest.substr(n)).code)) {
        n += utf8_length(rest[n]);
      }
      push(rest.substr(0, n));
      rest = strip(rest.substr(n), true, false, nullptr);
    }
    return Value::list(std::move(out));
  }
  if (separator->empty()) return value_error("split: an empty separator");
  if (from_right) {
    while (limit != 0) {
      const std::size_t at = text.rfind(*separator);
      if (at == std::string_view::npos) break;
      push(text.substr(at + separator->size()));
      text = text.substr(0, at);
      --limit;
    }
    push(text);
    std::reverse(out.begin(), out.end());
    return Value::list(std::move(out));
  }
  while (limit != 0) {
    const std::size_t at = text.find(*separator);
    if (at == std::string_view::npos) break;
    push(text.substr(0, at));
    text.remove_prefix(at + separator->size());
    --limit;
  }
  push(text);
  return Value::list(std::move(out));
}

}  // namespace

std::string_view strip(std::string_view text, bool left, bool right, const std::string* set) {
  const auto goes = [&](std::string_view c) {
    return set != nullptr ? set->find(c) != std::string::npos
                          : is_white_space(read_valid_utf8(c).code) ||
                                (c.size() == 1 && c[0] >= 0x1C && c[0] <= 0x1F);
  };
  while (left && !text.empty()) {
    const std::string_view c = text.substr(0, utf8_length(text[0]));
    if (!goes(c)) break;
    text.remove_prefix(c.size());
  }
  while (right && !text.empty()) {
    std::size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0u) == 0x80) --last;
    if (!goes(text.substr(last))) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string with_case(std::string_view text, std::string_view how) {
  std::string out;
  if (how == "lower") {
    append_lowercase(out, text);
  } else if (how == "upper") {
    append_uppercase(out, text);
  } else {
    bool start = true;
    for (const std::string_view c : characters(text)) {
      std::string upper, lower;
      append_uppercase(upper, c);
      append_lowercase(lower, c);
      out += start ? upper : lower;
      if (how == "title") {
        start = upper == lower;
      } else {
        start = how == "words" && (is_white_space(read_valid_utf8(c).code) ||
                                   std::string_view("-({[<").find(c) != std::string_view::npos);
      }
    }
  }
  return out;
}

bool is_string_method(std::string_view name) {
  return std::find(std::begin(kStringMethods), std::end(kStringMethods), name) !=
         std::end(kStringMethods);
}

Result<Value> string_method(std::string_view name, const std::string& text,
                            const Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"chars"}));
    std::optional<std::string> set;
    if (bound.has(0)) {
      CIUIC_ASSIGN_OR_RETURN(set, bound.string(0));
    }
    return Value::string(
        std::string(strip(text, name != "rstrip", name != "lstrip", set ? &*set : nullptr)));
  }
  if (name == "split" || name == "rsplit") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"sep", "maxsplit"}));
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t limit, bound.integer(1, -1));
    std::optional<std::string> separator;
    if (bound.has(0)) {
      CIUIC_ASSIGN_OR_RETURN(separator, bound.string(0));
    }
    return split(text, separator ? &*separator : nullptr, limit, name == "rsplit");
  }
  if (name == "startswith" || name == "endswith") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"part"}));
    if (bound.get(0) == nullptr) return bound.wanted(0, "a string");
    const std::vector<Value> one{*bound.get(0)};
    for (const Value& part : bound.get(0)->is_tuple() ? bound.get(0)->items() : one) {
      if (!part.is_string()) return bound.wanted(0, "a string or a tuple of strings");
      if (name == "startswith" ? text.starts_with(part.as_string())
                               : text.ends_with(part.as_string())) {
        return Value::boolean(true);
      }
    }
    return Value::boolean(false);
  }
  if (name == "replace") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound,
                           Bound::bind(name, arguments, {"old", "new", "count"}));
    CIUIC_ASSIGN_OR_RETURN(const std::string from, bound.string(0));
    CIUIC_ASSIGN_OR_RETURN(const std::string to, bound.string(1));
    CIUIC_ASSIGN_OR_RETURN(const std::int64_t count, bound.integer(2, -1));
    return Value::string(replace(text, from, to, count));
  }
  if (name == "find" || name == "count" || name == "removeprefix" || name == "removesuffix") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"part"}));
    CIUIC_ASSIGN_OR_RETURN(const std::string part, bound.string(0));
    if (name == "find") {
      const std::size_t at = text.find(part);
      if (at == std::string::npos) return Value::integer(-1);
      return Value::integer(
          static_cast<std::int64_t>(count_characters(std::string_view(text).substr(0, at))));
    }
    if (name == "count") {
      if (part.empty()) {
        return Value::integer(static_cast<std::int64_t>(count_characters(text)) + 1);
      }
      std::int64_t n = 0;
      for (std::size_t at = text.find(part); at != std::string::npos;
           at = text.find(part, at + part.size())) {
        ++n;
      }
      return Value::integer(n);
    }
    std::string_view rest = text;
    if (name == "removeprefix" && rest.starts_with(part)) rest.remove_prefix(part.size());
    if (name == "removesuffix" && rest.ends_with(part)) rest.remove_suffix(part.size());
    return Value::string(std::string(rest));
  }
  if (name == "join") {
    CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {"parts"}));
    if (bound.get(0) == nullptr) return bound.wanted(0, "a list of strings");
    CIUIC_ASSIGN_OR_RETURN(const std::vector<Value> parts, iterate(*bound.get(0)));
    std::string out;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!parts[i].is_string()) return bound.wanted(0, "a list of strings");
      if (i > 0) out += text;
      out += parts[i].as_string();
    }
    return Value::string(std::move(out));
  }
  CIUIC_ASSIGN_OR_RETURN(const Bound bound, Bound::bind(name, arguments, {}));
  if (name == "isdigit") {
    const auto all = characters(text);
    return Value::boolean(!all.empty() && std::all_of(all.begin(), all.end(), [](auto c) {
      return c.size() == 1 && c[0] >= '0' && c[0] <= '9';
    }));
  }
  if (name == "splitlines") {
    std::vector<Value> lines;
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::size_t at = rest.find_first_of("\r\n");
      lines.push_back(Value::string(std::string(rest.substr(0, at))));
      if (at == std::string_view::npos) break;
      rest.remove_prefix(at + (rest.substr(at).starts_with("\r\n") ? 2 : 1));
    }
    return Value::list(std::move(lines));
  }
  return Value::string(with_case(text, name));
}

}  // namespace ciuic::inline CIUIC_ABI
