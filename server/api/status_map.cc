#include "server/api/status_map.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include "absl/strings/string_view.h"
#include "adapters/hub/retry_delay.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

constexpr char kCut[] = "...";

bool Printable(char c) { return c >= 0x20 && c < 0x7f; }

bool EndsWord(char c) {
  return c == ' ' || c == '"' || c == '\'' || c == ',' || c == ';' || c == ')' || c == '\n';
}

// "/a/b" where a word starts is a file of this host.
size_t PathBytesAt(absl::string_view text, size_t begin) {
  if (text[begin] != '/') return 0;
  if (begin > 0 && !EndsWord(text[begin - 1]) && text[begin - 1] != '(') return 0;
  size_t end = begin + 1;
  while (end < text.size() && !EndsWord(text[end])) ++end;
  if (text[end - 1] == ':') --end;
  return text.substr(begin + 1, end - begin - 1).find('/') == absl::string_view::npos ? 0
                                                                                      : end - begin;
}

google::rpc::Status Details(const absl::Status& status, const std::string& text) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(text);
  if (const auto field = FieldOf(status)) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(CleanErrorText(*field));
    violation->set_description(text);
    details.add_details()->PackFrom(bad);
  }
  if (const auto delay = RetryDelayOf(status)) {
    google::rpc::RetryInfo retry;
    const int64_t delay_ms = absl::ToInt64Milliseconds(*delay);
    retry.mutable_retry_delay()->set_seconds(delay_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay_ms % 1000) * 1'000'000);
    details.add_details()->PackFrom(retry);
  }
  return details;
}

}  // namespace

std::string CleanErrorText(absl::string_view text) {
  std::string clean;
  for (size_t i = 0; i < text.size();) {
    if (const size_t path_bytes = PathBytesAt(text, i)) {
      clean += "<path>";
      i += path_bytes;
      continue;
    }
    clean += Printable(text[i]) ? text[i] : (text[i] == '\n' ? ' ' : '?');
    ++i;
  }
  if (clean.size() > kErrorTextBytesMax) {
    clean.resize(kErrorTextBytesMax - (sizeof kCut - 1));
    clean += kCut;
  }
  return clean;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string text = CleanErrorText(status.message());
  const google::rpc::Status details = Details(status, text);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), text,
                      details.details_size() > 0 ? details.SerializeAsString() : "");
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (result.ok() || !details.ParseFromString(status.error_details())) return result;
  for (const auto& detail : details.details()) {
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&bad) && !bad.field_violations().empty()) {
      SetField(&result, bad.field_violations(0).field());
    } else if (detail.UnpackTo(&retry)) {
      SetRetryDelay(&result, absl::Seconds(retry.retry_delay().seconds()) +
                                 absl::Nanoseconds(retry.retry_delay().nanos()));
    }
  }
  return result;
}

}  // namespace lorica
