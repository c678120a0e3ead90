// Connections that are asked to end, and end without harm to the calls on them.
//
// A proxy puts calls of many clients on one connection, so to shut one down that floods would cut
// the others' calls. By GOAWAY (RFC 9113, 6.8) who is at the other end begins no more calls here,
// and those that are open go on to their end. The first one leaves calls that are on their way time
// to come: to skip them, and close when the last open call ends, would cut that one's answer for
// who is still sending. After a second one, kGoAwayTime later, the library skips the heads of
// further calls, and a client may repeat those; but it skips none before the second is written. So
// the connection of a peer that reads nothing, and sends heads another kGoAwayTime later, ends. So
// does that of one who must have heard and sends heads kGoAwayHeard later: to skip takes time, too.
// gRPC has no function for all this that could be called from outside: it is done within the
// library, where heads are parsed. Thread-safe.
#pragma once

#include <atomic>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

inline constexpr absl::Duration kGoAwayTime = absl::Milliseconds(250);
inline constexpr absl::Duration kGoAwayForgotten = absl::Seconds(30);
inline constexpr absl::Duration kGoAwayHeard = absl::Seconds(2);
inline constexpr int kGoAwaysMax = 4096;  // peers that are remembered

// `peer` as gRPC names it, its escapes undone. False: it was asked already.
bool AskToGoAway(const std::string& peer, absl::Time now);

// Peers that were asked and are remembered.
int PeersAskedToGoAway();

// The library has a head of `transport`, a grpc_chttp2_transport, to parse. `skipped`: of no call
// that it looks at. ResourceExhausted: the connection has to end.
absl::Status GoAwayIfAsked(void* transport, bool skipped);

// What is known of the peers that were asked.
class AskedToGoAway {
 public:
  struct Next {
    int tell = 0;  // it for which time; 0: it has heard
    bool end = false;
  };

  bool Ask(const std::string& peer, absl::Time now);
  // When a head has come on its connection `transport`.
  Next AtHead(const std::string& peer, const void* transport, bool skipped, absl::Time now);
  // That are not yet forgotten.
  int peers(absl::Time now);
  // Without a lock. False: there are none.
  bool any() const { return any_.load(std::memory_order_relaxed); }

 private:
  struct Peer {
    int times = 0;
    int told = 0;
    absl::Time since;  // it was asked, or told, the last time
    const void* transport = nullptr;
  };

  void Forget(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Peer> peers_ ABSL_GUARDED_BY(mutex_);
  absl::Time forgot_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> any_{false};
};

}  // namespace lorica
