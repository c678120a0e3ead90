#include "kernels/cpu/linear.h"

#include <algorithm>

#include "kernels/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/panels-inl.h"
#include "kernels/cpu/unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorica {
namespace HWY_NAMESPACE {

// Columns of W that are unpacked at a time: a panel of them takes 12 KiB, which leaves
// room for six rows of x in the first-level cache.
constexpr size_t kColumnsAtOnce = 192;
// Up to this many floats of x stay in the second-level cache while whole panels go by.
constexpr size_t kResidentFloats = 48 * 1024;
// With so few rows it is cheaper to multiply while unpacking.
constexpr int64_t kFewRows = 4;

// Columns [begin, begin + count) of one panel, ready to multiply.
HWY_INLINE const float* ReadyPanel(const PackedPart& part, int64_t panel, size_t begin,
                                   size_t count, float* scratch) {
  const std::byte* data = part.panel(panel);
  if (part.dtype == DType::kF32) return reinterpret_cast<const float*>(data) + begin * kStrip;
  UnpackPanel(part.dtype, data, begin, count, scratch);
  return scratch;
}

// The last panel of a part may have fewer than 16 outputs: goes through a strip of its own.
void MultiplyRagged(const LinearJob& job, const float* x, const float* w, size_t count, float* y,
                    size_t columns, bool fresh) {
  const size_t x_stride = job.weight->in_features();
  const size_t y_stride = job.weight->out_features();
  for (int64_t row = 0; row < job.rows; ++row) {
    float strip[kStrip] = {};
    float* to = y + row * y_stride;
    if (!fresh) memcpy(strip, to, columns * sizeof(float));
    MultiplyTile<1>(x + row * x_stride, x_stride, w, kStrip, count, strip, kStrip, fresh);
    memcpy(to, strip, columns * sizeof(float));
  }
}

// Panels [begin, end) of a part for many rows: piece by piece, unpacked once for all rows.
void MultiplyMany(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  HWY_ALIGN float scratch[kColumnsAtOnce * kStrip];
  const size_t columns = part.columns;
  const size_t passes = (columns + kColumnsAtOnce - 1) / kColumnsAtOnce;
  const size_t per_pass = ((columns + passes - 1) / passes + 31) / 32 * 32;
  const size_t per_pass_bytes = per_pass * part.panel_bytes / columns;
  const size_t panels = end - begin;
  const bool x_stays = job.rows * columns <= kResidentFloats;
  const auto panel_of = [&](size_t piece) {
    return begin + (x_stays ? piece / passes : piece % panels);
  };
  const auto pass_of = [&](size_t piece) { return x_stays ? piece % passes : piece / panels; };
  for (size_t piece = 0; piece < passes * panels; ++piece) {
    const int64_t panel = panel_of(piece);
    const size_t k = pass_of(piece) * per_pass;
    if (k >= columns) continue;
    const size_t count = HWY_MIN(per_pass, columns - k);
    const float* w = ReadyPanel(part, panel, k, count, scratch);
    Prefetch(part.panel(panel_of(piece + 1)) + pass_of(piece + 1) * per_pass_bytes, per_pass_bytes);
    float* y = job.y + part.row_begin + panel * kPanelRows;
    const int64_t used = part.rows - panel * kPanelRows;
    if (used < kPanelRows) {
      MultiplyRagged(job, job.x + k, w, count, y, used, k == 0);
    } else {
      MultiplyRows(job.rows, job.x + k, columns, w, kStrip, count, y, job.weight->out_features(),
                   k == 0);
    }
  }
}

template <size_t kRows>
struct AddProducts {
  const float* x;
  size_t x_stride;
  V* sum;  // [rows][sum_stride]
  size_t sum_stride;

  HWY_INLINE void operator()(size_t k, const V (&w)[kStripVectors]) const {
    for (size_t r = 0; r < kRows; ++r) {
      const V a = Splat(x[r * x_stride + k]);
      for (size_t i = 0; i < kStripVectors; ++i) {
        sum[r * sum_stride + i] = hn::MulAdd(a, w[i], sum[r * sum_stride + i]);
      }
    }
  }
};

// kPanels panels for kRows rows, multiplied while they are unpacked.
template <class Format, size_t kRows, size_t kPanels>
HWY_INLINE void MultiplyWhileUnpacking(const LinearJob& job, const PackedPart& part,
                                       int64_t panel) {
  constexpr size_t kVectors = kPanels * kStripVectors;
  V sum[kRows * kVectors];
  for (V& s : sum) s = hn::Zero(Floats());
  const std::byte* data = part.panel(panel);
  const size_t stride = part.panel_bytes;
  const size_t blocks = part.columns / Format::kItems;
  for (size_t b = 0; b < blocks; ++b) {
    const std::byte* block = data + b * Format::kBytes;
    typename Format::Scales scales[kPanels];
    for (size_t p = 0; p < kPanels; ++p) {
      Prefetch(block + (kPanels + p) * stride, Format::kBytes);
      scales[p] = Format::LoadScales(block + p * stride);
    }
    // Panels take turns group by group, so that their chains overlap in the processor's window.
    for (size_t group = 0; group < Format::kGroups; ++group) {
      for (size_t p = 0; p < kPanels; ++p) {
        Format::VisitGroup(
            block + p * stride, group, scales[p],
            AddProducts<kRows>{job.x + b * Format::kItems, static_cast<size_t>(part.columns),
                               sum + p * kStripVectors, kVectors});
      }
    }
  }
  HWY_ALIGN float sums[kPanels * kStrip];
  const int64_t used = HWY_MIN(int64_t{kPanels * kPanelRows}, part.rows - panel * kPanelRows);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t i = 0; i < kVectors; ++i) StoreVector(sum[r * kVectors + i], sums + i * kLanes);
    float* y = job.y + r * job.weight->out_features() + part.row_begin + panel * kPanelRows;
    memcpy(y, sums, used * sizeof(float));
  }
}

