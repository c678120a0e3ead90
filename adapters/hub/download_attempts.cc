#include "adapters/hub/download_attempts.h"

#include <cstdint>
#include <utility>

namespace lorica {
namespace {

// A piece at least this long is progress: a hub that cuts off every few bytes is not.
constexpr int64_t kProgressBytes = 1 << 20;

}  // namespace

absl::Status DownloadInAttempts(const RemoteFile& file, ByteRange part, DownloadSink& sink,
                                const RetryPauses& retry, const std::atomic<bool>* stopped,
                                absl::FunctionRef<absl::Status(VerifiedBody&)> once) {
  VerifiedBody body(file, part, sink);
  if (absl::Status s = body.Resume(); !s.ok()) return s;
  RetryPause pause(retry, stopped);
  bool was_wrong = false;
  while (true) {
    const int64_t had_bytes = body.size_bytes();
    absl::Status status = once(body);
    if (status.ok()) return status;
    if (absl::IsDataLoss(status) && std::exchange(was_wrong, true)) return status;
    const bool starts_over = absl::IsDataLoss(status) || absl::IsAborted(status);
    if (!starts_over && !absl::IsUnavailable(status)) return status;
    if (body.size_bytes() - had_bytes >= kProgressBytes) pause.Progress();
    if (starts_over) {
      if (absl::Status s = body.Restart(); !s.ok()) return s;
      if (absl::IsAborted(status)) status = absl::UnavailableError(status.message());
    }
    if (absl::Status s = pause.Wait(status); !s.ok()) return s;
  }
}

}  // namespace lorica
