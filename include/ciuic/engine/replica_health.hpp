// ReplicaHealth: may this replica be given batches? A circuit breaker, as pure state.
//
//   in_service ──blame──▶ drained ──back-off over, next batch──▶ probing ──passed──▶ in_service
//                            ▲                                      │
//                            └──────────────blame───────────────────┘
//
// Each blame doubles the next back-off, up to the largest; each batch that passes halves it, down
// to the first. So a replica that fails every now and then costs little, and one that is gone for
// good is asked ever more rarely. (The breaker is that of M. Nygard, "Release It!", 2007.)
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "ciuic/base/clock.hpp"

namespace ciuic::inline CIUIC_ABI {

/// What a replica may be given.
enum class ReplicaState : std::uint8_t {
  in_service,  ///< batches
  drained,     ///< nothing; one batch when the back-off is over
  probing,     ///< nothing more until the batch it runs has told
};
constexpr std::string_view to_string(ReplicaState state) noexcept {
  constexpr std::string_view kNames[] = {"in service", "drained", "probing"};
  return kNames[static_cast<std::size_t>(state)];
}

struct HealthOptions {
  Duration first_backoff{std::chrono::milliseconds(10)};  ///< above 0
  Duration max_backoff{std::chrono::seconds(30)};         ///< at least the first
  /// A batch that failed waits for a busy replica, to be run again there, until that one is so
  /// much later than foretold; without a forecast, until it has run so long. At least 0.
  Duration patience{std::chrono::seconds(1)};
  /// Other replicas that a failed batch is run on, at most, before its failure counts as that of
  /// its requests: so many may break at once, and nobody notices. 1 to 8.
  unsigned opinions = 2;
};

/// See the top of this file. Thread-safety: thread-compatible.
class ReplicaHealth {
 public:
  explicit ReplicaHealth(const HealthOptions& options) noexcept
      : options_(options), backoff_(options.first_backoff) {}

  ReplicaState state() const noexcept { return state_; }
  bool in_service() const noexcept { return state_ == ReplicaState::in_service; }
  /// May it be given a batch at `now`, if it is free?
  bool may_serve(TimePoint now) const noexcept { return now >= retry_at(); }
  /// Was it blamed, and nothing has been tried since?
  bool in_backoff() const noexcept {
    return state_ == ReplicaState::drained && retry_at_ != TimePoint::min();
  }
  /// When it may be given one: the past in service, never while it probes.
  TimePoint retry_at() const noexcept {
    return state_ == ReplicaState::in_service ? TimePoint::min()
           : state_ == ReplicaState::probing  ? kNever
                                              : retry_at_;
  }
  unsigned failures_in_row() const noexcept { return failures_in_row_; }

  /// A batch goes to it.
  void begin() noexcept {
    if (state_ == ReplicaState::drained) state_ = ReplicaState::probing;
  }
  void passed() noexcept {
    state_ = ReplicaState::in_service;
    failures_in_row_ = 0;
    backoff_ = std::max(options_.first_backoff, backoff_ / 2);
  }
  void failed() noexcept { ++failures_in_row_; }
  /// It failed, and the batch did not.
  void blame(TimePoint now) noexcept {
    state_ = ReplicaState::drained;
    retry_at_ = add_saturating(now, backoff_);
    backoff_ = backoff_ > options_.max_backoff / 2 ? options_.max_backoff : 2 * backoff_;
  }
  /// Its batch has ended. A probe that told nothing is repeated with the next batch.
  void end() noexcept {
    if (state_ != ReplicaState::probing) return;
    state_ = ReplicaState::drained;
    retry_at_ = TimePoint::min();
  }

 private:
  HealthOptions options_;
  ReplicaState state_ = ReplicaState::in_service;
  TimePoint retry_at_{};
  Duration backoff_;
  unsigned failures_in_row_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
