#include "adapters/adapter_merge.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "adapters/generation_reader.h"
#include "adapters/hub/quoted.h"
#include "kernels/check.h"

namespace lorica {
namespace {

using Json = nlohmann::ordered_json;
using Place = std::pair<int, LoraModule>;

absl::Status Refuse(absl::string_view what) { return absl::FailedPreconditionError(what); }

// Not by a name: whoever else asks for this merge may have others for its parts.
std::string PartName(int part) { return absl::StrCat("part ", part + 1, " of the merge"); }

bool IsFinite(absl::Span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float value) { return std::isfinite(value); });
}

double Largest(const std::vector<float>& values) {
  double largest = 0.0;
  for (const float value : values) largest = std::max(largest, std::abs(double{value}));
  return largest;
}

absl::Status TooLarge(int part, const LoraTarget& target, bool is_a) {
  return Refuse(
      absl::StrCat(PartName(part), ": ", target.name, is_a ? ".lora_A" : ".lora_B",
                   " times its weight is too large for a float: give it a smaller weight, "
                   "or leave it out"));
}

// One part's pair for a module.
struct Pair {
  int part = 0;
  int module = 0;  // in the part's plan
};

// A module of the merge, and where its tensors begin in the data of the file.
struct Merged {
  const LoraTarget* target = nullptr;
  std::vector<Pair> pairs;
  int rank = 0;
  int64_t a_begin = 0;
  int64_t b_begin = 0;

  int64_t a_count() const { return rank * target->in_features; }
  int64_t b_count() const { return rank * target->out_features; }
};

class Merger {
 public:
  Merger(const MergeRecipe& recipe, int64_t bytes_max) : recipe_(recipe), bytes_max_(bytes_max) {}

  absl::Status Open(const PeftLoader& loader);
  absl::StatusOr<MergedFiles> Build();

 private:
  const PlannedModule& Planned(const Pair& pair) const {
    return readers_[pair.part]->plan().modules[pair.module];
  }
  absl::Status ChooseRank(Merged& merged) const;
  std::string Config() const;
  std::string Header();
  absl::Status Fill(const Merged& merged, std::byte* data);
  absl::Status Concatenate(const Merged& merged, std::byte* data);
  absl::Status Combine(const Merged& merged, bool is_a, std::byte* data);
  absl::StatusOr<std::vector<float>> Read(const Pair& pair, bool is_a) {
    return is_a ? readers_[pair.part]->ReadA(pair.module) : readers_[pair.part]->ReadB(pair.module);
  }

  const MergeRecipe& recipe_;
  const int64_t bytes_max_;
  std::vector<std::unique_ptr<GenerationReader>> readers_;
  std::vector<Merged> modules_;
  int64_t data_bytes_ = 0;
};

absl::Status Merger::Open(const PeftLoader& loader) {
  absl::btree_map<Place, Merged> modules;
  for (const MergePart& part : recipe_.parts) {
    const std::string called = PartName(static_cast<int>(readers_.size()));
    auto reader = GenerationReader::Open(loader, *part.generation);
    if (!reader.ok()) {
      return absl::Status(reader.status().code(),
                          absl::StrCat(called, ": ", reader.status().message()));
    }
    const AdapterPlan& plan = (*reader)->plan();
    const char* unmerged = plan.config.use_dora    ? "DoRA, whose norms fit it alone"
                           : plan.config.lora_bias ? "biases of lora_B (lora_bias)"
                                                   : nullptr;
    if (unmerged != nullptr) {
      return Refuse(absl::StrCat(called, " has ", unmerged, ": it cannot be merged"));
    }
    for (const PlannedAside& aside : plan.asides) {
      if (aside.target == nullptr) continue;
      return Refuse(absl::StrCat(called, " holds a copy of ", aside.target->name,
                                 ": save it with save_embedding_layers=False to merge it"));
    }
    for (int i = 0; i < std::ssize(plan.modules); ++i) {
      const LoraTarget* target = plan.modules[i].target;
      Merged& merged = modules[{target->layer, target->module}];
      merged.target = target;
      merged.pairs.push_back({static_cast<int>(readers_.size()), i});
    }
    readers_.push_back(*std::move(reader));
  }
  for (auto& [place, merged] : modules) {
    if (absl::Status s = ChooseRank(merged); !s.ok()) return s;
    merged.a_begin = data_bytes_;
    merged.b_begin = merged.a_begin + merged.a_count() * 4;
    data_bytes_ = merged.b_begin + merged.b_count() * 4;
    modules_.push_back(std::move(merged));
  }
  if (data_bytes_ <= bytes_max_) return absl::OkStatus();
  return Refuse(absl::StrCat("the merge would have ", data_bytes_, " bytes, at most ", bytes_max_,
                             " are made"));
}

