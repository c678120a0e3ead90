#include "client/commands/ordered_window.h"

#include <utility>

namespace lorica {

OrderedWindow::OrderedWindow(int64_t requests_max, int64_t bytes_max, Write write)
    : requests_max_(requests_max), bytes_max_(bytes_max), write_(std::move(write)) {}

bool OrderedWindow::HasRoom(int64_t bytes) const {
  const int64_t open = next_ticket_ - next_written_;
  return open == 0 || (open < requests_max_ && open_bytes_ + bytes <= bytes_max_);
}

int64_t OrderedWindow::Open(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto has_room = [this, bytes]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return HasRoom(bytes); };
  mutex_.Await(absl::Condition(&has_room));
  open_bytes_ += bytes;
  return next_ticket_++;
}

void OrderedWindow::Close(int64_t ticket, int64_t bytes, std::string result) {
  absl::MutexLock lock(&mutex_);
  done_.emplace(ticket, Done{std::move(result), bytes});
  for (auto it = done_.begin(); it != done_.end() && it->first == next_written_;
       it = done_.erase(it)) {
    write_(it->second.result);
    open_bytes_ -= it->second.bytes;
    ++next_written_;
  }
}

int64_t OrderedWindow::open_requests() const {
  absl::MutexLock lock(&mutex_);
  return next_ticket_ - next_written_;
}

}  // namespace lorica
