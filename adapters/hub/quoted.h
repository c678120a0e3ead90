// Foreign text made fit for an error message.
//
// Names out of files and requests may hold control characters or be very long; an
// error message is one short line of ASCII. Stateless.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lorica {

inline constexpr size_t kQuotedBytesMax = 120;

// 'text' in quotes, escaped, cut after kQuotedBytesMax bytes of the original.
inline std::string Quoted(std::string_view text) {
  const bool cut = text.size() > kQuotedBytesMax;
  const absl::string_view kept(text.data(), cut ? kQuotedBytesMax : text.size());
  return absl::StrCat("'", absl::CHexEscape(kept), cut ? "...'" : "'");
}

}  // namespace lorica
