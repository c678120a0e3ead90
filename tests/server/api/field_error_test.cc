#include "server/api/field_error.h"

#include <cmath>

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(FieldError, NumbersAreThoseThatWereSent) {
  EXPECT_EQ(PlainNumber(2147483647), "2147483647");
  EXPECT_EQ(PlainNumber(1'000'000), "1000000");
  EXPECT_EQ(PlainNumber(-999'999'999'999'999), "-999999999999999");
  EXPECT_EQ(PlainNumber(-0.0), "0");
  EXPECT_EQ(PlainNumber(0.01), "0.01");
  EXPECT_EQ(PlainNumber(1.0000001), "1.0000001");
  EXPECT_EQ(PlainNumber(1e300), "1e+300");
  EXPECT_EQ(PlainNumber(5e-324), "5e-324");
  EXPECT_EQ(PlainNumber(-INFINITY), "-inf");
  EXPECT_EQ(OutOfRange(2.5, -2, 2), "must be from -2 to 2, not 2.5");
}

}  // namespace
}  // namespace lorica
