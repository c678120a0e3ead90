#include "server/api/field_error.h"

#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

constexpr absl::string_view kFieldPayload = "lorica/field";
constexpr absl::string_view kElsewherePayload = "lorica/elsewhere";
constexpr double kWholeMax = 1e15;
constexpr absl::Duration kRetryDelayDefault = absl::Seconds(1);

}  // namespace

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, " ", what));
  SetField(&status, field);
  return status;
}

std::string OutOfRange(double value, double low, double high) {
  return absl::StrCat("must be from ", PlainNumber(low), " to ", PlainNumber(high), ", not ",
                      PlainNumber(value));
}

std::string PlainNumber(double number) {
  if (std::abs(number) < kWholeMax && number == std::trunc(number)) {
    return absl::StrCat(static_cast<int64_t>(number));
  }
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number);
  return std::string(digits.data(), end.ptr);
}

void SetField(absl::Status* status, absl::string_view field) {
  status->SetPayload(kFieldPayload, absl::Cord(field));
}

std::optional<std::string> FieldOf(const absl::Status& status) {
  const absl::optional<absl::Cord> field = status.GetPayload(kFieldPayload);
  if (!field) return std::nullopt;
  return std::string(*field);
}

absl::Status TryLater(absl::string_view what, absl::Duration delay) {
  return UnavailableFor(what, delay);
}

absl::Status TooMuch(absl::string_view what, absl::Duration delay) {
  absl::Status status = absl::ResourceExhaustedError(what);
  SetRetryDelay(&status, delay);
  return status;
}

absl::Status GoElsewhere(absl::string_view what) {
  absl::Status status = TryLater(what);
  status.SetPayload(kElsewherePayload, absl::Cord("1"));
  return status;
}

bool MeansElsewhere(const absl::Status& status) {
  return status.GetPayload(kElsewherePayload).has_value();
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  if (const auto delay = RetryDelayIn(status)) return delay;
  if (absl::IsUnavailable(status)) return kRetryDelayDefault;
  return std::nullopt;
}

}  // namespace lorica
