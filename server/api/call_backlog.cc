#include "server/api/call_backlog.h"

#include <sys/ioctl.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "grpc/support/time.h"
#include "grpcpp/alarm.h"
#include "server/api/before_library.h"
#include "server/api/grpc_internals.h"
#include "server/api/refusal_log.h"

namespace lorica {
namespace {

using BeginStream = void (*)(void* stream, void* transport, void* references, const void* data,
                             void* arena);
using CloseStream = void (*)(void* transport, void* stream, int reads, int writes,
                             absl::Status why);
using EndStream = void (*)(void* stream);
using Read = void (*)(void* endpoint, void* slices, void* done, bool urgent, int bytes_min);

CallBacklog& TheBacklog() {
  static CallBacklog& backlog = *new CallBacklog;  // connections may outlive what is static
  return backlog;
}

const void* ConnectionOf(void* transport) {
  return grpc_transport_get_endpoint(static_cast<grpc_transport*>(transport));
}

struct PendingRead {
  void* endpoint;
  void* slices;
  void* done;
  bool urgent;
  int bytes_min;
  absl::Time since;
};

void ReadOrWait(const PendingRead& read);

// Its connection lives until it is done.
struct WaitingRead {
  PendingRead read;
  grpc::Alarm alarm;  // whose thread may call the library
};

void LookAgain(const PendingRead& read, absl::Duration time) {
  auto* const waiting = new WaitingRead{read, {}};
  const gpr_timespec pause = gpr_time_from_millis(absl::ToInt64Milliseconds(time), GPR_TIMESPAN);
  waiting->alarm.Set(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), pause),
                     [waiting](bool) { ReadOrWait(std::unique_ptr<WaitingRead>(waiting)->read); });
}

Read LibrarysRead() {
  static const auto librarys = OfLibrary<Read>(LORICA_READ);
  return librarys;
}

void ReadOrWait(const PendingRead& read) {
  const absl::Duration waited = SteadyNow() - read.since;
  if (TheBacklog().MustWait(read.endpoint, waited)) return LookAgain(read, kReadPause);
  LibrarysRead()(read.endpoint, read.slices, read.done, read.urgent, read.bytes_min);
}

// Whether it may read on: this thread has read for a moment only, or there is nothing yet.
bool HasItsTurn(void* endpoint) {
  thread_local absl::Time began;
  thread_local absl::Time last;
  const absl::Time now = SteadyNow();
  if (now - std::exchange(last, now) > kTurnGap) began = now;
  if (now - began < kTurnTime) return true;
  began = now;
  int bytes = 0;
  const int socket = grpc_endpoint_get_fd(static_cast<grpc_endpoint*>(endpoint));
  return ::ioctl(socket, FIONREAD, &bytes) != 0 || bytes == 0;
}

}  // namespace

// What the library calls in the place of its own.
__attribute__((visibility("default"), used)) void BeginOneStream(
    void* stream, void* transport, void* references, const void* data,
    void* arena) __asm__(LORICA_BEGIN_STREAM);
__attribute__((visibility("default"), used)) void CloseOneStream(
    void* transport, void* stream, int reads, int writes,
    absl::Status why) __asm__(LORICA_CLOSE_STREAM);
__attribute__((visibility("default"), used)) void EndOneStream(void* stream) __asm__(
    LORICA_END_STREAM);
__attribute__((visibility("default"), used)) void ReadOfConnection(
    void* endpoint, void* slices, void* done, bool urgent, int bytes_min) __asm__(LORICA_READ);

void BeginOneStream(void* stream, void* transport, void* references, const void* data,
                    void* arena) {
  static const auto librarys = OfLibrary<BeginStream>(LORICA_BEGIN_STREAM);
  TheBacklog().Begin(ConnectionOf(transport), stream);
  librarys(stream, transport, references, data, arena);
}

