// Why a row that was sampled got no token: the device's memory, the request's own bans, or numbers
// that are not finite. Pure functions.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "server/engine/request_state.h"

namespace lorica {

// The row's result was not finite. The request's mask is still the one that the row had.
//   ResourceExhausted: there was no memory for what the request asks of its tokens.
//   InvalidArgument: what it bans and what its form allows leave no token. The text begins with
//   the field that is to blame.
//   DataLoss, as an adapter's fault: the numbers of a request with adapters are not finite.
//   Internal: those of the base model alone are not.
// REQUIRES: vocabulary tokens have a bit in the mask, where there is one.
absl::Status NoToken(const RequestState& request, const SampleResult& result, int32_t vocabulary);
// The same of a row that scores a prompt, which nothing is banned from.
absl::Status NoScore(const RequestState& request, const SampleResult& result);

}  // namespace lorica
