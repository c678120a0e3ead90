// Fills an image with the tensors of an adapter, one at a time.
//
// Tensors come in any order, each once, as the bytes of the file. Belongs to one
// thread; the backend is borrowed.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "adapters/peft_loader.h"
#include "kernels/backend.h"

namespace lorica {

class ImageBuilder {
 public:
  // `plan` and `backend` outlive the builder.
  static absl::StatusOr<ImageBuilder> Make(const AdapterPlan& plan, int64_t block_bytes,
                                           Backend* backend);
  // One that says the same of each tensor, and writes nothing; its Finish is null.
  static ImageBuilder MakeDry(const AdapterPlan& plan, Backend* backend);

  // `index` into plan.modules. DataLoss: NaN or infinity. FailedPrecondition: a value
  // is too large for the type that tiles are stored in.
  absl::Status AddA(int index, absl::Span<const std::byte> elements);          // [rank, in]
  absl::Status AddB(int index, absl::Span<const std::byte> elements);          // [out, rank]
  absl::Status AddMagnitude(int index, absl::Span<const std::byte> elements);  // [out]
  absl::Status AddBias(int index, absl::Span<const std::byte> elements);       // [out]

  // Computes the gains of DoRA modules. REQUIRES: everything was added.
  absl::StatusOr<std::shared_ptr<const LoraImage>> Finish();

 private:
  ImageBuilder(const AdapterPlan& plan, Backend* backend) : plan_(&plan), backend_(backend) {}
  std::byte* At(const BlockSlice& slice) const;
  std::vector<float> UnpackA(const ModuleTiles& tiles) const;
  std::vector<float> UnpackB(const ModuleTiles& tiles) const;
  absl::StatusOr<std::vector<float>> Gain(int index, const std::vector<float>& a,
                                          const std::vector<float>& b) const;
  absl::Status WriteGain(int index);
  absl::Status TryGain(int index);

  const AdapterPlan* plan_;
  Backend* backend_;
  std::shared_ptr<LoraImage> image_;  // null: dry
  struct Pair {
    std::vector<float> a;
    std::vector<float> b;
  };
  std::vector<Pair> pairs_;                     // by module; only when dry, until its gain is tried
  std::vector<std::vector<float>> magnitudes_;  // by module
};

}  // namespace lorica
