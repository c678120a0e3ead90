#include "adapters/generation_cache.h"

#include <gtest/gtest.h>

#include "tests/fakes/fake_backend.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

TEST(GenerationCache, RemembersABoundedNumberOfFolders) {
  TemporaryFolder folder;
  const LittleModel model;
  FakeBackend backend;
  const PeftLoader loader{model.targets(), &backend, 128 << 10};
  GenerationCache cache(*MakeLocalSource(folder.path()), &loader, /*folders_max=*/2);
  const auto look = [&](const std::string& name, int seed) {
    SmallestAdapter(seed).WriteTo(folder, name);
    EXPECT_TRUE(cache.Look(name).ok()) << name;
  };
  const auto is_known = [&cache](const std::string& name) {
    const auto last = cache.Last(name);
    return last.ok() && *last != nullptr;
  };
  look("a", 1);
  look("b", 2);
  look("b", 3);
  EXPECT_TRUE(is_known("a") && is_known("b")) << "new content of one costs no other its place";
  look("c", 4);
  EXPECT_TRUE(is_known("c"));
  EXPECT_NE(is_known("a"), is_known("b"));
  EXPECT_EQ(cache.folders(), 2);
}

}  // namespace
}  // namespace lorica
