#include "server/api/ping_guard.h"

#include "grpc/slice.h"
#include "server/api/before_library.h"
#include "server/api/grpc_internals.h"

namespace lorica {
namespace {

using AddStrike = void (*)(void* transport);
using ParsePing = absl::Status (*)(void* parser, void* transport, void* stream,
                                   const grpc_slice& bytes, int is_last);

// The latest on this thread: what is read of a connection at a time is parsed on one.
struct Strikes {
  const void* transport = nullptr;
  int count = 0;
};
thread_local Strikes latest;

}  // namespace

// What the library calls in the place of its own.
__attribute__((visibility("default"), used)) void AddPingStrike(void* transport) __asm__(
    LORICA_PING_STRIKE);
__attribute__((visibility("default"), used)) absl::Status ParsePingFrame(
    void* parser, void* transport, void* stream, const grpc_slice& bytes,
    int is_last) __asm__(LORICA_PARSE_PING);

void AddPingStrike(void* transport) {
  static const auto librarys = OfLibrary<AddStrike>(LORICA_PING_STRIKE);
  if (latest.transport != transport) latest = {transport, 0};
  ++latest.count;
  librarys(transport);
}

absl::Status ParsePingFrame(void* parser, void* transport, void* stream, const grpc_slice& bytes,
                            int is_last) {
  static const auto librarys = OfLibrary<ParsePing>(LORICA_PARSE_PING);
  const int before = latest.transport == transport ? latest.count : 0;
  absl::Status status = librarys(parser, transport, stream, bytes, is_last);
  if (latest.transport != transport || latest.count == before) latest = {};
  if (latest.count <= kPingStrikesMax) return status;
  latest = {};
  return absl::ResourceExhaustedError("too many pings");
}

absl::Status CheckPingGuard() {
  const bool ours = StandsBefore(LORICA_PING_STRIKE, &AddPingStrike) &&
                    StandsBefore(LORICA_PARSE_PING, &ParsePingFrame);
  if (ours) return absl::OkStatus();
  return CannotBeKeptFrom("reading pings without end");
}

}  // namespace lorica
