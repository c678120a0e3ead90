#include "server/api/message_bound.h"

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "grpc/slice.h"
#include "grpc/slice_buffer.h"
#include "grpcpp/support/slice.h"
#include "server/api/before_library.h"
#include "server/api/grpc_internals.h"

namespace lorica {
namespace {

// No messages of Protobuf's: none has a field 0.
constexpr absl::string_view kTooLarge("\0the message is too large", 25);
constexpr absl::string_view kMisframed("\0the message's frame is none", 28);
constexpr absl::string_view kCompressed("\0the message is compressed", 26);
constexpr unsigned kIsCompressed = 0x80000000;  // of a message's flags

bool IsMark(const grpc::ByteBuffer& bytes, absl::string_view mark) {
  std::vector<grpc::Slice> slices;
  if (bytes.Length() != mark.size() || !bytes.Dump(&slices).ok()) return false;
  std::string text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text == mark;
}

}  // namespace

bool IsTooLarge(const grpc::ByteBuffer& bytes) {
  return bytes.Length() > kMessageBytesMax || IsMark(bytes, kTooLarge);
}

bool IsMisframed(const grpc::ByteBuffer& bytes) { return IsMark(bytes, kMisframed); }

bool IsCompressed(const grpc::ByteBuffer& bytes) { return IsMark(bytes, kCompressed); }

namespace {

// What takes the place of the message; empty: nothing.
absl::string_view MarkFor(const MessageProgress& progress, int64_t to_come, unsigned flags) {
  if (absl::holds_alternative<MessagePending>(progress)) {
    return to_come > kMessageBytesMax ? kTooLarge : "";
  }
  if (!absl::get<absl::Status>(progress).ok()) return kMisframed;
  return (flags & kIsCompressed) != 0 ? kCompressed : "";
}

}  // namespace

}  // namespace lorica

using Deframe = lorica::MessageProgress (*)(grpc_chttp2_stream*, long*, grpc_core::SliceBuffer*,
                                            unsigned int*);

// `to_come` and `message` are null where somebody only looks.
__attribute__((visibility("default"))) lorica::MessageProgress
grpc_deframe_unprocessed_incoming_frames(grpc_chttp2_stream* stream, long* to_come,
                                         grpc_core::SliceBuffer* message, unsigned int* flags) {
  static const auto librarys = lorica::OfLibrary<Deframe>(LORICA_DEFRAME);
  lorica::MessageProgress progress = librarys(stream, to_come, message, flags);
  if (to_come == nullptr || message == nullptr) return progress;
  const absl::string_view mark = lorica::MarkFor(progress, *to_come, flags == nullptr ? 0 : *flags);
  if (mark.empty()) return progress;
  auto* const slices = reinterpret_cast<grpc_slice_buffer*>(message);
  grpc_slice_buffer_reset_and_unref(slices);
  grpc_slice_buffer_add(slices, grpc_slice_from_static_buffer(mark.data(), mark.size()));
  *to_come = 0;
  if (flags != nullptr) *flags = 0;
  return absl::OkStatus();
}

namespace lorica {

absl::Status CheckMessageBound() {
  if (StandsBefore(LORICA_DEFRAME, &grpc_deframe_unprocessed_incoming_frames)) {
    return absl::OkStatus();
  }
  return CannotBeKeptFrom("reading messages of any length");
}

}  // namespace lorica
