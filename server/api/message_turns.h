// Whose message is read: a call's head is there first, and its message waits for a turn.
//
// Until its turn a call holds no more of its message than HTTP/2's window of a stream. At most
// `reading_max` are read at a time, of one lane, a tenant or a connection, one part of that. Next
// is the lane that reads the fewest, and of its calls, or of lanes that read as many, the one that
// came first. One that has been read for longer than kCrowdedMessageTime while others wait for its
// place gives way: of the lane that reads the most, the one that began first. None is read for
// longer than kMessageTimeMax. Of places to wait a lane has a part, too; where all are taken, the
// newest of the lane that has the most is turned away for one of a lane that would still have
// fewer. Thread-safe; outlives its turns.
#pragma once

#include <cstdint>
#include <list>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/node_hash_map.h"
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
  struct Lane;

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
    // It is not to be read. Perhaps before its Enter has returned.
    virtual void TurnAway(const absl::Status& why) = 0;

   private:
    friend class MessageTurns;
    enum class State : uint8_t { kOutside, kWaiting, kReading, kGivingWay };
    State state_ = State::kOutside;
    Lane* lane_ = nullptr;
    int64_t number_ = 0;  // in which they came
    absl::Time since_;    // it is read
    std::list<Turn*>::iterator self_;
  };

  explicit MessageTurns(const MessageTurnsLimits& limits);

  // Unavailable: too many wait.
  absl::Status Enter(Turn* turn, const std::string& lane);
  // Reading has ended. False: it had to give way.
  bool Leave(Turn* turn);
  // Takes it back, if it still waits. False: it is to be read, or was.
  bool GiveUp(Turn* turn);
  int reading() const;
  int waiting() const;

 private:
  using Turns = std::list<Turn*>;
  struct Lane {
    std::string name;
    int reading = 0;
    Turns waiting;
  };

  // Who is turned away for one more of a lane of which `of_lane` wait; null: nobody.
  Turn* Displaced(int of_lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The turn that is next; null: none may be read now.
  Turn* Chosen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopWaiting(Turn* turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives free places to who waits; StartReading is to be called for each.
  Turns Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Turn* turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void StartAll(const Turns& turns);
  // Who has to leave for one of `lane`; null: nobody yet.
  Turn* InTheWayOf(const Lane& lane, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whose time is up; again and again while there are turns.
  void Look();

  const MessageTurnsLimits limits_;
  const int lane_reading_max_;
  const int lane_waiting_max_;
  mutable absl::Mutex mutex_;
  Turns reading_ ABSL_GUARDED_BY(mutex_);  // also who gives way, until it has left
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t entered_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::node_hash_map<std::string, Lane> lanes_ ABSL_GUARDED_BY(mutex_);  // with turns
  bool watched_ ABSL_GUARDED_BY(mutex_) = false;
  Later later_;
};

}  // namespace lorica
