// TextAdapter: any adapter for token ids, fed with text.
//
//   auto adapter = ciuic::TextAdapter(ciuic::PaddedAdapter<std::int64_t>({.max_length = 512}),
//                                     [&](std::string_view text) { return words.ids(text); });
#pragma once

#include <concepts>
#include <ranges>
#include <string>
#include <string_view>

#include "ciuic/batching/batch_adapter.hpp"

namespace ciuic::inline CIUIC_ABI {

namespace detail {

template <class T>
auto tokenize(const T& tokenizer, std::string_view text) {
  if constexpr (requires { tokenizer.encode(text); }) {
    return tokenizer.encode(text);
  } else {
    return tokenizer(text);
  }
}
template <class R>
struct TokenRange {
  using type = R;
};
template <class R>
struct TokenRange<Result<R>> {
  using type = R;
};

}  // namespace detail

/// Has `encode(std::string_view)`, or is called with one; gives a range of integers, or a Result of
/// one. Const, and called from several threads at once.
template <class T>
concept TextTokenizer = requires(const T& tokenizer, std::string_view text) {
  requires requires { tokenizer.encode(text); } || requires {
    tokenizer(text);
  };
  requires std::integral<std::ranges::range_value_t<
      typename detail::TokenRange<decltype(detail::tokenize(tokenizer, text))>::type>>;
};

/// Takes text instead of ids; the rest is `Ids`'s. The text is tokenized on the caller's thread, so
/// it is not copied and need not live longer than submit(). A text that is split is split after
/// that: the special tokens of its ends stay there. Thread-safety: as the tokenizer.
template <class Ids, TextTokenizer Tokenizer>
requires std::integral<typename Ids::Request::value_type>
class TextAdapter : public Ids {
  using Id = typename Ids::Request::value_type;

 public:
  using Request = std::string_view;
  using typename Ids::Item;

  TextAdapter(Ids ids, Tokenizer tokenize) : Ids(std::move(ids)), tokenizer_(std::move(tokenize)) {}

  /// Errors: the tokenizer's and `Ids`'s; `invalid_argument` for an id that `Ids` cannot hold.
  Result<Item> prepare(Request text) const {
    auto tokens = detail::tokenize(tokenizer_, text);
    if constexpr (requires { tokens.error(); }) {
      if (!tokens) return tokens.error().with_prefix("text: ");
      return prepare_ids(*std::move(tokens));
    } else {
      return prepare_ids(std::move(tokens));
    }
  }

 private:
  template <class Tokens>
  Result<Item> prepare_ids(Tokens&& tokens) const {
    if constexpr (std::same_as<Tokens, typename Ids::Request>) {
      return Ids::prepare(std::move(tokens));
    } else {
      typename Ids::Request ids;
      for (const auto token : tokens) {
        if (!std::in_range<Id>(+token)) {
          return Error(ErrorCode::invalid_argument,
                       {"text: wanted ids of ", std::to_string(8 * sizeof(Id)), " bits, got ",
                        std::to_string(token)});
        }
        ids.push_back(static_cast<Id>(token));
      }
      return Ids::prepare(std::move(ids));
    }
  }
  Tokenizer tokenizer_;
};

}  // namespace ciuic::inline CIUIC_ABI
