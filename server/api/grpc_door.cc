#include "server/api/grpc_door.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/api/grpc_service.h"
#include "server/api/socket_name.h"

namespace lorica {
namespace {

constexpr char kDescriptors[] = "/proc/self/fd";

// What the library would ask of sockets of its own; connections inherit it.
void SetSocketOptions(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const int timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout));
  ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcDoor>> GrpcDoor::Make(
    const std::string& address, std::shared_ptr<grpc::ServerCredentials> credentials,
    grpc::ServerBuilder* builder) {
  auto listener = Listener::Listen(
      {.address = address, .flag = "--grpc-address", .spare_descriptors = kGrpcSpareDescriptors});
  if (!listener.ok()) return listener.status();
  SetSocketOptions((*listener)->socket());
  DIR* const descriptors = ::opendir(kDescriptors);
  if (descriptors == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(kDescriptors, " cannot be read: ", std::strerror(errno)));
  }
  std::unique_ptr<GrpcDoor> door(new GrpcDoor(*std::move(listener), descriptors));
  door->acceptor_ = builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      std::move(credentials));
  return door;
}

GrpcDoor::~GrpcDoor() { Close(); }

void GrpcDoor::Open() {
  thread_ = std::thread([this] { Loop(); });
}

void GrpcDoor::Loop() {
  for (int socket = listener_->Accept(); socket >= 0; socket = listener_->Accept()) {
    ::fcntl(socket, F_SETFL, ::fcntl(socket, F_GETFL) | O_NONBLOCK);
    Acceptor::NewConnectionParameters connection;
    connection.listener_fd = listener_->socket();
    connection.fd = socket;
    acceptor_->HandleNewConnection(&connection);
  }
}

// The library tells nobody of its sockets, so they are looked for among all open ones.
void GrpcDoor::EndConnections() {
  ::rewinddir(descriptors_.get());
  while (const dirent* const entry = ::readdir(descriptors_.get())) {
    const std::string_view name = entry->d_name;
    int descriptor = -1;
    std::from_chars(name.data(), name.data() + name.size(), descriptor);
    // Not a copy of it, though by its number it could become another socket meanwhile: when a copy
    // of a file is closed, the process loses its locks on that file.
    const bool is_ours = LocalEndOf(descriptor).port == port() && !PeerOf(descriptor).ip.empty();
    if (is_ours) ::shutdown(descriptor, SHUT_RDWR);
  }
}

void GrpcDoor::Close() {
  if (!thread_.joinable()) return;
  listener_->Close();
  thread_.join();
}

}  // namespace lorica
