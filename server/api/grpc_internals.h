// What the server takes of gRPC's own: functions, layouts and names that no installed header has.
//
// All of one version of its library, and in one place, so that who builds with another one sees
// what to look at.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/variant.h"
#include "grpcpp/version_info.h"

static_assert(GRPC_CPP_VERSION_MAJOR == 1 && GRPC_CPP_VERSION_MINOR == 51,
              "another gRPC: see whether it still needs its functions stood before, whether it can "
              "say GOAWAY itself now, and whether all that is here fits it");

// Functions of the library that are stood before (before_library.h), as it names them.
#define LORICA_BEGIN_STREAM                                                   \
  "_ZN18grpc_chttp2_streamC1EP21grpc_chttp2_transportP20grpc_stream_refcount" \
  "PKvPN9grpc_core5ArenaE"
#define LORICA_CLOSE_STREAM                                    \
  "_Z30grpc_chttp2_mark_stream_closedP21grpc_chttp2_transport" \
  "P18grpc_chttp2_streamiiN4absl7debian36StatusE"
#define LORICA_END_STREAM "_ZN18grpc_chttp2_streamD1Ev"
#define LORICA_READ "_Z18grpc_endpoint_readP13grpc_endpointP17grpc_slice_bufferP12grpc_closurebi"
#define LORICA_DEFRAME                           \
  "_Z40grpc_deframe_unprocessed_incoming_frames" \
  "P18grpc_chttp2_streamPlPN9grpc_core11SliceBufferEPj"
#define LORICA_BEGIN_FRAME                                                       \
  "_ZN9grpc_core11HPackParser10BeginFrameEP19grpc_metadata_batchjNS0_8BoundaryE" \
  "NS0_8PriorityENS0_7LogInfoE"
#define LORICA_END_PARSER "_ZN9grpc_core11HPackParserD1Ev"
#define LORICA_PARSE                                              \
  "_Z31grpc_chttp2_header_parser_parsePvP21grpc_chttp2_transport" \
  "P18grpc_chttp2_streamRK10grpc_slicei"
#define LORICA_PING_STRIKE "_Z27grpc_chttp2_add_ping_strikeP21grpc_chttp2_transport"
#define LORICA_PARSE_PING                                       \
  "_Z29grpc_chttp2_ping_parser_parsePvP21grpc_chttp2_transport" \
  "P18grpc_chttp2_streamRK10grpc_slicei"
#define LORICA_PRESSURE "_ZN9grpc_core16BasicMemoryQuota15GetPressureInfoEv"

struct grpc_chttp2_stream;
struct grpc_closure;
struct grpc_endpoint;
struct grpc_transport;  // a grpc_chttp2_transport begins with it
struct grpc_transport_op {
  void* unused[5];
  absl::Status goaway_error;
};
namespace grpc_core {
class SliceBuffer;  // begins with a grpc_slice_buffer
}

// Its own, which are called.
grpc_endpoint* grpc_transport_get_endpoint(grpc_transport* transport);
absl::string_view grpc_endpoint_get_peer(grpc_endpoint* endpoint);
int grpc_endpoint_get_fd(grpc_endpoint* endpoint);
grpc_transport_op* grpc_make_transport_op(grpc_closure* on_complete);
void grpc_transport_perform_op(grpc_transport* transport, grpc_transport_op* op);

namespace lorica {

// grpc_core::HPackParser::LogInfo and Boundary.
struct HeadLogInfo {
  uint32_t stream;
  uint8_t type;
  bool is_client;
};
enum class HeadBoundary : uint8_t { kNone, kEndOfHead, kEndOfStream };

// grpc_core::Poll<absl::Status>.
struct MessagePending {};
using MessageProgress = absl::variant<MessagePending, absl::Status>;

// grpc_core::BasicMemoryQuota::PressureInfo.
struct MemoryPressure {
  double at_once;
  double control;
  size_t allocation_bytes_max;
};

}  // namespace lorica
