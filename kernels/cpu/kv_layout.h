// Where K and V of one (layer, KV head) lie inside an arena block of the CPU backend:
//
//   block: [layer][kv_head] { K [head_size][16 tokens], V [16 tokens][padded head_size] }
//
// fp32. Tokens are in lanes for K, channels for V, so that scores and sums are both
// products with a panel of 16. A recycled block may hold anything, NaN included:
// readers look only at tokens their row may see.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace lorica {

class KvLayout {
 public:
  explicit KvLayout(const AttentionShape& shape)
      : kv_heads_(shape.kv_heads), padded_head_size_((shape.head_size + 15) / 16 * 16) {}

  int64_t padded_head_size() const { return padded_head_size_; }
  // Floats of K, or of V, of one (layer, head).
  int64_t plane_floats() const { return padded_head_size_ * kBlockTokens; }
  int64_t block_floats(int layers) const { return layers * kv_heads_ * 2 * plane_floats(); }

  float* Keys(const KvCache& cache, BlockId block, int layer, int kv_head) const {
    auto* base = static_cast<std::byte*>(cache.arena) + block * cache.block_bytes;
    return reinterpret_cast<float*>(base) +
           (int64_t{layer} * kv_heads_ + kv_head) * 2 * plane_floats();
  }
  float* Values(const KvCache& cache, BlockId block, int layer, int kv_head) const {
    return Keys(cache, block, layer, kv_head) + plane_floats();
  }

 private:
  int64_t kv_heads_;
  int64_t padded_head_size_;
};

}  // namespace lorica
