// Results that are ready in any order, given out in the order of their requests, with a
// bound on how many requests, and how many bytes of them, are open at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"

namespace lorica {

// Thread-safe. `write` runs under the lock, one call at a time, in order of tickets; the
// lock is also what makes a slow reader of the output hold the whole batch back.
class OrderedWindow {
 public:
  using Write = std::function<void(const std::string& result)>;

  // A request larger than `bytes_max` is let in when nothing else is open.
  OrderedWindow(int64_t requests_max, int64_t bytes_max, Write write);

  // Waits for room; returns the ticket, counting from 0. One thread calls this.
  int64_t Open(int64_t bytes);
  // `bytes` as given to Open for this ticket. Each ticket once.
  void Close(int64_t ticket, int64_t bytes, std::string result);
  int64_t open_requests() const;

 private:
  struct Done {
    std::string result;
    int64_t bytes;
  };

  bool HasRoom(int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t requests_max_;
  const int64_t bytes_max_;
  const Write write_;
  mutable absl::Mutex mutex_;
  int64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_written_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t open_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<int64_t, Done> done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
