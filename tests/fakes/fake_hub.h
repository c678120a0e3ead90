// A Hugging Face Hub in this process: the real protocol, and every way to break it.
//
// Two servers on free ports of 127.0.0.1: the hub, and the "CDN" to which it redirects for
// large files. Speaks what clients use to look at a repository and to download it: resolve
// (HEAD, GET, ranges), api/models, revision and tree, with access by token. Faults are
// scripted by the test; all requests are remembered. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "tests/fakes/wire_server.h"

namespace lorica {

enum class HubAccess {
  kPublic,
  kPrivate,   // without the token it does not exist
  kGated,     // without the token it may not be read
  kDisabled,  // nobody may
};

// What one request sees, instead of or on top of the right answer.
struct HubFault {
  std::string target_part;  // of requests whose target contains it
  std::string method;       // "HEAD", "GET"; empty = both
  int times = 1;            // how often; negative = for ever

  int status = 0;                              // 0 = the right one; else without a body
  std::map<std::string, std::string> headers;  // replaced or added; "" takes one away
  int64_t cut_at = -1;                         // the connection ends after so many body bytes
  int64_t corrupt_at = -1;                     // this byte is another one
  int64_t stall_at = -1;                       // nothing more from this byte on
  bool stall_head = false;                     // nothing at all
  absl::Duration byte_delay;                   // of each byte: a slow drip
  bool head_drip = false;                      // the head comes with that delay, too
  bool endless = false;                        // the body never ends
  int64_t surplus = 0;                         // so many bytes more than there are
  bool ignores_range = false;
  std::function<void()> before;  // runs first, on the connection's thread
};

struct HubRequest {
  std::string place;  // "hub" or "cdn"
  std::string method;
  std::string target;
  std::string authorization;
  std::map<std::string, std::string> headers;
};

class FakeHub {
 public:
  using Files = std::map<std::string, std::string>;  // path to content

  explicit FakeHub(const TlsFiles& tls = {});
  ~FakeHub();

  std::string endpoint() const;   // "http://127.0.0.1:port"
  std::string cdn_place() const;  // "127.0.0.1:port"

  // A new commit with these files, to which `revision` points from now on. Files that end
  // in .safetensors or .bin are large ones: hashed with SHA-256 and redirected to the CDN.
  std::string Commit(const std::string& repo, const Files& files,
                     const std::string& revision = "main");
  // The files of a folder.
  static Files FilesOf(const std::string& folder);

  void SetAccess(const std::string& repo, HubAccess access, const std::string& token = "");
  void Rename(const std::string& from, const std::string& to);
  void Delete(const std::string& repo);
  void AddFault(HubFault fault);
  // Also ends what stalls or drips at the moment, with its connection.
  void ClearFaults();

  std::vector<HubRequest> requests() const;
  // Requests whose target contains `part`, with that method unless it is empty.
  int CountOf(const std::string& part, const std::string& method = "") const;

 private:
  struct Repo {
    std::map<std::string, Files> commits;
    std::map<std::string, std::string> revisions;  // name to commit
    HubAccess access = HubAccess::kPublic;
    std::string token;
  };
  struct Reply {
    int status = 200;
    std::map<std::string, std::string> headers;
    std::string body;
  };

  void Answer(const std::string& place, const WireRequest& request,
              WireServer::Connection& connection);
  Reply HubReply(const WireRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  Reply Resolve(const std::string& repo, const std::string& revision, const std::string& path,
                const WireRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Reply Api(const std::vector<std::string>& parts, const WireRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Reply CdnReply(const WireRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  bool Refused(const std::string& repo, const WireRequest& request, Reply* reply)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static Reply Refusal(int status, const std::string& code, const std::string& message);
  // `clears`: how often faults had been cleared by then.
  HubFault TakeFault(const WireRequest& request, int* clears) ABSL_LOCKS_EXCLUDED(mutex_);
  // False once the peer has gone, or the faults of that time were cleared.
  bool Wait(WireServer::Connection& connection, absl::Duration duration, int clears)
      ABSL_LOCKS_EXCLUDED(mutex_);

  const bool secure_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Repo> repos_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> renamed_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> blobs_ ABSL_GUARDED_BY(mutex_);  // SHA-256 to content
  std::vector<HubFault> faults_ ABSL_GUARDED_BY(mutex_);
  std::vector<HubRequest> requests_ ABSL_GUARDED_BY(mutex_);
  int commits_ ABSL_GUARDED_BY(mutex_) = 0;
  int clears_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<WireServer> cdn_;
  std::unique_ptr<WireServer> hub_;
};

}  // namespace lorica
