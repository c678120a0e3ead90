// Products of many rows, by cuBLASLt.
//
// The library offers several algorithms for a shape, and its first is not always its fastest.
// Choose tries them once, for rows in steps of a factor of two, and keeps the fastest
// (product_choices.h); a product takes the choice of the next larger number of rows, or the
// library's first where none was made. One thread.
#pragma once

#include <cublasLt.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/product_choices.h"
#include "kernels/cuda/stream.h"

namespace lorica::cuda {

// A matrix of elements [out_features, in_features] in device memory.
struct ProductWeight {
  const void* data = nullptr;
  int64_t out_features = 0;
  int64_t in_features = 0;
};

class LibraryProducts {
 public:
  // Choices are kept in `folder`; empty: nowhere.
  static absl::StatusOr<std::unique_ptr<LibraryProducts>> Make(const std::string& folder);
  ~LibraryProducts();

  // y [rows, out_features] = W x, in elements or fp32.
  void Run(void* y, cudaDataType y_type, const void* x, int64_t rows, const ProductWeight& weight,
           cudaStream_t stream);
  // Measures what is not known yet of these shapes for up to rows_max rows, some 10 ms each, and
  // waits for it. Returns how many were measured. ResourceExhausted: no memory to try it in.
  absl::StatusOr<int> Choose(absl::Span<const ProductWeight> weights, int64_t rows_max,
                             cudaStream_t stream);

 private:
  struct Plan;
  using Shape = ProductChoices::Shape;

  LibraryProducts() = default;
  Plan& PlanFor(const Shape& shape, cudaDataType y_type);
  void Measure(const Shape& shape, const ProductWeight& weight, void* y, const void* x,
               cudaStream_t stream);
  // Milliseconds; infinite where the library fails.
  float Time(Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const ProductWeight& weight,
             void* y, const void* x, cudaStream_t stream);
  cublasStatus_t Multiply(Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y, const void* x,
                          const void* weight, cudaStream_t stream);

  cublasLtHandle_t handle_ = nullptr;
  std::unique_ptr<Buffer> workspace_;
  std::unique_ptr<ProductChoices> choices_;
  std::map<std::pair<Shape, cudaDataType>, std::unique_ptr<Plan>> plans_;
};

}  // namespace lorica::cuda
