#include "kernels/cpu/embed.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/linear.h"

namespace lorica {
namespace {

int32_t TokenOf(const StepBatch& batch, const std::vector<int32_t>& slots, int64_t row) {
  const int32_t token = batch.tokens[row];
  if (token >= 0) return token;
  const int64_t slot = -1 - int64_t{token};
  LORICA_CHECK(slot < static_cast<int64_t>(slots.size()) && slots[slot] >= 0, "empty slot", slot);
  return slots[slot];
}

}  // namespace

void ResolveTokens(const StepBatch& batch, const std::vector<int32_t>& slots,
                   std::vector<int32_t>& tokens) {
  tokens.resize(batch.rows());
  for (int64_t row = 0; row < batch.rows(); ++row) tokens[row] = TokenOf(batch, slots, row);
}

void RunEmbed(Tensor out, const PackedWeight& table, const std::vector<int32_t>& tokens,
              ThreadPool& pool) {
  LORICA_CHECK(out.rows == std::ssize(tokens) && out.columns == table.in_features(), out.rows,
               tokens.size(), out.columns, table.in_features());
  constexpr int64_t kRowsPerTask = 8;
  pool.Run((out.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t index, int) {
    const int64_t end = std::min(out.rows, (index + 1) * kRowsPerTask);
    for (int64_t row = index * kRowsPerTask; row < end; ++row) {
      const int32_t token = tokens[row];
      LORICA_CHECK(token < table.out_features(), "token", token, table.out_features());
      UnpackRow(table, token, out.f32() + row * out.columns);
    }
  });
}

void RunGatherRows(Tensor out, Tensor x, const StepBatch& batch) {
  LORICA_CHECK(out.columns == x.columns, out.columns, x.columns);
  for (size_t j = 0; j < batch.samples.size(); ++j) {
    const int32_t row = batch.samples[j].row;
    LORICA_CHECK(row >= 0 && row < x.rows, "row", row, "of", x.rows);
    std::copy_n(x.f32() + row * x.columns, x.columns, out.f32() + j * x.columns);
  }
}

}  // namespace lorica
