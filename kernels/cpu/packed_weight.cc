#include "kernels/cpu/packed_weight.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr int64_t kPartAlignment = 64;
constexpr int64_t kScaleBytes = kPanelRows * 2;  // f16 for each row of a panel
constexpr int kQuantItems = 32;

// Each Place function puts one stored block of one row into its lane of a panel block.

void PlaceElement(const std::byte* from, int64_t bytes, int lane, std::byte* to) {
  std::memcpy(to + lane * bytes, from, bytes);
}

void PlaceQ8(const std::byte* from, int lane, std::byte* to) {
  std::memcpy(to + lane * 2, from, 2);
  for (int k = 0; k < kQuantItems; ++k) to[kScaleBytes + k * kPanelRows + lane] = from[2 + k];
}

void PlaceNibbles(const std::byte* nibbles, int lane, std::byte* to) {
  for (int word = 0; word < kQuantItems / 8; ++word) {
    uint32_t packed = 0;
    for (int i = 0; i < 8; ++i) {
      const int k = word * 8 + i;
      const auto byte = std::to_integer<uint32_t>(nibbles[k % 16]);
      packed |= (k < 16 ? byte & 15 : byte >> 4) << (4 * i);
    }
    std::memcpy(to + (word * kPanelRows + lane) * 4, &packed, 4);
  }
}

void PlaceQ40(const std::byte* from, int lane, std::byte* to) {
  std::memcpy(to + lane * 2, from, 2);
  PlaceNibbles(from + 2, lane, to + kScaleBytes);
}

void PlaceQ41(const std::byte* from, int lane, std::byte* to) {
  std::memcpy(to + lane * 2, from, 2);
  std::memcpy(to + kScaleBytes + lane * 2, from + 2, 2);
  PlaceNibbles(from + 4, lane, to + 2 * kScaleBytes);
}

void PlaceBlock(DType dtype, const std::byte* from, int lane, std::byte* to) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return PlaceElement(from, BlockBytes(dtype), lane, to);
    case DType::kQ8_0:
      return PlaceQ8(from, lane, to);
    case DType::kQ4_0:
      return PlaceQ40(from, lane, to);
    case DType::kQ4_1:
      return PlaceQ41(from, lane, to);
  }
}

void PackPart(const HostMatrix& matrix, const PackedPart& part, std::byte* to) {
  const int64_t blocks = part.columns / BlockElements(part.dtype);
  const int64_t file_block_bytes = BlockBytes(part.dtype);
  const int64_t panel_block_bytes = PanelBlockBytes(part.dtype);
  for (int64_t row = 0; row < part.rows; ++row) {
    const std::byte* from = matrix.data + row * RowBytes(part.dtype, part.columns);
    std::byte* panel = to + row / kPanelRows * part.panel_bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      PlaceBlock(part.dtype, from + b * file_block_bytes, static_cast<int>(row % kPanelRows),
                 panel + b * panel_block_bytes);
    }
  }
}

absl::Status CheckPart(const HostMatrix& part, int64_t columns, size_t index) {
  if (part.rows <= 0 || part.columns <= 0 || part.columns != columns || part.data == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("part ", index, " is [", part.rows, ", ", part.columns,
                     "]: stacked matrices need rows, data and ", columns, " columns"));
  }
  if (part.columns % BlockElements(part.dtype) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("part ", index, ": ", part.columns, " columns do not divide into blocks of ",
                     BlockElements(part.dtype), " (", std::string(DTypeName(part.dtype)), ")"));
  }
  return absl::OkStatus();
}

PackedPart DescribePart(const HostMatrix& matrix) {
  PackedPart part;
  part.dtype = matrix.dtype;
  part.rows = matrix.rows;
  part.columns = matrix.columns;
  part.panels = (matrix.rows + kPanelRows - 1) / kPanelRows;
  part.panel_bytes = matrix.columns / BlockElements(matrix.dtype) * PanelBlockBytes(matrix.dtype);
  return part;
}

}  // namespace

int64_t PanelBlockBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return kPanelRows * BlockBytes(dtype);
    case DType::kQ8_0:
      return kScaleBytes + kPanelRows * kQuantItems;
    case DType::kQ4_0:
      return kScaleBytes + kPanelRows * kQuantItems / 2;
    case DType::kQ4_1:
      return 2 * kScaleBytes + kPanelRows * kQuantItems / 2;
  }
  LORICA_CHECK(false, "unknown dtype", static_cast<int>(dtype));
}

absl::StatusOr<std::unique_ptr<PackedWeight>> PackedWeight::Pack(
    absl::Span<const HostMatrix> parts) {
  if (parts.empty()) return absl::InvalidArgumentError("a weight needs at least one matrix");
  std::unique_ptr<PackedWeight> weight(new PackedWeight);
  weight->in_features_ = parts[0].columns;
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (auto status = CheckPart(parts[i], weight->in_features_, i); !status.ok()) return status;
    PackedPart part = DescribePart(parts[i]);
    part.row_begin = weight->out_features_;
    weight->out_features_ += part.rows;
    weight->panels_ += part.panels;
    offsets.push_back(bytes);
    bytes +=
        (part.panels * part.panel_bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
    weight->parts_.push_back(part);
  }
  auto memory = HostMemory::Map(bytes);
  if (!memory.ok()) return memory.status();
  weight->memory_ = *std::move(memory);
  for (size_t i = 0; i < parts.size(); ++i) {
    std::byte* to = weight->memory_.bytes() + offsets[i];
    PackPart(parts[i], weight->parts_[i], to);
    weight->parts_[i].data = to;
  }
  return weight;
}

const PackedPart& PackedWeight::PartOfRow(int64_t row) const {
  for (const PackedPart& part : parts_) {
    if (row < part.row_begin + part.rows) return part;
  }
  LORICA_CHECK(false, "row", row, "of", out_features_);
}

}  // namespace lorica
