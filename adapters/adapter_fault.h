// Whose fault an error is: an adapter's that could not be brought or loaded, or the server's.
//
// The code alone does not tell: Unavailable is also what a server says that has too much to
// do, and clients react otherwise. The mark rides on the status as a payload. Pure functions.
#pragma once

#include "absl/status/status.h"

namespace lorica {

// The same error, as one of an adapter. OK stays OK.
absl::Status AdapterFault(absl::Status status);
bool IsAdapterFault(const absl::Status& status);

}  // namespace lorica
