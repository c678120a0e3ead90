// A local folder that may be swapped as a whole: adapters are often put in place so.
//
// Beside source.h, whose MakeLocalSource keeps the folder that it was given, wherever that goes.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/hub/source.h"

namespace lorica {

// As MakeLocalSource; but whatever folder takes the place of `root` is used from then on, and the
// last one as long as there is none.
absl::StatusOr<std::unique_ptr<Source>> MakeFollowedSource(const std::string& root);

}  // namespace lorica