// As many panels at once as give 8 independent chains of vectors.
template <class Format, size_t kRows>
void MultiplyFewRows(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  constexpr int64_t kPanels = kRows >= 3 ? 1 : 4 / kRows;
  int64_t panel = begin;
  for (; panel + kPanels <= end; panel += kPanels) {
    MultiplyWhileUnpacking<Format, kRows, kPanels>(job, part, panel);
  }
  for (; panel < end; ++panel) MultiplyWhileUnpacking<Format, kRows, 1>(job, part, panel);
}

template <class Format>
void MultiplyFew(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  switch (job.rows) {
    case 1:
      return MultiplyFewRows<Format, 1>(job, part, begin, end);
    case 2:
      return MultiplyFewRows<Format, 2>(job, part, begin, end);
    case 3:
      return MultiplyFewRows<Format, 3>(job, part, begin, end);
    case kFewRows:
      return MultiplyFewRows<Format, kFewRows>(job, part, begin, end);
  }
}

void MultiplyPanels(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  if (job.rows > kFewRows) return MultiplyMany(job, part, begin, end);
  switch (part.dtype) {
    case DType::kF32:
      return MultiplyFew<FloatFormat<float>>(job, part, begin, end);
    case DType::kF16:
      return MultiplyFew<FloatFormat<hwy::float16_t>>(job, part, begin, end);
    case DType::kBF16:
      return MultiplyFew<FloatFormat<hwy::bfloat16_t>>(job, part, begin, end);
    case DType::kQ8_0:
      return MultiplyFew<Q8Format>(job, part, begin, end);
    case DType::kQ4_0:
      return MultiplyFew<Q4Format<false>>(job, part, begin, end);
    case DType::kQ4_1:
      return MultiplyFew<Q4Format<true>>(job, part, begin, end);
  }
}

void UnpackPanelColumns(const PackedPart& part, int64_t panel, size_t begin, size_t count,
                        float* out) {
  UnpackPanel(part.dtype, part.panel(panel), begin, count, out);
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace lorica
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorica {

HWY_EXPORT(MultiplyPanels);
HWY_EXPORT(UnpackPanelColumns);
HWY_EXPORT(TargetName);

namespace {

// Panels of one part that make a task worth handing over, yet leave enough of them.
int64_t PanelsPerTask(const LinearJob& job, int threads) {
  constexpr int64_t kTaskProducts = 64 * 1024;
  constexpr int64_t kTasksPerThread = 4;
  const int64_t panel_products = kPanelRows * job.weight->in_features() * job.rows;
  const int64_t worthwhile = (kTaskProducts + panel_products - 1) / panel_products;
  const int64_t balanced = job.weight->panels() / (kTasksPerThread * threads);
  const int64_t panels = std::max<int64_t>(1, std::min(worthwhile, balanced));
  return job.rows == 1 ? (panels + 3) / 4 * 4 : panels;
}

struct LinearTask {
  const PackedPart* part;
  int64_t panel_begin;
  int64_t panel_end;
};

LinearTask TaskOf(const PackedWeight& weight, int64_t panels_per_task, int64_t index) {
  for (const PackedPart& part : weight.parts()) {
    const int64_t tasks = (part.panels + panels_per_task - 1) / panels_per_task;
    if (index < tasks) {
      const int64_t begin = index * panels_per_task;
      return {&part, begin, std::min(begin + panels_per_task, part.panels)};
    }
    index -= tasks;
  }
  LORICA_CHECK(false, "task", index);
}

int64_t TaskCount(const PackedWeight& weight, int64_t panels_per_task) {
  int64_t tasks = 0;
  for (const PackedPart& part : weight.parts()) {
    tasks += (part.panels + panels_per_task - 1) / panels_per_task;
  }
  return tasks;
}

}  // namespace

void RunLinear(const LinearJob& job, ThreadPool& pool) {
  if (job.rows == 0) return;
  const int64_t panels_per_task = PanelsPerTask(job, pool.threads());
  const auto multiply = HWY_DYNAMIC_DISPATCH(MultiplyPanels);
  pool.Run(TaskCount(*job.weight, panels_per_task), [&](int64_t index, int) {
    const LinearTask task = TaskOf(*job.weight, panels_per_task, index);
    multiply(job, *task.part, task.panel_begin, task.panel_end);
  });
}

void RunLinearAlone(const LinearJob& job) {
  if (job.rows == 0) return;
  for (const PackedPart& part : job.weight->parts()) {
    HWY_DYNAMIC_DISPATCH(MultiplyPanels)(job, part, 0, part.panels);
  }
}

void UnpackRow(const PackedWeight& weight, int64_t row, float* out) {
  constexpr int64_t kColumns = 256;
  alignas(64) float panel[kColumns * kPanelRows];
  const PackedPart& part = weight.PartOfRow(row);
  const int64_t local = row - part.row_begin;
  for (int64_t k = 0; k < part.columns; k += kColumns) {
    const int64_t count = std::min(kColumns, part.columns - k);
    HWY_DYNAMIC_DISPATCH(UnpackPanelColumns)(part, local / kPanelRows, k, count, panel);
    for (int64_t i = 0; i < count; ++i) out[k + i] = panel[i * kPanelRows + local % kPanelRows];
  }
}

const char* SimdTargetName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace lorica
#endif
