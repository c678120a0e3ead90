#include "adapters/adapter.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/hub/quoted.h"

namespace lorica {
namespace {

constexpr char kAllowed[] = "letters, digits, '.', '_' and '-'";

bool IsPartCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
}

// What is wrong with one part; empty = nothing. A revision may begin with any character.
std::string PartProblem(absl::string_view part, bool is_revision) {
  const char* kind = is_revision ? "its revision" : "a part of it";
  if (part.empty()) return absl::StrCat(kind, " is empty");
  for (char c : part) {
    if (!IsPartCharacter(c)) return absl::StrCat("only ", kAllowed, " are allowed in a part");
  }
  if (!is_revision && !absl::ascii_isalnum(static_cast<unsigned char>(part[0]))) {
    return "a part must begin with a letter or digit";
  }
  if (absl::EndsWithIgnoreCase(part, ".git")) return "no part may end in '.git'";
  return "";
}

std::string IdProblem(absl::string_view id) {
  if (id.empty()) return "it is empty";
  if (id.size() > kAdapterIdBytesMax) {
    return absl::StrCat("it has ", id.size(), " bytes, at most ", kAdapterIdBytesMax,
                        " are allowed");
  }
  if (absl::StrContains(id, "--")) return "'--' is not allowed";
  if (absl::StrContains(id, "..")) return "'..' is not allowed";
  const std::vector<absl::string_view> halves = absl::StrSplit(id, absl::MaxSplits('@', 1));
  if (halves.size() == 2) {
    const std::string problem = PartProblem(halves[1], true);
    if (!problem.empty()) return problem;
  }
  const std::vector<absl::string_view> parts = absl::StrSplit(halves[0], '/');
  if (parts.size() > 2) return "at most one '/' is allowed";
  for (absl::string_view part : parts) {
    const std::string problem = PartProblem(part, false);
    if (!problem.empty()) return problem;
  }
  return "";
}

}  // namespace

absl::Status CheckAdapterId(std::string_view id) {
  const std::string problem = IdProblem(absl::string_view(id.data(), id.size()));
  if (problem.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("adapter id ", Quoted(id), ": ", problem));
}

}  // namespace lorica
