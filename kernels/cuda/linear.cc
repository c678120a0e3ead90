#include "kernels/cuda/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/element.h"
#include "kernels/cuda/launch.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{16} << 20;

// InvalidArgument: a number is too large for an element, or was none.
absl::Status RowsToElements(const HostMatrix& matrix, int64_t begin, int64_t end, uint16_t* out) {
  const int64_t row_bytes = RowBytes(matrix.dtype, matrix.columns);
  const std::byte* from = matrix.data + begin * row_bytes;
  if (matrix.dtype == kElementDType) {
    std::memcpy(out, from, (end - begin) * row_bytes);
    return absl::OkStatus();
  }
  constexpr uint16_t kMagnitude = 0x7fff;
  uint16_t largest = 0;
  std::vector<float> row(matrix.columns);
  for (int64_t r = 0; r < end - begin; ++r) {
    Dequantize(matrix.dtype, from + r * row_bytes, matrix.columns, row.data());
    for (int64_t c = 0; c < matrix.columns; ++c) {
      const uint16_t bits = BitsOf(row[c]);
      largest = std::max<uint16_t>(largest, bits & kMagnitude);
      out[r * matrix.columns + c] = bits;
    }
  }
  if (std::isfinite(ValueOf(largest))) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a weight of the base model is not finite as ", kElementName,
      kElementDType == DType::kF16 ? ": use --dtype bfloat16" : ": the file is damaged"));
}

absl::Status UploadRows(const HostMatrix& matrix, uint16_t* target, uint16_t* staging) {
  const int64_t rows_at_once = std::max<int64_t>(1, kStagingBytes / (matrix.columns * 2));
  for (int64_t begin = 0; begin < matrix.rows; begin += rows_at_once) {
    const int64_t end = std::min(matrix.rows, begin + rows_at_once);
    const absl::Status converted = RowsToElements(matrix, begin, end, staging);
    if (!converted.ok()) return converted;
    const cudaError_t error =
        cudaMemcpy(target + begin * matrix.columns, staging, (end - begin) * matrix.columns * 2,
                   cudaMemcpyHostToDevice);
    if (error != cudaSuccess) return ToStatus(error, "cannot upload a weight");
  }
  return absl::OkStatus();
}

// The driver's function, found through the runtime so that nothing links the driver.
decltype(&cuTensorMapEncodeTiled) MapEncoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                   &result);
  LORICA_CHECK(function != nullptr, "the driver has no tensor maps", static_cast<int>(result));
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

// Tiles of `tile_rows` rows and kStreamTileInputs columns of a matrix of elements; zeros outside.
CUtensorMap MakeMap(const void* data, int64_t rows, int64_t columns, int tile_rows) {
  static const auto encode = MapEncoder();
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {kStreamTileInputs, static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  LORICA_CHECK(result == CUDA_SUCCESS, static_cast<int>(result), rows, columns);
  return map;
}

WeightTiles MakeTiles(const void* data, int64_t out_features, int64_t in_features, int splits,
                      int most) {
  const int features = StreamTileFeatures(out_features, splits, most);
  return {MakeMap(data, out_features, in_features, features), features};
}

}  // namespace

CudaWeight::CudaWeight(std::unique_ptr<Buffer> data, int64_t out_features, int64_t in_features,
                       float packing_share)
    : data_(std::move(data)),
      out_features_(out_features),
      in_features_(in_features),
      packing_share_(packing_share),
      tiles_(MakeTiles(data_->data(), out_features, in_features,
                       StreamSplits(out_features, in_features), kStreamTileFeatures)),
      wide_tiles_(MakeTiles(data_->data(), out_features, in_features, 1, kStreamWideFeatures)) {}

absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix> parts) {
  LORICA_CHECK(!parts.empty());
  const int64_t columns = parts[0].columns;
  if (columns % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the CUDA backend needs widths in multiples of 8, a weight has ", columns));
  }
  int64_t rows = 0;
  float packing_share = 0.0f;  // that of the coarsest part
  for (const HostMatrix& part : parts) {
    if (part.columns != columns || columns % BlockElements(part.dtype) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("a weight of ", part.columns, " columns of ",
                                                     std::string(DTypeName(part.dtype)),
                                                     " does not fit ", columns));
    }
    rows += part.rows;
    packing_share = std::max(packing_share, PackingShare(part.dtype));
  }
  auto data = AllocateDevice(rows * columns * 2);
  if (!data.ok()) return data.status();
  auto staging = AllocatePinned(std::max(kStagingBytes, columns * 2));
  if (!staging.ok()) return staging.status();
  auto* target = static_cast<uint16_t*>((*data)->data());
  for (const HostMatrix& part : parts) {
    const absl::Status status =
        UploadRows(part, target, static_cast<uint16_t*>((*staging)->data()));
    if (!status.ok()) return status;
    target += part.rows * columns;
  }
  return std::make_unique<CudaWeight>(*std::move(data), rows, columns, packing_share);
}

