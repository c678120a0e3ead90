// The part of AdapterCatalog that makes one adapter of several.
#include <array>
#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter_catalog.h"
#include "adapters/catalog_text.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"
#include "adapters/merged_adapters.h"

namespace lorica {
namespace {

constexpr absl::Duration kMergingDelay = absl::Seconds(1);

// No id and no folder has a colon.
constexpr char kMergeMark[] = "merge:";

bool UsesSigns(MergeMethod method) {
  return method == MergeMethod::kTies || method == MergeMethod::kDareTies;
}

bool UsesSeed(MergeMethod method) {
  return method == MergeMethod::kDareLinear || method == MergeMethod::kDareTies;
}

// As ParseMajoritySign reads it.
const char* SignName(MajoritySign sign) {
  return sign == MajoritySign::kTotal ? "total" : "frequency";
}

// The fewest digits that no other number has.
std::string Shortest(double value) {
  std::array<char, 32> text{};
  return {text.data(), std::to_chars(text.begin(), text.end(), value).ptr};
}

}  // namespace

bool AdapterCatalog::IsMerge(const std::string& location) {
  return location.starts_with(kMergeMark);
}

std::string MergeText(const MergeChoice& choice) {
  const MergeRule& rule = choice.rule;
  std::string text = absl::StrCat(kMergeMark, std::string(MergeMethodName(rule.method)));
  if (UsesDensity(rule.method)) absl::StrAppend(&text, " ", Shortest(rule.density));
  if (UsesSigns(rule.method)) absl::StrAppend(&text, " ", SignName(rule.majority_sign));
  if (UsesSeed(rule.method)) absl::StrAppend(&text, " seed ", rule.seed);
  for (const auto& [id, weight] : choice.parts) {
    absl::StrAppend(&text, " ", id, "=", Shortest(weight));
  }
  return text;
}

absl::StatusOr<FoundAdapter> AdapterCatalog::FindMerge(const std::string& tenant,
                                                       const MergeChoice& choice,
                                                       const std::string& token) {
  if (merged_ == nullptr) return absl::FailedPreconditionError("this server merges no adapters");
  if (std::ssize(choice.parts) > kMergePartsMax) {
    return absl::InvalidArgumentError(absl::StrCat("a merge takes 2 to ", kMergePartsMax,
                                                   " adapters, not ", choice.parts.size()));
  }
  std::vector<MergedAdapters::Part> parts;
  for (const auto& [id, weight] : choice.parts) {
    absl::StatusOr<FoundAdapter> found = Find(tenant, id, token);
    if (!found.ok()) return found.status();
    parts.push_back({*std::move(found), weight});
  }
  return merged_->Find(choice.rule, parts);
}

absl::StatusOr<AdapterCatalog::Registered> AdapterCatalog::RegisterMerge(
    const std::string& tenant, const std::string& adapter_id, const MergeChoice& choice,
    const RegisterOptions& options) {
  if (absl::Status s = CheckNewName(adapter_id); !s.ok()) return s;
  const absl::StatusOr<FoundAdapter> found = FindMerge(tenant, choice, options.token);
  if (!found.ok()) return found.status();
  if (found->ticket != nullptr) {
    return UnavailableFor(absl::StrCat("the merge for ", Quoted(adapter_id), " is being made"),
                          kMergingDelay);
  }
  const GenerationPtr merged = found->generation;
  return RegisterAs(
      tenant, adapter_id, MergeText(choice),
      [&]() -> absl::StatusOr<GenerationPtr> { return merged; }, options);
}

void AdapterCatalog::HoldMerge(const std::string& location, const GenerationPtr& generation) {
  if (content_ != nullptr || !IsMerge(location)) return;
  absl::MutexLock lock(&mutex_);
  merges_[generation->digest] = generation;
}

absl::StatusOr<GenerationPtr> AdapterCatalog::HeldMerge(const std::string& digest) const {
  absl::MutexLock lock(&mutex_);
  const auto held = merges_.find(digest);
  if (held != merges_.end()) return held->second;
  return absl::FailedPreconditionError(
      "the server has no copy of this merge any more: merge its parts again");
}

}  // namespace lorica
