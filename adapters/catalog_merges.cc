// The part of AdapterCatalog that makes one adapter of several.
#include <algorithm>
#include <array>
#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
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
// No part is called that: each has its weight behind it.
constexpr char kOriginsMark[] = "of";

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

// What the merge registered at `location` was made of: what stands behind the mark, without one the
// parts themselves.
std::vector<std::string> OriginsIn(const std::string& location) {
  const std::vector<std::string> words = absl::StrSplit(location, ' ');
  const auto mark = std::find(words.begin(), words.end(), kOriginsMark);
  if (mark != words.end()) return {mark + 1, words.end()};
  std::vector<std::string> parts;
  for (const std::string& word : words) {
    const size_t weight = word.rfind('=');
    if (weight != word.npos) parts.push_back(word.substr(0, weight));
  }
  return parts;
}

}  // namespace

bool AdapterCatalog::IsMerge(const std::string& location) {
  return location.starts_with(kMergeMark);
}

bool AdapterCatalog::MayUse(const std::string& tenant, const std::string& location) const {
  if (scope_ == nullptr) return true;
  if (!IsMerge(location)) return scope_(tenant, ScopeOf(location));
  const std::vector<std::string> origins = OriginsIn(location);
  return std::all_of(origins.begin(), origins.end(), [&](const std::string& origin) {
    return scope_(tenant, ScopeOf(origin));
  });
}

// The merge as it is written down: names move, so it says what its parts are where they are called
// otherwise.
absl::StatusOr<std::string> AdapterCatalog::MergeLocation(const std::string& tenant,
                                                          const MergeChoice& choice) const {
  bool called_so = true;
  std::vector<std::string> origins;
  for (const auto& [id, weight] : choice.parts) {
    const absl::StatusOr<Place> place = PlaceOf(tenant, id);
    if (!place.ok()) return place.status();
    if (IsMerge(place->location)) {
      const std::vector<std::string> inside = OriginsIn(place->location);
      origins.insert(origins.end(), inside.begin(), inside.end());
      called_so = false;
    } else {
      origins.push_back(ScopeOf(place->location));
      called_so = called_so && origins.back() == ScopeOf(id);
    }
  }
  std::string text = MergeText(choice);
  if (called_so) return text;
  std::sort(origins.begin(), origins.end());
  origins.erase(std::unique(origins.begin(), origins.end()), origins.end());
  return absl::StrCat(text, " ", kOriginsMark, " ", absl::StrJoin(origins, " "));
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
  const absl::StatusOr<std::string> location = MergeLocation(tenant, choice);
  if (!location.ok()) return location.status();
  const GenerationPtr merged = found->generation;
  return RegisterAs(
      tenant, adapter_id, *location,
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
