#include "kernels/step_batch.h"

namespace lorica {

std::vector<LoraSegment> SampleSegments(const StepBatch& batch) {
  std::vector<LoraSegment> segments = batch.segments;
  size_t sample = 0;
  for (LoraSegment& segment : segments) {
    const int32_t end = segment.row_begin + segment.row_count;
    while (sample < batch.samples.size() && batch.samples[sample].row < segment.row_begin) ++sample;
    segment.row_begin = static_cast<int32_t>(sample);
    while (sample < batch.samples.size() && batch.samples[sample].row < end) ++sample;
    segment.row_count = static_cast<int32_t>(sample) - segment.row_begin;
  }
  return segments;
}

}  // namespace lorica
