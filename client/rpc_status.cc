#include "client/rpc_status.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace lorica {
namespace {

constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

void AddNote(absl::string_view message, const std::string& subject, const std::string& description,
             std::vector<std::string>* notes) {
  if (description.empty() || absl::StrContains(message, description)) return;
  notes->push_back(subject.empty() ? description : absl::StrCat(subject, ": ", description));
}

std::vector<std::string> Notes(absl::string_view message, const google::rpc::Status& details) {
  std::vector<std::string> notes;
  for (const auto& any : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::PreconditionFailure precondition;
    if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        AddNote(message, violation.field(), violation.description(), &notes);
      }
    } else if (any.UnpackTo(&precondition)) {
      for (const auto& violation : precondition.violations()) {
        AddNote(message, violation.subject(), violation.description(), &notes);
      }
    }
  }
  return notes;
}

}  // namespace

absl::Status ToAbslStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  std::string message = status.error_message();
  const std::vector<std::string> notes = Notes(message, details);
  if (!notes.empty()) absl::StrAppend(&message, " (", absl::StrJoin(notes, "; "), ")");
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), message);
  for (const auto& any : details.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

std::optional<absl::Duration> RetryInfoDelay(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoUrl);
  google::rpc::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) return std::nullopt;
  return absl::Seconds(info.retry_delay().seconds()) +
         absl::Nanoseconds(info.retry_delay().nanos());
}

absl::Duration BackoffDelay(int attempt, absl::Duration initial, absl::Duration backoff_max,
                            double jitter) {
  const absl::Duration doubled = initial * std::exp2(std::min(attempt - 1, 30));
  return std::min(doubled, backoff_max) * (1.0 + jitter);
}

}  // namespace lorica
