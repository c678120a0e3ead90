// Whose message is read: a call's head is there first, and its message waits for a turn.
//
// Until its turn a call holds no more of its message than HTTP/2's window of a stream. At most
// `reading_max` are read at a time, in the order in which they came; of one lane, a tenant or a
// connection, one part of that. One that has been read for longer than kCrowdedMessageTime while
// others wait for its place gives way: of the lane that reads most of them, the one that began
// first. None is read for longer than kMessageTimeMax. Thread-safe; outlives its turns.
#pragma once

#include <cstdint>
#include <list>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/api/later.h"

namespace lorica {

inline constexpr absl::Duration kCrowdedMessageTime = absl::Milliseconds(100);
inline constexpr absl::Duration kMessageTimeMax = absl::Seconds(60);

struct MessageTurnsLimits {
  int reading_max = 1;
  int waiting_max = 1;
  int lane_parts = 1;  // a lane may have one of so many parts of both, at least one
  absl::Duration crowded_time = kCrowdedMessageTime;
  absl::Duration time_max = kMessageTimeMax;
};

class MessageTurns {
 public:
  // One call's, once. Its methods run on any thread, without a lock.
  class Turn {
   public:
    Turn(const Turn&) = delete;

   protected:
    Turn() = default;
    ~Turn() = default;
    // It is to be read now. Perhaps within Enter.
    virtual void StartReading() = 0;
    // Its time is up, and reading has to end at once. Leave is false from here on, perhaps before
    // this has returned: whoever of the two is last ends the call.
    virtual void GiveWay(const absl::Status& why) = 0;

   private:
    friend class MessageTurns;
    enum class State : uint8_t { kOutside, kWaiting, kReading, kGivingWay };
    State state_ = State::kOutside;
    std::string lane_;
    absl::Time since_;  // it is read
    std::list<Turn*>::iterator self_;
  };

  explicit MessageTurns(const MessageTurnsLimits& limits) : limits_(limits) {}

  // Unavailable: too many wait.
  absl::Status Enter(Turn* turn, const std::string& lane);
  // Reading has ended. False: it had to give way.
  bool Leave(Turn* turn);
  // Takes it back, if it still waits. False: it is to be read, or was.
  bool GiveUp(Turn* turn);
  int reading() const;
  int waiting() const;

 private:
  struct Lane {
    int reading = 0;
    int waiting = 0;
  };
  using Turns = std::list<Turn*>;

  bool MayRead(const Lane& lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives free places to who waits; StartReading is to be called for each.
  Turns Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Turn* turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void StartAll(const Turns& turns);
  // Who has to leave for `waiting`; null: nobody yet.
  Turn* InTheWayOf(const Turn& waiting, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whose time is up; again and again while there are turns.
  void Look();

  const MessageTurnsLimits limits_;
  mutable absl::Mutex mutex_;
  Turns reading_ ABSL_GUARDED_BY(mutex_);  // also who gives way, until it has left
  Turns waiting_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  bool watched_ ABSL_GUARDED_BY(mutex_) = false;
  Later later_;
};

}  // namespace lorica
