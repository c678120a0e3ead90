// Weights in device memory and their product.
//
// Weights are kept as elements (element.h), row-major [out_features, in_features]; stored quantised
// types are expanded once, at load. Up to kStreamRowsMax rows go through the kernel of
// linear.cu, more through cuBLASLt (library_products.h).
#pragma once

#include <cuda.h>

#include <map>
#include <memory>
#include <tuple>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/library_products.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

namespace lorica::cuda {

class CudaWeight : public Weight {
 public:
  // `packing_share`: see Backend::ReadRow.
  CudaWeight(std::unique_ptr<Buffer> data, int64_t out_features, int64_t in_features,
             float packing_share = PackingShare(kElementDType));
  int64_t out_features() const override { return out_features_; }
  int64_t in_features() const override { return in_features_; }
  int64_t resident_bytes() const override { return data_->size_bytes(); }
  const void* data() const { return data_->data(); }
  ProductWeight product() const { return {data_->data(), out_features_, in_features_}; }
  float packing_share() const { return packing_share_; }
  // Tiles of the matrix, as LaunchStreamLinear reads them. Wide ones: null unless StreamsWide.
  const WeightTiles& tiles() const { return tiles_; }
  const WeightTiles* wide_tiles() const {
    return StreamsWide(out_features_) ? &wide_tiles_ : nullptr;
  }

 private:
  std::unique_ptr<Buffer> data_;
  int64_t out_features_;
  int64_t in_features_;
  float packing_share_;
  WeightTiles tiles_, wide_tiles_;
};

// InvalidArgument where in_features is no multiple of 8.
absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix> parts);

// A row as Backend::ReadRow gives it. Waits for what `stream` has to do. Any thread.
absl::StatusOr<float> ReadRow(const CudaWeight& weight, int64_t row, absl::Span<float> out,
                              cudaStream_t stream);

// Products on one stream. One thread.
class LinearRunner {
 public:
  // `folder`: see LibraryProducts.
  static absl::StatusOr<std::unique_ptr<LinearRunner>> Make(const std::string& folder);
  LibraryProducts& library() { return *library_; }
  // The product may be left in parts, which last until the next one.
  Product Run(void* y, const void* x, int64_t rows, const CudaWeight& weight, cudaStream_t stream);
  // The same into fp32, and complete.
  void RunWide(void* y, const void* x, int64_t rows, const CudaWeight& weight, cudaStream_t stream);
  // Whether so many rows are multiplied by LaunchStreamLinear, not by the library.
  static bool Streams(int64_t rows, const CudaWeight& weight);
  // The product with lora.x, and its sums in the same launch. REQUIRES: Streams.
  Product RunWithLora(void* y, int64_t rows, const CudaWeight& weight, const LoraArgs& lora,
                      const StepTables& step, const LoraPlan& plan, cudaStream_t stream);

 private:
  LinearRunner() = default;
  const CUtensorMap& MapOf(const void* x, int64_t rows, int64_t columns);
  StreamLinearArgs ArgsFor(const void* x, int64_t rows, const CudaWeight& weight);
  Product Stream(StreamLinearArgs args, void* y, cudaStream_t stream);

  std::unique_ptr<LibraryProducts> library_;
  std::unique_ptr<Buffer> parts_;
  std::map<std::tuple<const void*, int64_t, int64_t>, CUtensorMap> maps_;  // x, rows, columns
};

}  // namespace lorica::cuda
