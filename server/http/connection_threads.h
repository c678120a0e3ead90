// The threads that connections run on, and who gives way when there are too many.
//
// A connection has a thread while it lives. Threads are made as they are needed, up to a
// bound, and end when nothing has come for kThreadIdleTime. Beyond it new ones wait, a few, and the
// rest are refused; while some wait, connections whose request is not at hand give way: the one
// that has been without for longest at once, others after kCrowdedWait. Where there is none, the
// oldest head that has taken longer than kCrowdedHeadTime does, then bodies that have taken longer
// than kCrowdedBodyTime: of the tenant that has most of them, the one that began first. What has
// begun to come is told so. Where the process gets no thread more, a new one is refused and one
// gives way. Thread-safe.
#pragma once

#include <httplib.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kWaitingConnectionsMax = 128;
inline constexpr absl::Duration kCrowdedWait = absl::Milliseconds(20);
inline constexpr absl::Duration kCrowdedHeadTime = absl::Milliseconds(2);  // one is read in less
inline constexpr absl::Duration kCrowdedBodyTime = absl::Milliseconds(100);
inline constexpr absl::Duration kDrainedReadTime = absl::Seconds(1);
inline constexpr absl::Duration kThreadIdleTime = absl::Seconds(30);

class ConnectionThreads {
 public:
  // `full` is told to a connection that is turned away before its first request; empty over TLS.
  ConnectionThreads(int threads_max, std::string full,
                    absl::Duration thread_idle_time = kThreadIdleTime)
      : threads_max_(threads_max), full_(std::move(full)), thread_idle_time_(thread_idle_time) {}
  ~ConnectionThreads();

  // False: too many connections, or threads of the process; `work` was not taken, and TurnAway is
  // what is left to do.
  bool TryRun(std::function<void()> work);
  // Tells the connection and closes it.
  void TurnAway(int socket) const;
  // Every connection ends with its request; those that wait for another end now, and requests that
  // take longer than kDrainedReadTime to come give way: they would be refused. New ones are served
  // one, so that health can be asked for.
  void StartDrain();
  // Cuts what is left and joins.
  void Stop();
  int threads() const;

  // A connection's place in the table while it lives; its thread alone uses it.
  class Place {
   public:
    Place(ConnectionThreads* threads, int socket);
    ~Place();
    // Waits for a request from here on: may be closed. How long it may wait, at most
    // `keep_alive`; zero: it is to end now.
    absl::Duration SetIdle(absl::Duration keep_alive);
    // No request came in time: says why, if it was for others.
    void GiveWay();
    // Has something of a request, of which nothing has been read yet.
    void SetBegun();
    // Has a whole request head; its body is to come, and is the tenant's.
    void SetReading(std::string tenant);
    // To be asked while more of it is waited for. True: it gives way.
    bool MustGiveWay();
    // Has a whole request. False: it had to give way before.
    bool SetBusy();
    // It was answered and cut while its head came.
    bool told() const;

   private:
    friend class ConnectionThreads;
    bool is_leaving() const { return closed_ || gives_way_; }
    ConnectionThreads* const threads_;
    const int socket_;
    enum class State : uint8_t { kBusy, kIdle, kBegun, kReading };
    State state_ = State::kBusy;
    std::string tenant_;  // while it reads
    absl::Time since_;    // it reads its head, or its body
    bool served_ = false;
    bool closed_ = false;
    bool gives_way_ = false;  // its thread ends it
    bool told_ = false;
    bool hurried_ = false;  // was given kCrowdedWait
    std::list<Place*>::iterator self_;
  };

 private:
  // False: the process may not have another one.
  bool StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Loop(std::list<std::thread>::iterator self);
  // The next work; null: this thread is to end.
  std::function<void()> Await();
  // Some wait for whom there is no thread. Who is just on the way to one is no crowd.
  bool Crowded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CloseOldestIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CloseOldestHead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndHead(Place* place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CloseOldestReading() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How many more would have to end than do, for all who wait.
  size_t Lacking() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Close(Place* place);

  const int threads_max_;
  const std::string full_;
  const absl::Duration thread_idle_time_;
  mutable absl::Mutex mutex_;
  absl::CondVar work_there_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::list<Place*> places_ ABSL_GUARDED_BY(mutex_);  // by when they last began to wait
  int free_threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  std::list<std::thread> ended_ ABSL_GUARDED_BY(mutex_);  // to be joined
};

}  // namespace lorica
