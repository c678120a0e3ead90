// Who begins calls only to take them back is asked to go away, and shut out if he stays.
//
// A call costs the transport about 0.1 ms of processor time, also one that is reset at once, for
// which its client pays 30 bytes (CVE-2023-44487). This gRPC has no limit to that and reads on
// from such a client while others wait. So calls that are cancelled within kEarlyReset of their
// begin are counted by connection, and one with too many is asked to go away (go_away.h). One that
// goes on is shut down: it is no proxy with calls of others. Calls that are cancelled later are
// bounded by how many may be open. So are those that had kOpenForDeadline until their own deadline:
// that a client has short ones is no attack. Connections within the process do not count.
// A call that ended before its head was looked at does not say whose it was. It counts for who has
// taken back the most by then, if those are many: whoever cancels a call now and then must not pay
// for a flood of such calls.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_interceptor.h"

namespace lorica {

inline constexpr absl::Duration kEarlyReset = absl::Seconds(1);
inline constexpr int kEarlyResetsMax = 500;  // at once
inline constexpr int kEarlyResetsPerSecond = 100;
inline constexpr int kSuspectResets = 100;  // from so many on calls of nobody may be one's own
inline constexpr int kResettersMax = 4096;  // connections that are remembered
// A call that was open for less counts whatever deadline it names: it could name any.
inline constexpr absl::Duration kOpenForDeadline = absl::Milliseconds(50);
// The client's clock for a deadline starts before the server's, so its reset may come first.
inline constexpr absl::Duration kDeadlineSlack = absl::Milliseconds(20);

// Whether a call that was cancelled is one of those that are counted: it was `open` for so long,
// and had so much time `left` until its deadline (negative: past it; infinite: it has none).
bool IsEarlyReset(absl::Duration open, absl::Duration left);

// How many each connection has left. Thread-safe.
class ResetLimit {
 public:
  // One more from `peer`. True: beyond the limit; it begins anew then.
  bool Exceeded(const std::string& peer, absl::Time now);
  // Who has taken back the most calls just now; empty: nobody has kSuspectResets.
  std::string Likeliest(absl::Time now) const;
  // That have some left.
  int peers(absl::Time now);

 private:
  struct Resetter {
    double resets = 0.0;  // those of long ago taken off
    absl::Time counted;

    double LeftAt(absl::Time now) const;
  };
  void MakeRoom(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Resetter> peers_ ABSL_GUARDED_BY(mutex_);
};

// Connections that have taken back calls just now.
int PeersWithResets();

// Give it to one grpc::ServerBuilder.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeResetGuard();

}  // namespace lorica
