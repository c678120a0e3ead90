// Work that begins after a while, on gRPC's timer.
//
// The end drops what has not begun and waits for what has. Thread-safe.
#pragma once

#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

class Later {
 public:
  Later() = default;
  ~Later() { End(); }
  Later(const Later&) = delete;
  Later& operator=(const Later&) = delete;

  // `work` must not block: what may goes on to a WorkPool.
  void Run(absl::Duration wait, std::function<void()> work);
  // What Run is given from here on is dropped, too.
  void End();

 private:
  struct State {
    absl::Mutex mutex;
    bool ended ABSL_GUARDED_BY(mutex) = false;
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace lorica
