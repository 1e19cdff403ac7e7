// What the engine asks of a generating model: a step over sequences, and text in and out of tokens.
// The engine deals in token ids and page numbers; the model owns weights, key/value bytes, devices.
#pragma once

#include <concepts>
#include <memory>
#include <ranges>
#include <span>
#include <string_view>
#include <vector>

#include "ciuic/base/generation.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A model that advances many sequences by one step. One engine drives it, from one thread at a
/// time.
/// - `limits()` says how large its pages are, and which of the optional parts of SequenceStep it
///   honours.
/// - `reserve(pages, max_step_tokens, max_sequences)` makes room once, before the first step. A
///   model that checks guesses (`limits().max_drafts`) also takes a fourth number, of guesses in a
///   step, which has a default: `reserve(std::int32_t pages, …, std::int32_t max_step_drafts = 0)`.
/// - `step(sequences, results)` advances all of them; on error none advanced and the same step may
///   be tried again. It writes the keys and values of `tokens`, and only those; a page it only
///   reads may belong to several sequences that begin alike. Keys and values of earlier steps
///   survive an error other than `device_lost`.
template <class M>
concept StepModel = requires(M& model, const M& constant, std::int32_t n,
                             std::span<const SequenceStep> sequences,
                             std::span<StepResult> results) {
  { constant.limits() } -> std::same_as<StepModelLimits>;
  { model.reserve(n, n, n) } -> std::same_as<Result<void>>;
  { model.step(sequences, results) } -> std::same_as<Result<void>>;
};

/// Something that can be looked at through a `View` and is not owned by what was returned: a view
/// or a reference, never a container by value, of which only a dangling view would be left.
template <class T, class View>
concept LendsView = std::convertible_to<T, View> && std::ranges::borrowed_range<T>;

/// Turns token ids into text as they arrive, never half a character. What it returns lives until
/// the next call.
template <class S>
concept TokenTextStream = requires(S& stream, TokenId token) {
  { stream.push(token) } -> LendsView<std::string_view>;
  { stream.finish() } -> LendsView<std::string_view>;
};

/// A step model that also speaks text. These functions are const and thread-safe.
/// - `encode(text, parse_special)`: a prompt's ids, with beginning-of-text where the model wants
/// it.
/// - `end_tokens()`: the ids that end an answer, valid as long as the model.
template <class M>
concept TextModel = StepModel<M> &&
    requires(const M& model, std::string_view text, bool parse_special) {
  { model.encode(text, parse_special) } -> std::same_as<Result<std::vector<TokenId>>>;
  { model.text_stream() } -> TokenTextStream;
  { model.end_tokens() } -> LendsView<std::span<const TokenId>>;
};

namespace detail {

/// The engine's own view of a model, so that the scheduler need not be a template.
class AnyTextStream {
 public:
  virtual ~AnyTextStream() = default;
  virtual std::string_view push(TokenId token) = 0;
  virtual std::string_view finish() = 0;
};

class AnyTextModel {
 public:
  virtual ~AnyTextModel() = default;
  virtual StepModelLimits limits() const = 0;
  virtual Result<void> reserve(std::int32_t pages, std::int32_t tokens, std::int32_t sequences,
                               std::int32_t drafts) = 0;
  virtual Result<void> step(std::span<const SequenceStep>, std::span<StepResult>) = 0;
  virtual Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const = 0;
  virtual std::unique_ptr<AnyTextStream> text_stream() const = 0;
  virtual std::span<const TokenId> end_tokens() const = 0;
};

template <TextModel M>
class TextModelAdapter final : public AnyTextModel {
 public:
  explicit TextModelAdapter(M& model) : model_(model) {}
  StepModelLimits limits() const override {
    StepModelLimits limits = model_.limits();
    if (!kTakesDrafts) limits.max_drafts = 0;
    return limits;
  }
  Result<void> reserve(std::int32_t pages, std::int32_t tokens, std::int32_t sequences,
                       std::int32_t drafts) override {
    if constexpr (kTakesDrafts) {
      return model_.reserve(pages, tokens, sequences, drafts);
    } else {
      return model_.reserve(pages, tokens, sequences);
    }
  }
  Result<void> step(std::span<const SequenceStep> s, std::span<StepResult> r) override {
    return model_.step(s, r);
  }
  Result<std::vector<TokenId>> encode(std::string_view text, bool parse_special) const override {
    return std::as_const(model_).encode(text, parse_special);
  }
  std::unique_ptr<AnyTextStream> text_stream() const override {
    return std::make_unique<Stream>(std::as_const(model_).text_stream());
  }
  std::span<const TokenId> end_tokens() const override {
    return std::as_const(model_).end_tokens();
  }

 private:
  static constexpr bool kTakesDrafts = requires(M & model, std::int32_t n) {
    model.reserve(n, n, n, n);
  };
  using Native = decltype(std::declval<const M&>().text_stream());
  class Stream final : public AnyTextStream {
   public:
    explicit Stream(Native native) : native_(std::move(native)) {}
    std::string_view push(TokenId token) override { return native_.push(token); }
    std::string_view finish() override { return native_.finish(); }

   private:
    Native native_;
  };
  M& model_;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
