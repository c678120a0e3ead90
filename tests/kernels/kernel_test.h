// What the kernel tests share: backends to run on, seeded data, device tensors,
// adapters made of plain matrices.
//
// One test body serves every BackendCase. Inputs are rounded to the type a backend computes
// in, so that its tolerance, which stands beside that of fp32, is for what it does with them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/half.h"

namespace lorica::testing {

struct BackendCase {
  std::string name;
  std::function<std::unique_ptr<Backend>(int rows_max)> make;
  bool bit_equal_rows;     // a row's bits do not depend on the rows beside it: LoRA and post verbs
  bool bit_equal_forward;  // nor those of Linear and Attend
  DType compute = DType::kF32;  // of activations, K and V
  int width_multiple = 1;       // of the features that it serves
  bool keeps_quantised = true;  // weights stay as small as the file's
};

inline std::unique_ptr<Backend> MakeCpu(int threads, int rows_max = 512) {
  auto backend = MakeCpuBackend({.threads = threads, .rows_max = rows_max});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// Those of a device that this build and this machine have; none is no fault.
std::vector<BackendCase> DeviceBackends();

inline std::vector<BackendCase> AllBackends() {
  std::vector<BackendCase> all = {
      {"Cpu1", [](int rows_max) { return MakeCpu(1, rows_max); }, true, true},
      {"Cpu2", [](int rows_max) { return MakeCpu(2, rows_max); }, true, true},
      {"Cpu3", [](int rows_max) { return MakeCpu(3, rows_max); }, true, true}};
  for (BackendCase& one : DeviceBackends()) all.push_back(std::move(one));
  return all;
}

// Of a 16-bit compute type.
inline uint16_t ElementBits(DType compute, float value) {
  return compute == DType::kF16 ? HalfFromFloat(value) : BfloatFromFloat(value);
}
// `value` as the compute type holds it.
inline float Rounded(DType compute, float value) {
  if (compute == DType::kF32) return value;
  return compute == DType::kF16 ? FloatFromHalf(HalfFromFloat(value))
                                : FloatFromBfloat(BfloatFromFloat(value));
}

// Device memory as rows of a backend's compute type, or of fp32; fp32 on the host.
class DeviceTensor {
 public:
  DeviceTensor(Backend& backend, DType compute, int64_t rows, int64_t columns,
               const std::vector<float>& values = {})
      : backend_(backend), compute_(compute), rows_(rows), columns_(columns) {
    if (compute != DType::kF32) {
      EXPECT_EQ(backend.TensorBytes(rows, columns), rows * RowBytes(compute, columns));
    }
    buffer_ = *backend.Allocate(rows * RowBytes(compute, columns));
    if (!values.empty()) Write(values);
  }
  Tensor tensor() const { return {buffer_->data(), rows_, columns_}; }

  void Write(const std::vector<float>& values) {
    if (compute_ == DType::kF32) {
      backend_.Upload(buffer_->data(), values.data(), values.size() * 4);
      return;
    }
    std::vector<uint16_t> bits;
    for (const float v : values) bits.push_back(ElementBits(compute_, v));
    backend_.Upload(buffer_->data(), bits.data(), bits.size() * 2);
  }
  std::vector<float> Read() const {
    std::vector<std::byte> bytes(rows_ * RowBytes(compute_, columns_));
    EXPECT_TRUE(backend_.Synchronize().ok());
    backend_.Download(bytes.data(), buffer_->data(), bytes.size());
    std::vector<float> values(rows_ * columns_);
    Dequantize(compute_, bytes.data(), values.size(), values.data());
    return values;
  }

 private:
  Backend& backend_;
  DType compute_;
  int64_t rows_;
  int64_t columns_;
  std::unique_ptr<Buffer> buffer_;
};

class KernelTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  KernelTest() : backend_(GetParam().make(512)) { RecordProperty("seed", kSeed); }

  static constexpr int kSeed = 20261122;

  DType compute() const { return GetParam().compute; }
  // fp16 has three bits more than bf16; what else rounds is as coarse as with bf16.
  double Tolerance(double f32, double bf16) const {
    return compute() == DType::kF32 ? f32 : compute() == DType::kF16 ? bf16 / 4 : bf16;
  }
  bool Serves(int64_t width) const { return width % GetParam().width_multiple == 0; }
  // The types that the backend stores adapters in.
  std::vector<DType> TileTypes() const {
    std::vector<DType> types;
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      if (backend_->TileDType(type) == type) types.push_back(type);
    }
    return types;
  }

