// Sample on CUDA: microseconds a step, as launches repeated in one graph over logits that
// normal noise made. Host time is that of BeginStep and Sample together.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/backend_cuda.h"
#include "kernels/half.h"

namespace lorica::bench {
namespace {

constexpr int kRowsMax = 128, kVocabularyMax = 128256, kRepeats = 20, kRuns = 15;

struct Case {
  std::string name;
  std::function<void(SampleRow&)> set;
};

std::vector<Case> Cases(const std::vector<int32_t>& history) {
  const auto sampled = [](SampleRow& row) { row.params.temperature = 0.8f; };
  const auto top_k_p = [sampled](SampleRow& row) {
    sampled(row);
    row.params.top_k = 50;
    row.params.top_p = 0.95f;
  };
  const auto logprobs = [](SampleRow& row) { row.params.logprobs = 20; };
  return {{"greedy", [](SampleRow&) {}},
          {"temperature", sampled},
          {"top-k 50, top-p 0.95", top_k_p},
          {"top-p 0.95",
           [sampled](SampleRow& row) {
             sampled(row);
             row.params.top_p = 0.95f;
           }},
          {"greedy, 20 logprobs", logprobs},
          {"top-k, top-p, penalties, 20 logprobs", [=, &history](SampleRow& row) {
             top_k_p(row);
             logprobs(row);
             row.params.repetition_penalty = 1.1f;
             row.params.frequency_penalty = 0.1f;
             row.prompt = history.data();
             row.prompt_count = static_cast<int32_t>(history.size());
             row.history = 1 + row.row;
           }}};
}

void Check(cudaError_t error) { LORICA_CHECK(error == cudaSuccess, cudaGetErrorString(error)); }

class Bench {
 public:
  Bench() : device_(Make()), logits_(*device_->Allocate(int64_t{kRowsMax} * kVocabularyMax * 4)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 2.5f);
    std::vector<float> values(int64_t{kRowsMax} * kVocabularyMax);
    for (float& v : values) v = normal(random);
    device_->Upload(logits_->data(), values.data(), values.size() * 4);
    history_.resize(500);
    for (int32_t& token : history_) token = static_cast<int32_t>(random() % 32000);
  }

  void Run() {
    std::printf("%-38s %10s %5s %9s %9s\n", "", "vocabulary", "rows", "us", "host us");
    for (const int vocabulary : {32000, kVocabularyMax}) {
      for (const Case& one : Cases(history_)) {
        for (const int rows : {1, 32, 128}) Print(one, vocabulary, rows);
      }
    }
  }

 private:
  static std::unique_ptr<cuda::CudaBackend> Make() {
    auto device = cuda::CudaBackend::Make({.rows_max = kRowsMax});
    LORICA_CHECK(device.ok(), device.status().ToString());
    return *std::move(device);
  }

  void Print(const Case& one, int vocabulary, int rows) {
    StepBatch batch;
    for (int i = 0; i < rows; ++i) {
      batch.tokens.push_back(0);
      batch.positions.push_back(0);
      batch.spans.push_back({i, 1, 0, 0, 1});
      SampleRow row;
      row.row = row.slot = i;
      row.params.seed = 100 + i;
      one.set(row);
      batch.samples.push_back(row);
    }
    batch.pages = {0};
    const Tensor logits = {logits_->data(), rows, vocabulary};
    std::vector<SampleResult> results(rows);
    const auto sample = [&] { device_->Sample(logits, vocabulary, absl::MakeSpan(results)); };
    const auto wait = [&] { LORICA_CHECK(device_->Synchronize().ok()); };
    device_->BeginStep(batch);
    sample();
    wait();
    cudaStream_t stream = device_->stream();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < kRepeats; ++i) sample();
    Check(cudaStreamEndCapture(stream, &graph));
    Check(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin, end;
    Check(cudaEventCreate(&begin));
    Check(cudaEventCreate(&end));
    std::vector<float> device_us, host_us;
    for (int i = 0; i < kRuns; ++i) {
      const auto before = std::chrono::steady_clock::now();
      device_->BeginStep(batch);
      sample();
      const std::chrono::duration<float, std::micro> host =
          std::chrono::steady_clock::now() - before;
      wait();
      Check(cudaEventRecord(begin, stream));
      Check(cudaGraphLaunch(exec, stream));
      Check(cudaEventRecord(end, stream));
      wait();
      float ms = 0.0f;
      Check(cudaEventElapsedTime(&ms, begin, end));
      device_us.push_back(1000.0f * ms / kRepeats);
      host_us.push_back(host.count());
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(device_us.begin(), device_us.end());
    std::sort(host_us.begin(), host_us.end());
    std::printf("%-38s %10d %5d %9.1f %9.1f\n", one.name.c_str(), vocabulary, rows,
                device_us[kRuns / 2], host_us[kRuns / 2]);
    std::fflush(stdout);
  }

  std::unique_ptr<cuda::CudaBackend> device_;
  std::unique_ptr<Buffer> logits_;
  std::vector<int32_t> history_;
};

}  // namespace
}  // namespace lorica::bench

int main() { lorica::bench::Bench().Run(); }
