#include "server/api/metadata_bound.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "adapters/hub/steady_now.h"
#include "grpc/slice.h"
#include "server/api/before_library.h"
#include "server/api/call_backlog.h"
#include "server/api/go_away.h"
#include "server/api/grpc_internals.h"
#include "server/api/refusal_log.h"
#include "server/api/socket_name.h"

namespace lorica {
namespace {

// A parser is its connection's, and lives as long.
using BeginFrame = void (*)(void* parser, void* metadata, uint32_t bytes_max, HeadBoundary boundary,
                            uint8_t priority, HeadLogInfo info);
using EndParser = void (*)(void* parser);
using Parse = absl::Status (*)(void* parser, void* transport, void* stream, const grpc_slice& bytes,
                               int is_last);

// The latest heads of several frames, by their parsers.
class LongHeads {
 public:
  void BeginFrame(const void* parser, bool last) {
    absl::MutexLock lock(&mutex_);
    auto found = heads_.find(parser);
    if (found != heads_.end() && found->second.in_last_frame) {
      heads_.erase(found);
      found = heads_.end();
    }
    if (last && found == heads_.end()) return;
    Head& head = heads_[parser];
    ++head.frames;
    head.in_last_frame = last;
  }
  // Whether what has come of the head is still within bounds.
  bool Add(const void* parser, size_t bytes) {
    absl::MutexLock lock(&mutex_);
    const auto found = heads_.find(parser);
    if (found == heads_.end()) return true;
    found->second.bytes += bytes;
    return found->second.bytes <= kTransportMetadataBytesMax &&
           found->second.frames <= kHeadFramesMax;
  }
  void End(const void* parser, const std::string& peer) {
    absl::MutexLock lock(&mutex_);
    heads_[parser].ended_peer = peer;
    ended_.insert(peer);
  }
  bool HasEnded(const std::string& peer) {
    absl::MutexLock lock(&mutex_);
    return ended_.contains(peer);
  }
  void Forget(const void* parser) {
    absl::MutexLock lock(&mutex_);
    const auto found = heads_.find(parser);
    if (found == heads_.end()) return;
    ended_.erase(found->second.ended_peer);
    heads_.erase(found);
  }

 private:
  struct Head {
    int frames = 0;
    size_t bytes = 0;
    bool in_last_frame = false;
    std::string ended_peer;  // whose connection ends for it
  };
  absl::Mutex mutex_;
  absl::flat_hash_map<const void*, Head> heads_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> ended_ ABSL_GUARDED_BY(mutex_);
};

LongHeads& Heads() {
  static LongHeads& heads = *new LongHeads;  // connections may outlive what is static
  return heads;
}

absl::Status TooLarge(const void* parser, void* transport) {
  auto* const connection = static_cast<grpc_transport*>(transport);
  Heads().End(parser, PeerText(grpc_endpoint_get_peer(grpc_transport_get_endpoint(connection))));
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("the head of a call has more than ", kTransportMetadataBytesMax, " bytes or ",
                   kHeadFramesMax, " frames; its connection ends"));
  LogRefusal("unknown", "", status, SteadyNow());
  return status;
}

}  // namespace

// What the library calls in the place of its own.
__attribute__((visibility("default"), used)) void BeginHeadFrame(
    void* parser, void* metadata, uint32_t bytes_max, HeadBoundary boundary, uint8_t priority,
    HeadLogInfo info) __asm__(LORICA_BEGIN_FRAME);
__attribute__((visibility("default"), used)) void EndHeadParser(void* parser) __asm__(
    LORICA_END_PARSER);
__attribute__((visibility("default"), used)) absl::Status ParseHead(
    void* parser, void* transport, void* stream, const grpc_slice& bytes,
    int is_last) __asm__(LORICA_PARSE);

void BeginHeadFrame(void* parser, void* metadata, uint32_t bytes_max, HeadBoundary boundary,
                    uint8_t priority, HeadLogInfo info) {
  static const auto librarys = OfLibrary<BeginFrame>(LORICA_BEGIN_FRAME);
  // Of heads that are skipped the library says the contrary.
  const bool skipped = metadata == nullptr;
  Heads().BeginFrame(parser, /*last=*/skipped == (boundary == HeadBoundary::kNone));
  librarys(parser, metadata, std::min<uint32_t>(bytes_max, kTransportMetadataBytesMax), boundary,
           priority, info);
}

void EndHeadParser(void* parser) {
  static const auto librarys = OfLibrary<EndParser>(LORICA_END_PARSER);
  Heads().Forget(parser);
  librarys(parser);
}

absl::Status ParseHead(void* parser, void* transport, void* stream, const grpc_slice& bytes,
                       int is_last) {
  static const auto librarys = OfLibrary<Parse>(LORICA_PARSE);
  if (!Heads().Add(parser, GRPC_SLICE_LENGTH(bytes))) return TooLarge(parser, transport);
  if (absl::Status s = GoAwayIfAsked(transport, /*skipped=*/stream == nullptr); !s.ok()) return s;
  if (absl::Status s = CheckOpenCalls(transport); !s.ok()) return s;
  return librarys(parser, transport, stream, bytes, is_last);
}

bool EndsForAHead(const std::string& peer) { return Heads().HasEnded(peer); }

absl::Status CheckMetadataBound() {
  const bool ours = StandsBefore(LORICA_BEGIN_FRAME, &BeginHeadFrame) &&
                    StandsBefore(LORICA_END_PARSER, &EndHeadParser) &&
                    StandsBefore(LORICA_PARSE, &ParseHead);
  if (ours) return absl::OkStatus();
  return CannotBeKeptFrom("reading heads of any length");
}

}  // namespace lorica
