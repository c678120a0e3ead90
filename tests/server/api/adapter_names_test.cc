#include "server/api/adapter_names.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(AdapterNamesTest, TheLastNameComesFirst) {
  AdapterNames names;
  EXPECT_THAT(names.NamesOf("d"), IsEmpty());
  names.Note("d", "one");
  names.Note("d", "two");
  EXPECT_THAT(names.NamesOf("d"), ElementsAre("two", "one"));
  names.Note("d", "one");
  EXPECT_THAT(names.NamesOf("d"), ElementsAre("one", "two"));
  names.Forget("d", "one");
  names.Forget("d", "three");
  EXPECT_THAT(names.NamesOf("d"), ElementsAre("two"));
}

TEST(AdapterNamesTest, ForgetsTheFirstBeyondTheLimit) {
  AdapterNames names;
  for (int i = 0; i < AdapterNames::kNamesMax; ++i) names.Note(std::to_string(i), "a");
  EXPECT_THAT(names.NamesOf("0"), ElementsAre("a"));
  names.Note("more", "b");
  EXPECT_THAT(names.NamesOf("0"), IsEmpty());
  EXPECT_THAT(names.NamesOf("1"), ElementsAre("a"));
  EXPECT_THAT(names.NamesOf("more"), ElementsAre("b"));
}

TEST(AdapterNamesTest, KeepsSoManyOfOneGeneration) {
  AdapterNames names;
  for (int i = 0; i < AdapterNames::kNamesOfOneMax; ++i) names.Note("d", std::to_string(i));
  EXPECT_EQ(names.NamesOf("d").back(), "0");
  names.Note("d", "more");
  EXPECT_EQ(std::ssize(names.NamesOf("d")), AdapterNames::kNamesOfOneMax);
  EXPECT_EQ(names.NamesOf("d").back(), "1");
}

}  // namespace
}  // namespace lorica
