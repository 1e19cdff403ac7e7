// Residents: which sequences have pages, and who must give them up.
//
// A sequence is running (it has pages for all it has computed and its next token) or suspended (it
// has none: it is new, or lost them). Both lists are in the order of rank. Pages follow need; when
// there are none left, the lowest in rank yields, or somebody who waits for a slow reader.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "ciuic/base/checked.hpp"
#include "ciuic/engine/engine_stats.hpp"
#include "ciuic/engine/page_cache.hpp"
#include "ciuic/engine/scheduler_limits.hpp"
#include "ciuic/engine/sequence.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace detail {

/// Counts what it does in `stats`. Takes its memory when it is made. Thread-safety:
/// thread-compatible.
class Residents {
 public:
  Residents(const SchedulerLimits& limits, std::size_t most_sequences, EngineStats& stats)
      : limits_(limits),
        stats_(stats),
        pages_(limits.pages, limits.page_tokens, limits.prefix_cache) {
    running_.reserve(static_cast<std::size_t>(limits.max_sequences));
    suspended_.reserve(most_sequences);
    shared_.reserve(static_cast<std::size_t>(pages_for(limits.max_context_tokens)));
  }

  std::span<Sequence* const> running() const noexcept { return running_; }
  std::size_t suspended() const noexcept { return suspended_.size(); }
  const PageCache& pages() const noexcept { return pages_; }
  std::int32_t pages_for(std::int32_t tokens) const noexcept {
    return ceil_div(tokens, limits_.page_tokens);
  }

  /// A place in the batch is free, or somebody who is paused has one.
  bool has_place() const noexcept { return !is_full() || paused() != nullptr; }
  /// A new sequence, which will get pages in its turn.
  void add(Sequence& sequence) { insert_by_rank(suspended_, sequence); }
  /// The first of the suspended that could run; null when there is none.
  Sequence* next_suspended() const noexcept {
    for (Sequence* sequence : suspended_) {
      if (!sequence->paused()) return sequence;
    }
    return nullptr;
  }
  /// Gives a suspended sequence a place and pages. False when there are not enough.
  bool let_in(Sequence& sequence) {
    // Readers may read meanwhile: whoever was paused before may be so no longer.
    if (is_full() && !preempt_paused()) return false;
    while (!give_pages(sequence)) {
      // Nobody yields for what does not fit even then.
      if (pages_.available() + paused_pages() < pages_wanted(sequence)) return false;
      if (!preempt_paused()) return false;
    }
    std::erase(suspended_, &sequence);
    insert_by_rank(running_, sequence);
    return true;
  }
  /// A sequence has ended.
  void remove(Sequence& sequence) {
    if (sequence.running) {
      drop_pages(sequence);
    } else {
      std::erase(suspended_, &sequence);
    }
  }

  /// Its pages go to others; it waits for new ones, and will compute again what is lost.
  void preempt(Sequence& sequence) {
    sequence.raised |= !sequence.paused();  // slow readers earn nothing by it
    drop_pages(sequence);
    sequence.preempted = true;
    ++stats_.preemptions;
    insert_by_rank(suspended_, sequence);
  }
  /// Makes sure there are pages for `tokens` positions, if need be at the expense of sequences
  /// lower in rank. False when only higher ones are left.
  bool grow(Sequence& sequence, std::int32_t tokens, bool at_others_expense) {
    const auto have = static_cast<std::int32_t>(sequence.pages.size());
    const std::int32_t more = pages_for(tokens) - have;
    if (more <= 0) return true;
    while (!pages_.take(more, sequence.pages)) {
      Sequence* victim = at_others_expense ? victim_for(sequence) : nullptr;
      if (victim == nullptr) return false;
      preempt(*victim);
    }
    return true;
  }

  /// Pages that others have filled meanwhile with what this prompt would compute next.
  void find_pages(Sequence& sequence) {
    if (!limits_.prefix_cache || sequence.computed % limits_.page_tokens != 0 ||
        sequence.computed / limits_.page_tokens != sequence.published) {
      return;
    }
    const auto known = static_cast<std::int32_t>(sequence.tokens.size());
    const auto end = static_cast<std::size_t>((known - 1) / limits_.page_tokens);
    const auto begin = static_cast<std::size_t>(sequence.published);
    if (begin >= end) return;
    shared_.clear();
    shared_.assign(sequence.pages.begin(), sequence.pages.begin() + std::ptrdiff_t(begin));
    pages_.extend(sequence.tokens, end, shared_);
    if (shared_.size() == begin) return;
    const auto found = static_cast<std::int32_t>(shared_.size() - begin);
    pages_.give_back(std::span(sequence.pages).subspan(begin, shared_.size() - begin));
    std::copy(shared_.begin() + std::ptrdiff_t(begin), shared_.end(),
              sequence.pages.begin() + std::ptrdiff_t(begin));
    sequence.published += found;
    sequence.computed += found * limits_.page_tokens;
    sequence.furthest = std::max(sequence.furthest, sequence.computed);
    if (!sequence.preempted) note_cached(sequence, found * limits_.page_tokens);
  }
  /// What the pages of a sequence hold may be wrong: nobody finds them any more.
  void retract(const Sequence& sequence) {
    for (const std::int32_t page : sequence.pages) pages_.retract(page);
  }
  /// The memory of the pages is gone: whoever runs computes all of it again.
  void lose_all() {
    while (!running_.empty()) {
      retract(*running_.back());
      preempt(*running_.back());
    }
    pages_.forget_idle();
  }

