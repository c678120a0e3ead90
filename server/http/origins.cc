#include "server/http/origins.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lorica {
namespace {

bool IsOrigin(std::string_view text) {
  const size_t scheme = text.starts_with("https://")  ? 8
                        : text.starts_with("http://") ? 7
                                                      : std::string_view::npos;
  if (scheme == std::string_view::npos || scheme == text.size()) return false;
  const auto is_part = [](char c) { return absl::ascii_isgraph(c) && c != '/' && c != '*'; };
  return std::all_of(text.begin() + scheme, text.end(), is_part);
}

}  // namespace

absl::StatusOr<AllowedOrigins> AllowedOrigins::Parse(std::string_view list) {
  AllowedOrigins allowed;
  const absl::string_view text(list.data(), list.size());
  for (const absl::string_view entry : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::string origin = absl::AsciiStrToLower(absl::StripAsciiWhitespace(entry));
    if (origin == "*") {
      allowed.any_ = true;
    } else if (IsOrigin(origin)) {
      allowed.origins_.push_back(origin);
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", origin, "' is no origin: give scheme and host, e.g. https://app.example, or *"));
    }
  }
  return allowed;
}

bool AllowedOrigins::Allows(std::string_view origin) const {
  if (any_) return true;
  const std::string lower = absl::AsciiStrToLower(absl::string_view(origin.data(), origin.size()));
  return std::find(origins_.begin(), origins_.end(), lower) != origins_.end();
}

}  // namespace lorica
