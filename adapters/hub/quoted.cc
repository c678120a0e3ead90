#include "adapters/hub/quoted.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lorica {

std::string Quoted(std::string_view text) {
  std::string escaped = absl::CHexEscape(
      absl::string_view(text.data(), std::min<size_t>(text.size(), kQuotedBytesMax)));
  const bool cut = text.size() > kQuotedBytesMax || escaped.size() > kQuotedBytesMax;
  if (cut) escaped.resize(std::min<size_t>(escaped.size(), kQuotedBytesMax));
  return absl::StrCat("'", escaped, cut ? "...'" : "'");
}

std::string QuotedList(const std::vector<std::string>& texts) {
  std::string list;
  const int shown = std::min<int>(std::ssize(texts), kQuotedNamesMax);
  for (int i = 0; i < shown; ++i) absl::StrAppend(&list, i > 0 ? ", " : "", Quoted(texts[i]));
  const int64_t rest = std::ssize(texts) - shown;
  if (rest > 0) absl::StrAppend(&list, " and ", rest, " more");
  return list;
}

}  // namespace lorica