  /// Full pages become known to others.
  void publish(Sequence& s) {
    if (!limits_.prefix_cache) return;
    for (; (s.published + 1) * limits_.page_tokens <= s.computed; ++s.published) {
      const auto n = static_cast<std::size_t>(s.published);
      const auto width = static_cast<std::size_t>(limits_.page_tokens);
      const std::int32_t before = n == 0 ? PageCache::kNone : s.pages[n - 1];
      s.pages[n] =
          pages_.publish(s.pages[n], before, std::span(s.tokens).subspan(n * width, width));
    }
  }

 private:
  static constexpr auto ranks_before = [](const Sequence* a, const Sequence* b) {
    return a->ranks_before(*b);
  };
  static void insert_by_rank(std::vector<Sequence*>& into, Sequence& sequence) {
    into.insert(std::upper_bound(into.begin(), into.end(), &sequence, ranks_before), &sequence);
  }
  bool is_full() const noexcept {
    return running_.size() == static_cast<std::size_t>(limits_.max_sequences);
  }
  /// The lowest ranking sequence that has pages and waits for its reader.
  Sequence* paused() const noexcept {
    for (std::size_t i = running_.size(); i-- > 0;) {
      if (running_[i]->paused()) return running_[i];
    }
    return nullptr;
  }
  bool preempt_paused() {
    Sequence* sequence = paused();
    if (sequence != nullptr) preempt(*sequence);
    return sequence != nullptr;
  }
  std::int32_t pages_wanted(const Sequence& sequence) const noexcept {
    const auto known = static_cast<std::int32_t>(sequence.tokens.size());
    return pages_for(std::min(known + 1, std::max(sequence.max_tokens - 1, 1)));
  }
  std::int32_t paused_pages() const noexcept {
    std::size_t pages = 0;
    for (const Sequence* sequence : running_) {
      if (sequence->paused()) pages += sequence->pages.size();
    }
    return static_cast<std::int32_t>(std::min<std::size_t>(pages, 1u << 30));
  }
  /// Pages for all tokens of a sequence and the next one, as far as possible such as hold them
  /// already. Or none, and false.
  bool give_pages(Sequence& sequence) {
    const auto known = static_cast<std::int32_t>(sequence.tokens.size());
    // At least one token must be computed, to know what comes next.
    pages_.extend(sequence.tokens, static_cast<std::size_t>((known - 1) / limits_.page_tokens),
                  sequence.pages);
    const auto found = static_cast<std::int32_t>(sequence.pages.size());
    const std::int32_t wanted = pages_wanted(sequence);
    // Where others run, they will want pages soon: who is let in too early loses its own again.
    const auto margin = static_cast<std::int32_t>(running_.size() + 1) / 2;
    const std::int32_t free = pages_.available() - (running_.empty() ? 0 : margin);
    if (free < wanted - found || !pages_.take(wanted - found, sequence.pages)) {
      pages_.give_back(sequence.pages);
      sequence.pages.clear();
      return false;
    }
    sequence.computed = found * limits_.page_tokens;
    sequence.furthest = std::max(sequence.furthest, sequence.computed);
    sequence.published = found;
    sequence.running = true;
    if (!sequence.preempted) note_cached(sequence, sequence.computed);
    return true;
  }
  void note_cached(Sequence& sequence, std::int32_t tokens) noexcept {
    sequence.cached += tokens;
    stats_.cached_tokens += static_cast<std::uint64_t>(tokens);
  }
  void drop_pages(Sequence& sequence) {
    pages_.give_back(sequence.pages);
    sequence.pages.clear();
    sequence.computed = sequence.published = 0;
    sequence.running = false;
    std::erase(running_, &sequence);
  }
  /// The sequence whose pages `sequence` may have: a paused one, or the lowest in rank, if lower
  /// than it. Null when there is none.
  Sequence* victim_for(const Sequence& sequence) const noexcept {
    if (Sequence* idle = paused()) return idle;
    return running_.back() != &sequence ? running_.back() : nullptr;
  }

  SchedulerLimits limits_;
  EngineStats& stats_;
  PageCache pages_;
  std::vector<Sequence*> running_, suspended_;  // by rank
  std::vector<std::int32_t> shared_;            // scratch of find_pages
};

}  // namespace detail
}  // namespace ciuic::inline CIUIC_ABI