absl::StatusOr<float> ReadRow(const CudaWeight& weight, int64_t row, absl::Span<float> out,
                              cudaStream_t stream) {
  const int64_t columns = weight.in_features();
  LORICA_CHECK(row >= 0 && row < weight.out_features() && std::ssize(out) == columns, row,
               out.size());
  std::vector<uint16_t> elements(columns);
  cudaMemcpyAsync(elements.data(), static_cast<const uint16_t*>(weight.data()) + row * columns,
                  columns * sizeof(uint16_t), cudaMemcpyDeviceToHost, stream);
  const cudaError_t error = cudaStreamSynchronize(stream);
  if (error != cudaSuccess) return ToStatus(error, "cannot read a row of a weight");
  Dequantize(kElementDType, elements.data(), columns, out.data());
  return weight.packing_share();
}

absl::StatusOr<std::unique_ptr<LinearRunner>> LinearRunner::Make(const std::string& folder) {
  std::unique_ptr<LinearRunner> runner(new LinearRunner);
  auto library = LibraryProducts::Make(folder);
  if (!library.ok()) return library.status();
  runner->library_ = *std::move(library);
  const int64_t features_max = int64_t{MultiprocessorCount()} * kStreamTileFeatures;
  auto parts = AllocateDevice(features_max * kStreamRowsMax * sizeof(float));
  if (!parts.ok()) return parts.status();
  runner->parts_ = *std::move(parts);
  return runner;
}

const CUtensorMap& LinearRunner::MapOf(const void* x, int64_t rows, int64_t columns) {
  const auto [at, is_new] = maps_.try_emplace({x, rows, columns});
  if (is_new) at->second = MakeMap(x, rows, columns, StreamRows(rows));
  return at->second;
}

bool LinearRunner::Streams(int64_t rows, const CudaWeight& weight) {
  return rows <= kStreamRowsMax && weight.out_features() % 4 == 0;
}

Product LinearRunner::Run(void* y, const void* x, int64_t rows, const CudaWeight& weight,
                          cudaStream_t stream) {
  if (Streams(rows, weight)) return Stream(ArgsFor(x, rows, weight), y, stream);
  library_->Run(y, kLibraryElement, x, rows, weight.product(), stream);
  return {.y = y};
}

void LinearRunner::RunWide(void* y, const void* x, int64_t rows, const CudaWeight& weight,
                           cudaStream_t stream) {
  if (rows > kStreamRowsMax) {
    library_->Run(y, CUDA_R_32F, x, rows, weight.product(), stream);
    return;
  }
  StreamLinearArgs args = ArgsFor(x, rows, weight);
  if (!Streams(rows, weight)) args.splits = 1;  // parts of such widths cannot be added up
  const bool whole = args.splits == 1;
  if (whole) args.parts = static_cast<float*>(y);
  LaunchStreamLinear(args, stream);
  if (whole) return;
  LaunchAddParts(y, true, args.parts, args.splits, rows * weight.out_features(), stream);
}

Product LinearRunner::RunWithLora(void* y, int64_t rows, const CudaWeight& weight,
                                  const LoraArgs& lora, const StepTables& step,
                                  const LoraPlan& plan, cudaStream_t stream) {
  LORICA_CHECK(Streams(rows, weight), rows, weight.out_features());
  StreamLinearArgs args = ArgsFor(lora.x, rows, weight);
  args.lora = &lora;
  args.step = &step;
  args.plan = &plan;
  Product product = Stream(args, y, stream);
  product.lora = lora.sums;
  return product;
}

StreamLinearArgs LinearRunner::ArgsFor(const void* x, int64_t rows, const CudaWeight& weight) {
  StreamLinearArgs args;
  args.tiles = &weight.tiles();
  args.wide_tiles = weight.wide_tiles();
  args.x_map = &MapOf(x, rows, weight.in_features());
  args.parts = static_cast<float*>(parts_->data());
  args.splits = StreamSplits(weight.out_features(), weight.in_features());
  args.rows = static_cast<int>(rows);
  args.out_features = weight.out_features();
  args.in_features = weight.in_features();
  return args;
}

Product LinearRunner::Stream(StreamLinearArgs args, void* y, cudaStream_t stream) {
  const bool whole = args.splits == 1;
  if (whole) args.y = y;
  LaunchStreamLinear(args, stream);
  if (whole) return {.y = y};
  return {y, args.parts, args.splits, args.rows * args.out_features, nullptr};
}

}  // namespace lorica::cuda
