// PlainBatcher: the batcher that everybody writes first, to measure against: a mutex, a deque, a
// condition variable and a std::promise for each request, with one worker thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace ciuic::bench {

/// `model` maps a vector of requests to a vector of as many answers.
template <class Request, class Response, class Model>
class PlainBatcher {
 public:
  PlainBatcher(Model model, std::size_t max_batch_size, std::size_t min_batch_size,
               std::chrono::nanoseconds delay)
      : model_(std::move(model)),
        max_batch_size_(max_batch_size),
        min_batch_size_(min_batch_size),
        delay_(delay) {}
  ~PlainBatcher() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    came_.notify_all();
  }
  std::future<Response> submit(Request request) {
    Item item{std::move(request), {}, std::chrono::steady_clock::now()};
    std::future<Response> future = item.promise.get_future();
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(item));
    }
    came_.notify_one();
    return future;
  }
  std::size_t batches() const noexcept { return batches_; }

 private:
  struct Item {
    Request request;
    std::promise<Response> promise;
    std::chrono::steady_clock::time_point arrival;
  };
  void work() {
    std::vector<Item> items;
    std::vector<Request> requests;
    std::unique_lock lock(mutex_);
    for (;;) {
      came_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      came_.wait_until(lock, queue_.front().arrival + delay_,
                       [&] { return stopping_ || queue_.size() >= min_batch_size_; });
      for (std::size_t n = std::min(queue_.size(), max_batch_size_); n > 0; --n) {
        items.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      lock.unlock();
      for (Item& item : items) requests.push_back(std::move(item.request));
      const auto answers = model_(requests);
      for (std::size_t i = 0; i < items.size(); ++i) items[i].promise.set_value(answers[i]);
      items.clear();
      requests.clear();
      lock.lock();
      ++batches_;
    }
  }

  Model model_;
  const std::size_t max_batch_size_, min_batch_size_;
  const std::chrono::nanoseconds delay_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Item> queue_;
  bool stopping_ = false;
  std::size_t batches_ = 0;
  std::jthread thread_{[this] { work(); }};  // the last member: joined before the others go
};

}  // namespace ciuic::bench
