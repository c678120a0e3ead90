// A file on disk as a SourceFile: opened beneath a root, read through one descriptor.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/hub/source.h"

namespace lorica {

// root/path; links may only lead to what lies beneath the root. Errors as OpenBeneath's;
// FailedPrecondition: not a regular file.
absl::StatusOr<std::unique_ptr<SourceFile>> OpenFileBeneath(int root, const std::string& path);

}  // namespace lorica
