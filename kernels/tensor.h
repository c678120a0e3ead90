// Element types, views of device memory and of host matrices, device buffers and weights.
//
// Views borrow: whoever made the memory keeps it alive. Nothing here locks; a
// view may be copied freely and read by many threads while nobody writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace lorica {

// How the elements of a matrix are stored. The quantised types are GGUF's
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): 32 weights of one
// row in a block.
//   Q8_0: f16 d, 32 x int8 q             34 bytes   w = d * q
//   Q4_0: f16 d, 16 x two nibbles        18 bytes   w = d * (q - 8)
//   Q4_1: f16 d, f16 m, 16 x two nibbles 20 bytes   w = d * q + m
// Low nibbles are items 0 to 15 of a block, high nibbles items 16 to 31.
// The product d * q is rounded to fp32 before m is added, as the gguf package does.
enum class DType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };

// "F32", "BF16", "Q4_1", ...
std::string_view DTypeName(DType dtype);

// Elements that share one storage block: 32 for the quantised types, else 1.
int64_t BlockElements(DType dtype);

// Bytes of one storage block.
int64_t BlockBytes(DType dtype);

// Bytes of a row of `elements`. REQUIRES: elements % BlockElements(dtype) == 0.
int64_t RowBytes(DType dtype, int64_t elements);

// How far packing may move a row that is stored so, as a share of its norm: twice what the type
// loses on values of one size.
float PackingShare(DType dtype);

// Expands `count` stored elements to fp32.
// REQUIRES: count % BlockElements(dtype) == 0. `source` needs no alignment.
void Dequantize(DType dtype, const void* source, int64_t count, float* out);

// Borrowed row-major matrix in host memory, as a loader found it in a file.
struct HostMatrix {
  DType dtype = DType::kF32;
  int64_t rows = 0;            // out features
  int64_t columns = 0;         // in features
  const std::byte* data = nullptr;  // rows * RowBytes(dtype, columns) bytes, any alignment
};

// Borrowed row-major activations in device memory, in the backend's compute
// type: fp32 on the CPU. Rows are `columns` elements apart.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;

  float* f32() const { return static_cast<float*>(data); }
};

// Owned memory of a backend, on its device or in host memory (Backend says which);
// 64-byte aligned at least, freed when destroyed.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;
  virtual int64_t size_bytes() const = 0;
};

// A matrix that the backend packed for its product: opaque, immutable and safe
// to read from many threads. Its rows may be several file matrices stacked.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t out_features() const = 0;
  virtual int64_t in_features() const = 0;
  virtual int64_t resident_bytes() const = 0;
};

}  // namespace lorica
