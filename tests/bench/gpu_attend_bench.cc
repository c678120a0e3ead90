// Attention of a Mistral-7B-shaped model, 32 layers on their own K and V, random values.
// Prints time a layer beside its floor: K and V bytes / read bandwidth of this process for
// rows that decode, operations / matrix rate of this process for chunks.
//
//   gpu_attend_bench [WORDS]   only the cases whose names hold the words
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/step_image.h"
#include "tests/bench/gpu_floor.h"

namespace lorica::bench {
namespace {

constexpr int kLayers = 32, kHeads = 32, kKvHeads = 8, kHeadSize = 128;
constexpr int64_t kQ = kHeads * kHeadSize, kColumns = kQ + 2 * kKvHeads * kHeadSize;
constexpr int64_t kKeyBytes = 2 * kKvHeads * kHeadSize * 2;  // K and V of a token in a layer
constexpr int kRowsMax = 16384, kArenaBlocks = 9000;

void Check(cudaError_t error) { LORICA_CHECK(error == cudaSuccess, cudaGetErrorString(error)); }

double Median(std::vector<float> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Median milliseconds of what `body` launches, `repeats` times.
template <typename Body>
double Time(cudaStream_t stream, int repeats, const Body& body) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < repeats + 2; ++i) {
    cudaEventRecord(begin, stream);
    body();
    cudaEventRecord(end, stream);
    Check(cudaEventSynchronize(end));
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 2) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return Median(times);
}

// Operations a second of a product of 8,192 cubed.
double MeasureMatrixRate(cudaStream_t stream) {
  constexpr int64_t kSize = 8192;
  auto runner = *cuda::LinearRunner::Make("");
  auto weights = *cuda::AllocateDevice(kSize * kSize * 2);
  FillNoise(weights->data(), weights->size_bytes(), 0.02f, 5, stream);
  const cuda::CudaWeight weight(std::move(weights), kSize, kSize);
  const auto x = *cuda::AllocateDevice(kSize * kSize * 2);
  const auto y = *cuda::AllocateDevice(kSize * kSize * 2);
  FillNoise(x->data(), x->size_bytes(), 1.0f, 6, stream);
  const double ms =
      Time(stream, 8, [&] { runner->Run(y->data(), x->data(), kSize, weight, stream); });
  return 2.0 * kSize * kSize * kSize / (ms * 1e-3);
}

// `count` requests of `rows` rows from `position` on.
struct Requests {
  int count, position, rows;
};

class Bench {
 public:
  // Blocks of `layers` layers, as many of them as are launched in turn.
  explicit Bench(int layers)
      : layers_(layers),
        stream_(*cuda::Stream::Make(-1)),
        step_(*cuda::StepImage::Make(kRowsMax, cuda::kAttendDecodeRowsMax, int64_t{1} << 20,
                                     int64_t{1} << 20)) {
    cache_.shape = {layers, kHeads, kKvHeads, kHeadSize, 0.0883883f};
    cache_.block_bytes = layers * kKeyBytes * kBlockTokens;
    arena_ = *cuda::AllocateDevice(kArenaBlocks * cache_.block_bytes);
    cache_.arena = arena_->data();
    qkv_ = *cuda::AllocateDevice(kRowsMax * kColumns * 2);
    out_ = *cuda::AllocateDevice(kRowsMax * kQ * 2);
    FillNoise(arena_->data(), arena_->size_bytes(), 1.0f, 1, stream_->get());
    FillNoise(qkv_->data(), qkv_->size_bytes(), 1.0f, 2, stream_->get());
    attention_ = *cuda::Attention::Make(
        cache_, kRowsMax, *cuda::AllocateDevice(cuda::Attention::SumBytes(cache_.shape)));
  }

  cudaStream_t stream() const { return stream_->get(); }

  // Milliseconds of all layers; captured as a graph where the rows only decode.
  double TimeLayers(const std::vector<Requests>& requests) {
    const StepBatch batch = MakeBatch(requests);
    step_->Send(batch, {}, nullptr, 0, stream());
    const bool decodes = step_->attend().chunks().empty();
    const auto layers = [&] {
      for (int layer = 0; layer < kLayers; ++layer) {
        const absl::Status status = attention_->Run(
            {out_->data(), batch.rows(), kQ}, {qkv_->data(), batch.rows(), kColumns},
            layer % layers_, step_->tables(), step_->attend(), decodes, stream());
        LORICA_CHECK(status.ok(), status.ToString());
      }
    };
    layers();
    Check(cudaStreamSynchronize(stream()));
    if (!decodes) return Time(stream(), 5, layers);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    Check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
    layers();
    Check(cudaStreamEndCapture(stream(), &graph));
    Check(cudaGraphInstantiate(&exec, graph, 0));
    const double ms = Time(stream(), 15, [&] { cudaGraphLaunch(exec, stream()); });
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return ms;
  }

