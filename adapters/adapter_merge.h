// A merge of adapters: the recipe, and the PEFT folder that it makes.
//
// The folder is what its parts and the recipe say, to the last byte, so nothing of it has
// to be kept: a merged generation has a Source that makes the files when they are opened
// and forgets them when they are closed. Its digest is that of its files, like any other.
// Where a part cannot be read any more, or has changed, opening fails with that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/merge_formulas.h"
#include "adapters/peft_loader.h"

namespace lorica {

inline constexpr int kMergePartsMax = 8;
inline constexpr int64_t kMergedBytesMax = int64_t{1} << 30;  // of a merged weight file
inline constexpr double kMergeWeightMax = 100.0;              // either sign

struct MergePart {
  GenerationPtr generation;
  double weight = 1.0;
};

struct MergeRecipe {
  MergeRule rule;
  std::vector<MergePart> parts;  // in order: random choices depend on it
};

// InvalidArgument: the rule, the number of parts (2 to kMergePartsMax) or a weight.
absl::Status CheckMergeRecipe(const MergeRecipe& recipe);
// The recipe as text: equal texts mean equal files.
std::string MergeKey(const MergeRecipe& recipe);

struct MergedFiles {
  std::string config;   // adapter_config.json
  std::string weights;  // adapter_model.safetensors, F32
};

// Reads the parts and merges them. FailedPrecondition: DoRA, biases or a copy of the base in a
// part, ranks that
// differ where the method needs equal ones, a sum of ranks above kLoraRankMax, a result
// above bytes_max. DataLoss: a part has changed.
absl::StatusOr<MergedFiles> BuildMerge(const PeftLoader& loader, const MergeRecipe& recipe,
                                       int64_t bytes_max = kMergedBytesMax);

// Opens both files of the merge, whatever the location is called. `loader` outlives it.
std::shared_ptr<Source> MakeMergedSource(const PeftLoader* loader, MergeRecipe recipe);

}  // namespace lorica
