// One row of logits in the shared memory of a cluster of blocks: what sampling asks of it.
//
// Each of 1 to 8 blocks holds a slice. Probabilities are integers in units of 2^-34 of the
// best token's, and integers have the same sum in any order: a row's answers have the same
// bits whatever shares the step and however many blocks share the row.
//
// Members are called by all threads of all blocks of the cluster, with equal arguments, and
// return the same to all of them. Device code only.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "kernels/cuda/tables.h"

namespace lorica::cuda {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kSampleBins = 2 * kSampleThreads;
inline constexpr int kSampleBlocksMax = 8;
inline constexpr int kSampleSliceMax = kSampleVocabularyMax / kSampleBlocksMax;

// Finite floats in the order of integers, between those of the infinities. NaN is the last.
inline constexpr uint32_t kMinusInfinityKey = 0x007fffff, kPlusInfinityKey = 0xff800000;
__device__ inline uint32_t OrderKey(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return ~0u;
  return bits >> 31 ? ~bits : bits | 0x80000000;
}
__device__ inline float KeyValue(uint32_t key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffff : ~key);
}
__device__ inline bool IsFiniteKey(uint32_t key) {
  return key > kMinusInfinityKey && key < kPlusInfinityKey;
}

inline constexpr int kWeightBits = 34;
inline constexpr int kHalfBits = kWeightBits / 2;
// The halves of a slice's weights in one bin are summed in 32 bits.
static_assert(uint64_t{kSampleSliceMax} << kHalfBits <= uint64_t{1} << 32);
// A chance in [0, 1] as an integer.
__device__ inline uint64_t ToWeight(float chance) {
  constexpr uint64_t kMax = (uint64_t{1} << kWeightBits) - 1;
  const uint64_t weight = __float2ull_rn(chance * (1ull << kWeightBits));
  return weight < kMax ? weight : kMax;
}

// What a block tells the others.
struct SampleMessage {
  uint32_t maxima[3];
  uint64_t sum;
};

struct alignas(16) SampleShared {
  uint32_t low[kSampleBins];  // halves of the sums of bins
  uint32_t high[kSampleBins];
  uint32_t warp_maxima[3][kSampleWarps];
  uint64_t warp_sums[kSampleWarps];
  SampleMessage messages[2];  // taken in turn: one is written while the other is still read
  uint64_t bin_above;
  int32_t bin;
  int32_t found;
  int32_t top_count;  // of the cluster's first block
  uint64_t top[kLogprobsMax];
};

class ClusterRow {
 public:
  struct Maxima {
    uint32_t v[3];
  };
  // The largest key that, with all above it, weighs at least `goal`.
  struct Selected {
    uint32_t key;
    uint64_t above;  // weight of what is larger: less than goal
    uint64_t goal;
    bool reached;  // false: all together weigh less, and key is the smallest
  };

  __device__ ClusterRow(SampleShared& shared, float* slice, int slice_tokens, int vocabulary)
      : shared_(shared),
        x_(slice),
        cluster_(cooperative_groups::this_cluster()),
        blocks_(cluster_.num_blocks()),
        begin_(cluster_.block_rank() * slice_tokens),
        count_(max(0, min(slice_tokens, vocabulary - begin_))) {}

  __device__ int blocks() const { return blocks_; }
  __device__ int begin() const { return begin_; }
  __device__ int count() const { return count_; }
  __device__ float* slice() { return x_; }
  __device__ bool leads() const { return cluster_.block_rank() == 0 && threadIdx.x == 0; }
  __device__ void Sync() { cluster_.sync(); }
  template <typename T>
  __device__ T* Of(T* mine, int block) {
    return cluster_.map_shared_rank(mine, block);
  }

  // f(logit, token) of all tokens.
  template <typename F>
  __device__ void ForEach(const F& f) const {
    for (int i = threadIdx.x; i < count_; i += kSampleThreads) f(x_[i], begin_ + i);
  }