absl::Status Merger::ChooseRank(Merged& merged) const {
  const bool adds = recipe_.rule.method == MergeMethod::kCat;
  for (const Pair& pair : merged.pairs) {
    const int rank = Planned(pair).rank;
    if (!adds && merged.rank != 0 && rank != merged.rank) {
      return Refuse(absl::StrCat(merged.target->name, " has rank ", merged.rank, " in one adapter ",
                                 "and ", rank,
                                 " in another: ", std::string(MergeMethodName(recipe_.rule.method)),
                                 " needs equal ranks, cat does not"));
    }
    merged.rank = adds ? merged.rank + rank : rank;
  }
  if (merged.rank <= kLoraRankMax) return absl::OkStatus();
  return Refuse(absl::StrCat(merged.target->name, ": the ranks add up to ", merged.rank,
                             ", at most ", kLoraRankMax, " are served; send a weighted mix with ",
                             "the request instead"));
}

// Every scale is 1: A and B have it.
std::string Merger::Config() const {
  int rank = 0;
  for (const Merged& merged : modules_) rank = std::max(rank, merged.rank);
  Json patterns = Json::object();
  Json targets = Json::array();
  for (const Merged& merged : modules_) {
    targets.push_back(merged.target->name);
    if (merged.rank != rank) patterns[merged.target->name] = merged.rank;
  }
  const Json config = {
      {"peft_type", "LORA"},       {"task_type", "CAUSAL_LM"}, {"r", rank},
      {"lora_alpha", rank},        {"rank_pattern", patterns}, {"alpha_pattern", patterns},
      {"target_modules", targets}, {"inference_mode", true}};
  return config.dump() + "\n";
}

