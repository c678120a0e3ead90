// gRPC's port: connections are accepted here and handed to the library.
//
// The library's own listener is lost for ever when it once finds no free descriptor. This one
// waits, and takes no more connections than leave descriptors for HTTP's connections and for files.
// What it needs to end them, a descriptor, it has from the start. Used by one thread.
#pragma once

#include <dirent.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/api/listener.h"

namespace lorica {

// Those of HTTP's connections, and 64 that these leave to files, fetches and children.
inline constexpr int kGrpcSpareDescriptors = 448;

class GrpcDoor {
 public:
  // Binds `address` and tells the builder; nobody is accepted yet. Unavailable: it cannot be
  // listened on, or /proc cannot be read; says why.
  static absl::StatusOr<std::unique_ptr<GrpcDoor>> Make(
      const std::string& address, std::shared_ptr<grpc::ServerCredentials> credentials,
      grpc::ServerBuilder* builder);
  ~GrpcDoor();

  int port() const { return listener_->port(); }
  // Once the builder's server runs.
  void Open();
  // Nobody is accepted any more. Before the server is shut down.
  void Close();
  // Ends those that were let in: the library, when it is shut down, waits for as long as it has
  // something to write to a peer that reads nothing, or slowly. Needs no free descriptor.
  void EndConnections();

 private:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

  struct CloseFolder {
    void operator()(DIR* folder) const { ::closedir(folder); }
  };

  GrpcDoor(std::unique_ptr<Listener> listener, DIR* descriptors)
      : listener_(std::move(listener)), descriptors_(descriptors) {}
  void Loop();

  const std::unique_ptr<Listener> listener_;
  const std::unique_ptr<DIR, CloseFolder> descriptors_;  // of this process
  std::unique_ptr<Acceptor> acceptor_;
  std::thread thread_;
};

}  // namespace lorica
