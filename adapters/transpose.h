// Turns 8 rows of 16-bit elements into 8 columns, the way tiles want them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lorica {

// Where 8 by 8 elements lie: rows `stride` apart, the next square `step` behind; in elements.
struct SquareSteps {
  int64_t stride = 0;
  int64_t step = 0;
};

// For each of `count` squares: to[j][i] = from[i][j]. Nothing needs to be aligned. REQUIRES: the
// two do not overlap.
void TransposeSquares(const std::byte* from, const SquareSteps& from_steps, std::byte* to,
                      const SquareSteps& to_steps, int count);

}  // namespace lorica
