#include "tests/fakes/cuda_shim.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>

namespace lorica::fakes {
namespace {

std::atomic<int> g_counted = 0;
std::atomic<int> g_failing = 0;
std::atomic<int64_t> g_poisoned_bytes = 0;

// The runtime's own function of that name. Not the next after the program's: the runtime may have
// come with the plugin, and is not among the program's libraries then.
template <typename Function>
Function* Next(const char* name) {
  static void* const runtime = ::dlopen(CUDA_RUNTIME, RTLD_LAZY);
  void* const function = runtime != nullptr ? ::dlsym(runtime, name) : nullptr;
  if (function == nullptr) std::abort();
  return reinterpret_cast<Function*>(function);
}

bool Fails() { return ++g_counted == g_failing; }

}  // namespace

void FailAllocation(int k) {
  g_failing = k;
  g_counted = 0;
}

int CountedAllocations() { return g_counted; }

void PoisonMemory(int64_t bytes) { g_poisoned_bytes = bytes; }

bool WasPoisoned() { return g_poisoned_bytes == 0; }

}  // namespace lorica::fakes

using lorica::fakes::Fails;
using lorica::fakes::g_poisoned_bytes;
using lorica::fakes::Next;

extern "C" cudaError_t cudaMalloc(void** memory, size_t bytes) {
  static const auto next = Next<decltype(cudaMalloc)>("cudaMalloc");
  return Fails() ? cudaErrorMemoryAllocation : next(memory, bytes);
}

extern "C" cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  static const auto next = Next<decltype(cudaMallocAsync)>("cudaMallocAsync");
  return Fails() ? cudaErrorMemoryAllocation : next(memory, bytes, stream);
}

extern "C" cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned int flags) {
  static const auto next = Next<decltype(cudaHostAlloc)>("cudaHostAlloc");
  return Fails() ? cudaErrorMemoryAllocation : next(memory, bytes, flags);
}

extern "C" cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  static const auto next = Next<decltype(cudaMemset)>("cudaMemset");
  auto wanted = static_cast<int64_t>(bytes);
  if (value == 0 && bytes > 0 && g_poisoned_bytes.compare_exchange_strong(wanted, 0)) value = 0xff;
  return next(memory, value, bytes);
}
