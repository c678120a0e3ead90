// Reads the pairs of a generation as fp32, for whoever computes with them on the host.
//
// What it gives is the generation: by its files' stamps, or, where they differ from those
// that were hashed, by hashing the files again. Belongs to one thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/adapter.h"
#include "adapters/peft_loader.h"

namespace lorica {

class GenerationReader {
 public:
  // DataLoss: the content is another one now. Also the errors of PeftLoader::Plan.
  static absl::StatusOr<std::unique_ptr<GenerationReader>> Open(const PeftLoader& loader,
                                                                const Generation& generation);

  const AdapterPlan& plan() const { return plan_; }
  // `index` into plan().modules. DataLoss: NaN, infinity, or a file that was cut.
  absl::StatusOr<std::vector<float>> ReadA(int index) const;  // [rank, in]
  absl::StatusOr<std::vector<float>> ReadB(int index) const;  // [out, rank]
  // DataLoss: a file has changed since Open.
  absl::Status CheckUnchanged() const;

 private:
  GenerationReader() = default;
  absl::StatusOr<std::vector<float>> Read(int64_t begin, int64_t count, DType dtype) const;

  std::string location_;
  std::unique_ptr<SourceFile> config_;
  std::unique_ptr<SourceFile> weights_;
  FileStamp config_stamp_;
  FileStamp weights_stamp_;
  AdapterPlan plan_;
};

}  // namespace lorica
