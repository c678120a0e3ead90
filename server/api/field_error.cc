#include "server/api/field_error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr absl::string_view kFieldPayload = "lorica/field";
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
  return UnavailableFor(what, delay);
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  if (const auto delay = RetryDelayIn(status)) return delay;
  if (absl::IsUnavailable(status)) return kRetryDelayDefault;
  return std::nullopt;
}

}  // namespace lorica
