// The threads that connections run on, and who gives way when there are too many.
//
// A connection has a thread while it lives. Threads are made as they are needed, up to a
// bound. Beyond it new ones wait, a few, and the rest are refused; while some wait,
// connections without a request give way: the one that has been so for longest at once, and
// others unless their request is at hand. Thread-safe.
#pragma once

#include <httplib.h>

#include <deque>
#include <functional>
#include <list>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kWaitingConnectionsMax = 128;
inline constexpr absl::Duration kCrowdedWait = absl::Milliseconds(20);

class ConnectionThreads {
 public:
  explicit ConnectionThreads(int threads_max) : threads_max_(threads_max) {}
  ~ConnectionThreads();

  // False: too many connections; `work` was not taken.
  bool TryRun(std::function<void()> work);
  // Every connection ends with its request; those that wait for another end now. New ones
  // are served one request, so that health can be asked for.
  void StartDrain();
  // Cuts what is left and joins.
  void Stop();

  // A connection's place in the table while it lives; its thread alone uses it.
  class Place {
   public:
    Place(ConnectionThreads* threads, int socket);
    ~Place();
    // Waits for a request from here on: may be closed. How long it may wait, at most
    // `keep_alive`; zero: it is to end now.
    absl::Duration SetIdle(absl::Duration keep_alive);
    // Has a whole request head.
    void SetBusy();

   private:
    friend class ConnectionThreads;
    ConnectionThreads* const threads_;
    const int socket_;
    bool idle_ = false;
    bool served_ = false;
    bool closed_ = false;
    std::list<Place*>::iterator self_;
  };

 private:
  void Loop();
  void CloseOldestIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Close(Place* place);

  const int threads_max_;
  absl::Mutex mutex_;
  absl::CondVar work_there_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::list<Place*> places_ ABSL_GUARDED_BY(mutex_);  // by when they were idle last
  int free_threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
