#include "server/http/metrics_json.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/http/json.h"

namespace lorica {
namespace {

// The series and what stands behind it. Labels may hold blanks and braces; numbers do not.
std::pair<absl::string_view, absl::string_view> CutSample(absl::string_view line) {
  const size_t brace = line.rfind('}');
  const size_t end = brace == line.npos ? line.find(' ') : brace + 1;
  const absl::string_view value = line.substr(std::min(line.size(), end));
  return {line.substr(0, end), absl::StripLeadingAsciiWhitespace(value)};
}

std::string KeyOf(absl::string_view series, absl::string_view family) {
  if (absl::EndsWith(series, "}")) return std::string(series);
  for (const absl::string_view part : {"sum", "count"}) {
    if (series == absl::StrCat(family, "_", part)) return std::string(part);
  }
  return "";
}

OrderedJson ValueOf(absl::string_view text) {
  double value = 0.0;
  const bool read = absl::SimpleAtod(text.substr(0, text.find(' ')), &value);
  return read && std::isfinite(value) ? OrderedJson(value) : OrderedJson();
}

}  // namespace

std::string MetricsJson(std::string_view exposition) {
  OrderedJson families = OrderedJson::object();
  std::string family;
  const absl::string_view text(exposition.data(), exposition.size());
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      family = words[0];
      families[family]["type"] = words.back();
      families[family]["data"] = OrderedJson::array();
    } else if (!absl::StartsWith(line, "#") && !family.empty()) {
      const auto [series, value] = CutSample(line);
      OrderedJson sample;
      sample["key"] = KeyOf(series, family);
      sample["value"] = ValueOf(value);
      families[family]["data"].push_back(std::move(sample));
    }
  }
  return Dump(families);
}

}  // namespace lorica
