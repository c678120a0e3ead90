// Where adapters are downloaded from.
//
// A Source opens files that are here; a RemoteSource brings files here. What it says is not
// trusted: a file's size, and its hash or entity tag, are known before its first byte is asked
// for, sizes are its caller's to refuse, and a download that returns OK has had exactly that.
// A RemoteSource is thread-safe; a RemoteSession is one adapter's, used by one thread, which
// it blocks for as long as a download takes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "adapters/hub/hasher.h"

namespace lorica {

// What names a file's content: SHA-256, or the SHA-1 by which git knows it.
struct ContentHash {
  HashAlgorithm algorithm = HashAlgorithm::kSha256;
  std::string hex;
};

struct RemoteFile {
  std::string name;
  int64_t size_bytes = 0;
  ContentHash hash;        // without hex: the source announces none
  std::string entity_tag;  // where that is what pins the content
};

// Of a file: from `begin`, before `end`.
struct ByteRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Where a download goes. An error ends the download and is returned.
class DownloadSink {
 public:
  virtual ~DownloadSink() = default;
  virtual absl::Status Append(std::string_view bytes) = 0;
  virtual absl::Status Restart() = 0;  // forget what was appended
  // Hands over what an earlier process appended, at most `bytes_max`; what is appended now goes
  // behind that. Before anything else.
  virtual absl::Status Replay(int64_t /*bytes_max*/,
                              absl::FunctionRef<void(std::string_view)> /*take*/) {
    return absl::OkStatus();
  }
};

// Codes of all calls. NotFound: no such repository or revision, or it may not be known.
// PermissionDenied: it exists and may not be read. FailedPrecondition: it cannot be had from
// there, and trying again does not help. Unavailable: not now. DataLoss: what comes is not
// what was announced, twice. Cancelled: the server is shutting down.
class RemoteSession {
 public:
  virtual ~RemoteSession() = default;
  // The first look pins the revision to the commit it means now; all that follows is of
  // that commit. nullopt: it has no such file.
  virtual absl::StatusOr<std::optional<RemoteFile>> Look(const std::string& file) = 0;
  virtual absl::Status Download(const RemoteFile& file, DownloadSink& sink) = 0;
  // Asks for no more than these bytes; REQUIRES that there are some and the file has them. The
  // announced hash is another's: nothing tells whether they are what it stands for.
  virtual absl::Status DownloadPart(const RemoteFile& file, ByteRange part, DownloadSink& sink) = 0;
  // Empty before the first look.
  virtual const std::string& commit() const = 0;
};

class RemoteSource {
 public:
  virtual ~RemoteSource() = default;
  // What a repository's name is relative to, e.g. "https://huggingface.co".
  virtual const std::string& name() const = 0;
  // Opens no connection. `token` empty: the server's own, if it has one. InvalidArgument,
  // FailedPrecondition: a token that cannot be used.
  virtual absl::StatusOr<std::unique_ptr<RemoteSession>> Begin(const std::string& repo,
                                                               const std::string& revision,
                                                               const std::string& token) = 0;
};

}  // namespace lorica
