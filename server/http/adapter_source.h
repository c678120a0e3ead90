// LoRAX's adapter_source: where the adapters that a call names are looked for.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/api/gateway.h"
#include "server/http/fields.h"

namespace lorica {

// "/srv/group/name" is "group/name" beneath "/srv"; other text stays. InvalidArgument: an
// absolute path that leads elsewhere.
absl::StatusOr<std::string> AdapterBeneath(const std::string& path,
                                           const std::string& adapters_dir);

// Reads `adapter_source` and makes of the ids in `call`, as they were sent, what the gateway takes.
// Left out, or "hub": names, which a folder may have as well. `adapters_dir` as above, resolved;
// may be empty. InvalidArgument: a path, or no text. FailedPrecondition: a source that is not
// served, for adapters that are named.
absl::Status ReadAdapterSource(Fields& fields, const std::string& adapters_dir, GenerateCall* call);

}  // namespace lorica
