// What an adapter's two files are, whatever stands in them: tells damage from content that another
// base or another version would serve. Free functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/hub/source.h"

namespace lorica {

// The digest (adapter.h) of the files as they are now. Reads all of both.
absl::StatusOr<std::string> ContentDigest(const SourceFile& config, const SourceFile& weights);
absl::StatusOr<std::string> ContentDigest(Source& source, const std::string& location);

// DataLoss, and what to do: somebody wrote into the files while they were read.
absl::Status ContentChanged(const std::string& location);

}  // namespace lorica
