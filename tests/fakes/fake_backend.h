// A backend for tests of what lies above it: memory, tile types and DoRA gains are
// real, the verbs of a step abort.
//
// Loads may run on several threads; options are set before.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/check.h"

namespace lorica {

// Host memory, zeroed, 64-byte aligned.
class FakeBuffer : public Buffer {
 public:
  explicit FakeBuffer(int64_t bytes)
      : bytes_(bytes), data_(::operator new(bytes, std::align_val_t(64))) {
    std::memset(data_, 0, bytes);
  }
  ~FakeBuffer() override { ::operator delete(data_, std::align_val_t(64)); }
  void* data() const override { return data_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  const int64_t bytes_;
  void* const data_;
};

// A weight that is its fp32 values [out, in].
class FakeWeight : public Weight {
 public:
  FakeWeight(int64_t out, int64_t in) : out_(out), in_(in), values(out * in) {}
  int64_t out_features() const override { return out_; }
  int64_t in_features() const override { return in_; }
  int64_t resident_bytes() const override { return std::ssize(values) * 4; }

 private:
  const int64_t out_;
  const int64_t in_;

 public:
  std::vector<float> values;
};

class FakeBackend : public Backend {
 public:
  std::optional<DType> tile_dtype;  // absent = as in the file
  int host_holds = 0xff;            // each byte of a new host buffer: not-a-numbers

  std::string name() const override { return "fake"; }
  int threads() const override { return 1; }
  bool asynchronous() const override { return false; }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(int64_t bytes) override {
    return std::make_unique<FakeBuffer>(bytes);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> NewHostBuffer(int64_t bytes) override {
    auto buffer = std::make_unique<FakeBuffer>(bytes);
    std::memset(buffer->data(), host_holds, bytes);
    return buffer;
  }
  void Upload(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  int64_t TensorBytes(int64_t rows, int64_t columns) const override { return rows * columns * 4; }

  absl::StatusOr<std::unique_ptr<Weight>> PackWeight(absl::Span<const HostMatrix> parts) override {
    int64_t rows = 0;
    for (const HostMatrix& part : parts) rows += part.rows;
    auto weight = std::make_unique<FakeWeight>(rows, parts[0].columns);
    float* out = weight->values.data();
    for (const HostMatrix& part : parts) {
      Dequantize(part.dtype, part.data, part.rows * part.columns, out);
      out += part.rows * part.columns;
    }
    return weight;
  }

  absl::StatusOr<std::unique_ptr<Weight>> RandomWeight(int64_t rows, int64_t columns, uint64_t,
                                                       float) override {
    return std::make_unique<FakeWeight>(rows, columns);
  }

  int64_t BlockBytesFor(const AttentionShape& shape) const override {
    return int64_t{2} * 16 * 4 * shape.layers * shape.kv_heads * shape.head_size;
  }
  DType TileDType(DType file_dtype) const override { return tile_dtype.value_or(file_dtype); }

  absl::StatusOr<std::vector<float>> DoraGain(const LoraTarget& target, absl::Span<const float> a,
                                              absl::Span<const float> b, int rank, float scale,
                                              absl::Span<const float> magnitude) override {
    const auto& weight = dynamic_cast<const FakeWeight&>(*target.weight);
    std::vector<float> gain(target.out_features);
    for (int64_t o = 0; o < target.out_features; ++o) {
      double square = 0;
      for (int64_t i = 0; i < target.in_features; ++i) {
        double value = weight.values[(target.weight_row_begin + o) * target.in_features + i];
        for (int r = 0; r < rank; ++r) {
          value += double{scale} * b[o * rank + r] * a[r * target.in_features + i];
        }
        square += value * value;
      }
      gain[o] = static_cast<float>(magnitude[o] / std::sqrt(square));
      if (!std::isfinite(gain[o])) return absl::DataLossError(target.name + ": a row norm is zero");
    }
    return gain;
  }

  std::unique_ptr<CopyTicket> StartCopy(const KvCache&, absl::Span<const BlockCopy>) override {
    Unused();
  }
  absl::StatusOr<std::unique_ptr<MountedAdapter>> Mount(const LoraImage&, const KvCache&,
                                                        absl::Span<const BlockId>) override {
    Unused();
  }
  void BeginStep(const StepBatch&) override { Unused(); }
  void Embed(Tensor, const Weight&) override { Unused(); }
  void RmsNorm(Tensor, Tensor, const float*, float) override { Unused(); }
  void Linear(Tensor, Tensor, const Weight&) override { Unused(); }
  void LoraShrink(Tensor, int, LoraGroup) override { Unused(); }
  void QkvPost(Tensor, const float*, const RopeTable&, int, const KvCache&) override { Unused(); }
  void Attend(Tensor, Tensor, int, const KvCache&) override { Unused(); }
  void ResidualNorm(Tensor, Tensor, Tensor, const float*, int, LoraGroup, const float*,
                    float) override {
    Unused();
  }
  void GluPost(Tensor, Tensor, Activation, int) override { Unused(); }
  void GatherRows(Tensor, Tensor) override { Unused(); }
  void Sample(Tensor, int32_t, absl::Span<SampleResult>) override { Unused(); }
  void EndStep() override { Unused(); }
  absl::Status AwaitStep() override { Unused(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  [[noreturn]] static void Unused() {
    LORICA_CHECK(false, "the fake backend runs no steps");
    std::abort();
  }
};

}  // namespace lorica
