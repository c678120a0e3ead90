#include "server/grammar/trial_wire.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>

namespace lorica {
namespace {

constexpr uint32_t kTextBytesMax = kFormatBytesMax + (1 << 16);

struct Head {
  int32_t what = 0;  // kind of a format, code of a verdict
  uint32_t bytes = 0;
};

bool Send(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(sent);
  }
  return true;
}

bool Receive(int socket, char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t received = recv(socket, bytes, count, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    bytes += received;
    count -= received;
  }
  return true;
}

bool SendText(int socket, int32_t what, std::string_view text) {
  const Head head = {what, static_cast<uint32_t>(text.size())};
  return Send(socket, {reinterpret_cast<const char*>(&head), sizeof(head)}) && Send(socket, text);
}

bool ReceiveText(int socket, int32_t* what, std::string* text) {
  Head head;
  if (!Receive(socket, reinterpret_cast<char*>(&head), sizeof(head))) return false;
  if (head.bytes > kTextBytesMax) return false;
  *what = head.what;
  text->resize(head.bytes);
  return Receive(socket, text->data(), head.bytes);
}

}  // namespace

bool SendFormat(int socket, const ResponseFormat& format) {
  return SendText(socket, static_cast<int32_t>(format.kind), format.text);
}

bool ReceiveFormat(int socket, ResponseFormat* format) {
  int32_t kind = 0;
  if (!ReceiveText(socket, &kind, &format->text)) return false;
  format->kind = static_cast<FormatKind>(kind);
  return true;
}

bool SendVerdict(int socket, const absl::Status& verdict) {
  return SendText(socket, static_cast<int32_t>(verdict.code()),
                  {verdict.message().data(), verdict.message().size()});
}

bool ReceiveVerdict(int socket, absl::Status* verdict) {
  int32_t code = 0;
  std::string message;
  if (!ReceiveText(socket, &code, &message)) return false;
  *verdict = absl::Status(static_cast<absl::StatusCode>(code), message);
  return true;
}

}  // namespace lorica
