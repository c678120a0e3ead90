#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

}  // namespace

absl::StatusOr<HostMemory> HostMemory::Map(int64_t bytes) {
  if (bytes < 0)
    return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
  HostMemory memory;
  memory.size_bytes_ = bytes;
  const size_t length = static_cast<size_t>(bytes > 0 ? bytes : 1);
  void* address = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  }
  if (bytes >= kHugePageBytes) madvise(address, length, MADV_HUGEPAGE);
  memory.data_ = address;
  return memory;
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_ > 0 ? size_bytes_ : 1));
}

float* EnsureFloats(HostMemory& memory, int64_t count) {
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  if (memory.data() == nullptr || memory.size_bytes() < bytes) {
    auto grown = HostMemory::Map(bytes);
    LORICA_CHECK(grown.ok(), bytes);
    memory = *std::move(grown);
  }
  return memory.f32();
}

}  // namespace lorica