  __device__ Maxima AllMax(Maxima mine) {
    for (uint32_t& v : mine.v) v = __reduce_max_sync(~0u, v);
    if (Lane() < 3) shared_.warp_maxima[Lane()][Warp()] = mine.v[Lane()];
    __syncthreads();
    if (Warp() < 3) {
      const uint32_t v = __reduce_max_sync(~0u, shared_.warp_maxima[Warp()][Lane()]);
      if (Lane() == 0) shared_.messages[turn_].maxima[Warp()] = v;
    }
    cluster_.sync();
    Maxima all = {};
    for (int b = 0; b < blocks_; ++b) {
      const SampleMessage* message = Of(&shared_.messages[turn_], b);
      for (int i = 0; i < 3; ++i) all.v[i] = max(all.v[i], message->maxima[i]);
    }
    turn_ ^= 1;
    return all;
  }

  // The sum of weight(logit, token).
  template <typename W>
  __device__ uint64_t Sum(const W& weight) {
    uint64_t mine = 0, block = 0;
    ForEach([&](float x, int token) { mine += weight(x, token); });
    ScanBlock(mine, block);
    return ShareSum(block).total;
  }

  // The first token, in order of id, up to which the weights sum to more than goal(sum of all).
  template <typename W, typename G>
  __device__ int32_t Locate(const W& weight, const G& goal) {
    const int run = (count_ + kSampleThreads - 1) / kSampleThreads * 32;  // of a warp
    const int first = Warp() * run, last = min(count_, first + run);
    uint64_t mine = 0, block = 0;
    for (int i = first + Lane(); i < last; i += 32) mine += weight(x_[i], begin_ + i);
    const uint64_t before_me = ScanBlock(mine, block);
    const uint64_t before = __shfl_sync(~0u, before_me, 0);
    const uint64_t end = __shfl_sync(~0u, before_me + mine, 31);
    const Share share = ShareSum(block);
    const uint64_t wanted = goal(share.total) - share.before;  // huge where it lies before
    if (wanted >= before && wanted < end) {
      const int32_t token = LocateInRun(weight, first, last, wanted - before);
      if (Lane() < blocks_) *Of(&shared_.found, Lane()) = token;
    }
    cluster_.sync();
    return shared_.found;
  }

  // Selects among keys in [low, high] by weights of one token each, or of `chance(logit)` each
  // when `by_chance`. goal(sum) is what is asked for.
  // REQUIRES: low and high are keys of finite logits of the row.
  template <typename C, typename G>
  __device__ Selected Select(bool by_chance, const C& chance, uint32_t low, uint32_t high,
                             const G& goal) {
    Bins bins = FirstBins(low, high);
    Selected selected = {low, 0, 0, true};
    for (bool first = true; first || bins.low < bins.high; first = false) {
      FillBins(bins, by_chance, chance);
      uint64_t sums[2], total = 0;
      ReadBins(sums);
      const uint64_t before = ScanBlock(sums[0] + sums[1], total);
      if (first) {
        selected.goal = goal(total);
        selected.reached = selected.goal <= total;
        if (!selected.reached) {
          cluster_.sync();  // all have read the bins
          return selected;
        }
      }
      ChooseBin(selected.above + before, sums, selected.goal);
      __syncthreads();
      selected.above = shared_.bin_above;
      bins = Narrow(bins, shared_.bin);
      selected.key = bins.low;
    }
    return selected;
  }

 private:
  struct Share {
    uint64_t before, total;  // of the earlier blocks, of all
  };
  // Keys in [low, high], the largest in bin 0: by their logits at first, then by the keys
  // themselves, which tell apart whatever differs.
  struct Bins {
    uint32_t low, high;
    float top, per_logit;
    int shift;  // -1: by logits
    __device__ int Of(float x, uint32_t key) const {
      if (shift >= 0) return (high - key) >> shift;
      return static_cast<int>(fminf((top - x) * per_logit, kSampleBins - 1));
    }
    __device__ bool Holds(uint32_t key) const { return key >= low && key <= high; }
  };

  __device__ static int Lane() { return threadIdx.x % 32; }
  __device__ static int Warp() { return threadIdx.x / 32; }

