// Repositories of a Hugging Face Hub, or of a mirror that speaks its protocol
// (https://huggingface.co/docs/hub).
//
// A file is looked at (HEAD .../resolve/REVISION/FILE), which pins the commit and tells
// hash and size, and then fetched from wherever the hub redirects to. The token goes to the
// endpoint and nowhere else; a redirect never leads from https to http, nor to an address
// that is not public unless the operator named the host. Interrupted downloads go on where
// they stopped. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/hub/http_client.h"
#include "adapters/hub/remote_source.h"
#include "adapters/hub/retry_pause.h"

namespace lorica {

inline constexpr int kRedirectsMax = 5;
inline constexpr int kTokenBytesMax = 4096;
inline constexpr char kHubEndpoint[] = "https://huggingface.co";

struct HubOptions {
  std::string endpoint = kHubEndpoint;
  // "host" or "host:port": may be redirected to although their addresses are private.
  std::vector<std::string> redirect_hosts;
  std::string token_file;  // read for each session, so that a new token counts at once
  HttpClientOptions http;
  RetryPauses retry;
};

// InvalidArgument: the endpoint is none, or would get the token unencrypted over a network.
// FailedPrecondition: the token file.
absl::StatusOr<std::unique_ptr<RemoteSource>> MakeHubSource(HubOptions options);

// What the file holds, without blanks around it. FailedPrecondition: it cannot be read, is
// empty, or holds what no token does; the text never quotes it.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

// One or two parts of up to 96 letters, digits and "-_.".
bool IsRepoName(std::string_view name);

inline constexpr int kRepoFolderPartsMax = 8;

// Where an adapter is that does not lie at the top of its repository, as PEFT saves those that have
// a name of their own: "org/name/folder" is the folder of "org/name". Begin takes both.
struct RepoPlace {
  std::string repo;
  std::string folder;  // empty: the top
};
RepoPlace SplitRepoPlace(const std::string& place);
// With a folder, of up to kRepoFolderPartsMax parts as a repository's name has them.
bool IsRepoFolder(const std::string& place);

}  // namespace lorica
