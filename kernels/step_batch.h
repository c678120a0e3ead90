// One step as the device sees it: rows, attention entries, segments, samples.
//
// A plain value built by the engine from its StepPlan and read by the backend
// verbs of that step. Equal batches give equal bits. The vectors are borrowed by
// the backend until the step has completed.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/lora_tiles.h"

namespace lorica {

using BlockId = int32_t;

inline constexpr int kBlockTokens = 16;  // tokens of K and V, all layers, in one block
inline constexpr int kLogprobsMax = 20;
inline constexpr float kGreedyTemperature = 1e-5f;  // below it only rounding would choose
inline constexpr float kBanBias = -100.0f;          // this or less bans the token

// One span: consecutive rows of one request at consecutive positions. Row i of
// the span sees keys [0, position_begin + i], which lie in the pages listed.
struct AttendSpan {
  int32_t row_begin = 0;
  int32_t row_count = 0;
  int32_t position_begin = 0;
  int32_t page_begin = 0;  // into StepBatch::pages
  int32_t page_count = 0;  // covers position_begin + row_count positions
};

// How to choose the next token from one row of logits. Every field's default
// switches it off. Semantics and order (those of vLLM): repetition penalty over
// prompt and output; frequency and presence over output; logit bias; then log
// probabilities are reported from the raw logits; temperature; top-k; top-p; min-p.
// A temperature below kGreedyTemperature takes the largest, the lowest id on ties.
struct SampleParams {
  float temperature = 0.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int32_t logprobs = -1;  // -1 = none, else how many of the best besides the chosen one
};

// Whether the choice depends on the tokens before it.
inline bool HasPenalties(const SampleParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

struct TokenBias {
  int32_t token = 0;
  float bias = 0.0f;  // <= kBanBias bans the token
};

// One row that needs a token. The choice depends on the row's logits, params,
// history and (seed, token_index) alone: Philox4x32-10 keyed by seed, counter
// token_index, so neighbours and backends do not matter.
//
// History of penalties. On an asynchronous device the newest token may lie in the row's
// token slot only; output_pending says that it does, and that it counts as well. Such a
// device keeps counts of its own for each slot; `history` tells it whose they are, so that
// a step sends only what was added since the one before.
struct SampleRow {
  int32_t row = 0;          // in the step's rows
  int32_t slot = 0;         // token slot that receives the choice
  int64_t token_index = 0;  // how many tokens the request has generated before
  SampleParams params;
  const int32_t* prompt = nullptr;  // history for penalties; null when they are off
  int32_t prompt_count = 0;
  const int32_t* output = nullptr;
  int32_t output_count = 0;
  int32_t output_pending = 0;  // 1: the slot's token follows `output`
  uint64_t history = 0;        // the request's own number; 0: counts are made anew each step
  const TokenBias* bias = nullptr;
  int32_t bias_count = 0;
  // Bit per token, null = all; 32 tokens a word. Read when Backend::Sample is called, so that
  // it may be filled while the step's rows are computed.
  const int32_t* allowed_mask = nullptr;
  int32_t allowed_words = 0;  // of the mask: as many as the vocabulary takes
};

struct Logprob {
  int32_t token = 0;
  float logprob = 0.0f;
};

// What a SampleRow got.
struct SampleResult {
  int32_t token = -1;
  bool finite = true;        // false: the logits held NaN, or every token was banned; token is -1
  bool no_room = false;      // no memory for its penalties, biases or mask; finite is false then
  float logprob = 0.0f;      // of the chosen token, when asked for
  std::vector<Logprob> top;  // best first, ties by id
};

struct StepBatch {
  // [rows] token ids; -1 - slot means "what that token slot holds on the device".
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;  // [rows]
  std::vector<BlockId> pages;      // page tables of all spans, end to end
  std::vector<AttendSpan> spans;   // cover all rows, in row order
  std::vector<LoraTerm> terms;
  std::vector<LoraSegment> segments;
  std::vector<SampleRow> samples;  // rows in increasing order

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

// The batch's segments as runs of its samples, which are in row order as well; where none of a
// segment's rows samples, a run of none.
std::vector<LoraSegment> SampleSegments(const StepBatch& batch);

}  // namespace lorica
