// Choosing tokens: the filters and their order are those of kernels/cpu/sample.h.
//
// Batches of greedy rows have a light kernel of their own. The other one holds a row's
// logits in shared memory and looks for thresholds with histograms (sample_row.cuh).
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sample_row.cuh"

namespace lorica::cuda {
namespace {

constexpr int kVector = 8;  // logits that a thread loads at once
constexpr int kCountThreads = 256;

struct Best {
  float value;
  int32_t token;
};

__device__ Best Better(Best a, Best b) {
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.token < b.token ? a : b;
}

__device__ Best BestOfWarp(Best mine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    mine = Better(
        mine, {__shfl_xor_sync(~0u, mine.value, offset), __shfl_xor_sync(~0u, mine.token, offset)});
  }
  return mine;
}

// Logits [first, first + kVector) of a row, -inf from `end` on.
__device__ void LoadLogits(const float* row, int first, int end, bool aligned,
                           float (&out)[kVector]) {
  if (aligned && first + kVector <= end) {
    const auto* from = reinterpret_cast<const float4*>(row + first);
    const float4 low = from[0], high = from[1];
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    return;
  }
  for (int i = 0; i < kVector; ++i) out[i] = first + i < end ? row[first + i] : -INFINITY;
}

__device__ bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

__device__ void Report(const StepTables& step, int sample, int32_t token) {
  SampleOutput& output = step.counts->outputs[sample];
  output.token = token;
  output.finite = token >= 0;
  output.top_count = -1;
  step.token_slots[step.sample_slots[sample]] = max(token, 0);
}

__global__ void __launch_bounds__(kSampleThreads)
    GreedyKernel(const float* logits, int64_t columns, int32_t vocabulary, StepTables step) {
  __shared__ Best warps[kSampleWarps];
  const int sample = blockIdx.x;
  if (sample >= step.counts->samples) return;
  const float* row = logits + sample * columns;
  const bool aligned = IsAligned(row);
  Best best = {-INFINITY, INT32_MAX};
  bool nan = false;
#pragma unroll 4
  for (int first = threadIdx.x * kVector; first < vocabulary; first += kSampleThreads * kVector) {
    float values[kVector];
    LoadLogits(row, first, vocabulary, aligned, values);
    for (int i = 0; i < kVector; ++i) {
      nan |= isnan(values[i]);
      if (values[i] > best.value) best = {values[i], first + i};
    }
  }
  const bool broken = __syncthreads_or(nan);
  best = BestOfWarp(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = BestOfWarp(warps[threadIdx.x]);
  if (threadIdx.x == 0) Report(step, sample, broken || isinf(best.value) ? -1 : best.token);
}

// Philox4x32-10 of kernels/cpu/philox.h: 53 random bits as a fraction of 2^64.
__device__ uint64_t PhiloxFraction(uint64_t key, uint64_t counter) {
  uint32_t c0 = counter, c1 = counter >> 32, c2 = 0, c3 = 0;
  uint32_t k0 = key, k1 = key >> 32;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (uint64_t{c0} << 32 | c1) >> 11 << 11;
}

// The logit after penalties and the mask. Operations are those of the CPU, unfused.
__device__ float Adjust(const DeviceSample& sample, int token, float logit) {
  if (sample.counts) {
    const uint16_t seen = sample.counts[token];
    const int count = seen & kOutputCountMax;
    if (sample.repetition_penalty != 1.0f && seen != 0) {
      logit = logit > 0.0f ? __fdiv_rn(logit, sample.repetition_penalty)
                           : __fmul_rn(logit, sample.repetition_penalty);
    }
    if (count > 0) {
      logit = __fsub_rn(logit, __fmul_rn(sample.frequency_penalty, static_cast<float>(count)));
      logit = __fsub_rn(logit, sample.presence_penalty);
    }
  }
  if (sample.allowed && !(sample.allowed[token / 8] >> token % 8 & 1)) logit = -INFINITY;
  return logit;
}

// One sample row in the making.
class RowSampler {
 public:
  __device__ RowSampler(ClusterRow& row, SampleShared& shared, const DeviceSample& sample,
                        const float* logits)
      : row_(row), shared_(shared), sample_(sample), logits_(logits) {}

  // -1: the logits hold NaN, or every token is banned.
  __device__ int32_t Choose() {
    ClusterRow::Maxima mine = Load(Changes());
    if (sample_.bias_count > 0) {
      Bias();
      mine.v[1] = mine.v[2] = 0;
      row_.ForEach([&](float x, int) { Extend(mine, OrderKey(x)); });
    }
    const ClusterRow::Maxima all = row_.AllMax(mine);
    raw_max_ = all.v[0];
    max_ = all.v[1];
    min_ = ~all.v[2];
    if (sample_.no_room || !IsFiniteKey(raw_max_) || !IsFiniteKey(max_)) return -1;
    return sample_.temperature >= kGreedyTemperature ? Draw() : Nth(max_, 0);
  }

  __device__ void ReportLogprobs(int32_t token, SampleOutput& output) {
    if (Changes() || sample_.bias_count > 0) {
      min_ = ~row_.AllMax(Load(false)).v[2];
    }
    const float max = KeyValue(raw_max_);
    const uint64_t sum = row_.Sum([&](float x, int) { return ToWeight(expf(x - max)); });
    const double scaled = static_cast<double>(sum) / (1ull << kWeightBits);
    const float normaliser = static_cast<float>(max + log(scaled));
    const int top = ReportTop(normaliser, output);
    if (!row_.leads()) return;
    output.logprob = logits_[token] - normaliser;
    output.top_count = top;
  }

 private:
  __device__ bool Changes() const { return sample_.counts || sample_.allowed; }

  // Raw keys apart: the largest, and the complement of the smallest finite one.
  __device__ static void Extend(ClusterRow::Maxima& maxima, uint32_t key) {
    maxima.v[1] = max(maxima.v[1], key);
    if (key > kMinusInfinityKey) maxima.v[2] = max(maxima.v[2], ~key);
  }

  // Fills the slice. Of what this thread has seen: the largest raw key, and what Extend keeps.
  __device__ ClusterRow::Maxima Load(bool adjust) {
    const int begin = row_.begin(), end = begin + row_.count();
    const bool aligned = IsAligned(logits_ + begin);
    float* slice = row_.slice();
    ClusterRow::Maxima maxima = {};
    for (int i = threadIdx.x * kVector; i < row_.count(); i += kSampleThreads * kVector) {
      float values[kVector];
      LoadLogits(logits_, begin + i, end, aligned, values);
      for (int j = 0; j < kVector; ++j) {
        values[j] += 0.0f;  // no -0, whose key differs
        maxima.v[0] = max(maxima.v[0], OrderKey(values[j]));
        if (adjust && begin + i + j < end) values[j] = Adjust(sample_, begin + i + j, values[j]);
        values[j] += 0.0f;
        Extend(maxima, OrderKey(values[j]));
      }
      auto* to = reinterpret_cast<float4*>(slice + i);
      to[0] = {values[0], values[1], values[2], values[3]};
      to[1] = {values[4], values[5], values[6], values[7]};
    }
    __syncthreads();
    return maxima;
  }

  // A token that is listed twice gets both, in the list's order.
  __device__ void Bias() {
    for (int i = threadIdx.x; i < sample_.bias_count; i += kSampleThreads) {
      const int32_t token = sample_.bias[i].token, at = token - row_.begin();
      if (at < 0 || at >= row_.count()) continue;
      bool first = true;
      for (int j = 0; j < i && first; ++j) first = sample_.bias[j].token != token;
      if (!first) continue;
      float x = row_.slice()[at];
      for (int j = i; j < sample_.bias_count; ++j) {
        if (sample_.bias[j].token != token) continue;
        const float bias = sample_.bias[j].bias;
        x = bias <= kBanBias ? -INFINITY : __fadd_rn(x, bias);
      }
      row_.slice()[at] = x + 0.0f;
    }
    __syncthreads();
  }

  // The n-th token, from 0 and in order of id, with that key.
  __device__ int32_t Nth(uint32_t key, uint64_t n) {
    return row_.Locate([key](float x, int) -> uint64_t { return OrderKey(x) == key; },
                       [n](uint64_t) { return n; });
  }

  __device__ int32_t Draw() {
    const float max = KeyValue(max_), scale = 1.0f / sample_.temperature;
    const auto chance = [max, scale](float x) { return expf(scale * (x - max)); };
    uint32_t low = min_;  // kept: keys above it, and with it those up to token `last`
    int32_t last = INT32_MAX;
    if (sample_.top_k > 0) {
      const uint64_t k = sample_.top_k;
      low = row_.Select(false, chance, low, max_, [k](uint64_t) { return k; }).key;
    }
    if (sample_.top_p < 1.0f) {
      const double p = sample_.top_p;
      const auto nucleus = row_.Select(true, chance, low, max_, [p](uint64_t sum) {
        const double goal = ceil(p * static_cast<double>(sum));
        return goal > 1.0 ? static_cast<uint64_t>(goal) : uint64_t{1};
      });
      low = nucleus.key;
      const uint64_t weight = ToWeight(chance(KeyValue(low)));
      const uint64_t missing = nucleus.goal - nucleus.above;
      last = Nth(low, (missing + weight - 1) / weight - 1);
    }
    const float least = fminf(sample_.min_p, 1.0f);
    const uint64_t fraction = PhiloxFraction(sample_.seed, sample_.token_index);
    return row_.Locate(
        [=](float x, int token) -> uint64_t {
          const uint32_t key = OrderKey(x);
          if (key < low || (key == low && token > last)) return 0;
          const float p = chance(x);
          return p < least ? 0 : ToWeight(p);
        },
        [fraction](uint64_t sum) { return __umul64hi(fraction, sum); });
  }

  // The best raw logits, best first and ties by id. How many there are.
  __device__ int ReportTop(float normaliser, SampleOutput& output) {
    const int wanted = min(sample_.logprobs, kLogprobsMax);
    if (wanted == 0) return 0;
    const uint64_t goal = wanted;
    const auto best = row_.Select(
        false, [](float) { return 0.0f; }, min_, raw_max_, [goal](uint64_t) { return goal; });
    const int32_t last = best.reached ? Nth(best.key, goal - best.above - 1) : INT32_MAX;
    int* count = row_.Of(&shared_.top_count, 0);
    uint64_t* top = row_.Of(shared_.top, 0);
    row_.ForEach([&](float x, int token) {
      const uint32_t key = OrderKey(x);
      if (key < best.key || (key == best.key && token > last)) return;
      top[atomicAdd(count, 1)] = uint64_t{key} << 32 | static_cast<uint32_t>(~token);
    });
    row_.Sync();
    const int found = *count;
    if (row_.begin() == 0 && static_cast<int>(threadIdx.x) < found) {
      const uint64_t mine = shared_.top[threadIdx.x];
      int better = 0;
      for (int i = 0; i < found; ++i) better += shared_.top[i] > mine;
      output.top[better] = {static_cast<int32_t>(~static_cast<uint32_t>(mine)),
                            KeyValue(mine >> 32) - normaliser};
    }
    return found;
  }

  ClusterRow& row_;
  SampleShared& shared_;
  const DeviceSample& sample_;
  const float* logits_;
  uint32_t raw_max_ = 0, max_ = 0, min_ = 0;  // keys
};

__global__ void __launch_bounds__(kSampleThreads)
    SampleKernel(const float* logits, int64_t columns, int32_t vocabulary, int32_t slice_tokens,
                 StepTables step) {
  extern __shared__ __align__(16) std::byte memory[];
  auto& shared = *reinterpret_cast<SampleShared*>(memory);
  ClusterRow row(shared, reinterpret_cast<float*>(memory + sizeof(SampleShared)), slice_tokens,
                 vocabulary);
  const int index = blockIdx.x / row.blocks();
  if (index >= step.counts->samples) return;
  if (threadIdx.x == 0) shared.top_count = 0;
  const DeviceSample sample = step.samples[index];
  RowSampler sampler(row, shared, sample, logits + index * columns);
  const int32_t token = sampler.Choose();
  if (row.leads()) Report(step, index, token);
  if (token >= 0 && sample.logprobs >= 0) {
    sampler.ReportLogprobs(token, step.counts->outputs[index]);
  }
  row.Sync();  // nobody reads this block's memory any more
}

// One block a tail. Counts that a slot starts anew were cleared before.
__global__ void __launch_bounds__(kCountThreads)
    CountHistoryKernel(const HistoryTail* tails, const int32_t* token_slots) {
  const HistoryTail tail = tails[blockIdx.x];
  const auto add = [&](int32_t token, bool prompt) {
    if (token < 0 || token >= kSampleVocabularyMax) return;
    auto* word = reinterpret_cast<uint32_t*>(tail.counts) + token / 2;
    const int shift = token % 2 * 16;
    if (prompt) {
      atomicOr(word, uint32_t{kInPrompt} << shift);
      return;
    }
    uint32_t seen = *word, expected;
    do {
      if ((seen >> shift & kOutputCountMax) == kOutputCountMax) return;
      expected = seen;
      seen = atomicCAS(word, expected, expected + (1u << shift));
    } while (seen != expected);
  };
  for (int i = threadIdx.x; i < tail.count; i += kCountThreads) {
    add(tail.tokens[i], i < tail.prompt_count);
  }
  if (threadIdx.x == 0 && tail.pending_slot >= 0) add(token_slots[tail.pending_slot], false);
}

// Blocks of a cluster: as few as hold a row; more while all rows fit half the device, since
// the last multiprocessors of its parts hold no whole cluster.
int BlocksOfRow(int32_t vocabulary, int samples) {
  static const int processors = [] {
    int count = 0;
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0);
    return count;
  }();
  int blocks = 1;
  while (blocks * kSampleSliceMax < vocabulary) blocks *= 2;
  while (blocks < kSampleBlocksMax && 4 * blocks * samples <= processors &&
         vocabulary / blocks > 2 * kSampleThreads) {
    blocks *= 2;
  }
  return blocks;
}

}  // namespace

