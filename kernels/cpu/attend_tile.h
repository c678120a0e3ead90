// Rows of one span and the heads of one KV head, with their scratch: what one
// attention task works on.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace lorica {

// Query q is head q % group of row q / group.
struct AttendTile {
  const AttentionShape* shape = nullptr;
  const KvCache* cache = nullptr;
  const BlockId* pages = nullptr;  // of the span
  int layer = 0;
  int kv_head = 0;
  int group = 0;  // heads of one KV head
  int64_t rows = 0;
  int64_t position_begin = 0;  // of row 0
  int64_t block_begin = 0;     // pages that some row may see
  int64_t block_end = 0;
  int64_t padded_head_size = 0;
  float* queries = nullptr;  // [queries, head_size]
  float* scores = nullptr;   // [queries, 16]
  float* sums = nullptr;     // [queries, padded_head_size]
  float* max = nullptr;      // [queries]
  float* total = nullptr;    // [queries]
};

}  // namespace lorica
