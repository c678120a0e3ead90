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
  const SafetensorsEntry* bias = nullptr;
  const SafetensorsEntry* base_copy = nullptr;
};

using FoundModules = absl::btree_map<std::pair<int, LoraModule>, FoundModule>;

// Everything the weight file holds that has a place.
struct Found {
  FoundModules modules;
  std::vector<const SafetensorsEntry*> training_state;
};

const SafetensorsEntry*& Slot(FoundModule& found, TensorRole role) {
  switch (role) {
    case TensorRole::kA:
      return found.a;
    case TensorRole::kB:
      return found.b;
    case TensorRole::kBias:
      return found.bias;
    case TensorRole::kBaseCopy:
      return found.base_copy;
    default:
      return found.magnitude;
  }
}

// Whether a tensor of this name may belong to the module: embeddings have names of their own,
// and the base is only saved beside what stands outside the layers.
bool Suits(const TensorName& name, const LoraTarget& target) {
  const bool pair = name.role == TensorRole::kA || name.role == TensorRole::kB;
  const bool embedding = target.module == LoraModule::kEmbedding;
  if (name.role == TensorRole::kBaseCopy) return target.layer == kOutsideLayers;
  return !pair || name.embedding == embedding;
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
    if (name.role == TensorRole::kTrainingState) {
      found_.training_state.push_back(&entry);
      return;
    }
    const auto target = targets_.by_name.find(name.module);
    if (target == targets_.by_name.end()) {
      if (unknown_.empty() || unknown_.back() != name.module) unknown_.push_back(name.module);
      return;
    }
    if (!Suits(name, *target->second)) {
      refused_["these are not LoRA tensors that PEFT writes"].push_back(entry.name);
      return;
    }
    FoundModule& found = found_.modules[{target->second->layer, target->second->module}];
    found.target = target->second;
    const SafetensorsEntry*& slot = Slot(found, name.role);
    if (slot != nullptr) duplicates_.push_back(entry.name);
    slot = &entry;
  }

  absl::StatusOr<Found> Finish(const AdapterConfig& config) {
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
    if (found_.modules.empty()) return Refuse("the weight file holds no LoRA tensors");
    if (absl::Status s = CheckComplete(config); !s.ok()) return s;
    return std::move(found_);
  }

 private:
  using Names = std::vector<std::string>;

  absl::Status CheckComplete(const AdapterConfig& config) const {
    Names no_a, no_b, no_magnitude, magnitude, no_bias, bias;
    for (const auto& [place, found] : found_.modules) {
      if (found.a == nullptr) no_a.push_back(found.target->name);
      if (found.b == nullptr) no_b.push_back(found.target->name);
      (found.magnitude == nullptr ? no_magnitude : magnitude).push_back(found.target->name);
      (found.bias == nullptr ? no_bias : bias).push_back(found.target->name);
    }
    if (!no_a.empty()) return Refuse(absl::StrCat("lora_A is missing for ", QuotedList(no_a)));
    if (!no_b.empty()) return Refuse(absl::StrCat("lora_B is missing for ", QuotedList(no_b)));
    absl::Status s =
        CheckField("use_dora", "lora_magnitude_vector", config.use_dora, magnitude, no_magnitude);
    s.Update(CheckField("lora_bias", "lora_B.bias", config.lora_bias, bias, no_bias));
    return s;
  }

  // What a field promises is there for all modules, or for none.
  static absl::Status CheckField(const char* field, const char* tensor, bool on, const Names& with,
                                 const Names& without) {
    if (on && !without.empty()) {
      return Refuse(
          absl::StrCat(field, " is true, but ", tensor, " is missing for ", QuotedList(without)));
    }
    if (!on && !with.empty()) {
      return Refuse(
          absl::StrCat(field, " is not true, but there is a ", tensor, " for ", QuotedList(with)));
    }
    return absl::OkStatus();
  }

  const PlanTargets& targets_;
  Found found_;
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

absl::Status CheckShape(const LoraTarget& target, const char* what, const SafetensorsEntry* entry,
                        const std::vector<int64_t>& wanted) {
  if (entry == nullptr || entry->shape == wanted) return absl::OkStatus();
  return Refuse(absl::StrCat(target.name, ": ", what, " is ", ShapeText(entry->shape),
                             ", this base model needs ", ShapeText(wanted)));
}

