// How the CPU backend keeps a matrix: panels of 16 output rows, outputs in lanes.
//
// A panel holds for every stored block of k (1 element, or 32 for the quantised
// types), in this order:
//   F32, F16, BF16   [16] elements
//   Q8_0             f16 d[16], int8 q[32][16]
//   Q4_0             f16 d[16], uint32 q[4][16]
//   Q4_1             f16 d[16], f16 m[16], uint32 q[4][16]
// Word j of an output holds weights 8 j to 8 j + 7 of its block, lowest nibble first.
// The last panel of a part is filled with zeros. Immutable once packed; shared freely.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/memory.h"
#include "kernels/tensor.h"

namespace lorica {

inline constexpr int kPanelRows = 16;

// One of the stacked matrices.
struct PackedPart {
  DType dtype = DType::kF32;
  int64_t row_begin = 0;  // in the stack
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t panels = 0;
  int64_t panel_bytes = 0;
  const std::byte* data = nullptr;

  const std::byte* panel(int64_t index) const { return data + index * panel_bytes; }
};

// Bytes of the stored block of one panel.
int64_t PanelBlockBytes(DType dtype);

class PackedWeight final : public Weight {
 public:
  // InvalidArgument names the part whose shape does not fit.
  static absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(absl::Span<const HostMatrix> parts);

  int64_t out_features() const override { return out_features_; }
  int64_t in_features() const override { return in_features_; }
  int64_t resident_bytes() const override { return memory_.size_bytes(); }

  const std::vector<PackedPart>& parts() const { return parts_; }
  int64_t panels() const { return panels_; }
  // REQUIRES: 0 <= row < out_features().
  const PackedPart& PartOfRow(int64_t row) const;

 private:
  PackedWeight() = default;

  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  int64_t panels_ = 0;
  std::vector<PackedPart> parts_;
  HostMemory memory_;
};

}  // namespace lorica
