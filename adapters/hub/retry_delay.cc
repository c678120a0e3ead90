#include "adapters/hub/retry_delay.h"

#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

constexpr absl::string_view kRetryPayload = "lorica/retry-ms";

}  // namespace

absl::Status UnavailableFor(absl::string_view what, absl::Duration delay) {
  absl::Status status = absl::UnavailableError(what);
  SetRetryDelay(&status, delay);
  return status;
}

void SetRetryDelay(absl::Status* status, absl::Duration delay) {
  status->SetPayload(kRetryPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
}

std::optional<absl::Duration> RetryDelayIn(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryPayload);
  int64_t delay_ms = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &delay_ms)) return std::nullopt;
  return absl::Milliseconds(delay_ms);
}

absl::Status WithText(const absl::Status& status, absl::string_view text) {
  absl::Status copy(status.code(), text);
  status.ForEachPayload([&copy](absl::string_view type, const absl::Cord& payload) {
    copy.SetPayload(type, payload);
  });
  return copy;
}

}  // namespace lorica
