// gRPC errors as absl::Status, with the google.rpc details turned into words. Stateless.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace lorica {

// Same code; the message gains the fields and preconditions that the details name and
// the message does not. Each detail stays as a payload under its type URL.
absl::Status ToAbslStatus(const grpc::Status& status);

// The wait a RetryInfo payload asks for; nothing when there is none.
std::optional<absl::Duration> RetryInfoDelay(const absl::Status& status);

// The wait before attempt number `attempt` + 1 (attempts count from 1): doubles from
// `initial`, never above `backoff_max`, times 1 + jitter with jitter in [-0.2, 0.2].
absl::Duration BackoffDelay(int attempt, absl::Duration initial, absl::Duration backoff_max,
                            double jitter);

}  // namespace lorica
