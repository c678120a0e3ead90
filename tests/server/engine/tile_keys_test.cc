#include "server/engine/tile_keys.h"

#include <gtest/gtest.h>

namespace lorica {
namespace {

TEST(TileKeys, EqualKeysHaveOneNumberAndOthersAnother) {
  TileKeys keys;
  EXPECT_EQ(keys.Take(""), 0);
  const uint64_t a = keys.Take("a"), b = keys.Take("b");
  EXPECT_NE(a, 0);
  EXPECT_NE(b, 0);
  EXPECT_NE(a, b);
  EXPECT_EQ(keys.Take("a"), a);
}

TEST(TileKeys, AKeyIsForgottenWithItsLastHolderAndItsNumberNeverUsedAgain) {
  TileKeys keys;
  const uint64_t a = keys.Take("a");
  keys.Take("a");
  keys.GiveBack("a");
  EXPECT_EQ(keys.Take("a"), a);
  keys.GiveBack("a");
  keys.GiveBack("a");
  EXPECT_EQ(keys.size(), 0);
  EXPECT_NE(keys.Take("b"), a);
  EXPECT_NE(keys.Take("a"), a);
  keys.Take("");
  keys.GiveBack("");
  EXPECT_EQ(keys.size(), 2);
}

}  // namespace
}  // namespace lorica
