#include "kernels/cuda/stream.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace lorica::cuda {
namespace {

class DeviceBuffer : public Buffer {
 public:
  DeviceBuffer(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  ~DeviceBuffer() override { cudaFree(data_); }
  void* data() const override { return data_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
};

class StreamBuffer : public Buffer {
 public:
  StreamBuffer(void* data, int64_t bytes, cudaStream_t stream)
      : data_(data), bytes_(bytes), stream_(stream) {}
  ~StreamBuffer() override { cudaFreeAsync(data_, stream_); }
  void* data() const override { return data_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
  cudaStream_t stream_;
};

class PinnedBuffer : public Buffer {
 public:
  PinnedBuffer(void* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  ~PinnedBuffer() override { cudaFreeHost(data_); }
  void* data() const override { return data_; }
  int64_t size_bytes() const override { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
};

// The error is left in the runtime by a failed allocation; it is not sticky.
absl::Status OutOfMemory(const char* where, int64_t bytes, cudaError_t error) {
  cudaGetLastError();
  return absl::ResourceExhaustedError(
      absl::StrCat("no ", bytes, " bytes of ", where, " memory: ", cudaGetErrorString(error)));
}

}  // namespace

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

absl::StatusOr<std::unique_ptr<Stream>> Stream::Make(int priority) {
  std::unique_ptr<Stream> stream(new Stream);
  const cudaError_t error =
      cudaStreamCreateWithPriority(&stream->stream_, cudaStreamNonBlocking, priority);
  if (error != cudaSuccess) return ToStatus(error, "cannot create a CUDA stream");
  return stream;
}

Stream::~Stream() {
  if (stream_) cudaStreamDestroy(stream_);
}

bool IsLost(cudaStream_t stream) {
  const cudaError_t error = cudaStreamQuery(stream);
  return error != cudaSuccess && error != cudaErrorNotReady;
}

Event::Event() { cudaEventCreateWithFlags(&event_, cudaEventDisableTiming); }
Event::~Event() { cudaEventDestroy(event_); }

TimedEvent::TimedEvent() { cudaEventCreate(&event_); }
TimedEvent::~TimedEvent() { cudaEventDestroy(event_); }

float TimedEvent::MillisecondsSince(const TimedEvent& begin) const {
  float time_ms = 0;
  const bool known = cudaEventSynchronize(event_) == cudaSuccess &&
                     cudaEventElapsedTime(&time_ms, begin.event_, event_) == cudaSuccess;
  return known ? time_ms : std::numeric_limits<float>::infinity();
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocateInStream(int64_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocAsync(&data, bytes, stream);
  if (error != cudaSuccess) return OutOfMemory("device", bytes, error);
  return std::make_unique<StreamBuffer>(data, bytes, stream);
}

absl::Status KeepStreamMemory(int64_t bytes) {
  int device = 0;
  cudaMemPool_t pool = nullptr;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetDefaultMemPool(&pool, device);
  auto threshold = static_cast<uint64_t>(bytes);
  if (error == cudaSuccess) {
    error = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
  }
  return ToStatus(error, "cannot set up the device's memory pool");
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocateDevice(int64_t bytes) {
  void* data = nullptr;
  cudaError_t error = cudaMalloc(&data, bytes);
  if (error != cudaSuccess) return OutOfMemory("device", bytes, error);
  auto buffer = std::make_unique<DeviceBuffer>(data, bytes);
  error = cudaMemset(data, 0, bytes);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error != cudaSuccess) return ToStatus(error, "cannot clear device memory");
  return buffer;
}

absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinned(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (error != cudaSuccess) return OutOfMemory("pinned host", bytes, error);
  std::memset(data, 0, bytes);
  return std::make_unique<PinnedBuffer>(data, bytes);
}

}  // namespace lorica::cuda
