// GeneratedText: tokens of an answer to text a reader may see, with stop texts held back.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ciuic/engine/step_model.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Text is ready once no stop text can begin in it any more. Thread-safety: thread-compatible.
class GeneratedText {
 public:
  GeneratedText() = default;
  GeneratedText(std::unique_ptr<AnyTextStream> stream, std::vector<std::string> stops,
                std::span<const TokenId> end_tokens)
      : stream_(std::move(stream)), stops_(std::move(stops)), end_tokens_(end_tokens) {}

  bool is_end_token(TokenId token) const noexcept {
    return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
  }
  /// Takes a token over; true when a stop text is complete. Then read `ready()`.
  bool push(TokenId token) {
    ready_.clear();
    if (stream_) held_ += stream_->push(token);
    return release(/*all=*/false);
  }
  /// The answer is over: nothing is held back any more; true when the last bytes made a stop text.
  bool finish() {
    ready_.clear();
    if (stream_) held_ += stream_->finish();
    return release(/*all=*/true);
  }
  /// What the last call made visible.
  std::string_view ready() const noexcept { return ready_; }
  bool stopped() const noexcept { return stopped_; }

 private:
  bool release(bool all) {
    if (stopped_) return true;
    std::size_t first_stop = std::string::npos;
    for (const std::string& stop : stops_) first_stop = std::min(first_stop, held_.find(stop));
    if (first_stop != std::string::npos) {
      ready_ = held_.substr(0, first_stop);
      held_.clear();
      stopped_ = true;
      return true;
    }
    std::size_t keep = 0;  // the longest end of what is held that begins a stop text
    for (const std::string& stop : stops_) {
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
      }
    }
    if (all) keep = 0;
    ready_ = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return false;
  }

  std::unique_ptr<AnyTextStream> stream_;
  std::vector<std::string> stops_;
  std::span<const TokenId> end_tokens_;
  std::string held_, ready_;
  bool stopped_ = false;
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