void LaunchGreedy(const void* logits, int64_t columns, int32_t vocabulary, const StepTables& step,
                  int samples, cudaStream_t stream) {
  GreedyKernel<<<samples, kSampleThreads, 0, stream>>>(static_cast<const float*>(logits), columns,
                                                       vocabulary, step);
}

void LaunchSample(const void* logits, int64_t columns, int32_t vocabulary, const StepTables& step,
                  int samples, cudaStream_t stream) {
  constexpr int kSharedMax = sizeof(SampleShared) + kSampleSliceMax * sizeof(float);
  static const cudaError_t raised =
      cudaFuncSetAttribute(SampleKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMax);
  static_cast<void>(raised);
  const int blocks = BlocksOfRow(vocabulary, samples);
  const int slice_tokens = (vocabulary + blocks * kVector - 1) / (blocks * kVector) * kVector;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = samples * blocks;
  config.blockDim = kSampleThreads;
  config.dynamicSmemBytes = sizeof(SampleShared) + slice_tokens * sizeof(float);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, SampleKernel, static_cast<const float*>(logits), columns, vocabulary,
                     slice_tokens, step);
}

void LaunchCountHistory(const HistoryTail* tails, int count, const int32_t* token_slots,
                        cudaStream_t stream) {
  CountHistoryKernel<<<count, kCountThreads, 0, stream>>>(tails, token_slots);
}

}  // namespace lorica::cuda
