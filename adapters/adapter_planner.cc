#include "adapters/adapter_planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/hub/quoted.h"
#include "adapters/module_pattern.h"
#include "adapters/tensor_name.h"
#include "adapters/tile_layout.h"

namespace lorica {
namespace {

absl::Status Refuse(absl::string_view what) { return absl::FailedPreconditionError(what); }

// The tensors of one module as the file has them.
struct FoundModule {
  const LoraTarget* target = nullptr;
  const SafetensorsEntry* a = nullptr;
  const SafetensorsEntry* b = nullptr;
  const SafetensorsEntry* magnitude = nullptr;
};

using FoundModules = absl::btree_map<std::pair<int, LoraModule>, FoundModule>;

const SafetensorsEntry*& Slot(FoundModule& found, TensorRole role) {
  if (role == TensorRole::kA) return found.a;
  return role == TensorRole::kB ? found.b : found.magnitude;
}

// Sorts tensors into modules; what has no place is collected by its reason.
class Finder {
 public:
  explicit Finder(const PlanTargets& targets) : targets_(targets) {}

  void Add(const SafetensorsEntry& entry) {
    const TensorName name = ParseTensorName(entry.name);
    if (name.role == TensorRole::kRefused) {
      refused_[name.refusal].push_back(entry.name);
      return;
    }
    const auto target = targets_.by_name.find(name.module);
    if (target == targets_.by_name.end()) {
      if (unknown_.empty() || unknown_.back() != name.module) unknown_.push_back(name.module);
      return;
    }
    FoundModule& found = found_[{target->second->layer, target->second->module}];
    found.target = target->second;
    const SafetensorsEntry*& slot = Slot(found, name.role);
    if (slot != nullptr) duplicates_.push_back(entry.name);
    slot = &entry;
  }

  absl::StatusOr<FoundModules> Finish(bool use_dora) {
    if (!refused_.empty()) {
      const auto& [reason, names] = *refused_.begin();
      return Refuse(absl::StrCat(reason, ": ", QuotedList(names)));
    }
    if (!unknown_.empty()) {
      return Refuse(absl::StrCat("the base model has no such linears, the adapter was made for ",
                                 "another model: ", QuotedList(unknown_)));
    }
    if (!duplicates_.empty()) {
      return Refuse(
          absl::StrCat("tensors that name the same weights twice: ", QuotedList(duplicates_)));
    }
    if (found_.empty()) return Refuse("the weight file holds no LoRA tensors");
    if (absl::Status s = CheckComplete(use_dora); !s.ok()) return s;
    return std::move(found_);
  }

 private:
  absl::Status CheckComplete(bool use_dora) const {
    std::vector<std::string> no_a, no_b, no_magnitude, magnitude;
    for (const auto& [place, found] : found_) {
      if (found.a == nullptr) no_a.push_back(found.target->name);
      if (found.b == nullptr) no_b.push_back(found.target->name);
      (found.magnitude == nullptr ? no_magnitude : magnitude).push_back(found.target->name);
    }
    if (!no_a.empty()) return Refuse(absl::StrCat("lora_A is missing for ", QuotedList(no_a)));
    if (!no_b.empty()) return Refuse(absl::StrCat("lora_B is missing for ", QuotedList(no_b)));
    if (use_dora && !no_magnitude.empty()) {
      return Refuse(absl::StrCat("use_dora is true, but lora_magnitude_vector is missing for ",
                                 QuotedList(no_magnitude)));
    }
    if (!use_dora && !magnitude.empty()) {
      return Refuse(absl::StrCat("use_dora is not true, but there is a lora_magnitude_vector for ",
                                 QuotedList(magnitude)));
    }
    return absl::OkStatus();
  }

