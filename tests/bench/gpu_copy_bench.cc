// What an adapter's way from pinned host memory into the arena takes, block by block to
// scattered places as the pool sends it, beside one plain copy of as many bytes: the link's best.
// Both alone and while the device's memory is busy.
//
//   gpu_copy_bench
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/backend_cuda.h"
#include "tests/bench/gpu_floor.h"

namespace lorica::bench {
namespace {

using cuda::CudaBackend;

constexpr int kRepeats = 21;
constexpr int kImageBlocks = 40;  // rank 16 on all seven linears of a 7B model: 84 MB
constexpr int kArenaBlocks = 1000;
constexpr int64_t kBusyBytes = int64_t{1} << 30;
constexpr AttentionShape kShape = {32, 32, 8, 128, 0.0883883f};

double MedianSeconds(const std::function<void()>& prepare, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < kRepeats; ++i) {
    prepare();
    const auto begin = std::chrono::steady_clock::now();
    work();
    const auto end = std::chrono::steady_clock::now();
    cudaDeviceSynchronize();
    seconds.push_back(std::chrono::duration<double>(end - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
  return seconds[kRepeats / 2];
}

void Run() {
  auto backend = CudaBackend::Make({.rows_max = 64});
  LORICA_CHECK(backend.ok(), backend.status().ToString());
  CudaBackend& device = **backend;
  KvCache cache;
  cache.shape = kShape;
  cache.block_bytes = device.BlockBytesFor(kShape);
  const auto arena = *device.Allocate(kArenaBlocks * cache.block_bytes);
  const auto busy = *device.Allocate(kBusyBytes);
  cache.arena = arena->data();
  const int64_t bytes = kImageBlocks * cache.block_bytes;
  const auto host = *device.NewHostBuffer(bytes);
  const auto* image = static_cast<const std::byte*>(host->data());
  std::vector<BlockCopy> copies;
  for (int i = 0; i < kImageBlocks; ++i) {
    const int target = (i * 617 + 31) % kArenaBlocks;  // 617 and 1,000 share no factor
    copies.push_back({image + i * cache.block_bytes, target});
  }
  cudaStream_t plain = nullptr;
  cudaStreamCreateWithFlags(&plain, cudaStreamNonBlocking);
  const auto whole = [&] {
    cudaMemcpyAsync(arena->data(), image, bytes, cudaMemcpyHostToDevice, plain);
    cudaStreamSynchronize(plain);
  };
  const auto blocks = [&] {
    const auto ticket = device.StartCopy(cache, copies);
    while (!ticket->Done()) {
    }
    LORICA_CHECK(ticket->status().ok(), ticket->status().ToString());
  };
  for (const bool loaded : {false, true}) {
    // Some 15 ms of writes, longer than either copy takes.
    const auto prepare = [&] {
      for (int i = 0; loaded && i < 30; ++i) {
        FillNoise(busy->data(), busy->size_bytes(), 0.02f, i, device.stream());
      }
    };
    const double best = MedianSeconds(prepare, whole), ours = MedianSeconds(prepare, blocks);
    std::printf(
        "%s: %d blocks, %.1f MB: %.2f ms, %.1f GB/s; one plain copy %.2f ms, %.1f GB/s; "
        "share %.3f\n",
        loaded ? "memory busy" : "idle", kImageBlocks, bytes / 1e6, ours * 1e3, bytes / ours / 1e9,
        best * 1e3, bytes / best / 1e9, best / ours);
  }
  cudaStreamDestroy(plain);
}

}  // namespace
}  // namespace lorica::bench

int main() {
  lorica::bench::Run();
  return 0;
}