  // As the compute type holds them.
  std::vector<float> Rounded(std::vector<float> values) const {
    for (float& v : values) v = testing::Rounded(compute(), v);
    return values;
  }

  float Normal() { return std::normal_distribution<float>()(random_); }
  int Below(int bound) { return std::uniform_int_distribution<int>(0, bound - 1)(random_); }
  std::vector<float> Normals(int64_t count, float scale = 1.0f) {
    std::vector<float> values(count);
    for (float& v : values) v = scale * Normal();
    return Rounded(std::move(values));
  }

  DeviceTensor Upload(int64_t rows, int64_t columns, const std::vector<float>& values) {
    return DeviceTensor(*backend_, compute(), rows, columns, values);
  }
  DeviceTensor Zeros(int64_t rows, int64_t columns) {
    return DeviceTensor(*backend_, compute(), rows, columns);
  }
  // For the residual and logits, which are fp32 everywhere.
  DeviceTensor UploadWide(int64_t rows, int64_t columns, const std::vector<float>& values) {
    return DeviceTensor(*backend_, DType::kF32, rows, columns, values);
  }
  // fp32 on the device until the test ends: norms and biases.
  const float* Floats(const std::vector<float>& values) {
    floats_.push_back(*backend_->Allocate(values.size() * 4));
    backend_->Upload(floats_.back()->data(), values.data(), values.size() * 4);
    return static_cast<const float*>(floats_.back()->data());
  }

  std::unique_ptr<Backend> backend_;
  std::list<std::unique_ptr<Buffer>> floats_;
  std::mt19937_64 random_{kSeed};
};

// A matrix as a file holds it, and what it means.
struct StoredMatrix {
  DType dtype;
  int64_t rows;
  int64_t columns;
  std::vector<std::byte> bytes;
  std::vector<float> values;

  HostMatrix view() const { return {dtype, rows, columns, bytes.data()}; }
};

inline StoredMatrix RandomMatrix(DType dtype, int64_t rows, int64_t columns,
                                 std::mt19937_64& random, float scale = 0.05f) {
  StoredMatrix m{dtype, rows, columns, {}, {}};
  m.bytes.resize(rows * RowBytes(dtype, columns));
  std::normal_distribution<float> normal(0.0f, scale);
  const int64_t block = BlockBytes(dtype);
  for (size_t i = 0; i < m.bytes.size(); i += block) {
    std::byte* to = &m.bytes[i];
    const float value = normal(random);
    const uint16_t half = HalfFromFloat(value);
    if (dtype == DType::kF32) std::memcpy(to, &value, 4);
    if (dtype == DType::kF16) std::memcpy(to, &half, 2);
    if (dtype == DType::kBF16) std::memcpy(to, reinterpret_cast<const char*>(&value) + 2, 2);
    if (BlockElements(dtype) == 1) continue;
    for (int64_t b = 0; b < block; ++b) to[b] = static_cast<std::byte>(random());
    const uint16_t d = HalfFromFloat(dtype == DType::kQ8_0 ? value / 64 : value / 4);
    const uint16_t minimum = HalfFromFloat(-2 * value);
    std::memcpy(to, &d, 2);
    if (dtype == DType::kQ4_1) std::memcpy(to + 2, &minimum, 2);
  }
  m.values.resize(rows * columns);
  Dequantize(dtype, m.bytes.data(), rows * columns, m.values.data());
  return m;
}

// Compares y = W x with doubles; the error may be `tolerance` of the sum of |w x|.
inline void ExpectProduct(const std::vector<float>& y, const std::vector<float>& x,
                          const std::vector<float>& w, int64_t rows, int64_t out, int64_t in,
                          double tolerance) {
  ASSERT_EQ(static_cast<int64_t>(y.size()), rows * out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < in; ++k) {
        const double product = double{x[r * in + k]} * w[o * in + k];
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(y[r * out + o], sum, tolerance * magnitude) << "row " << r << " output " << o;
    }
  }
}