  const PlanTargets& targets_;
  FoundModules found_;
  std::map<std::string, std::vector<std::string>> refused_;
  std::vector<std::string> unknown_;
  std::vector<std::string> duplicates_;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<DType> DTypeOf(const SafetensorsEntry& entry) {
  if (entry.dtype == "F32") return DType::kF32;
  if (entry.dtype == "F16") return DType::kF16;
  if (entry.dtype == "BF16") return DType::kBF16;
  return Refuse(absl::StrCat("tensor ", Quoted(entry.name), " has dtype ", entry.dtype,
                             ": F32, F16 and BF16 are served"));
}

absl::Status CheckShapes(const FoundModule& found) {
  const LoraTarget& target = *found.target;
  const std::vector<int64_t>& a = found.a->shape;
  const std::vector<int64_t>& b = found.b->shape;
  const bool two = a.size() == 2 && b.size() == 2;
  if (!two || a[1] != target.in_features || b[0] != target.out_features) {
    return Refuse(absl::StrCat(target.name, ": lora_A is ", ShapeText(a), " and lora_B ",
                               ShapeText(b), ", this base model needs [rank, ", target.in_features,
                               "] and [", target.out_features, ", rank]"));
  }
  if (a[0] != b[1]) {
    return Refuse(
        absl::StrCat(target.name, ": lora_A has rank ", a[0], ", lora_B has rank ", b[1]));
  }
  if (a[0] < 1 || a[0] > kLoraRankMax) {
    return Refuse(absl::StrCat(target.name, ": rank ", a[0], " is not from 1 to ", kLoraRankMax));
  }
  if (found.magnitude == nullptr) return absl::OkStatus();
  const std::vector<int64_t>& magnitude = found.magnitude->shape;
  if (magnitude.size() == 1 && magnitude[0] == target.out_features) return absl::OkStatus();
  return Refuse(absl::StrCat(target.name, ": lora_magnitude_vector is ", ShapeText(magnitude),
                             ", this base model needs [", target.out_features, "]"));
}

absl::StatusOr<PlannedModule> Locate(const FoundModule& found) {
  PlannedModule module;
  module.target = found.target;
  module.rank = static_cast<int>(found.a->shape[0]);
  absl::StatusOr<DType> a_dtype = DTypeOf(*found.a);
  if (!a_dtype.ok()) return a_dtype.status();
  absl::StatusOr<DType> b_dtype = DTypeOf(*found.b);
  if (!b_dtype.ok()) return b_dtype.status();
  module.a_dtype = *a_dtype;
  module.b_dtype = *b_dtype;
  module.file_dtype = *a_dtype == *b_dtype ? *a_dtype : DType::kF32;
  module.a_begin = found.a->begin;
  module.b_begin = found.b->begin;
  if (found.magnitude == nullptr) return module;
  absl::StatusOr<DType> magnitude_dtype = DTypeOf(*found.magnitude);
  if (!magnitude_dtype.ok()) return magnitude_dtype.status();
  module.magnitude_dtype = *magnitude_dtype;
  module.magnitude_begin = found.magnitude->begin;
  return module;
}

// Rank and scale of a module as the configuration says.
class Scales {
 public:
  static absl::StatusOr<Scales> Make(const AdapterConfig& config) {
    Scales scales(config);
    auto ranks = PatternTable<int>::Compile("rank_pattern", config.rank_pattern);
    if (!ranks.ok()) return ranks.status();
    auto alphas = PatternTable<double>::Compile("alpha_pattern", config.alpha_pattern);
    if (!alphas.ok()) return alphas.status();
    scales.ranks_ = *std::move(ranks);
    scales.alphas_ = *std::move(alphas);
    return scales;
  }

  absl::StatusOr<double> ScaleOf(const PlannedModule& module) const {
    const std::string& name = module.target->name;
    const int* rank = ranks_.Find(name);
    const int wanted = rank == nullptr ? config_->rank : *rank;
    if (module.rank != wanted) {
      return Refuse(absl::StrCat(name, ": the file has rank ", module.rank,
                                 ", adapter_config.json says ", wanted,
                                 rank == nullptr ? " (r)" : " (rank_pattern)"));
    }
    const double* alpha = alphas_.Find(name);
    const double numerator = alpha == nullptr ? config_->alpha : *alpha;
    const double scale =
        config_->use_rslora ? numerator / std::sqrt(module.rank) : numerator / module.rank;
    if (!std::isfinite(static_cast<float>(scale))) {
      return Refuse(absl::StrCat(name, ": the scale ", scale, " is too large, see lora_alpha"));
    }
    return scale;
  }

 private:
  explicit Scales(const AdapterConfig& config) : config_(&config) {}

