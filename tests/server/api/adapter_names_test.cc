#include "server/api/adapter_names.h"

#include <string>

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(AdapterNamesTest, TheLastNameCounts) {
  AdapterNames names;
  EXPECT_EQ(names.NameOf("d"), "");
  names.Note("d", "one");
  names.Note("d", "two");
  EXPECT_EQ(names.NameOf("d"), "two");
}

TEST(AdapterNamesTest, ForgetsTheFirstBeyondTheLimit) {
  AdapterNames names;
  for (int i = 0; i < AdapterNames::kNamesMax; ++i) names.Note(std::to_string(i), "a");
  EXPECT_EQ(names.NameOf("0"), "a");
  names.Note("more", "b");
  EXPECT_EQ(names.NameOf("0"), "");
  EXPECT_EQ(names.NameOf("1"), "a");
  EXPECT_EQ(names.NameOf("more"), "b");
}

}  // namespace
}  // namespace lorica
