// One download in as many attempts as it takes: each goes on where the one before broke off.
#pragma once

#include <atomic>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "adapters/hub/retry_pause.h"
#include "adapters/hub/verified_body.h"

namespace lorica {

// `part`: all of the file, or what is wanted of it. `once` makes one attempt at what is missing.
// Unavailable: the next may go better; Aborted: the file was changed meanwhile; DataLoss: the bytes
// are others, which is tried once more, from the beginning. Also the errors of RetryPause::Wait and
// of the sink.
absl::Status DownloadInAttempts(const RemoteFile& file, ByteRange part, DownloadSink& sink,
                                const RetryPauses& retry, const std::atomic<bool>* stopped,
                                absl::FunctionRef<absl::Status(VerifiedBody&)> once);

}  // namespace lorica
