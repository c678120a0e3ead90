#include "adapters/hub/allow_pattern.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

absl::Status Refuse(const std::string& pattern, absl::string_view how) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(pattern), " would allow nothing: write ", how));
}

absl::Status CheckRepository(const std::string& pattern, absl::string_view begin, bool open) {
  const bool has_owner = absl::StrContains(begin, '/');
  const bool possible =
      open ? IsRepoName(absl::StrCat(begin, has_owner || begin.empty() ? "x" : "x/x"))
           : has_owner && IsRepoName(pattern);
  if (possible) return absl::OkStatus();
  return Refuse(pattern, "org/name, org/* for all of an owner, or * for the whole hub");
}

absl::Status CheckLocation(AllowKind kind, const std::string& pattern, absl::string_view begin,
                           bool open) {
  const bool s3 = kind == AllowKind::kBucket;
  const bool right_kind = absl::StartsWith(begin, "s3://") == s3;
  if (right_kind && IsObjectLocation(absl::StrCat(begin, open ? "x" : ""))) {
    return absl::OkStatus();
  }
  return Refuse(pattern, s3 ? "s3://BUCKET/path/* with the bucket's whole name"
                            : "https://HOST/path/* or https://HOST:PORT/path/* with the whole "
                              "host in lower case (http:// on this machine alone)");
}

}  // namespace

absl::Status CheckAllowPattern(AllowKind kind, const std::string& pattern) {
  absl::string_view begin = pattern;
  const bool open = absl::ConsumeSuffix(&begin, "*");
  return kind == AllowKind::kRepository ? CheckRepository(pattern, begin, open)
                                        : CheckLocation(kind, pattern, begin, open);
}

bool IsAllowed(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](absl::string_view pattern) {
    if (absl::ConsumeSuffix(&pattern, "*")) return absl::StartsWith(name, pattern);
    return name == pattern;
  });
}

}  // namespace lorica
