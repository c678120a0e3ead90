// Runs a Model directly, without engine or scheduler: one sequence at a time, any
// chunking, logits of every row, on any device. For tests of the decoder pass.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "server/models/model.h"

namespace lorica {

class ModelRunner {
 public:
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Open(const std::string& path, int threads,
                                                           int64_t context_tokens,
                                                           const std::string& device = "cpu");

  // Logits [tokens, vocabulary] of a sequence that starts at position 0, computed in
  // chunks of the given sizes (the last size repeats). `terms`: the adapters of all rows.
  std::vector<float> Logits(absl::Span<const int32_t> tokens, absl::Span<const int> chunks,
                            absl::Span<const LoraTerm> terms = {});

  Backend& backend() { return *backend_; }
  Model& model() { return *model_; }
  const KvCache& cache() const { return cache_; }
  // Copies an adapter to blocks that no sequence uses.
  absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(const LoraImage& image);
  // Reads an adapter's folder `name` beneath `root` and mounts it.
  struct Adapter {
    std::shared_ptr<const LoraImage> image;
    std::unique_ptr<MountedAdapter> mounted;
  };
  absl::StatusOr<Adapter> Load(const std::string& root, const std::string& name);
  // The blocks of all mounted adapters may be taken again.
  void ForgetAdapters() { next_block_ = sequence_blocks_; }

 private:
  BlockId ReserveBlocks(int count);
  void RunChunk(absl::Span<const int32_t> tokens, int begin, int count,
                absl::Span<const LoraTerm> terms, std::vector<float>* logits);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Buffer> arena_;
  KvCache cache_;
  BlockId next_block_ = 0;
  int sequence_blocks_ = 0;
};

// The float32 values of a one- or two-dimensional .npy file.
std::vector<float> ReadNpy(const std::string& path);

}  // namespace lorica
