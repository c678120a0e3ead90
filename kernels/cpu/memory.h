// Host memory of the CPU backend: zeroed, aligned, and touched only when used.
//
// One owner; the bytes may be shared by reference while it lives.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace lorica {

class HostMemory final : public Buffer {
 public:
  // `bytes` zeroed bytes at a page boundary. Pages cost nothing before their first use.
  // ResourceExhausted names the bytes.
  static absl::StatusOr<HostMemory> Map(int64_t bytes);

  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory() override;

  void* data() const override { return data_; }
  int64_t size_bytes() const override { return size_bytes_; }
  std::byte* bytes() const { return static_cast<std::byte*>(data_); }
  float* f32() const { return static_cast<float*>(data_); }

 private:
  void* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// At least `count` floats in `memory`, growing it when it is too small; old contents are lost.
float* EnsureFloats(HostMemory& memory, int64_t count);

}  // namespace lorica
