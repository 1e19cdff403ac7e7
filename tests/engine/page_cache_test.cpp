#include "ciuic/engine/page_cache.hpp"

#include <map>
#include <random>
#include <set>

#include "support/catch.hpp"

using namespace ciuic;

namespace {

using Pages = std::vector<std::int32_t>;
using Tokens = std::vector<TokenId>;

/// Publishes every full page of `tokens` from page `first` on.
void publish_all(PageCache& cache, const Tokens& tokens, std::size_t width, Pages& pages,
                 std::size_t first = 0) {
  for (std::size_t i = first; (i + 1) * width <= tokens.size() && i < pages.size(); ++i) {
    pages[i] = cache.publish(pages[i], i == 0 ? PageCache::kNone : pages[i - 1],
                             std::span(tokens).subspan(i * width, width));
  }
}

}  // namespace

TEST_CASE(
    "A beginning that was published is found by the next, and only as far as it is the same") {
  PageCache cache(16, 4, true);
  const Tokens first{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  Pages a;
  REQUIRE(cache.take(3, a));
  publish_all(cache, first, 4, a);

  Tokens second = first;
  second[9] = 99;
  Pages b;
  cache.extend(second, 3, b);
  CHECK(b == Pages{a[0], a[1]});
  Pages c;
  cache.extend(first, 1, c);
  CHECK(c == Pages{a[0]});
  const Tokens shifted{5, 6, 7, 8};  // the same page, but not at the beginning
  Pages d;
  cache.extend(shifted, 1, d);
  CHECK(d.empty());

  cache.give_back(a);
  cache.give_back(b);
  cache.give_back(c);
  CHECK(cache.used() == 0);
  CHECK(cache.idle() == 3);
  CHECK(cache.available() == 16);
}

TEST_CASE("A page that is known already is given back, and the known one used in its place") {
  PageCache cache(8, 2, true);
  const Tokens tokens{7, 7, 8, 8};
  Pages a, b;
  REQUIRE(cache.take(2, a));
  REQUIRE(cache.take(2, b));
  publish_all(cache, tokens, 2, a);
  publish_all(cache, tokens, 2, b);
  CHECK(a == b);
  CHECK(cache.used() == 2);
  cache.give_back(a);
  CHECK(cache.used() == 2);
  cache.give_back(b);
  CHECK(cache.used() == 0);
}

TEST_CASE("Known pages go when room is needed, those left alone longest first, ends first") {
  PageCache cache(4, 1, true);
  const Tokens old{1, 2}, young{3, 4};
  Pages a, b;
  REQUIRE(cache.take(2, a));
  publish_all(cache, old, 1, a);
  cache.give_back(a);
  REQUIRE(cache.take(2, b));
  publish_all(cache, young, 1, b);
  cache.give_back(b);
  Pages c;
  REQUIRE(cache.take(1, c));  // the end of `old`
  Pages found;
  cache.extend(old, 2, found);
  CHECK(found.size() == 1);
  cache.give_back(found);
  found.clear();
  REQUIRE(cache.take(1, c));  // not the beginning of `old`, it was just used: the end of `young`
  cache.extend(young, 2, found);
  CHECK(found.size() == 1);
  CHECK_FALSE(cache.take(3, c));
  CHECK(c.size() == 2);
}

TEST_CASE("Without sharing every page has one user and nothing is remembered") {
  PageCache cache(4, 2, false);
  const Tokens tokens{1, 2};
  Pages a, b;
  REQUIRE(cache.take(1, a));
  publish_all(cache, tokens, 2, a);
  cache.extend(tokens, 1, b);
  CHECK(b.empty());
  cache.give_back(a);
  CHECK(cache.idle() == 0);
}

TEST_CASE("Whatever is taken, published, found and given back: what a page holds is what was put") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const std::int32_t total = static_cast<std::int32_t>(4 + random() % 40);
    const auto width = static_cast<std::int32_t>(1 + random() % 4);
    PageCache cache(total, width, true);
    std::map<std::int32_t, Tokens> bytes;  // the model's side: what was written into each page
    struct Owner {
      Tokens tokens;
      Pages pages;
    };
    std::vector<Owner> owners;
    for (int i = 0; i < 3'000; ++i) {
      if (random() % 2 == 0 || owners.empty()) {
        Owner owner;  // few different tokens, so that beginnings are often alike
        const std::size_t length = static_cast<std::size_t>(width) * (1 + random() % 5);
        for (std::size_t n = 0; n < length; ++n) {
          owner.tokens.push_back(static_cast<TokenId>(random() % 2));
        }
        const std::size_t count = length / static_cast<std::size_t>(width);
        cache.extend(owner.tokens, count, owner.pages);
        const std::size_t found = owner.pages.size();
        const auto page_tokens = [&](std::size_t n) {
          const auto begin = owner.tokens.begin() + static_cast<std::ptrdiff_t>(n) * width;
          return Tokens(begin, begin + width);
        };
        for (std::size_t n = 0; n < found; ++n) REQUIRE(bytes[owner.pages[n]] == page_tokens(n));
        const std::int32_t free = cache.available();
        const auto more = static_cast<std::int32_t>(count - found);
        REQUIRE(cache.take(more, owner.pages) == (more <= free));
        if (more > free) {
          cache.give_back(owner.pages);
          continue;
        }
        for (std::size_t n = found; n < count; ++n) bytes[owner.pages[n]] = page_tokens(n);
        if (random() % 4 != 0) {
          publish_all(cache, owner.tokens, static_cast<std::size_t>(width), owner.pages, found);
        }
        for (std::size_t n = 0; n < count; ++n) REQUIRE(bytes[owner.pages[n]] == page_tokens(n));
        owners.push_back(std::move(owner));
      } else {
        const std::size_t which = random() % owners.size();
        cache.give_back(owners[which].pages);
        owners.erase(owners.begin() + static_cast<std::ptrdiff_t>(which));
      }
      std::set<std::int32_t> in_use;
      for (const Owner& owner : owners) in_use.insert(owner.pages.begin(), owner.pages.end());
      REQUIRE(cache.used() == static_cast<std::int32_t>(in_use.size()));
    }
    for (const Owner& owner : owners) cache.give_back(owner.pages);
    CHECK(cache.used() == 0);
    Pages all;
    REQUIRE(cache.take(total, all));
    CHECK(std::set<std::int32_t>(all.begin(), all.end()).size() == static_cast<std::size_t>(total));
  }
}

TEST_CASE("Very many beginnings are found again") {
  PageCache cache(5'000, 1, true);
  std::vector<Pages> owners(5'000);
  for (TokenId t = 0; t < 5'000; ++t) {
    auto& pages = owners[static_cast<std::size_t>(t)];
    REQUIRE(cache.take(1, pages));
    publish_all(cache, {t}, 1, pages);
  }
  int found = 0;
  for (TokenId t = 0; t < 5'000; ++t) {
    Pages pages;
    cache.extend(Tokens{t}, 1, pages);
    found += pages == owners[static_cast<std::size_t>(t)];
    cache.give_back(pages);
  }
  CHECK(found == 5'000);
}
