// PageCache: which key/value pages are free, whose they are, and which tokens they hold. Integers
// only; the model owns the bytes.
//
// Prompts often begin alike: a system prompt, the conversation so far. A page that is full and
// computed is published under what it holds: its tokens and the page before it, so a page stands
// for a whole beginning. Another sequence with the same beginning uses the same pages, counted, and
// computes only the rest. Pages nobody uses any more stay known until room is needed, then the one
// that was left alone longest goes.
//
// The pages that follow another go first: who uses a page uses all before it, so followers are left
// alone earlier, or in the same breath but first, for give_back() works from the last page on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ciuic/base/generation.hpp"
#include "ciuic/batching/slot_links.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Page numbers 0 … pages-1. Allocates on construction only. Source of the idea: block tables and
/// shared prefixes as in PagedAttention (Kwon et al., SOSP 2023).
/// Thread-safety: thread-compatible.
class PageCache {
 public:
  static constexpr std::int32_t kNone = -1;

  /// Without `share` nothing is published, and every page has one user.
  PageCache(std::int32_t pages, std::int32_t page_tokens, bool share)
      : pages_(index(pages)),
        page_tokens_(index(page_tokens)),
        share_(share),
        tokens_(share ? index(pages) * page_tokens_ : 0),
        buckets_(share ? bucket_count(index(pages)) : 0, kNone),
        idle_links_(index(pages)) {
    free_.reserve(pages_.size());
    for (std::int32_t page = pages; page-- > 0;) free_.push_back(page);  // lowest numbers first
  }

  std::int32_t total() const noexcept { return static_cast<std::int32_t>(pages_.size()); }
  /// Pages that take() can hand out: empty ones, and known ones that nobody uses.
  std::int32_t available() const noexcept {
    return static_cast<std::int32_t>(free_.size()) + idle_count_;
  }
  std::int32_t used() const noexcept { return total() - available(); }
  /// Known pages that nobody uses.
  std::int32_t idle() const noexcept { return idle_count_; }

  /// Appends `count` pages to `to`, or takes none and returns false.
  [[nodiscard]] bool take(std::int32_t count, std::vector<std::int32_t>& to) {
    if (count > available()) return false;
    for (; count > 0; --count) {
      if (free_.empty()) retract(static_cast<std::int32_t>(idle_list_.head));
      const std::int32_t page = free_.back();
      free_.pop_back();
      at(page).users = 1;
      to.push_back(page);
    }
    return true;
  }

  /// Appends to `to` the known pages that hold the beginning of `tokens` from page `to.size()` on,
  /// for one more user each; `to` up to there holds the beginning already. At most up to page
  /// `end`, full pages only.
  void extend(std::span<const TokenId> tokens, std::size_t end, std::vector<std::int32_t>& to) {
    for (std::size_t n = to.size(); n < end; ++n) {
      const std::int32_t page = find(n == 0 ? kNone : to.back(), page_of(tokens, n)).page;
      if (page == kNone) return;
      hold(page);
      to.push_back(page);
    }
  }

  /// `page`, whose only user is the caller, is full and holds `tokens` [page_tokens] after page
  /// `before` (`kNone` = at the beginning), which is published itself. Returns the page to use from
  /// now on: `page`, or another that was known to hold the same; then `page` has been given back.
  [[nodiscard]] std::int32_t publish(std::int32_t page, std::int32_t before,
                                     std::span<const TokenId> tokens) {
    if (!share_) return page;
    const Found found = find(before, tokens);
    if (found.page != kNone) {
      hold(found.page);
      give_back_one(page);
      return found.page;
    }
    Page& p = at(page);
    p.before = serial(before);
    p.serial = next_serial_++;
    std::copy(tokens.begin(), tokens.end(),
              tokens_.begin() + static_cast<std::ptrdiff_t>(index(page) * page_tokens_));
    // A bucket that is too crowded to be searched to its end takes no more: the page is known by
    // its number, for those that follow it, but nobody finds it.
    if (!found.crowded) {
      p.next = buckets_[found.bucket];
      p.bucket = static_cast<std::int32_t>(found.bucket);
      buckets_[found.bucket] = page;
    }
    return page;
  }

