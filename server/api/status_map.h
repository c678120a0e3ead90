// absl::Status to what a gRPC client sees: code, safe text, google.rpc details.
//
// Codes are the same numbers. Texts are cut to kErrorTextBytesMax, printable ASCII
// only, absolute file paths replaced, so that nothing of the host or of a hostile
// request travels. Details: BadRequest for a refused field, RetryInfo where trying
// again helps. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace lorica {

inline constexpr size_t kErrorTextBytesMax = 1024;

grpc::Status ToGrpcStatus(const absl::Status& status);
// Back again: code, text and field.
absl::Status FromGrpcStatus(const grpc::Status& status);

// The text rules alone.
std::string CleanErrorText(absl::string_view text);

}  // namespace lorica
