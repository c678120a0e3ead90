#include "kernels/plugin.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void ExpectRefusal(const absl::StatusOr<std::unique_ptr<Backend>>& backend,
                   const ::testing::Matcher<std::string>& text) {
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition) << backend.status();
  EXPECT_THAT(std::string(backend.status().message()), text);
}

TEST(Plugin, TheCpuNeedsNone) {
  const auto backend = MakeBackend("cpu", {.threads = 1});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->name().substr(0, 3), "cpu");
}

TEST(Plugin, ADeviceWithoutALibraryIsRefusedWithWhatToDo) {
  EXPECT_EQ(FindPlugin("abacus"), "");
  ExpectRefusal(MakeBackend("abacus", {}),
                AllOf(HasSubstr("liblorica_abacus.so"), HasSubstr("--device cpu")));
}

TEST(Plugin, AFileThatCannotBeLoadedIsNamed) {
  ExpectRefusal(MakePluginBackend("/nowhere/liblorica_x.so", {}),
                AllOf(HasSubstr("/nowhere/liblorica_x.so"), HasSubstr("--device cpu")));
}

TEST(Plugin, ALibraryOfAnotherKindIsRefused) {
  ExpectRefusal(MakePluginBackend("libm.so.6", {}), HasSubstr("libm.so.6 is no backend"));
}

TEST(Plugin, AnotherVersionIsRefused) {
  ExpectRefusal(MakePluginBackend(OTHER_PLUGIN, {}),
                AllOf(HasSubstr("another version"), HasSubstr("build both together")));
}

TEST(Plugin, ItsOwnErrorIsPassedOn) {
  ExpectRefusal(MakePluginBackend(OWN_PLUGIN, {}), HasSubstr("the device does not answer"));
}

}  // namespace
}  // namespace lorica
