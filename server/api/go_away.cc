#include "server/api/go_away.h"

#include "absl/strings/cord.h"
#include "adapters/hub/steady_now.h"
#include "server/api/grpc_internals.h"
#include "server/api/socket_name.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr int kTimes = 2;

// What the codes of RFC 9113, 7 are to the library: with NO_ERROR calls that are on their way still
// come, until the other end has heard; with any other one none does.
const char* CodeOf(int time) { return time < kTimes ? "0" : "11"; }

void GoAway(grpc_transport* transport, int time) {
  grpc_transport_op* const op = grpc_make_transport_op(nullptr);
  op->goaway_error = absl::UnavailableError("too many calls were begun and reset");
  op->goaway_error.SetPayload("type.googleapis.com/grpc.status.int.http2_error",
                              absl::Cord(CodeOf(time)));
  grpc_transport_perform_op(transport, op);
}

AskedToGoAway& TheAsked() {
  static AskedToGoAway& asked = *new AskedToGoAway;  // connections may outlive what is static
  return asked;
}

absl::Status Deaf(const std::string& peer) {
  spdlog::warn("{} was asked to go away and begins more calls: its connection ends", peer);
  return absl::ResourceExhaustedError("too many calls were begun and reset");
}

}  // namespace

bool AskedToGoAway::Ask(const std::string& peer, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Forget(now);
  if (peers_.size() >= kGoAwaysMax && !peers_.contains(peer)) peers_.clear();
  Peer& asked = peers_[peer];
  if (asked.told != asked.times || asked.times == kTimes) return false;
  if (asked.told > 0 && now - asked.since <= kGoAwayTime) return false;
  ++asked.times;
  asked.since = now;
  any_ = true;
  return true;
}

AskedToGoAway::Next AskedToGoAway::AtHead(const std::string& peer, const void* transport,
                                          bool skipped, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Forget(now);
  const auto found = peers_.find(peer);
  if (found == peers_.end()) return {};
  Peer& asked = found->second;
  if (asked.transport == nullptr) asked.transport = transport;
  if (asked.transport != transport) {  // another connection from the same port
    peers_.erase(found);
    return {};
  }
  if (asked.told == asked.times) {
    const absl::Duration time = skipped ? kGoAwayHeard : kGoAwayTime;
    return {0, asked.told == kTimes && now - asked.since > time};
  }
  asked.told = asked.times;
  asked.since = now;
  return {asked.told, false};
}

int AskedToGoAway::peers(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Forget(now);
  return static_cast<int>(peers_.size());
}

// Now and then, not at each head.
void AskedToGoAway::Forget(absl::Time now) {
  if (now - forgot_ <= kGoAwayForgotten) return;
  forgot_ = now;
  absl::erase_if(peers_,
                 [now](const auto& entry) { return now - entry.second.since > kGoAwayForgotten; });
  any_ = !peers_.empty();
}

bool AskToGoAway(const std::string& peer, absl::Time now) { return TheAsked().Ask(peer, now); }

int PeersAskedToGoAway() { return TheAsked().peers(SteadyNow()); }

absl::Status GoAwayIfAsked(void* transport, bool skipped) {
  if (!TheAsked().any()) return absl::OkStatus();
  auto* const connection = static_cast<grpc_transport*>(transport);
  const std::string peer =
      PeerText(grpc_endpoint_get_peer(grpc_transport_get_endpoint(connection)));
  const AskedToGoAway::Next next = TheAsked().AtHead(peer, transport, skipped, SteadyNow());
  if (next.end) return Deaf(peer);
  if (next.tell > 0) GoAway(connection, next.tell);
  return absl::OkStatus();
}

}  // namespace lorica