  /// Nobody finds the page any more; those who use it go on.
  void retract(std::int32_t page) {
    if (at(page).bucket == kNone) return;
    unlink(page);
    if (at(page).users > 0) return;
    idle_links_.erase(idle_list_, static_cast<std::uint32_t>(page));
    --idle_count_;
    at(page) = Page();
    free_.push_back(page);
  }
  /// Every known page that nobody uses becomes an empty one.
  void forget_idle() {
    while (!idle_list_.empty()) retract(static_cast<std::int32_t>(idle_list_.head));
  }

  /// One user less for each of a sequence's `pages`, which are in the order of their positions.
  void give_back(std::span<const std::int32_t> pages) {
    for (std::size_t i = pages.size(); i-- > 0;) give_back_one(pages[i]);
  }

 private:
  static constexpr std::uint64_t kUnknown = 0, kBeginning = 1;
  static constexpr int kMaxSearch = 32;  // pages of one bucket: hostile prompts cost no more
  struct Page {
    std::uint64_t serial = kUnknown;  // never used twice, so a follower outlives no mistake
    std::uint64_t before = kUnknown;  // the serial of the page before it
    std::int32_t users = 0;
    std::int32_t next = kNone;    // in its bucket
    std::int32_t bucket = kNone;  // `kNone` = nobody finds it
  };
  struct Found {
    std::int32_t page = kNone;
    std::size_t bucket = 0;
    bool crowded = false;
  };

  static std::size_t index(std::int32_t n) noexcept { return static_cast<std::size_t>(n); }
  static std::size_t bucket_count(std::size_t pages) noexcept {
    std::size_t count = 16;
    while (count < 2 * pages) count *= 2;
    return count;
  }
  Page& at(std::int32_t page) noexcept { return pages_[index(page)]; }
  std::uint64_t serial(std::int32_t page) const noexcept {
    return page == kNone ? kBeginning : pages_[index(page)].serial;
  }
  std::span<const TokenId> page_of(std::span<const TokenId> tokens, std::size_t n) const noexcept {
    return tokens.subspan(n * page_tokens_, page_tokens_);
  }
  bool holds(std::int32_t page, std::span<const TokenId> tokens) const noexcept {
    return std::equal(tokens.begin(), tokens.end(),
                      tokens_.begin() + static_cast<std::ptrdiff_t>(index(page) * page_tokens_));
  }

  Found find(std::int32_t before, std::span<const TokenId> tokens) const noexcept {
    if (!share_ || serial(before) == kUnknown) return {.crowded = true};
    std::uint64_t hash = serial(before) * 0x9E3779B97F4A7C15u;
    for (const TokenId token : tokens) {
      hash = (hash ^ static_cast<std::uint32_t>(token)) * 0xBF58476D1CE4E5B9u;
      hash ^= hash >> 31;
    }
    Found found{.bucket = static_cast<std::size_t>(hash) & (buckets_.size() - 1)};
    int searched = 0;
    for (std::int32_t page = buckets_[found.bucket]; page != kNone;
         page = pages_[index(page)].next) {
      if (++searched > kMaxSearch) {
        found.crowded = true;
        return found;
      }
      if (pages_[index(page)].before == serial(before) && holds(page, tokens)) {
        found.page = page;
        return found;
      }
    }
    found.crowded = searched == kMaxSearch;
    return found;
  }

  void hold(std::int32_t page) noexcept {
    if (at(page).users++ > 0) return;
    idle_links_.erase(idle_list_, static_cast<std::uint32_t>(page));
    --idle_count_;
  }
  void give_back_one(std::int32_t page) {
    if (--at(page).users > 0) return;
    if (at(page).bucket == kNone) {
      at(page) = Page();
      free_.push_back(page);  // never beyond the first capacity
      return;
    }
    idle_links_.push_back(idle_list_, static_cast<std::uint32_t>(page));
    ++idle_count_;
  }
  void unlink(std::int32_t page) {
    std::int32_t* link = &buckets_[index(at(page).bucket)];
    while (*link != page) link = &at(*link).next;
    *link = at(page).next;
    at(page).bucket = kNone;
  }

  std::vector<Page> pages_;
  std::size_t page_tokens_;
  bool share_;
  std::vector<TokenId> tokens_;        // [pages, page_tokens]: what the published ones hold
  std::vector<std::int32_t> buckets_;  // by hash of a page's key: the first of a chain
  std::vector<std::int32_t> free_;
  SlotLinks idle_links_;
  SlotLinks::List idle_list_;  // longest left alone first
  std::int32_t idle_count_ = 0;
  std::uint64_t next_serial_ = kBeginning + 1;
};

}  // namespace ciuic::inline CIUIC_ABI
