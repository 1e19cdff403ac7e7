// JoinPool: one future for the answers of several requests, the pieces of one that was split.
//
// The future is resolved once: with the merged answers when the last has come, or with the first
// error, which cancels the pieces that are left. Giving the future up cancels them all.
#pragma once

#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ciuic/batching/future.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Created with `new` and owned through Ref. Thread-safety: thread-safe.
template <class Answer>
class JoinPool final : public CompletionPool<Answer> {
  static_assert(std::is_nothrow_move_assignable_v<Answer>,
                "an answer must move without throwing; wrap it in a std::unique_ptr");

 public:
  using Merge = Function<Result<Answer>(std::span<Answer>)>;

  /// `capacity`: joined requests that may be outstanding at once.
  JoinPool(std::size_t capacity, const HostContext& host)
      : CompletionPool<Answer>(capacity, host), joins_(capacity) {}

  /// Calls `submit(i, stop_token)` -> Future<Answer> for i below `count`, until one is refused.
  /// `merge` gets the answers in the order of i. Errors: `queue_full`, the pieces', and merge's.
  template <class Submit>
  Future<Answer> join(std::size_t count, Merge merge, Submit submit) {
    std::optional<Completion<Answer>> slot = Completion<Answer>::make(*this);
    if (!slot) {
      return Future<Answer>::failed(
          Error(ErrorCode::queue_full, {"max_outstanding: all ", std::to_string(this->capacity()),
                                        " requests that may be split at once are in use"}));
    }
    const std::uint32_t tag = slot->promise.slot();
    slot->promise.set_tag(tag);
    const auto join = std::make_shared<Join>(*this, count, std::move(merge));
    join->promise = std::move(slot->promise);
    remember(tag, join);
    for (std::size_t i = 0; i < count && !join->is_over(); ++i) {
      submit(i, join->stop.get_token()).on_ready([join, i](Result<Answer> answer) {
        join->arrived(i, std::move(answer));
      });
    }
    return std::move(slot->future);
  }

 private:
  struct Join {
    Join(JoinPool& owner, std::size_t count, Merge merge_answers)
        : pool(owner), merge(std::move(merge_answers)), answers(count), missing(count) {}

    bool is_over() {
      Lock lock(mutex);
      return over;
    }
    void arrived(std::size_t i, Result<Answer> answer) {
      {
        Lock lock(mutex);
        if (over) return;
        if (answer) {
          answers[i] = *std::move(answer);
          --missing;
        }
        over = missing == 0 || !answer;
        if (!over) return;
      }
      pool.forget(promise.slot());
      Result<Answer> joined = Error(ErrorCode::internal);
      if (!answer) {
        joined = answer.error().with_prefix("piece " + std::to_string(i + 1) + " of " +
                                            std::to_string(answers.size()) + ": ");
      } else if (Result<void> merged = call_guarded(ErrorCode::model_failed, "adapter",
                                                    [&] { joined = merge(answers); });
                 !merged) {
        joined = std::move(merged).error();
      }
      stop.request_stop();
      promise.resolve(std::move(joined));
    }

    JoinPool& pool;  // lives as long as `promise` holds its slot
    Merge merge;
    std::vector<Answer> answers;  // each written under the mutex, read by who ended the join
    Promise<Answer> promise;      // of who ended the join
    std::stop_source stop;        // of the pieces
    Mutex mutex;
    std::size_t missing CIUIC_GUARDED_BY(mutex);
    bool over CIUIC_GUARDED_BY(mutex) = false;
  };

  void remember(std::uint32_t slot, std::shared_ptr<Join> join) {
    Lock lock(mutex_);
    joins_[slot] = std::move(join);
  }
  std::shared_ptr<Join> forget(std::uint32_t slot) noexcept {
    Lock lock(mutex_);
    return std::exchange(joins_[slot], nullptr);
  }
  /// The pieces' answers then find that the promise is taken.
  void on_cancelled(std::uint64_t tag) noexcept override {
    if (const auto join = forget(static_cast<std::uint32_t>(tag))) join->stop.request_stop();
  }

  Mutex mutex_;
  std::vector<std::shared_ptr<Join>> joins_ CIUIC_GUARDED_BY(mutex_);  // by slot, until over
};

}  // namespace ciuic::inline CIUIC_ABI