std::string Merger::Header() {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  for (const Merged& merged : modules_) {
    const LoraTarget& target = *merged.target;
    const bool embedding = target.module == LoraModule::kEmbedding;
    const std::string prefix =
        absl::StrCat("base_model.model.", target.name, embedding ? ".lora_embedding_" : ".lora_");
    const char* suffix = embedding ? "" : ".weight";
    header[absl::StrCat(prefix, "A", suffix)] = {
        {"dtype", "F32"},
        {"shape", {merged.rank, target.in_features}},
        {"data_offsets", {merged.a_begin, merged.b_begin}}};
    header[absl::StrCat(prefix, "B", suffix)] = {
        {"dtype", "F32"},
        {"shape", {target.out_features, merged.rank}},
        {"data_offsets", {merged.b_begin, merged.b_begin + merged.b_count() * 4}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto bytes = static_cast<uint64_t>(text.size());
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes)) + text;
}

// A times weight and scale above each other, B beside each other.
absl::Status Merger::Concatenate(const Merged& merged, std::byte* data) {
  auto* a_out = reinterpret_cast<float*>(data + merged.a_begin);
  auto* b_out = reinterpret_cast<float*>(data + merged.b_begin);
  int rank_begin = 0;
  for (const Pair& pair : merged.pairs) {
    const PlannedModule& planned = Planned(pair);
    const auto factor = static_cast<float>(recipe_.parts[pair.part].weight * planned.scale);
    absl::StatusOr<std::vector<float>> a = Read(pair, true);
    if (!a.ok()) return a.status();
    for (float& value : *a) value *= factor;
    if (!IsFinite(*a)) return TooLarge(pair.part, *merged.target, true);
    a_out = std::copy(a->begin(), a->end(), a_out);
    absl::StatusOr<std::vector<float>> b = Read(pair, false);
    if (!b.ok()) return b.status();
    for (int64_t o = 0; o < merged.target->out_features; ++o) {
      std::copy_n(b->data() + o * planned.rank, planned.rank, b_out + o * merged.rank + rank_begin);
    }
    rank_begin += planned.rank;
  }
  return absl::OkStatus();
}

// Weight and scale go to A and B by their root, their sign to A.
absl::Status Merger::Combine(const Merged& merged, bool is_a, std::byte* data) {
  std::vector<float> weights;
  std::vector<uint64_t> streams;
  std::vector<std::vector<float>> tensors;
  int largest_part = 0;
  double largest = 0.0;
  for (const Pair& pair : merged.pairs) {
    const double factor = recipe_.parts[pair.part].weight * Planned(pair).scale;
    const double root = std::sqrt(std::abs(factor));
    weights.push_back(static_cast<float>(is_a && factor < 0 ? -root : root));
    streams.push_back(
        MergeStream(recipe_.rule.seed, merged.target->name, is_a ? 'A' : 'B', pair.part));
    absl::StatusOr<std::vector<float>> tensor = Read(pair, is_a);
    if (!tensor.ok()) return tensor.status();
    tensors.push_back(*std::move(tensor));
    const double product = root * Largest(tensors.back());
    if (product >= largest) largest_part = pair.part;
    largest = std::max(largest, product);
  }
  MergeTensors(recipe_.rule, weights, streams, tensors);
  if (!IsFinite(tensors[0])) return TooLarge(largest_part, *merged.target, is_a);
  std::memcpy(data + (is_a ? merged.a_begin : merged.b_begin), tensors[0].data(),
              tensors[0].size() * sizeof(float));
  return absl::OkStatus();
}

absl::Status Merger::Fill(const Merged& merged, std::byte* data) {
  if (recipe_.rule.method == MergeMethod::kCat) return Concatenate(merged, data);
  absl::Status status = Combine(merged, true, data);
  if (status.ok()) status = Combine(merged, false, data);
  return status;
}

absl::StatusOr<MergedFiles> Merger::Build() {
  MergedFiles files{Config(), Header()};
  const size_t begin = files.weights.size();
  files.weights.resize(begin + data_bytes_);
  auto* data = reinterpret_cast<std::byte*>(files.weights.data()) + begin;
  for (const Merged& merged : modules_) {
    if (absl::Status s = Fill(merged, data); !s.ok()) return s;
  }
  for (const auto& reader : readers_) {
    if (absl::Status s = reader->CheckUnchanged(); !s.ok()) return s;
  }
  return files;
}

// A file of a merge, in memory as long as somebody has it open.
class MergedFile final : public SourceFile {
 public:
  MergedFile(std::shared_ptr<const MergedFiles> files, const std::string& text, uint64_t inode)
      : files_(std::move(files)), text_(text), inode_(inode) {}

  int64_t size_bytes() const override { return std::ssize(text_); }
  // Equal recipes make equal files.
  FileStamp stamp() const override { return {.inode = inode_, .size_bytes = std::ssize(text_)}; }
  absl::Status ReadAt(int64_t offset, absl::Span<std::byte> out) const override {
    LORICA_CHECK(offset >= 0 && offset + std::ssize(out) <= std::ssize(text_), offset, out.size());
    std::memcpy(out.data(), text_.data() + offset, out.size());
    return absl::OkStatus();
  }

 private:
  const std::shared_ptr<const MergedFiles> files_;
  const std::string& text_;  // one of them
  const uint64_t inode_;
};

class MergedSource final : public Source {
 public:
  MergedSource(const PeftLoader* loader, MergeRecipe recipe)
      : loader_(loader),
        recipe_(std::move(recipe)),
        inode_(MergeStream(0, MergeKey(recipe_), '-', 0)) {}

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string&,
                                                   const std::string& file) override {
    const bool config = file == "adapter_config.json";
    if (!config && file != "adapter_model.safetensors") {
      return absl::NotFoundError(absl::StrCat("a merge has no ", file));
    }
    absl::StatusOr<std::shared_ptr<const MergedFiles>> files = Files();
    if (!files.ok()) return files.status();
    const std::string& text = config ? (*files)->config : (*files)->weights;
    return std::make_unique<MergedFile>(*files, text, inode_);
  }
  absl::StatusOr<std::vector<std::string>> List(int) override { return std::vector<std::string>(); }

 private:
  // Whoever opens the second file gets what was made for the first.
  absl::StatusOr<std::shared_ptr<const MergedFiles>> Files() {
    absl::MutexLock lock(&mutex_);
    if (auto made = made_.lock()) return made;
    absl::StatusOr<MergedFiles> files = BuildMerge(*loader_, recipe_);
    if (!files.ok()) return files.status();
    auto made = std::make_shared<const MergedFiles>(*std::move(files));
    made_ = made;
    return made;
  }

  const PeftLoader* const loader_;
  const MergeRecipe recipe_;
  const uint64_t inode_;
  absl::Mutex mutex_;
  std::weak_ptr<const MergedFiles> made_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status CheckMergeRecipe(const MergeRecipe& recipe) {
  if (absl::Status s = CheckMergeRule(recipe.rule); !s.ok()) return s;
  if (recipe.parts.size() < 2 || recipe.parts.size() > kMergePartsMax) {
    return absl::InvalidArgumentError(absl::StrCat("a merge takes 2 to ", kMergePartsMax,
                                                   " adapters, not ", recipe.parts.size()));
  }
  for (const MergePart& part : recipe.parts) {
    if (std::isfinite(part.weight) && std::abs(part.weight) <= kMergeWeightMax) continue;
    return absl::InvalidArgumentError(absl::StrCat("the weights of a merge are finite and from ",
                                                   -kMergeWeightMax, " to ", kMergeWeightMax));
  }
  return absl::OkStatus();
}

std::string MergeKey(const MergeRecipe& recipe) {
  const MergeRule& rule = recipe.rule;
  std::string key(MergeMethodName(rule.method));
  if (UsesDensity(rule.method)) {
    absl::StrAppendFormat(&key, " density %a sign %d seed %u", rule.density,
                          static_cast<int>(rule.majority_sign), rule.seed);
  }
  for (const MergePart& part : recipe.parts) {
    absl::StrAppendFormat(&key, " %s*%a", part.generation->digest, part.weight);
  }
  return key;
}

absl::StatusOr<MergedFiles> BuildMerge(const PeftLoader& loader, const MergeRecipe& recipe,
                                       int64_t bytes_max) {
  if (absl::Status s = CheckMergeRecipe(recipe); !s.ok()) return s;
  Merger merger(recipe, bytes_max);
  if (absl::Status s = merger.Open(loader); !s.ok()) return s;
  return merger.Build();
}

std::shared_ptr<Source> MakeMergedSource(const PeftLoader* loader, MergeRecipe recipe) {
  return std::make_shared<MergedSource>(loader, std::move(recipe));
}

}  // namespace lorica
