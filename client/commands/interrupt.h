// Ctrl-C as a call instead of the end of the program.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

namespace lorica {

// While it lives, SIGINT runs `on_interrupt` on a thread of its own.
// REQUIRES: made before any other thread (they inherit the mask that holds the signal
// back), so before the first LoricaClient; one at a time.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(std::function<void()> on_interrupt);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

}  // namespace lorica
