#include "server/engine/batch_builder.h"

#include "kernels/check.h"

namespace lorica {
namespace {

void AddRows(const Span& span, const RequestState& request, StepBatch& batch) {
  for (int32_t i = 0; i < span.token_count; ++i) {
    batch.tokens.push_back(request.TokenAt(span.position_begin + i));
    batch.positions.push_back(span.position_begin + i);
  }
}

void AddAttention(const Span& span, absl::Span<const BlockId> blocks, StepBatch& batch) {
  const int32_t pages = KvBlocksFor(span.position_begin + span.token_count);
  LORICA_CHECK(pages <= static_cast<int32_t>(blocks.size()), "request", span.request, "pages",
               pages, "has", blocks.size());
  batch.spans.push_back({.row_begin = static_cast<int32_t>(batch.rows()) - span.token_count,
                         .row_count = span.token_count,
                         .position_begin = span.position_begin,
                         .page_begin = static_cast<int32_t>(batch.pages.size()),
                         .page_count = pages});
  batch.pages.insert(batch.pages.end(), blocks.begin(), blocks.begin() + pages);
}

// Nobody reads their slot, which is behind those of requests.
void AddScores(const Span& span, const RequestState& request, int32_t slot, StepBatch& batch) {
  const int32_t span_row = static_cast<int32_t>(batch.rows()) - span.token_count;
  for (int32_t i = 0; i < span.score_count; ++i) {
    const int32_t position = span.score_begin + i;
    SampleRow& sample = batch.samples.emplace_back();
    sample.row = span_row + position - span.position_begin;
    sample.slot = slot;
    sample.params.logprobs = request.request.prompt_logprobs;
    sample.bias = &request.scored_tokens[position + 1];
    sample.bias_count = 1;
  }
}

void AddSample(const RequestState& request, StepBatch& batch) {
  SampleRow sample;
  sample.row = static_cast<int32_t>(batch.rows()) - 1;
  sample.slot = request.slot;
  sample.token_index = static_cast<int64_t>(request.output.size()) + request.pending;
  sample.params = request.request.params;
  if (request.needs_history()) {
    sample.prompt = request.request.prompt.data();
    sample.prompt_count = static_cast<int32_t>(request.request.prompt.size());
    sample.output = request.output.data();
    sample.output_count = static_cast<int32_t>(request.output.size());
    sample.output_pending = request.pending;
    sample.history = request.id;
  }
  if (!request.request.logit_bias.empty()) {
    sample.bias = request.request.logit_bias.data();
    sample.bias_count = static_cast<int32_t>(request.request.logit_bias.size());
  }
  if (!request.mask.empty()) {
    sample.allowed_mask = request.mask.data();
    sample.allowed_words = static_cast<int32_t>(request.mask.size());
  }
  batch.samples.push_back(sample);
}

void AddSegment(const StepPlan& plan, const Span& span, bool joins, StepBatch& batch) {
  if (joins) {
    batch.segments.back().row_count += span.token_count;
    return;
  }
  const std::vector<LoraTerm>& terms = plan.tile_lists[span.tile_list];
  batch.segments.push_back({.row_begin = static_cast<int32_t>(batch.rows()) - span.token_count,
                            .row_count = span.token_count,
                            .term_begin = static_cast<int32_t>(batch.terms.size()),
                            .term_count = static_cast<int32_t>(terms.size())});
  batch.terms.insert(batch.terms.end(), terms.begin(), terms.end());
}

}  // namespace

std::unique_ptr<StepBatch> BuildBatch(const StepPlan& plan, const Scheduler& scheduler) {
  auto batch = std::make_unique<StepBatch>();
  batch->tokens.reserve(plan.rows);
  batch->positions.reserve(plan.rows);
  batch->spans.reserve(plan.spans.size());
  batch->samples.reserve(plan.spans.size());
  int32_t tiles_before = -1;
  for (size_t i = 0; i < plan.spans.size(); ++i) {
    const Span& span = plan.spans[i];
    const RequestState& request = *scheduler.planned()[i];
    AddRows(span, request, *batch);
    AddAttention(span, request.pages, *batch);
    if (span.tile_list >= 0) AddSegment(plan, span, span.tile_list == tiles_before, *batch);
    AddScores(span, request, scheduler.spare_slot(), *batch);
    if (span.samples) AddSample(request, *batch);
    tiles_before = span.tile_list;
  }
  return batch;
}

}  // namespace lorica
