#include "ciuic/engine/generated_text.hpp"

#include <random>

#include "support/catch.hpp"

using namespace ciuic;
using detail::GeneratedText;

namespace {

/// Text pieces by index, so that a test decides how an answer is cut.
class Pieces final : public detail::AnyTextStream {
 public:
  explicit Pieces(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  std::string_view push(TokenId token) override { return pieces_[static_cast<std::size_t>(token)]; }
  std::string_view finish() override { return {}; }

 private:
  std::vector<std::string> pieces_;
};

std::string visible(const std::string& text, const std::vector<std::size_t>& cuts,
                    std::vector<std::string> stops) {
  std::vector<std::string> pieces;
  std::size_t from = 0;
  for (std::size_t cut : cuts) {
    pieces.push_back(text.substr(from, cut - from));
    from = cut;
  }
  pieces.push_back(text.substr(from));
  const auto count = static_cast<TokenId>(pieces.size());
  GeneratedText generated(std::make_unique<Pieces>(std::move(pieces)), std::move(stops), {});
  std::string seen;
  for (TokenId i = 0; i < count; ++i) {
    const bool stopped = generated.push(i);
    seen += generated.ready();
    if (stopped) return seen;
  }
  generated.finish();
  return seen + std::string(generated.ready());
}

}  // namespace

TEST_CASE("A stop text ends an answer however it is cut into tokens, and is never shown") {
  std::mt19937 random(5);
  const std::vector<std::string> stops = {"abab", "bb", "caca"};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) text += static_cast<char>('a' + random() % 3);
    std::size_t expected = text.size();
    for (std::size_t i = 0; i < text.size() && expected == text.size(); ++i) {
      // The first stop to *complete* ends the answer; cut there. One token at a time shows when.
      for (const std::string& stop : stops) {
        if (i + 1 >= stop.size() && text.compare(i + 1 - stop.size(), stop.size(), stop) == 0) {
          expected = std::min(expected, i + 1 - stop.size());
        }
      }
    }
    std::vector<std::size_t> every(text.size() - 1);
    for (std::size_t i = 0; i < every.size(); ++i) every[i] = i + 1;
    CHECK(visible(text, every, stops) == text.substr(0, expected));
  }
}

TEST_CASE("Without stop texts everything is visible at once") {
  CHECK(visible("hello world", {3, 4}, {}) == "hello world");
  CHECK(visible("abc", {1}, {"abcd"}) == "abc");  // held back, then released at the end
}
