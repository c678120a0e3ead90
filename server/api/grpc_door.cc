#include "server/api/grpc_door.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "server/api/grpc_service.h"
#include "server/api/socket_name.h"

namespace lorica {
namespace {

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
  auto acceptor = builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      std::move(credentials));
  return std::unique_ptr<GrpcDoor>(new GrpcDoor(*std::move(listener), std::move(acceptor)));
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
void GrpcDoor::EndConnections() const {
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc/self/fd", error);
  for (; entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    int descriptor = -1;
    std::from_chars(name.data(), name.data() + name.size(), descriptor);
    const int copy = ::dup(descriptor);  // by its number it could become another file meanwhile
    if (copy < 0) continue;
    if (LocalEndOf(copy).port == port() && !PeerOf(copy).ip.empty()) ::shutdown(copy, SHUT_RDWR);
    ::close(copy);
  }
}

void GrpcDoor::Close() {
  if (!thread_.joinable()) return;
  listener_->Close();
  thread_.join();
}

}  // namespace lorica
