#include "kernels/cuda/lora_extras.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/mounted.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kAlignment = 16;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t ListBytes(int64_t tiles, int64_t terms) {
  return Aligned(tiles * sizeof(ExtraTile)) + Aligned(terms * sizeof(OutsideModule));
}

// Of the embedding or the head, for the rows of `segments`.
ExtraList ListOf(absl::Span<const LoraSegment> segments, absl::Span<const LoraTerm> terms,
                 absl::FunctionRef<const OutsideModule&(const MountedAdapter&)> of) {
  ExtraList list;
  int64_t u_used = 0;
  for (const LoraSegment& segment : segments) {
    if (segment.row_count == 0) continue;
    const auto begin = static_cast<int32_t>(list.terms.size());
    int rank_tiles = 0;
    for (const LoraTerm& term : terms.subspan(segment.term_begin, segment.term_count)) {
      const OutsideModule& outside = of(*term.adapter);
      if (outside.module.rank_tiles == 0) continue;
      LORICA_CHECK(!outside.module.gain || segment.term_count == 1, "DoRA inside a mix");
      list.terms.push_back(outside);
      list.terms.back().module.scale *= term.weight;
      rank_tiles += outside.module.rank_tiles;
    }
    if (rank_tiles == 0) continue;
    list.rank_tiles_max = std::max(list.rank_tiles_max, rank_tiles);
    const auto count = static_cast<int32_t>(list.terms.size()) - begin;
    for (int32_t row = 0; row < segment.row_count; row += kExtraRows) {
      const int32_t rows = std::min(kExtraRows, segment.row_count - row);
      list.tiles.push_back({segment.row_begin + row, rows, begin, count, u_used});
      u_used += int64_t{rank_tiles} * kTileRanks * rows;
    }
  }
  return list;
}

const MountedExtras& ExtrasOf(const MountedAdapter& adapter) {
  return static_cast<const CudaMounted&>(adapter).extras();
}

}  // namespace

ExtrasPlan PlanExtras(const StepBatch& batch,
                      absl::FunctionRef<const MountedExtras&(const MountedAdapter&)> of) {
  using Outside = const OutsideModule&;
  ExtrasPlan plan;
  bool has_biases = false;
  for (const LoraTerm& term : batch.terms) {
    plan.biases.push_back({of(*term.adapter).biases, term.weight});
    has_biases = has_biases || plan.biases.back().biases;
  }
  if (!has_biases) plan.biases.clear();
  plan.embedding =
      ListOf(batch.segments, batch.terms,
             [&](const MountedAdapter& adapter) -> Outside { return of(adapter).embedding; });
  plan.head = ListOf(SampleSegments(batch), batch.terms,
                     [&](const MountedAdapter& adapter) -> Outside { return of(adapter).head; });
  return plan;
}

// Appends tables to an image.
class StepExtras::Packer {
 public:
  Packer(Buffer& image, const Buffer& device) : image_(image), device_(device) {}

  ExtraTable Add(const ExtraList& list) {
    return {Add(list.tiles), Add(list.terms), static_cast<int>(list.tiles.size()),
            list.rank_tiles_max};
  }
  // Null where there are no values.
  template <typename T>
  const T* Add(const std::vector<T>& values) {
    const int64_t bytes = std::ssize(values) * sizeof(T);
    LORICA_CHECK(used_ + bytes <= image_.size_bytes(), used_, bytes, image_.size_bytes());
    std::copy_n(reinterpret_cast<const std::byte*>(values.data()), bytes,
                static_cast<std::byte*>(image_.data()) + used_);
    const auto* to = static_cast<const std::byte*>(device_.data()) + used_;
    used_ += Aligned(bytes);
    return values.empty() ? nullptr : reinterpret_cast<const T*>(to);
  }
  int64_t used() const { return used_; }

 private:
  Buffer& image_;
  const Buffer& device_;
  int64_t used_ = 0;
};

absl::StatusOr<std::unique_ptr<StepExtras>> StepExtras::Make(int64_t rows_max, int64_t terms_max) {
  std::unique_ptr<StepExtras> extras(new StepExtras);
  const int64_t bytes = Aligned(terms_max * sizeof(BiasTerm)) + 2 * ListBytes(rows_max, terms_max);
  auto device = AllocateDevice(bytes);
  if (!device.ok()) return device.status();
  extras->device_ = *std::move(device);
  for (Staging& staging : extras->staging_) {
    auto memory = AllocatePinned(bytes);
    if (!memory.ok()) return memory.status();
    staging.memory = *std::move(memory);
  }
  return extras;
}

void StepExtras::Send(const StepBatch& batch, cudaStream_t stream) {
  any_ = std::ranges::any_of(batch.terms,
                             [](const LoraTerm& term) { return ExtrasOf(*term.adapter).any(); });
  biases_ = nullptr;
  embedding_ = {};
  head_ = {};
  if (!any_) return;
  const ExtrasPlan plan = PlanExtras(batch, ExtrasOf);
  Staging& staging = staging_[turn_++ % 2];
  staging.sent.Wait();
  Packer packer(*staging.memory, *device_);
  biases_ = packer.Add(plan.biases);
  embedding_ = packer.Add(plan.embedding);
  head_ = packer.Add(plan.head);
  cudaMemcpyAsync(device_->data(), staging.memory->data(), packer.used(), cudaMemcpyHostToDevice,
                  stream);
  staging.sent.Record(stream);
}

}  // namespace lorica::cuda
