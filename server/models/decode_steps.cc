#include "server/models/decode_steps.h"

#include <algorithm>

namespace lorica {
namespace {

constexpr int kFineRows = 8;
constexpr int kFineRowsEnd = 256;
constexpr int kCoarseRows = 32;

bool IsDecode(const StepBatch& batch) {
  return std::ssize(batch.spans) == batch.rows() && std::ssize(batch.samples) == batch.rows();
}

}  // namespace

std::vector<int> DecodeBuckets(int rows_max) {
  std::vector<int> buckets;
  int rows = 1;
  while (rows < rows_max) {
    buckets.push_back(rows);
    rows += rows < kFineRows ? rows : rows < kFineRowsEnd ? kFineRows : kCoarseRows;
  }
  buckets.push_back(rows_max);
  return buckets;
}

absl::Status DecodeSteps::Capture(Backend& device, const KvCache& cache, int rows_max,
                                  absl::FunctionRef<void(int rows)> verbs) {
  for (const int rows : DecodeBuckets(rows_max)) {
    for (const bool adapters : {false, true}) {
      const DecodeForm form = {rows, adapters};
      auto captured = device.Capture(form, cache, [&] { verbs(rows); });
      if (!captured.ok()) return captured.status();
      if (*captured == nullptr) return absl::OkStatus();
      steps_.push_back({form, *std::move(captured)});
    }
  }
  return absl::OkStatus();
}

const CapturedStep* DecodeSteps::Find(const StepBatch& batch) const {
  if (!IsDecode(batch)) return nullptr;
  const bool adapters = !batch.segments.empty();
  auto step =
      std::lower_bound(steps_.begin(), steps_.end(), batch.rows(),
                       [](const Step& step, int64_t rows) { return step.form.rows < rows; });
  if (step == steps_.end()) return nullptr;
  return (step + (adapters ? 1 : 0))->captured.get();
}

}  // namespace lorica
