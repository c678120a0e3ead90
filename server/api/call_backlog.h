// How many calls of a connection may be open, how many closed that have not ended, and how long its
// reads may keep others waiting.
//
// This gRPC holds to how many may be open once the client has acknowledged that. Whoever does so
// early, or never, could begin any number. But a client may begin some before it has heard of a
// limit at all. So who has more than kStreamsUntoldMax loses his connection; and where all together
// have more than kCallsTogetherMax, who has more than who keeps to the limits can have.
// A call that is reset, or has its answer, is closed for its client, and the next one may begin in
// its place; here it ends behind all that were begun before it. Floods over many connections had
// gigabytes of calls wait so, and others behind them for minutes. Now nothing more is read of a
// connection that has too many: TCP lets its client know. No call ends by that, and so a flood that
// comes through a proxy harms nobody before its connection is asked to go away (go_away.h).
// Should a call take long to end, what shares its connection waits kReadPauseMax for each read and
// no longer.
// While a connection always has more of frames that ask for an answer, as SETTINGS, the thread that
// reads it looks at no other one: as many connections as the library has threads kept all others
// waiting for as long as they went on. So who still has more after kTurnTime waits for kTurnPause.
// As in message_bound functions of the program stand before the library's: those that begin, close
// and end a call, and read of a connection. Holds for all of HTTP/2 in the process.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr int kStreamsPerConnectionMax = 256;
inline constexpr int kStreamsUntoldMax = 1024;  // of a connection that may not know
// Of a connection: all that may be open may end at once.
inline constexpr int kClosedCallsMax = kStreamsPerConnectionMax;
inline constexpr int kCallsTogetherMax = 2048;  // of all, open or closed; beyond, a connection may
inline constexpr int kCallsShare = kStreamsPerConnectionMax + 128;  // have so many, of both kinds
// Of closed ones from half of kCallsTogetherMax on: who keeps to the limits stays well below.
inline constexpr int kClosedCallsCrowdedMax = 64;
inline constexpr int kClosedCallsTogetherMax = 1000;  // of all; beyond, a connection may have
inline constexpr int kClosedCallsShare = 10;          // so many
inline constexpr absl::Duration kReadPause = absl::Milliseconds(5);  // until it is looked at again
inline constexpr absl::Duration kReadPauseMax = absl::Seconds(1);
inline constexpr absl::Duration kTurnTime = absl::Milliseconds(2);   // of reads that are apart
inline constexpr absl::Duration kTurnGap = absl::Microseconds(500);  // by no more than this
inline constexpr absl::Duration kTurnPause = absl::Milliseconds(1);

// Which calls are open, and which are closed and have not ended. Connections and calls are the
// library's objects, which nobody looks into. Thread-safe.
class CallBacklog {
 public:
  void Begin(const void* connection, const void* call);
  // For reads, for writes, or both: then it is closed.
  void Close(const void* call, bool reads, bool writes);
  // Also one that was never closed.
  void End(const void* call);
  // So that it has to end.
  bool HasTooMany(const void* connection) const;
  int64_t calls() const;
  // Whether a read that has waited so long goes on waiting.
  bool MustWait(const void* connection, absl::Duration waited) const;

 private:
  struct Connection {
    int open = 0;
    int closed = 0;
  };
  struct Call {
    const void* connection;
    bool reads_closed = false;
    bool writes_closed = false;

    bool closed() const { return reads_closed && writes_closed; }
  };

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<const void*, Call> calls_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<const void*, Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> closed_together_{0};
};

// That have begun and not ended, of all connections.
int64_t CallsInBacklog();

// Of `transport`, a grpc_chttp2_transport. Unavailable: the connection has to end.
absl::Status CheckOpenCalls(void* transport);

// FailedPrecondition: the library that was loaded calls none of ours.
absl::Status CheckCallBacklog();

}  // namespace lorica
