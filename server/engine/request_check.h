// What Submit refuses before the queue: requests that no step could serve.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/engine/request_state.h"

namespace lorica {

// The request's state, or InvalidArgument / DeadlineExceeded with a sentence.
absl::StatusOr<std::unique_ptr<RequestState>> CheckRequest(EngineRequest request,
                                                           const EngineOptions& options,
                                                           int32_t arena_blocks, absl::Time now);

}  // namespace lorica
