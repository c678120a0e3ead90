// The beginning of a remote adapter, in memory: enough to plan it, without its weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/hub/remote_source.h"

namespace lorica {

// Reads the configuration and the header of the weight file; REQUIRES that their sizes were found
// to be servable. Asks for no more of the weight file than its first part, and where the header is
// longer for the rest of that. What it returns has a source that PeftLoader::Plan can read, no
// digest, and nothing to load. Writes no file. Errors as RemoteSession::Download, and
// ParseAdapterConfig.
absl::StatusOr<GenerationPtr> FetchAdapterHead(RemoteSession& session, const RemoteFile& config,
                                               const RemoteFile& weights,
                                               const std::string& location);

}  // namespace lorica