  // Sum of `mine` over the earlier threads of the block; `total` over all of them.
  __device__ uint64_t ScanBlock(uint64_t mine, uint64_t& total) {
    const uint64_t upto = ScanWarp(mine);
    if (Lane() == 31) shared_.warp_sums[Warp()] = upto;
    __syncthreads();
    const uint64_t warps = ScanWarp(shared_.warp_sums[Lane()]);
    total = __shfl_sync(~0u, warps, 31);
    const uint64_t earlier = __shfl_sync(~0u, warps, max(Warp() - 1, 0));
    return (Warp() > 0 ? earlier : 0) + upto - mine;
  }
  __device__ static uint64_t ScanWarp(uint64_t value) {
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, value, step);
      if (Lane() >= step) value += other;
    }
    return value;
  }

  __device__ Share ShareSum(uint64_t block) {
    if (threadIdx.x == 0) shared_.messages[turn_].sum = block;
    cluster_.sync();
    Share share = {0, 0};
    for (int b = 0; b < blocks_; ++b) {
      const uint64_t sum = Of(&shared_.messages[turn_], b)->sum;
      if (b < static_cast<int>(cluster_.block_rank())) share.before += sum;
      share.total += sum;
    }
    turn_ ^= 1;
    return share;
  }

  template <typename W>
  __device__ int32_t LocateInRun(const W& weight, int first, int last, uint64_t wanted) const {
    for (int strip = first; strip < last; strip += 32) {
      const int i = strip + Lane();
      const uint64_t upto = ScanWarp(i < last ? weight(x_[i], begin_ + i) : 0);
      const uint32_t past = __ballot_sync(~0u, upto > wanted);
      if (past) return begin_ + strip + __ffs(past) - 1;
      wanted -= __shfl_sync(~0u, upto, 31);
    }
    return -1;
  }

  __device__ static Bins FirstBins(uint32_t low, uint32_t high) {
    const float top = KeyValue(high);
    // Fine where logits are close, never coarser than bf16 is near 16.
    const float per_logit = fmaxf(16.0f, (kSampleBins - 1) / (top - KeyValue(low)));
    return {low, high, top, per_logit, -1};
  }

  template <typename C>
  __device__ void FillBins(const Bins& bins, bool by_chance, const C& chance) {
    for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) {
      shared_.low[i] = shared_.high[i] = 0;
    }
    __syncthreads();
    ForEach([&](float x, int) {
      const uint32_t key = OrderKey(x);
      if (!bins.Holds(key)) return;
      const uint64_t weight = by_chance ? ToWeight(chance(x)) : 1;
      if (weight == 0) return;
      const int bin = bins.Of(x, key);
      atomicAdd(&shared_.low[bin], static_cast<uint32_t>(weight) & ((1u << kHalfBits) - 1));
      if (by_chance) atomicAdd(&shared_.high[bin], static_cast<uint32_t>(weight >> kHalfBits));
    });
    cluster_.sync();
  }

  // The cluster's sums of this thread's two bins.
  __device__ void ReadBins(uint64_t (&sums)[2]) {
    sums[0] = sums[1] = 0;
    for (int b = 0; b < blocks_; ++b) {
      const uint2 low = reinterpret_cast<const uint2*>(Of(shared_.low, b))[threadIdx.x];
      const uint2 high = reinterpret_cast<const uint2*>(Of(shared_.high, b))[threadIdx.x];
      sums[0] += low.x + (uint64_t{high.x} << kHalfBits);
      sums[1] += low.y + (uint64_t{high.y} << kHalfBits);
    }
  }

  // The thread that has it notes the bin in which the goal is reached.
  __device__ void ChooseBin(uint64_t above, const uint64_t (&sums)[2], uint64_t goal) {
    for (int i = 0; i < 2; ++i) {
      if (above < goal && goal <= above + sums[i]) {
        shared_.bin = 2 * threadIdx.x + i;
        shared_.bin_above = above;
      }
      above += sums[i];
    }
  }

  // The keys that one bin holds.
  __device__ Bins Narrow(const Bins& bins, int bin) {
    Maxima mine = {};
    ForEach([&](float x, int) {
      const uint32_t key = OrderKey(x);
      if (!bins.Holds(key) || bins.Of(x, key) != bin) return;
      mine.v[0] = max(mine.v[0], key);
      mine.v[1] = max(mine.v[1], ~key);
    });
    const Maxima all = AllMax(mine);
    const uint32_t high = all.v[0], low = ~all.v[1];
    // As many leading bits as tell the two apart, and the ten that follow.
    const int bits = 32 - __clz(high - low);
    return {low, high, 0.0f, 0.0f, max(0, bits - 11)};
  }

  SampleShared& shared_;
  float* x_;
  cooperative_groups::cluster_group cluster_;
  int blocks_, begin_, count_;
  int turn_ = 0;
};

}  // namespace lorica::cuda
