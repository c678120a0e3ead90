// One step as the scheduler decided it: spans of requests and their tile lists.
// A plain value: it can be logged, replayed, compared, sent to another rank. Equal
// plans give equal bits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/step_batch.h"
#include "server/engine/request.h"

namespace lorica {

// Sample rows of a step beside one for each running request, for prompts that are scored: an
// executor takes running_max + kScoredRowsMax.
inline constexpr int kScoredRowsMax = 32;

// Consecutive tokens of one request. Spans of one request follow each other in
// position; a span that reaches the request's last known token samples the next. Rows of
// score_count positions from score_begin tell how likely the prompt token behind each was.
struct Span {
  RequestId request = 0;
  int32_t position_begin = 0;
  int32_t token_count = 0;
  bool samples = false;
  int32_t score_begin = 0;
  int32_t score_count = 0;
  int32_t tile_list = -1;  // index into StepPlan::tile_lists; -1 = base
};

struct StepPlan {
  uint64_t step = 0;
  // Ordered so that equal tile lists are neighbours, in the order in which their adapters first
  // came; base spans first.
  std::vector<Span> spans;
  std::vector<std::vector<LoraTerm>> tile_lists;
  int32_t rows = 0;
  bool masked = false;      // some row's tokens are constrained
  int32_t decode_rows = 0;  // of them: one token each of requests whose prompt is computed
};

}  // namespace lorica
