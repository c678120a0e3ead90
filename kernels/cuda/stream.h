// Streams, events and memory of the CUDA runtime, owned, with errors as absl::Status.
//
// A failed launch or copy is a bug or a lost device: it is kept by the runtime and
// comes back from the next CheckDevice, for good.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace lorica::cuda {

// Internal, naming what failed and the runtime's own words; OK for cudaSuccess.
absl::Status ToStatus(cudaError_t error, const char* what);

class Stream {
 public:
  // priority: 0 = normal, negative = served first.
  static absl::StatusOr<std::unique_ptr<Stream>> Make(int priority);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  Stream() = default;
  cudaStream_t stream_ = nullptr;
};

// Whether the device has failed for good. REQUIRES: the stream is not being captured.
bool IsLost(cudaStream_t stream);

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(cudaStream_t stream) { cudaEventRecord(event_, stream); }
  // Asks first: to wait for what has passed costs the host twice as much.
  cudaError_t Wait() {
    const cudaError_t passed = Query();
    return passed == cudaErrorNotReady ? cudaEventSynchronize(event_) : passed;
  }
  // Makes later work of `stream` wait for the last record.
  void Hold(cudaStream_t stream) { cudaStreamWaitEvent(stream, event_, 0); }
  cudaError_t Query() const { return cudaEventQuery(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

// An event that tells times.
class TimedEvent {
 public:
  TimedEvent();
  ~TimedEvent();
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  void Record(cudaStream_t stream) { cudaEventRecord(event_, stream); }
  // Waits for it. Infinite where the device fails.
  float MillisecondsSince(const TimedEvent& begin) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Device memory that is taken and given back in the order of a stream's work, so that no
// other stream waits. Not zeroed. ResourceExhausted names the bytes.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateInStream(int64_t bytes, cudaStream_t stream);
// Keeps up to `bytes` of such memory once it was given back, so that taking it is quick.
absl::Status KeepStreamMemory(int64_t bytes);

// Zeroed. ResourceExhausted names the bytes.
absl::StatusOr<std::unique_ptr<Buffer>> AllocateDevice(int64_t bytes);
absl::StatusOr<std::unique_ptr<Buffer>> AllocatePinned(int64_t bytes);

}  // namespace lorica::cuda
