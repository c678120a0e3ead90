#include "kernels/cuda/library_products.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr int kCandidatesMax = 12;
constexpr int kRepetitions = 3;
constexpr int64_t kChosenRowsMin = 256;
constexpr int64_t kChosenRowsMax = 8192;

// The choices that serve so many rows.
int64_t ChosenRows(int64_t rows) {
  return std::clamp(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))),
                    kChosenRowsMin, kChosenRowsMax);
}

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductChoices::Algorithm));

}  // namespace

struct LibraryProducts::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  // Column-major views of row-major memory: y^T [out, rows] = W [out, in] x^T [in, rows].
  Plan(const Shape& shape, cudaDataType y_type) {
    const auto [rows, out, in] = shape;
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                   sizeof(transposed));
    cublasLtMatrixLayoutCreate(&weight, kLibraryElement, in, out, in);
    cublasLtMatrixLayoutCreate(&x, kLibraryElement, in, rows, in);
    cublasLtMatrixLayoutCreate(&y, y_type, out, rows, out);
  }
  ~Plan() {
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatmulDescDestroy(operation);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  std::vector<cublasLtMatmulAlgo_t> Candidates(cublasLtHandle_t handle, int count) const {
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    const size_t workspace_bytes = kWorkspaceBytes;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace_bytes, sizeof(workspace_bytes));
    std::vector<cublasLtMatmulHeuristicResult_t> found(count);
    int found_count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, operation, weight, x, y, y, preference, count, found.data(), &found_count);
    cublasLtMatmulPreferenceDestroy(preference);
    LORICA_CHECK(status == CUBLAS_STATUS_SUCCESS && found_count > 0, static_cast<int>(status));
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < found_count; ++i) algorithms.push_back(found[i].algo);
    return algorithms;
  }

  // Whether the library takes the algorithm for this shape and this workspace.
  bool Takes(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& candidate) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle, operation, weight, x, y, y, &candidate, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
  }
};

absl::StatusOr<std::unique_ptr<LibraryProducts>> LibraryProducts::Make(const std::string& folder) {
  std::unique_ptr<LibraryProducts> products(new LibraryProducts);
  if (cublasLtCreate(&products->handle_) != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError("cannot start cuBLASLt");
  }
  auto workspace = AllocateDevice(kWorkspaceBytes);
  if (!workspace.ok()) return workspace.status();
  products->workspace_ = *std::move(workspace);
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return ToStatus(error, "cannot ask the CUDA device");
  products->choices_ = std::make_unique<ProductChoices>(
      folder.empty() ? "" : absl::StrCat(folder, "/cuda-products-", kElementName, ".txt"),
      absl::StrCat(properties.name, ", cuBLASLt ", cublasLtGetVersion()));
  return products;
}

LibraryProducts::~LibraryProducts() {
  plans_.clear();
  if (handle_) cublasLtDestroy(handle_);
}

LibraryProducts::Plan& LibraryProducts::PlanFor(const Shape& shape, cudaDataType y_type) {
  auto& plan = plans_[{shape, y_type}];
  if (plan) return *plan;
  plan = std::make_unique<Plan>(shape, y_type);
  const auto [rows, out, in] = shape;
  if (const auto* chosen = choices_->Find({ChosenRows(rows), out, in})) {
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(*chosen);
    if (plan->Takes(handle_, algorithm)) {
      plan->algorithm = algorithm;
      return *plan;
    }
  }
  plan->algorithm = plan->Candidates(handle_, 1)[0];
  return *plan;
}

cublasStatus_t LibraryProducts::Multiply(Plan& plan, const cublasLtMatmulAlgo_t& algorithm, void* y,
                                         const void* x, const void* weight, cudaStream_t stream) {
  const float one = 1.0f, zero = 0.0f;
  return cublasLtMatmul(handle_, plan.operation, &one, weight, plan.weight, x, plan.x, &zero, y,
                        plan.y, y, plan.y, &algorithm, workspace_->data(), kWorkspaceBytes, stream);
}

void LibraryProducts::Run(void* y, cudaDataType y_type, const void* x, int64_t rows,
                          const ProductWeight& weight, cudaStream_t stream) {
  Plan& plan = PlanFor({rows, weight.out_features, weight.in_features}, y_type);
  const cublasStatus_t status = Multiply(plan, plan.algorithm, y, x, weight.data, stream);
  // On a device that is lost nothing can be launched; whoever waits for the step hears of it.
  LORICA_CHECK(status == CUBLAS_STATUS_SUCCESS || IsLost(stream), static_cast<int>(status), rows);
}

float LibraryProducts::Time(Plan& plan, const cublasLtMatmulAlgo_t& algorithm,
                            const ProductWeight& weight, void* y, const void* x,
                            cudaStream_t stream) {
  constexpr float kNever = std::numeric_limits<float>::infinity();
  if (Multiply(plan, algorithm, y, x, weight.data, stream) != CUBLAS_STATUS_SUCCESS) return kNever;
  float best = kNever;
  for (int i = 0; i < kRepetitions; ++i) {
    TimedEvent begin, end;
    begin.Record(stream);
    Multiply(plan, algorithm, y, x, weight.data, stream);
    end.Record(stream);
    best = std::min(best, end.MillisecondsSince(begin));
  }
  return best;
}

void LibraryProducts::Measure(const Shape& shape, const ProductWeight& weight, void* y,
                              const void* x, cudaStream_t stream) {
  Plan plan(shape, kLibraryElement);
  float best = std::numeric_limits<float>::infinity();
  for (const cublasLtMatmulAlgo_t& candidate : plan.Candidates(handle_, kCandidatesMax)) {
    const float time = Time(plan, candidate, weight, y, x, stream);
    if (time >= best) continue;
    best = time;
    choices_->Set(shape, std::bit_cast<ProductChoices::Algorithm>(candidate));
  }
}

absl::StatusOr<int> LibraryProducts::Choose(absl::Span<const ProductWeight> weights,
                                            int64_t rows_max, cudaStream_t stream) {
  int64_t in_max = 0, out_max = 0;
  std::vector<std::pair<Shape, ProductWeight>> unknown;
  for (int64_t rows = kChosenRowsMin; rows <= ChosenRows(rows_max); rows *= 2) {
    for (const ProductWeight& weight : weights) {
      const Shape shape = {rows, weight.out_features, weight.in_features};
      if (choices_->Find(shape)) continue;
      unknown.emplace_back(shape, weight);
      in_max = std::max(in_max, weight.in_features);
      out_max = std::max(out_max, weight.out_features);
    }
  }
  if (unknown.empty()) return 0;
  const int64_t rows = ChosenRows(rows_max);
  // Not from the stream's pool, which would keep it.
  auto x = AllocateDevice(rows * in_max * 2);
  if (!x.ok()) return x.status();
  auto y = AllocateDevice(rows * out_max * 2);
  if (!y.ok()) return y.status();
  LaunchNoise((*x)->data(), rows * in_max, 1, 1.0f, stream);
  for (const auto& [shape, weight] : unknown) {
    if (!choices_->Find(shape)) Measure(shape, weight, (*y)->data(), (*x)->data(), stream);
  }
  plans_.clear();
  const absl::Status failed = ToStatus(cudaStreamSynchronize(stream), "cannot try products");
  if (!failed.ok()) return failed;
  // That it cannot be kept costs the next start a second.
  choices_->Save().IgnoreError();
  return static_cast<int>(unknown.size());
}

}  // namespace lorica::cuda