absl::Status CheckShapes(const FoundModule& found) {
  const LoraTarget& target = *found.target;
  const std::vector<int64_t>& a = found.a->shape;
  const std::vector<int64_t>& b = found.b->shape;
  const bool two = a.size() == 2 && b.size() == 2;
  if (!two || a[1] != target.in_features || b[0] != target.out_features) {
    return Refuse(absl::StrCat(target.name, ": lora_A is ", ShapeText(a), " and lora_B ",
                               ShapeText(b), ", this base model needs [rank, ", target.in_features,
                               "] and [", target.out_features, ", rank]",
                               target.layer == kOutsideLayers
                                   ? ": an adapter for a changed vocabulary is not served"
                                   : ""));
  }
  if (a[0] != b[1]) {
    return Refuse(
        absl::StrCat(target.name, ": lora_A has rank ", a[0], ", lora_B has rank ", b[1]));
  }
  if (a[0] < 1 || a[0] > kLoraRankMax) {
    return Refuse(absl::StrCat(target.name, ": rank ", a[0], " is not from 1 to ", kLoraRankMax));
  }
  absl::Status s =
      CheckShape(target, "lora_magnitude_vector", found.magnitude, {target.out_features});
  s.Update(CheckShape(target, "lora_B.bias", found.bias, {target.out_features}));
  if (found.base_copy != nullptr) {
    s.Update(CheckShape(target, "the saved base_layer", found.base_copy,
                        {target.weight->out_features(), target.weight->in_features()}));
  }
  return s;
}

absl::Status LocateVector(const SafetensorsEntry* entry, PlannedVector& vector) {
  if (entry == nullptr) return absl::OkStatus();
  absl::StatusOr<DType> dtype = DTypeOf(*entry);
  if (!dtype.ok()) return dtype.status();
  vector = {entry->begin, *dtype};
  return absl::OkStatus();
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
  absl::Status s = LocateVector(found.magnitude, module.magnitude);
  s.Update(LocateVector(found.bias, module.bias));
  if (!s.ok()) return s;
  return module;
}

absl::Status AddAsides(const Found& found, AdapterPlan& plan) {
  for (const auto& [place, module] : found.modules) {
    if (module.base_copy == nullptr) continue;
    absl::StatusOr<DType> dtype = DTypeOf(*module.base_copy);
    if (!dtype.ok()) return dtype.status();
    plan.asides.push_back({module.target, module.base_copy->begin,
                           module.base_copy->end - module.base_copy->begin, *dtype});
  }
  for (const SafetensorsEntry* entry : found.training_state) {
    plan.asides.push_back({nullptr, entry->begin, entry->end - entry->begin, DType::kF32});
  }
  return absl::OkStatus();
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
  tiles.has_gain = module.magnitude.begin >= 0;
  tiles.has_bias = module.bias.begin >= 0;
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
        module.target->layer == kOutsideLayers ||
        std::find(layers.begin(), layers.end(), module.target->layer) != layers.end();
    if (!named) surplus.push_back(module.target->name);
  }
  if (surplus.empty()) return;
  plan.warnings.push_back(absl::StrCat(
      "served although layers_to_transform does not name its layer: ", QuotedList(surplus)));
}

// A trainer's typing error, mostly: such an adapter drowns what the base says.
void WarnAboutScales(AdapterPlan& plan) {
  const auto largest = std::max_element(plan.modules.begin(), plan.modules.end(),
                                        [](const PlannedModule& a, const PlannedModule& b) {
                                          return std::abs(a.scale) < std::abs(b.scale);
                                        });
  if (largest == plan.modules.end() || std::abs(largest->scale) <= kLoraScaleUsual) return;
  plan.warnings.push_back(absl::StrCat("the scale of ", largest->target->name, " is ",
                                       largest->scale, ": look at lora_alpha and r"));
}

}  // namespace

absl::StatusOr<AdapterPlan> PlanAdapter(const PlanTargets& targets, AdapterConfig config,
                                        const SafetensorsHeader& header, int64_t file_bytes) {
  Finder finder(targets);
  for (const SafetensorsEntry& entry : header.entries) finder.Add(entry);
  absl::StatusOr<Found> all = finder.Finish(config);
  if (!all.ok()) return all.status();

  AdapterPlan plan;
  plan.config = std::move(config);
  plan.warnings = plan.config.warnings;
  plan.file_bytes = file_bytes;
  absl::StatusOr<Scales> scales = Scales::Make(plan.config);
  if (!scales.ok()) return scales.status();
  for (const auto& [place, found] : all->modules) {
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
  if (absl::Status s = AddAsides(*all, plan); !s.ok()) return s;
  absl::StatusOr<TileLayout> layout = LayOutTiles(targets.block_bytes, plan.layout);
  if (!layout.ok()) return layout.status();
  plan.exact_tile_bytes = layout->exact_bytes;
  plan.block_count = layout->block_count;
  WarnAboutTargets(plan);
  WarnAboutLayers(plan);
  WarnAboutScales(plan);
  return plan;
}

}  // namespace lorica
