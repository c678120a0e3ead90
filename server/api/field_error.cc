#include "server/api/field_error.h"

#include <cstdint>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lorica {
namespace {

constexpr absl::string_view kFieldPayload = "lorica/field";
constexpr absl::string_view kRetryPayload = "lorica/retry-ms";
constexpr absl::Duration kRetryDelayDefault = absl::Seconds(1);

}  // namespace

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, " ", what));
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

std::optional<std::string> FieldOf(const absl::Status& status) {
  const absl::optional<absl::Cord> field = status.GetPayload(kFieldPayload);
  if (!field) return std::nullopt;
  return std::string(*field);
}

absl::Status TryLater(absl::string_view what, absl::Duration delay) {
  absl::Status status = absl::UnavailableError(what);
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(delay))));
  return status;
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryPayload);
  int64_t delay_ms = 0;
  if (payload && absl::SimpleAtoi(std::string(*payload), &delay_ms)) {
    return absl::Milliseconds(delay_ms);
  }
  if (absl::IsUnavailable(status)) return kRetryDelayDefault;
  return std::nullopt;
}

}  // namespace lorica
