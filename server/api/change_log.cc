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

}  // namespace

void LogChange(const std::string& tenant, const std::string& name, const RegisteredName* now) {
  spdlog::info("changed tenant={} adapter={} {}", QuotedForLog(tenant), QuotedForLog(name),
               StateOf(now));
}

}  // namespace lorica
