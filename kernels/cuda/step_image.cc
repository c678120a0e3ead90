#include "kernels/cuda/step_image.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/mounted.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kAlignment = 16;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Appends arrays to an image and notes where each of them goes.
class StepImage::Packer {
 public:
  Packer(std::byte* image, const std::byte* tables, int64_t capacity)
      : image_(image), tables_(tables), capacity_(capacity) {}

  // Room for `count` values that end up at `target`.
  template <typename T>
  T* Add(const T* target, int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    LORICA_CHECK(sections_.count < ScatterSections::kMax);
    LORICA_CHECK(used_ + Aligned(bytes) <= capacity_, bytes);
    const int64_t place = reinterpret_cast<const std::byte*>(target) - tables_;
    sections_.sections[sections_.count++] = {place, used_, bytes};
    T* out = reinterpret_cast<T*>(image_ + used_);
    used_ += Aligned(bytes);
    return out;
  }

  const ScatterSections& sections() const { return sections_; }

 private:
  std::byte* image_;
  const std::byte* tables_;
  int64_t capacity_;
  int64_t used_ = 0;
  ScatterSections sections_;
};

absl::StatusOr<std::unique_ptr<StepImage>> StepImage::Make(int rows_max, int decode_rows_max,
                                                           int64_t u_floats,
                                                           int64_t flagged_u_max) {
  std::unique_ptr<StepImage> image(new StepImage(decode_rows_max));
  image->rows_max_ = rows_max;
  image->u_floats_ = u_floats;
  image->flagged_u_max_ = flagged_u_max;
  image->Layout(rows_max);
  auto tables = AllocateDevice(image->image_bytes_max_);
  if (!tables.ok()) return tables.status();
  image->device_ = *std::move(tables);
  auto slots = AllocateDevice(kTokenSlotsMax * 4);
  if (!slots.ok()) return slots.status();
  image->token_slots_ = *std::move(slots);
  for (Staging& staging : image->staging_) {
    auto memory = AllocatePinned(image->image_bytes_max_);
    if (!memory.ok()) return memory.status();
    staging.memory = *std::move(memory);
  }
  image->Layout(rows_max);
  return image;
}

// Places of all tables from device_'s base, which is null the first time round, when only
// the size is wanted.
void StepImage::Layout(int rows_max) {
  const int64_t rows = rows_max, terms = rows * kMixTermsMax;
  int64_t used = 0;
  auto* base = device_ ? static_cast<std::byte*>(device_->data()) : nullptr;
  const auto place = [&](auto& pointer, int64_t count) {
    using T = std::remove_reference_t<decltype(*pointer)>;
    pointer = reinterpret_cast<T*>(base + used);
    used += Aligned(count * static_cast<int64_t>(sizeof(T)));
  };
  place(tables_.counts, 1);
  place(tables_.tokens, rows);
  place(tables_.positions, rows);
  place(tables_.row_spans, rows);
  place(tables_.segments, rows);
  place(tables_.terms, terms);
  place(tables_.row_tiles, rows);
  place(tables_.tile_of_row, rows);
  place(tables_.sample_rows, rows);
  place(tables_.sample_slots, rows);
  place(tables_.samples, rows);
  place(tables_.pages, kPagesMax);
  place(tables_.attend_items, rows + kAttendSlotsMax);
  place(tables_.attend_chunks, rows / kAttendDecodeRowsMax);
  image_bytes_max_ = used;
  if (token_slots_) tables_.token_slots = static_cast<int32_t*>(token_slots_->data());
}

void StepImage::PackRows(const StepBatch& batch, Packer& packer) {
  const int64_t rows = batch.rows();
  std::copy_n(batch.tokens.data(), rows, packer.Add(tables_.tokens, rows));
  std::copy_n(batch.positions.data(), rows, packer.Add(tables_.positions, rows));
  DeviceSpan* row_spans = packer.Add(tables_.row_spans, rows);
  for (const AttendSpan& span : batch.spans) {
    std::fill_n(row_spans + span.row_begin, span.row_count,
                DeviceSpan{span.row_begin, span.row_count, span.position_begin, span.page_begin});
  }
  const int64_t samples = batch.samples.size();
  int32_t* sample_rows = packer.Add(tables_.sample_rows, samples);
  int32_t* slots = packer.Add(tables_.sample_slots, samples);
  for (int i = 0; i < samples; ++i) {
    sample_rows[i] = batch.samples[i].row;
    slots[i] = batch.samples[i].slot;
    LORICA_CHECK(slots[i] >= 0 && slots[i] < kTokenSlotsMax, slots[i]);
  }
  attend_.Make(batch);
  counts_.attend_items = static_cast<int32_t>(attend_.items().size());
  counts_.attend_chunks = static_cast<int32_t>(attend_.chunks().size());
  std::copy(attend_.items().begin(), attend_.items().end(),
            packer.Add(tables_.attend_items, counts_.attend_items));
  std::copy(attend_.chunks().begin(), attend_.chunks().end(),
            packer.Add(tables_.attend_chunks, counts_.attend_chunks));
  const int64_t pages = batch.pages.size();
  LORICA_CHECK(pages <= kPagesMax, pages);
  std::copy_n(batch.pages.data(), pages, packer.Add(tables_.pages, pages));
}

