#include "server/http/field_lines.h"

#include "absl/strings/ascii.h"

namespace lorica {

bool IsOfFieldName(char byte) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return absl::ascii_isalnum(byte) || kMarks.find(byte) != std::string_view::npos;
}

bool SaysWhatComes(std::string_view name) {
  return name == "content-length" || name == "transfer-encoding" || name == "host";
}

}  // namespace lorica
