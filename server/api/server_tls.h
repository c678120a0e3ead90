// The server's certificate and key, read from files and replaced while it runs.
//
// What was read is checked before it counts: a key that does not fit its certificate, or
// a file that is half-written, leaves what was there. gRPC reads the accepted bytes from
// memory files within a second or so, for new connections; open ones keep theirs.
// Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/security/server_credentials.h"

struct ssl_ctx_st;

namespace lorica {

inline constexpr int64_t kTlsFileBytesMax = 1 << 20;
inline constexpr unsigned kTlsRefreshSeconds = 1;

struct TlsPaths {
  std::string cert;       // PEM, the chain; empty: no TLS
  std::string key;        // PEM, without a passphrase
  std::string client_ca;  // PEM; not empty: clients need a certificate of one of these
};

class ServerTls {
 public:
  // NotFound, InvalidArgument: what is wrong with which file.
  static absl::StatusOr<std::unique_ptr<ServerTls>> Read(TlsPaths paths);
  ~ServerTls();

  // Reads the files again. After an error nothing has changed.
  absl::Status Reload();
  // Outlived by the files.
  std::shared_ptr<grpc::ServerCredentials> credentials() const;
  // The same for the HTTP face, as it was last read: of connections that begin now.
  std::shared_ptr<ssl_ctx_st> context() const;

 private:
  explicit ServerTls(TlsPaths paths);

  const TlsPaths paths_;
  mutable absl::Mutex mutex_;  // one reload at a time
  std::shared_ptr<ssl_ctx_st> context_ ABSL_GUARDED_BY(mutex_);
  // Descriptors of memory files, the same for life: certificate with key, client CAs.
  int identity_fd_ = -1;
  int roots_fd_ = -1;
};

}  // namespace lorica