inline void ExpectNear(const std::vector<float>& got, const std::vector<double>& want,
                       double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], tolerance * (1.0 + std::abs(want[i]))) << "element " << i;
  }
}

inline bool SameBits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

// Blocks of an arena with pages handed out in a shuffled order, filled with NaN of every type:
// what a recycled block may hold.
class PoisonedArena {
 public:
  PoisonedArena(Backend& backend, const AttentionShape& shape, int32_t blocks, uint64_t seed = 7,
                std::byte fill = std::byte{0xff})
      : memory_(*backend.Allocate(blocks * backend.BlockBytesFor(shape))) {
    cache_.arena = memory_->data();
    cache_.block_bytes = backend.BlockBytesFor(shape);
    cache_.shape = shape;
    const std::vector<std::byte> poison(cache_.block_bytes, fill);
    for (int32_t b = 0; b < blocks; ++b) {
      backend.Upload(static_cast<std::byte*>(memory_->data()) + b * cache_.block_bytes,
                     poison.data(), cache_.block_bytes);
      free_.push_back(b);
    }
    std::mt19937_64 random(seed);
    std::shuffle(free_.begin(), free_.end(), random);
  }
  const KvCache& cache() const { return cache_; }
  std::vector<BlockId> Take(int32_t count) {
    EXPECT_LE(count, static_cast<int32_t>(free_.size()));
    std::vector<BlockId> taken(free_.end() - count, free_.end());
    free_.resize(free_.size() - count);
    return taken;
  }

 private:
  std::unique_ptr<Buffer> memory_;
  KvCache cache_;
  std::vector<BlockId> free_;
};

inline void AddSpan(StepBatch& batch, int32_t position, int32_t rows,
                    const std::vector<BlockId>& pages) {
  AttendSpan span;
  span.row_begin = static_cast<int32_t>(batch.rows());
  span.row_count = rows;
  span.position_begin = position;
  span.page_begin = static_cast<int32_t>(batch.pages.size());
  span.page_count = static_cast<int32_t>(pages.size());
  batch.pages.insert(batch.pages.end(), pages.begin(), pages.end());
  batch.spans.push_back(span);
  for (int32_t i = 0; i < rows; ++i) {
    batch.tokens.push_back(0);
    batch.positions.push_back(position + i);
  }
}

// A batch of `rows` rows at position 0 of one-block requests, for verbs that read no KV.
inline StepBatch PlainBatch(int rows) {
  StepBatch batch;
  for (int i = 0; i < rows; ++i) AddSpan(batch, 0, 1, {0});
  return batch;
}

// One LoRA pair as plain matrices.
struct LoraPair {
  int layer = 0;
  LoraModule module = LoraModule::kQ;
  int rank = 0;
  float scale = 1.0f;
  StoredMatrix a;           // [rank, in]
  StoredMatrix b;           // [out, rank]
  std::vector<float> gain;  // [out], empty without DoRA
  std::vector<float> bias;  // empty without lora_bias
};

// Of a size that moves its target's output. `dtype`: one that tiles have (Backend::TileDType).
inline LoraPair RandomPair(const LoraTarget& target, int rank, DType dtype,
                           std::mt19937_64& random) {
  LoraPair pair;
  pair.layer = target.layer;
  pair.module = target.module;
  pair.rank = rank;
  pair.a = RandomMatrix(dtype, rank, target.in_features, random);
  pair.b = RandomMatrix(dtype, target.out_features, rank, random);
  return pair;
}

struct TestAdapter {
  std::vector<LoraPair> pairs;
  std::unique_ptr<MountedAdapter> mounted;
};

// Cuts the pairs into tiles, one tile a block when they are large, and mounts them.
void MountPairs(Backend& backend, PoisonedArena& arena, TestAdapter& adapter);

// sum over terms of s w B (A x) for one row, and the product of gains.
struct LoraReference {
  std::vector<double> delta;  // [out]
  std::vector<double> gain;   // [out]
};
LoraReference ReferenceLora(const std::vector<std::pair<const TestAdapter*, float>>& terms,
                            int layer, LoraModule module, int64_t out, const float* x);

}  // namespace lorica::testing