 private:
  static StepBatch MakeBatch(const std::vector<Requests>& requests) {
    StepBatch batch;
    int block = 0;
    for (const Requests& r : requests) {
      for (int i = 0; i < r.count; ++i) {
        const int pages = (r.position + r.rows + kBlockTokens - 1) / kBlockTokens;
        batch.spans.push_back({static_cast<int32_t>(batch.rows()), r.rows, r.position,
                               static_cast<int32_t>(batch.pages.size()), pages});
        for (int p = 0; p < pages; ++p) batch.pages.push_back(block++ % kArenaBlocks);
        for (int row = 0; row < r.rows; ++row) {
          batch.tokens.push_back(0);
          batch.positions.push_back(r.position + row);
        }
      }
    }
    return batch;
  }

  const int layers_;
  std::unique_ptr<cuda::Stream> stream_;
  std::unique_ptr<cuda::StepImage> step_;
  KvCache cache_;
  std::unique_ptr<Buffer> arena_, qkv_, out_;
  std::unique_ptr<cuda::Attention> attention_;
};

void Report(Bench& bench, const std::string& what, const std::vector<Requests>& requests,
            double bandwidth, double rate) {
  const double ms = bench.TimeLayers(requests);
  double bytes = 0, operations = 0;
  for (const Requests& r : requests) {
    const double keys = r.position + r.rows;
    bytes += r.count * keys * kKeyBytes;
    const double seen = r.rows * (r.position + (r.rows + 1) / 2.0);  // (row, key) pairs
    operations += r.count * 4.0 * kHeads * kHeadSize * seen;
  }
  const double seconds = ms * 1e-3 / kLayers;
  std::printf("| %-34s | %8.2f us a layer, %7.3f ms | %5.0f GB/s, %.2f | %4.0f TFLOP/s, %.2f |\n",
              what.c_str(), seconds * 1e6, ms, bytes / seconds / 1e9, bytes / seconds / bandwidth,
              operations / seconds / 1e12, operations / seconds / rate);
  std::fflush(stdout);
}

void Run(const std::string& words) {
  const double bandwidth = MeasureReadBandwidth();
  auto bench = std::make_unique<Bench>(kLayers);
  const double rate = MeasureMatrixRate(bench->stream());
  std::printf("read bandwidth %.0f GB/s, matrix rate %.0f TFLOP/s\n", bandwidth / 1e9, rate / 1e12);
  const auto report = [&](const std::string& what, const std::vector<Requests>& requests) {
    if (what.find(words) == std::string::npos) return;
    Report(*bench, what, requests, bandwidth, rate);
  };
  for (const int rows : {1, 8, 32, 64, 128}) {
    report("decode B=" + std::to_string(rows) + ", context 256", {{rows, 255, 1}});
  }
  report("decode B=32, context 300", {{32, 299, 1}});
  report("decode B=32, context 1024", {{32, 1023, 1}});
  report("decode B=32, context 4096", {{32, 4095, 1}});
  report("decode B=1, context 2048", {{1, 2047, 1}});
  report("decode B=1, context 16384", {{1, 16383, 1}});
  report("decode B=8, context 16384", {{8, 16383, 1}});
  report("prefill 1 x 128", {{1, 0, 128}});
  report("prefill 1 x 2048", {{1, 0, 2048}});
  report("prefill 8 x 2048", {{8, 0, 2048}});
  report("prefill 1 x 512 after 3584", {{1, 3584, 512}});
  report("prefill 1 x 8192", {{1, 0, 8192}});
  report("32 decode at 256, 1 x 512 prefill", {{32, 255, 1}, {1, 0, 512}});
  // The pages of a layer without those of others between them.
  bench.reset();
  bench = std::make_unique<Bench>(1);
  report("dense decode B=32, context 4096", {{32, 4095, 1}});
  report("dense decode B=8, context 16384", {{8, 16383, 1}});
}

}  // namespace
}  // namespace lorica::bench

int main(int argc, char** argv) {
  lorica::bench::Run(argc > 1 ? argv[1] : "");
  return 0;
}
