#include "adapters/transpose.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace lorica {
namespace {

TEST(Transpose, PutsEveryElementWhereItBelongsAndTouchesNoOther) {
  constexpr int kCount = 3;
  constexpr uint16_t kUntouched = 0xabcd;
  std::mt19937 random(7);
  // Side by side, one below the other, and with gaps.
  for (const auto& [from_steps, to_steps] : {std::pair{SquareSteps{24, 8}, SquareSteps{8, 64}},
                                             {{16, 128}, {24, 8}},
                                             {{33, 9}, {31, 10}}}) {
    std::vector<uint16_t> from(8 * from_steps.stride + kCount * from_steps.step);
    for (uint16_t& value : from) value = static_cast<uint16_t>(random() % kUntouched);
    std::vector<uint16_t> to(8 * to_steps.stride + kCount * to_steps.step, kUntouched);
    std::vector<uint16_t> want = to;
    for (int square = 0; square < kCount; ++square) {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
          want[square * to_steps.step + j * to_steps.stride + i] =
              from[square * from_steps.step + i * from_steps.stride + j];
        }
      }
    }
    TransposeSquares(reinterpret_cast<const std::byte*>(from.data()), from_steps,
                     reinterpret_cast<std::byte*>(to.data()), to_steps, kCount);
    EXPECT_EQ(to, want);
  }
}

}  // namespace
}  // namespace lorica
