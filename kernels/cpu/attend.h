// Attention of a step's rows over paged K and V:
//
//   out = sum over t of softmax_t(scale * q . k_t) v_t,   t in (p - window, p]
//
// Blocks of 16 positions in order, one running maximum and sum for each row and head
// (online softmax), the KV never split: a row's bits do not depend on the rows beside
// it. Rows of one span and heads of one KV head share the loads of a block.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace lorica {

struct AttendJob {
  const float* qkv = nullptr;  // [rows, qkv_columns], q in the first columns
  int64_t qkv_columns = 0;
  float* out = nullptr;  // [rows, heads * head_size]
  int layer = 0;
  const KvCache* cache = nullptr;
  const StepBatch* batch = nullptr;
};

void RunAttend(const AttendJob& job, ThreadPool& pool);

}  // namespace lorica
