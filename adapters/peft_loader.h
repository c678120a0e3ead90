// PEFT folder -> generation (checked, nothing loaded) -> device-ready image.
//
// Plan reads adapter_config.json and the safetensors header, maps every tensor to a
// target of the base model, checks shapes, ranks and scales, and lays the tiles out;
// LoadImage then reads the tensors, verifies the content, converts and fills the
// image. What cannot be served is FailedPrecondition with a sentence that says what
// and why; content that changed or is not finite is DataLoss. Stateless apart from
// the shared base shape: thread-safe. Formats: PEFT's save format
// (https://github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md).
#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "adapters/adapter.h"
#include "adapters/image_loader.h"
#include "kernels/backend.h"

namespace lorica {

// A tensor of the weight file that becomes fp32 values beside the tiles.
struct PlannedVector {
  int64_t begin = -1;  // file offset; -1 = none
  DType dtype = DType::kF32;
};

// A tensor of the weight file that does not go to the device: a copy of the base's matrix,
// which is compared with the base, or training state, which is skipped (target null).
struct PlannedAside {
  const LoraTarget* target = nullptr;
  int64_t begin = 0;
  int64_t bytes = 0;
  DType dtype = DType::kF32;
};

// One LoRA pair, located in the weight file.
struct PlannedModule {
  const LoraTarget* target = nullptr;
  int rank = 0;
  double scale = 0.0;
  DType a_dtype = DType::kF32;  // in the file
  DType b_dtype = DType::kF32;
  DType file_dtype = DType::kF32;  // that holds both: F32 where they differ
  int64_t a_begin = 0;             // file offsets
  int64_t b_begin = 0;
  PlannedVector magnitude;  // DoRA
  PlannedVector bias;       // lora_bias
};

struct AdapterPlan {
  AdapterConfig config;
  std::vector<PlannedModule> modules;  // by (layer, module)
  std::vector<ModuleTiles> layout;     // same order, slices filled in
  std::vector<PlannedAside> asides;
  int64_t exact_tile_bytes = 0;
  int32_t block_count = 0;
  int64_t file_bytes = 0;
  int rank_max = 0;
  std::vector<std::string> warnings;
};

class PeftLoader : public ImageLoader {
 public:
  // `targets` and `backend` outlive the loader. block_bytes: of the arena. blocks_max: what one
  // adapter may take of it, so that one that can never be served is refused when it is looked at.
  PeftLoader(std::vector<LoraTarget> targets, Backend* backend, int64_t block_bytes,
             int32_t blocks_max = std::numeric_limits<int32_t>::max());
  PeftLoader(const PeftLoader&) = delete;
  PeftLoader& operator=(const PeftLoader&) = delete;

  // Everything that can be said without reading weights. NotFound: no such folder.
  absl::StatusOr<AdapterPlan> Plan(Source& source, const std::string& location) const;
  // Hashes both files: the digest parts of `location` as it is now.
  absl::StatusOr<GenerationPtr> Identify(std::shared_ptr<Source> source,
                                         const std::string& location) const;
  // Reads, converts, and verifies that this is the generation: by its files' stamps, and where
  // they differ by its digest. On a loader thread.
  // DataLoss: the content changed since Identify, or holds NaN or infinity.
  absl::StatusOr<std::shared_ptr<const LoraImage>> LoadImage(const Generation& generation) override;
  // Reads all of it as LoadImage does, and says the same, but makes no image: takes the memory of
  // one tensor, of a DoRA pair the fp32 values besides.
  absl::Status CheckWeights(const Generation& generation) const;

  int64_t block_bytes() const { return block_bytes_; }

 private:
  struct Opened;
  absl::StatusOr<AdapterPlan> PlanOpened(const Opened& opened) const;
  // The image, or null when `dry`.
  absl::StatusOr<std::shared_ptr<const LoraImage>> Read(const Generation& generation,
                                                        bool dry) const;

  const std::vector<LoraTarget> targets_;
  absl::flat_hash_map<std::string, const LoraTarget*> by_name_;
  Backend* const backend_;
  const int64_t block_bytes_;
  const int32_t blocks_max_;
};

}  // namespace lorica