void StepImage::PackAdapters(const StepBatch& batch, Packer& packer) {
  const int segments = static_cast<int>(batch.segments.size());
  const int terms = static_cast<int>(batch.terms.size());
  DeviceSegment* segment_out = packer.Add(tables_.segments, segments);
  DeviceTerm* term_out = packer.Add(tables_.terms, terms);
  RowTile* tiles = packer.Add(tables_.row_tiles, batch.rows());
  int32_t* tile_of_row = packer.Add(tables_.tile_of_row, batch.rows());
  std::fill_n(tile_of_row, batch.rows(), -1);
  int wide_tiles = 0;
  int64_t u_used = 0;
  for (int s = 0; s < segments; ++s) {
    const LoraSegment& segment = batch.segments[s];
    int width = 0;
    for (int i = segment.term_begin; i < segment.term_begin + segment.term_count; ++i) {
      const auto* adapter = static_cast<const CudaMounted*>(batch.terms[i].adapter);
      term_out[i] = {adapter->modules(), batch.terms[i].weight, s};
      width += adapter->group_ranks_max();
      wide_tiles = std::max(wide_tiles, adapter->wide_tiles_max());
    }
    segment_out[s] = {segment.row_begin,
                      segment.row_count,
                      segment.term_begin,
                      segment.term_count,
                      u_used,
                      width};
    u_used += int64_t{width} * segment.row_count;
  }
  LORICA_CHECK(u_used <= u_floats_, u_used, u_floats_);
  counts_.segments = segments;
  counts_.terms = terms;
  TileRows(batch, absl::MakeConstSpan(segment_out, segments), tiles, tile_of_row);
  const bool few = batch.rows() <= kStreamRowsMax;
  LORICA_CHECK(!few || u_used <= flagged_u_max_, u_used, flagged_u_max_);
  counts_.u_part = few && u_used * wide_tiles <= flagged_u_max_ ? u_used : 0;
}

// Tiles of the segments' rows, then of all others, which have no terms.
void StepImage::TileRows(const StepBatch& batch, absl::Span<const DeviceSegment> segments,
                         RowTile* tiles, int32_t* tile_of_row) {
  const int rows = static_cast<int>(batch.rows());
  const int rows_max = rows <= kStreamRowsMax ? kFewRows : kManyRows;
  int count = 0;
  const auto add = [&](const DeviceSegment& segment, int32_t* tile_of_row) {
    const int end = segment.row_begin + segment.row_count;
    for (int row = segment.row_begin; row < end; row += rows_max) {
      const int64_t u_row = segment.u_begin + int64_t{row - segment.row_begin} * segment.u_width;
      const int tile_rows = std::min(rows_max, end - row);
      if (tile_of_row) std::fill_n(tile_of_row + row, tile_rows, count);
      tiles[count++] = {
          row, tile_rows, segment.term_begin, segment.term_count, u_row, segment.u_width, 0};
    }
  };
  for (const DeviceSegment& segment : segments) add(segment, tile_of_row);
  counts_.row_tiles = count;
  for (int row = 0; row < rows;) {
    int end = row;
    while (end < rows && tile_of_row[end] < 0) ++end;
    if (end > row) add({.row_begin = row, .row_count = end - row}, nullptr);
    row = end + 1;
  }
  counts_.all_tiles = count;
}

void StepImage::Send(const StepBatch& batch, absl::Span<const DeviceSample> samples,
                     SampleOutput* outputs, uint32_t u_flag, cudaStream_t stream) {
  LORICA_CHECK(batch.rows() <= rows_max_, batch.rows(), rows_max_);
  LORICA_CHECK(batch.terms.size() <= int64_t{rows_max_} * kMixTermsMax, batch.terms.size());
  Staging& staging = staging_[turn_++ % 2];
  staging.scattered.Wait();
  auto* image = static_cast<std::byte*>(staging.memory->data());
  Packer packer(image, static_cast<const std::byte*>(device_->data()), image_bytes_max_);
  counts_ = {};
  counts_.u_flag = u_flag;
  counts_.rows = static_cast<int32_t>(batch.rows());
  counts_.samples = static_cast<int32_t>(batch.samples.size());
  counts_.outputs = outputs;
  StepCounts* counts = packer.Add(tables_.counts, 1);
  PackRows(batch, packer);
  std::copy(samples.begin(), samples.end(), packer.Add(tables_.samples, samples.size()));
  PackAdapters(batch, packer);
  *counts = counts_;
  LaunchScatter(static_cast<std::byte*>(device_->data()), image, packer.sections(), stream);
  staging.scattered.Record(stream);
}

}  // namespace lorica::cuda
