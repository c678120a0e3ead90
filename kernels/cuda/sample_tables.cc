#include "kernels/cuda/sample_tables.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace lorica::cuda {
namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kListBytesMin = int64_t{1} << 16;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

bool IsPlainGreedy(const SampleRow& row) {
  return row.params.temperature < kGreedyTemperature && !HasPenalties(row.params) &&
         row.params.logprobs < 0 && row.bias_count == 0 && row.allowed_mask == nullptr;
}

// Copies lists one after another.
class SampleTables::Lists {
 public:
  explicit Lists(const Buffer& memory) : memory_(memory) {}

  template <typename T>
  T* Room(int64_t count) {
    T* room = reinterpret_cast<T*>(static_cast<std::byte*>(memory_.data()) + used_);
    used_ += Aligned(count * static_cast<int64_t>(sizeof(T)));
    LORICA_CHECK(used_ <= memory_.size_bytes(), used_, memory_.size_bytes());
    return room;
  }
  template <typename T>
  const T* Copy(const T* from, int64_t count) {
    T* to = Room<T>(count);
    std::copy_n(from, count, to);
    return to;
  }

 private:
  const Buffer& memory_;
  int64_t used_ = 0;
};

absl::StatusOr<std::unique_ptr<SampleTables>> SampleTables::Make(int rows_max) {
  std::unique_ptr<SampleTables> tables(new SampleTables(rows_max));
  for (Place& place : tables->places_) {
    auto outputs = AllocatePinned(rows_max * sizeof(SampleOutput));
    if (!outputs.ok()) return outputs.status();
    place.outputs = *std::move(outputs);
    auto lists = AllocatePinned(kListBytesMin);
    if (!lists.ok()) return lists.status();
    place.lists = *std::move(lists);
  }
  return tables;
}

void SampleTables::Begin(absl::Span<const SampleRow> rows, const int32_t* token_slots,
                         cudaStream_t stream) {
  places_[turn_].ended.Record(stream);
  turn_ = (turn_ + 1) % kStepsInFlightMax;
  Place& place = places_[turn_];
  place.ended.Wait();
  outputs_ = static_cast<SampleOutput*>(place.outputs->data());
  masked_tokens_ = kSampleVocabularyMax;
  rows_.clear();
  masks_.clear();
  if (std::all_of(rows.begin(), rows.end(), IsPlainGreedy)) return;
  AdvanceHistories(rows);
  const bool room = MakeRoom(place, ListBytes(rows));
  Lists lists(*place.lists);
  for (const SampleRow& row : rows) FillRow(row, room ? &lists : nullptr);
  if (room) LaunchTails(rows, lists, token_slots, stream);
}

// False: the host has no pinned memory left. Rows that need lists then end, as those without
// memory for their counts do, and no other.
bool SampleTables::MakeRoom(Place& place, int64_t bytes) {
  if (bytes <= place.lists->size_bytes()) return true;
  auto lists = AllocatePinned(std::max(bytes, 2 * place.lists->size_bytes()));
  if (lists.ok()) place.lists = *std::move(lists);
  return lists.ok();
}

void SampleTables::AdvanceHistories(absl::Span<const SampleRow> rows) {
  counts_.BeginStep();
  tails_.clear();
  for (const SampleRow& row : rows) {
    tails_.push_back(HasPenalties(row.params) ? counts_.Advance(row) : HistoryCounts::Tail{});
  }
}

int64_t SampleTables::ListBytes(absl::Span<const SampleRow> rows) const {
  int64_t bytes = Aligned(rows.size() * sizeof(HistoryTail));
  for (const SampleRow& row : rows) {
    bytes += Aligned(row.bias_count * sizeof(TokenBias)) + Aligned(row.allowed_words * 4);
  }
  for (const HistoryCounts::Tail& tail : tails_) {
    bytes += Aligned((tail.prompt.size() + tail.output.size()) * 4);
  }
  return bytes;
}

// `lists` null: there is no room for any.
void SampleTables::FillRow(const SampleRow& row, Lists* lists) {
  const SampleParams& p = row.params;
  const uint16_t* counts = tails_[rows_.size()].counts;
  DeviceSample sample{};
  sample.seed = p.seed;
  sample.token_index = row.token_index;
  sample.temperature = p.temperature;
  sample.top_k = p.top_k;
  sample.top_p = p.top_p;
  sample.min_p = p.min_p;
  sample.repetition_penalty = p.repetition_penalty;
  sample.presence_penalty = p.presence_penalty;
  sample.frequency_penalty = p.frequency_penalty;
  sample.logprobs = p.logprobs;
  sample.counts = counts;
  const bool wants_lists =
      HasPenalties(row.params) || row.bias_count > 0 || row.allowed_mask != nullptr;
  sample.no_room =
      (HasPenalties(row.params) && counts == nullptr) || (wants_lists && lists == nullptr) ? 1 : 0;
  if (lists != nullptr) {
    sample.bias = lists->Copy(row.bias, row.bias_count);
    sample.bias_count = row.bias_count;
  }
  if (lists != nullptr && row.allowed_mask != nullptr) {
    auto* allowed = lists->Room<int32_t>(row.allowed_words);
    masks_.push_back({row.allowed_mask, allowed, row.allowed_words});
    sample.allowed = reinterpret_cast<const uint8_t*>(allowed);
    masked_tokens_ = std::min(masked_tokens_, row.allowed_words * int64_t{32});
  }
  rows_.push_back(sample);
}

void SampleTables::CopyMasks() const {
  for (const Mask& mask : masks_) std::copy_n(mask.from, mask.words, mask.to);
}

void SampleTables::LaunchTails(absl::Span<const SampleRow> rows, Lists& lists,
                               const int32_t* token_slots, cudaStream_t stream) {
  auto* out = lists.Room<HistoryTail>(rows.size());
  int count = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const HistoryCounts::Tail& tail = tails_[i];
    const auto known = static_cast<int32_t>(tail.prompt.size() + tail.output.size());
    if (tail.counts == nullptr) continue;
    if (tail.anew) cudaMemsetAsync(tail.counts, 0, kSampleVocabularyMax * 2, stream);
    if (known == 0 && !tail.pending) continue;
    auto* tokens = lists.Room<int32_t>(known);
    std::copy(tail.prompt.begin(), tail.prompt.end(), tokens);
    std::copy(tail.output.begin(), tail.output.end(), tokens + tail.prompt.size());
    out[count++] = {tail.counts,
                    tokens,
                    static_cast<int32_t>(tail.prompt.size()),
                    known,
                    tail.pending ? rows[i].slot : -1,
                    0};
  }
  if (count > 0) LaunchCountHistory(out, count, token_slots, stream);
}

void ReadOutputs(const SampleOutput* outputs, absl::Span<SampleResult> results) {
  for (size_t i = 0; i < results.size(); ++i) {
    const SampleOutput& from = outputs[i];
    SampleResult& to = results[i];
    to.token = from.token;
    to.finite = from.finite != 0;
    if (!to.finite || from.top_count < 0) continue;
    to.logprob = from.logprob;
    to.top.assign(from.top, from.top + from.top_count);
  }
}

}  // namespace lorica::cuda
