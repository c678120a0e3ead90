#include "server/api/change_log.h"

#include "absl/strings/str_cat.h"
#include "server/api/refusal_log.h"
#include "spdlog/spdlog.h"

namespace lorica {
namespace {

constexpr size_t kShownDigits = 12;

std::string StateOf(const RegisteredName* now) {
  if (now == nullptr) return "gone";
  if (now->kind == NameKind::kHidden) return "hidden";
  if (now->kind == NameKind::kAlias) return absl::StrCat("alias_of=", QuotedForLog(now->target));
  const NamedGeneration& generation = now->now();
  return absl::StrCat("number=", generation.number,
                      " generation=", generation.digest.substr(0, kShownDigits),
                      " source=", QuotedForLog(generation.location),
                      generation.commit.empty() ? "" : " commit=", generation.commit);
}

// Of a copy that is no more.
constexpr char kRemedy[] =
    "made anew at its first call from where it came, if that has just the same still; else its "
    "names are DATA_LOSS until they are registered again";

std::string CopyOf(const std::string& digest, const std::string& location) {
  return absl::StrCat("generation=", digest.substr(0, kShownDigits),
                      " source=", QuotedForLog(location));
}

}  // namespace

void LogChange(const std::string& tenant, const std::string& name, const RegisteredName* now) {
  spdlog::info("changed tenant={} adapter={} {}", QuotedForLog(tenant), QuotedForLog(name),
               StateOf(now));
}

void LogDamage(const std::string& digest, const std::string& location) {
  spdlog::warn("dropped a damaged copy {}: {}", CopyOf(digest, location), kRemedy);
}

void LogLostCopies(const LostCopies& lost) {
  if (lost.count == 0) return;
  spdlog::warn(
      "{} copies of registered adapters are gone or have another size, the first one {}: {}",
      lost.count, CopyOf(lost.first.digest, lost.first.location), kRemedy);
}

}  // namespace lorica
