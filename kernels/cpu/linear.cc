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

// Columns of W that are unpacked at a time: a panel of them takes 20 KiB, which leaves
// room for six rows of x in the first-level cache.
constexpr size_t kColumnsAtOnce = 320;
constexpr size_t kPanelsAlone = 4;

// Columns [begin, begin + count) of one panel, ready to multiply.
HWY_INLINE const float* ReadyPanel(const PackedPart& part, int64_t panel, size_t begin,
                                   size_t count, float* scratch) {
  const std::byte* data = part.panel(panel);
  if (part.dtype == DType::kF32) {
    return reinterpret_cast<const float*>(data) + begin * kStrip;
  }
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
    MultiplyTile<1, 1>(x + row * x_stride, x_stride, w, kStrip, 0, count, strip, kStrip, fresh);
    memcpy(to, strip, columns * sizeof(float));
  }
}

// Panels [begin, end) of a part for two or more rows.
void MultiplyMany(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  HWY_ALIGN float scratch[2][kColumnsAtOnce * kStrip];
  const size_t columns = part.columns;
  const size_t x_stride = columns;
  const size_t y_stride = job.weight->out_features();
  const size_t passes = (columns + kColumnsAtOnce - 1) / kColumnsAtOnce;
  const size_t per_pass = ((columns + passes - 1) / passes + 31) / 32 * 32;
  const bool pairs = static_cast<size_t>(job.rows) * 2 <= kRowsAtOnce;
  for (size_t k = 0; k < columns; k += per_pass) {
    const size_t count = HWY_MIN(per_pass, columns - k);
    const bool fresh = k == 0;
    const float* x = job.x + k;
    for (int64_t panel = begin; panel < end; ++panel) {
      const float* w = ReadyPanel(part, panel, k, count, scratch[0]);
      float* y = job.y + part.row_begin + panel * kPanelRows;
      const int64_t used = part.rows - panel * kPanelRows;
      if (used < kPanelRows) {
        MultiplyRagged(job, x, w, count, y, used, fresh);
      } else if (pairs && panel + 1 < end && used >= 2 * kPanelRows) {
        const float* w2 = ReadyPanel(part, ++panel, k, count, scratch[1]);
        MultiplyRows<2>(job.rows, x, x_stride, w, kStrip, w2 - w, count, y, y_stride, fresh);
      } else {
        MultiplyRows<1>(job.rows, x, x_stride, w, kStrip, 0, count, y, y_stride, fresh);
      }
    }
  }
}

struct AddProducts {
  const float* x;
  V* sum;

  HWY_INLINE void operator()(size_t k, const V (&w)[kStripVectors]) const {
    const V a = Splat(x[k]);
    for (size_t i = 0; i < kStripVectors; ++i) sum[i] = hn::MulAdd(a, w[i], sum[i]);
  }
};

// kPanels panels for one row, multiplied while they are unpacked.
template <size_t kPanels, class Format>
HWY_INLINE void MultiplyPanelsAlone(const PackedPart& part, int64_t panel, const float* x,
                                    float* sums) {
  V sum[kPanels * kStripVectors];
  for (V& s : sum) s = hn::Zero(Floats());
  const std::byte* data = part.panel(panel);
  const size_t stride = part.panel_bytes;
  const size_t blocks = part.columns / Format::kItems;
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t p = 0; p < kPanels; ++p) {
      Format::VisitBlock(data + p * stride + b * Format::kBytes,
                         AddProducts{x + b * Format::kItems, sum + p * kStripVectors});
    }
  }
  for (size_t i = 0; i < kPanels * kStripVectors; ++i) StoreVector(sum[i], sums + i * kLanes);
}

template <class Format>
void MultiplyAlone(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  HWY_ALIGN float sums[kPanelsAlone * kStrip];
  for (int64_t panel = begin; panel < end;) {
    const int64_t panels = end - panel >= static_cast<int64_t>(kPanelsAlone) ? kPanelsAlone : 1;
    if (panels == 1) {
      MultiplyPanelsAlone<1, Format>(part, panel, job.x, sums);
    } else {
      MultiplyPanelsAlone<kPanelsAlone, Format>(part, panel, job.x, sums);
    }
    const int64_t used = HWY_MIN(panels * kPanelRows, part.rows - panel * kPanelRows);
    memcpy(job.y + part.row_begin + panel * kPanelRows, sums, used * sizeof(float));
    panel += panels;
  }
}

void MultiplyPanels(const LinearJob& job, const PackedPart& part, int64_t begin, int64_t end) {
  if (job.rows > 1) return MultiplyMany(job, part, begin, end);
  switch (part.dtype) {
    case DType::kF32:
      return MultiplyAlone<FloatFormat<float>>(job, part, begin, end);
    case DType::kF16:
      return MultiplyAlone<FloatFormat<hwy::float16_t>>(job, part, begin, end);
    case DType::kBF16:
      return MultiplyAlone<FloatFormat<hwy::bfloat16_t>>(job, part, begin, end);
    case DType::kQ8_0:
      return MultiplyAlone<Q8Format>(job, part, begin, end);
    case DType::kQ4_0:
      return MultiplyAlone<Q4Format<false>>(job, part, begin, end);
    case DType::kQ4_1:
      return MultiplyAlone<Q4Format<true>>(job, part, begin, end);
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
