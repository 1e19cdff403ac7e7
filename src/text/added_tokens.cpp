#include "text/added_tokens.hpp"

#include <algorithm>
#include <tuple>

#include "text/unicode.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

bool ends_with_word(std::string_view text) noexcept {
  if (text.empty()) return false;
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80) --at;
  return is_word(read_valid_utf8(text.substr(at)).code);
}

bool starts_with_word(std::string_view text) noexcept {
  return !text.empty() && is_word(read_valid_utf8(text).code);
}

std::size_t trailing_space(std::string_view text) noexcept {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t at = end - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80) --at;
    if (!is_white_space(read_valid_utf8(text.substr(at)).code)) break;
    end = at;
  }
  return text.size() - end;
}

std::size_t leading_space(std::string_view text) noexcept {
  std::size_t n = 0;
  while (n < text.size()) {
    const Utf8Char c = read_valid_utf8(text.substr(n));
    if (!is_white_space(c.code)) break;
    n += c.length;
  }
  return n;
}

}  // namespace

void AddedTokenFinder::build(std::vector<AddedToken> tokens) {
  tokens_ = std::move(tokens);
  std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return std::tie(a.content, a.id) < std::tie(b.content, b.id);
  });
  for (const AddedToken& token : tokens_) {
    first_bytes_.set(static_cast<unsigned char>(token.content[0]));
  }
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text) const noexcept {
  // The tokens that share the first n bytes with the text are a range of the sorted list; it
  // narrows with every byte. Its first element is the shared prefix itself, if that is a token.
  auto first = tokens_.begin();
  auto last = tokens_.end();
  const AddedToken* longest = nullptr;
  for (std::size_t n = 0; n < text.size(); ++n) {
    if (last - first == 1) {  // one comparison of what is left, not one for each byte
      if (text.starts_with(first->content)) longest = &*first;
      break;
    }
    const auto byte_at = [n](const AddedToken& token) {
      return static_cast<int>(static_cast<unsigned char>(token.content[n]));
    };
    const int wanted = static_cast<unsigned char>(text[n]);
    first = std::partition_point(first, last, [&](const AddedToken& token) {
      return token.content.size() <= n || byte_at(token) < wanted;
    });
    last = std::partition_point(first, last,
                                [&](const AddedToken& token) { return byte_at(token) == wanted; });
    if (first == last) break;
    if (first->content.size() == n + 1) longest = &*first;
  }
  return longest;
}

void AddedTokenFinder::split(std::string_view text, bool parse_special,
                             std::vector<Part>& parts) const {
  std::size_t done = 0;                        // everything before is in `parts`
  std::size_t space_begin = 1, space_end = 0;  // the last run of white space behind a token
  for (std::size_t at = 0; at < text.size();) {
    if (!first_bytes_.test(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    const AddedToken* token = longest_at(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;  // also past a token that is then refused, as in the reference
    if (token->special && !parse_special) continue;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    // Neither way is white space looked at twice, however many tokens stand in one run of it.
    if (token->lstrip) {
      begin = begin > done ? begin - trailing_space(text.substr(done, begin - done)) : done;
    }
    if (token->rstrip) {
      if (end < space_begin || end > space_end) {
        space_begin = end;
        space_end = end + leading_space(text.substr(end));
      }
      end = space_end;
    }
    if (done < begin) parts.push_back({text.substr(done, begin - done), -1});
    // White space that an earlier token took along may leave nothing of this one.
    if (begin < end) parts.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done != text.size()) parts.push_back({text.substr(done), -1});
}

}  // namespace ciuic::inline CIUIC_ABI
