#include "server/http/adapter_source.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/quoted.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

constexpr char kBucket[] = "s3://";

absl::Status NotServed(const std::string& source, const std::string& ids) {
  if (source == "pbase") {
    return absl::FailedPreconditionError(absl::StrCat(
        "adapter ", ids,
        ": Predibase's own store (pbase) is not served; this server takes local, hub and s3"));
  }
  return absl::FailedPreconditionError(absl::StrCat("invalid source ", Quoted(source),
                                                    " when downloading adapter ", ids,
                                                    "; this server takes local, hub and s3"));
}

}  // namespace

absl::StatusOr<std::string> AdapterBeneath(const std::string& path,
                                           const std::string& adapters_dir) {
  if (!path.starts_with('/')) return path;
  std::error_code error;
  const std::filesystem::path resolved = std::filesystem::weakly_canonical(path, error);
  const std::string inside = resolved.lexically_relative(adapters_dir).string();
  if (error || adapters_dir.empty() || inside.empty() || inside == "." ||
      inside.starts_with("..")) {
    return FieldError("adapter_id", "is an absolute path that is not beneath --adapters-dir");
  }
  return inside;
}

absl::Status ReadAdapterSource(Fields& fields, const std::string& adapters_dir,
                               GenerateCall* call) {
  const std::string source = absl::AsciiStrToLower(fields.Text("adapter_source").value_or(""));
  if (!fields.status().ok()) return fields.status();
  std::vector<std::string*> ids;
  if (!call->adapter_id.empty()) ids.push_back(&call->adapter_id);
  for (AdapterChoice& one : call->adapters) ids.push_back(&one.adapter_id);
  if (ids.empty() || source.empty() || source == "hub") return absl::OkStatus();
  if (source == "local") {
    for (std::string* const id : ids) {
      auto beneath = AdapterBeneath(*id, adapters_dir);
      if (!beneath.ok()) return beneath.status();
      *id = *std::move(beneath);
    }
    return absl::OkStatus();
  }
  if (source == "s3" && call->adapters.empty()) {
    if (!absl::StartsWith(call->adapter_id, kBucket)) {
      call->adapter_id = absl::StrCat(kBucket, call->adapter_id);
    }
    call->adapter_by_location = true;
    return absl::OkStatus();
  }
  std::vector<std::string> names;
  for (const std::string* const id : ids) names.push_back(*id);
  const std::string named = QuotedList(names);
  if (source != "s3") return NotServed(source, named);
  return absl::FailedPreconditionError(absl::StrCat(
      "adapters ", named,
      ": what lies in a bucket is merged by name: register each, and name them with no source"));
}

}  // namespace lorica