  const AdapterConfig* config_;
  PatternTable<int> ranks_;
  PatternTable<double> alphas_;
};

ModuleTiles TilesOf(const PlannedModule& module, const Backend& backend) {
  ModuleTiles tiles;
  tiles.layer = module.target->layer;
  tiles.module = module.target->module;
  tiles.rank = module.rank;
  tiles.scale = static_cast<float>(module.scale);
  tiles.dtype = backend.TileDType(module.file_dtype);
  tiles.in_features = static_cast<int32_t>(module.target->in_features);
  tiles.out_features = static_cast<int32_t>(module.target->out_features);
  tiles.has_gain = module.magnitude_begin >= 0;
  return tiles;
}

bool Names(const std::string& entry, const std::string& module) {
  return module == entry || absl::EndsWith(module, absl::StrCat(".", entry));
}

// The tensors decide what is served; the list is only compared with them.
void WarnAboutTargets(AdapterPlan& plan) {
  const std::vector<std::string>& entries = plan.config.target_modules;
  if (entries.empty()) return;
  std::vector<std::string> surplus;
  std::vector<std::string> unused;
  for (const PlannedModule& module : plan.modules) {
    const std::string& name = module.target->name;
    if (std::none_of(entries.begin(), entries.end(),
                     [&](const std::string& entry) { return Names(entry, name); })) {
      surplus.push_back(name);
    }
  }
  for (const std::string& entry : entries) {
    if (std::none_of(plan.modules.begin(), plan.modules.end(), [&](const PlannedModule& module) {
          return Names(entry, module.target->name);
        })) {
      unused.push_back(entry);
    }
  }
  if (!surplus.empty()) {
    plan.warnings.push_back(
        absl::StrCat("served although target_modules does not name it: ", QuotedList(surplus)));
  }
  if (!unused.empty()) {
    plan.warnings.push_back(absl::StrCat("target_modules names what the file has no weights for: ",
                                         QuotedList(unused)));
  }
}

void WarnAboutLayers(AdapterPlan& plan) {
  const std::vector<int>& layers = plan.config.layers_to_transform;
  if (layers.empty()) return;
  std::vector<std::string> surplus;
  for (const PlannedModule& module : plan.modules) {
    const bool named =
        std::find(layers.begin(), layers.end(), module.target->layer) != layers.end();
    if (!named) surplus.push_back(module.target->name);
  }
  if (surplus.empty()) return;
  plan.warnings.push_back(absl::StrCat(
      "served although layers_to_transform does not name its layer: ", QuotedList(surplus)));
}

}  // namespace

absl::StatusOr<AdapterPlan> PlanAdapter(const PlanTargets& targets, AdapterConfig config,
                                        const SafetensorsHeader& header, int64_t file_bytes) {
  Finder finder(targets);
  for (const SafetensorsEntry& entry : header.entries) finder.Add(entry);
  absl::StatusOr<FoundModules> found_modules = finder.Finish(config.use_dora);
  if (!found_modules.ok()) return found_modules.status();

  AdapterPlan plan;
  plan.config = std::move(config);
  plan.warnings = plan.config.warnings;
  plan.file_bytes = file_bytes;
  absl::StatusOr<Scales> scales = Scales::Make(plan.config);
  if (!scales.ok()) return scales.status();
  for (const auto& [place, found] : *found_modules) {
    if (absl::Status s = CheckShapes(found); !s.ok()) return s;
    absl::StatusOr<PlannedModule> module = Locate(found);
    if (!module.ok()) return module.status();
    absl::StatusOr<double> scale = scales->ScaleOf(*module);
    if (!scale.ok()) return scale.status();
    module->scale = *scale;
    plan.rank_max = std::max(plan.rank_max, module->rank);
    plan.layout.push_back(TilesOf(*module, targets.backend));
    plan.modules.push_back(*module);
  }
  absl::StatusOr<TileLayout> layout = LayOutTiles(targets.block_bytes, plan.layout);
  if (!layout.ok()) return layout.status();
  plan.exact_tile_bytes = layout->exact_bytes;
  plan.block_count = layout->block_count;
  WarnAboutTargets(plan);
  WarnAboutLayers(plan);
  return plan;
}

}  // namespace lorica
