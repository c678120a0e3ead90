// What stands before a library's function, and what only seems to: bindable.cc as two libraries, of
// which one binds its calls to its own functions.
#include "server/api/before_library.h"

#include "gtest/gtest.h"

extern "C" {
int OpenAsk();
int BoundAsk();
// Ours, in the place of theirs.
__attribute__((visibility("default"), used)) int OpenAsked() { return 2; }
__attribute__((visibility("default"), used)) int BoundAsked() { return 2; }
}

namespace lorica {
namespace {

int Nowhere() { return 0; }

TEST(BeforeLibrary, StandsBeforeWhatIsLookedUp) {
  EXPECT_EQ(OpenAsk(), 2);
  EXPECT_TRUE(StandsBefore("OpenAsked", &OpenAsked));
  EXPECT_EQ(OfLibrary<int (*)()>("OpenAsked")(), 1);
}

TEST(BeforeLibrary, NotBeforeWhatALibraryCallsOfItsOwn) {
  EXPECT_EQ(BoundAsk(), 1) << "it is not asked";
  EXPECT_FALSE(StandsBefore("BoundAsked", &BoundAsked));
}

TEST(BeforeLibrary, NotBeforeWhatNobodyHas) {
  EXPECT_FALSE(StandsBefore("NobodyHasThis", &Nowhere));
  EXPECT_FALSE(StandsBefore("OpenAsked", &Nowhere)) << "another one stands there";
  EXPECT_FALSE(StandsBefore("OpenAsk", &OpenAsk)) << "that is the library's own";
}

}  // namespace
}  // namespace lorica
