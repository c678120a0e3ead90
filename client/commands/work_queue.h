// Work handed from one thread to others. The caller bounds how much is in it.
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"

namespace lorica {

// Thread-safe.
template <class Item>
class WorkQueue {
 public:
  void Push(Item item) {
    absl::MutexLock lock(&mutex_);
    items_.push_back(std::move(item));
  }

  // Nothing more will come; what is in the queue is still given out.
  void End() {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }

  // Waits; nothing when the queue has ended and is empty.
  std::optional<Item> Pop() {
    absl::MutexLock lock(&mutex_);
    const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ended_ || !items_.empty();
    };
    mutex_.Await(absl::Condition(&ready));
    if (items_.empty()) return std::nullopt;
    Item item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

 private:
  absl::Mutex mutex_;
  std::deque<Item> items_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace lorica