void CloseOneStream(void* transport, void* stream, int reads, int writes, absl::Status why) {
  static const auto librarys = OfLibrary<CloseStream>(LORICA_CLOSE_STREAM);
  TheBacklog().Close(stream, reads != 0, writes != 0);
  librarys(transport, stream, reads, writes, std::move(why));
}

void EndOneStream(void* stream) {
  static const auto librarys = OfLibrary<EndStream>(LORICA_END_STREAM);
  TheBacklog().End(stream);
  librarys(stream);
}

void ReadOfConnection(void* endpoint, void* slices, void* done, bool urgent, int bytes_min) {
  const bool waits = TheBacklog().MustWait(endpoint, absl::ZeroDuration());
  if (!waits && HasItsTurn(endpoint)) {
    return LibrarysRead()(endpoint, slices, done, urgent, bytes_min);
  }
  LookAgain({endpoint, slices, done, urgent, bytes_min, SteadyNow()},
            waits ? kReadPause : kTurnPause);
}

void CallBacklog::Begin(const void* connection, const void* call) {
  absl::MutexLock lock(&mutex_);
  if (calls_.try_emplace(call, Call{connection}).second) ++connections_[connection].open;
}

void CallBacklog::Close(const void* call, bool reads, bool writes) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end() || found->second.closed()) return;
  found->second.reads_closed |= reads;
  found->second.writes_closed |= writes;
  if (!found->second.closed()) return;
  Connection& connection = connections_[found->second.connection];
  --connection.open;
  ++connection.closed;
  ++closed_together_;
}

void CallBacklog::End(const void* call) {
  absl::MutexLock lock(&mutex_);
  const auto found = calls_.find(call);
  if (found == calls_.end()) return;
  const auto connection = connections_.find(found->second.connection);
  const bool closed = found->second.closed();
  --(closed ? connection->second.closed : connection->second.open);
  if (closed) --closed_together_;
  if (connection->second.open + connection->second.closed == 0) connections_.erase(connection);
  calls_.erase(found);
}

bool CallBacklog::HasTooMany(const void* connection) const {
  absl::MutexLock lock(&mutex_);
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return false;
  const auto [open, closed] = found->second;
  const bool crowded = calls_.size() > kCallsTogetherMax;
  return open > kStreamsUntoldMax || (crowded && open + closed > kCallsShare);
}

bool CallBacklog::MustWait(const void* connection, absl::Duration waited) const {
  const int together = closed_together_;
  if (together <= kClosedCallsShare || waited >= kReadPauseMax) return false;
  absl::MutexLock lock(&mutex_);
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return false;
  int most = kClosedCallsMax;
  if (calls_.size() > kCallsTogetherMax / 2) most = kClosedCallsCrowdedMax;
  if (together > kClosedCallsTogetherMax) most = kClosedCallsShare;
  return found->second.closed > most;
}

int64_t CallBacklog::calls() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(calls_);
}

int64_t CallsInBacklog() { return TheBacklog().calls(); }

absl::Status CheckOpenCalls(void* transport) {
  if (!TheBacklog().HasTooMany(ConnectionOf(transport))) return absl::OkStatus();
  absl::Status status = absl::UnavailableError(
      absl::StrCat("too many calls of a connection have not ended, more than ", kStreamsUntoldMax,
                   ", or ", kCallsShare, " beside many of others; it ends"));
  LogEnded(status, SteadyNow());
  return status;
}

absl::Status CheckCallBacklog() {
  const bool ours = StandsBefore(LORICA_BEGIN_STREAM, &BeginOneStream) &&
                    StandsBefore(LORICA_CLOSE_STREAM, &CloseOneStream) &&
                    StandsBefore(LORICA_END_STREAM, &EndOneStream) &&
                    StandsBefore(LORICA_READ, &ReadOfConnection);
  if (ours) return absl::OkStatus();
  return CannotBeKeptFrom("reading calls ahead of those that have not ended");
}

}  // namespace lorica
