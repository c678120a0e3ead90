#include "adapters/adapter_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>
#include <tuple>

#include "absl/strings/match.h"
#include "tests/fakes/made_adapter.h"
#include "tests/fakes/watched_source.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const char kTenant[] = "default";
constexpr int64_t kBlockBytes = 128 << 10;

// Counts what is opened and read.
class CountingSource : public WatchedSource {
 public:
  explicit CountingSource(std::shared_ptr<Source> source)
      : WatchedSource(std::move(source),
                      [this](const std::string&, const std::string&, int64_t bytes) {
                        bytes_read += bytes;
                        if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(20));
                      }) {}

  absl::StatusOr<std::unique_ptr<SourceFile>> Open(const std::string& location,
                                                   const std::string& file) override {
    ++opens;
    return WatchedSource::Open(location, file);
  }

  std::atomic<int64_t> opens = 0;
  std::atomic<int64_t> bytes_read = 0;
  std::atomic<bool> slow = false;
};

class AdapterCatalogTest : public ::testing::Test {
 protected:
  absl::StatusOr<GenerationPtr> Resolve(const std::string& id) {
    return catalog_.Resolve(kTenant, id);
  }
  std::string Digest(const std::string& id) {
    const auto generation = Resolve(id);
    return generation.ok() ? (*generation)->digest : generation.status().ToString();
  }
  absl::StatusOr<AdapterCatalog::Registered> Register(
      const std::string& id, const AdapterCatalog::RegisterOptions& options = {}) {
    return catalog_.Register(kTenant, id, options);
  }
  std::vector<std::string> Ids(const std::string& prefix = "", const std::string& after = "",
                               int limit = 100) {
    std::vector<std::string> ids;
    const auto entries = catalog_.List(kTenant, prefix, after, limit);
    EXPECT_TRUE(entries.ok()) << entries.status();
    for (const CatalogEntry& entry : *entries) ids.push_back(entry.adapter_id);
    return ids;
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend backend_;
  std::shared_ptr<CountingSource> source_ =
      std::make_shared<CountingSource>(*MakeLocalSource(folder_.path()));
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
  AdapterCatalog catalog_{source_, &loader_, "the-base"};
};

TEST_F(AdapterCatalogTest, AFoldersNameIsItsContent) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  SmallestAdapter(2).WriteTo(folder_, "owner/b");
  EXPECT_EQ(Digest("a").size(), 64u);
  EXPECT_EQ((*Resolve("owner/b"))->location, "owner/b");
  EXPECT_NE(Digest("a"), Digest("owner/b"));
}

TEST_F(AdapterCatalogTest, UnchangedFoldersAreNotReadAgain) {
  SmallestAdapter().WriteTo(folder_, "a");
  const auto first = Resolve("a");
  const int64_t read = source_->bytes_read;
  const auto second = Resolve("a");
  EXPECT_EQ(*first, *second);
  EXPECT_EQ(source_->bytes_read, read);
}

TEST_F(AdapterCatalogTest, ChangedContentIsANewGenerationAndTheOldOneStays) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  const GenerationPtr before = *Resolve("a");
  SmallestAdapter(2).WriteTo(folder_, "a");  // same names, same sizes
  const GenerationPtr after = *Resolve("a");
  EXPECT_NE(before->digest, after->digest);
  MadeAdapter other_config = SmallestAdapter(2);
  other_config.config["lora_alpha"] = "9";
  folder_.Write("a/adapter_config.json", other_config.ConfigText());
  EXPECT_NE(Digest("a"), after->digest);
  SmallestAdapter(1).WriteTo(folder_, "a");
  EXPECT_EQ(Digest("a"), before->digest);
}

// Many writes within one tick of the file system's clock must all be seen.
TEST_F(AdapterCatalogTest, SeesContentThatChangesRightAfterItWasRead) {
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    const MadeAdapter adapter = SmallestAdapter(seed);
    adapter.WriteTo(folder_, "a");
    const auto generation = Resolve("a");
    ASSERT_TRUE(generation.ok());
    EXPECT_TRUE(loader_.LoadImage(**generation).ok()) << seed;
  }
}

TEST_F(AdapterCatalogTest, SaysWhyAFolderIsNotServed) {
  MadeAdapter adapter = SmallestAdapter();
  adapter.config["bias"] = "\"some\"";
  adapter.WriteTo(folder_, "a");
  const absl::Status status = Resolve("a").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("adapter 'a' cannot be served: adapter_config.json: bias 'some'"));
  const int64_t read = source_->bytes_read;
  EXPECT_EQ(Resolve("a").status(), status);
  EXPECT_EQ(source_->bytes_read, read);
  SmallestAdapter().WriteTo(folder_, "a");
  EXPECT_TRUE(Resolve("a").ok());
}

TEST_F(AdapterCatalogTest, WarnsOfAnotherBase) {
  for (const auto& [named, warnings] :
       std::vector<std::pair<std::string, size_t>>{{"org/The-Base", 0},
                                                   {"/models/the_base/", 0},
                                                   {"org/the-base-instruct", 0},
                                                   {"", 0},
                                                   {"meta-llama/Llama-3-8B", 1},
                                                   {"the-base/other", 1}}) {
    MadeAdapter adapter = SmallestAdapter();
    adapter.config["base_model_name_or_path"] = "\"" + named + "\"";
    adapter.WriteTo(folder_, "a");
    const auto plan = catalog_.Check(kTenant, "a");
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->warnings.size(), warnings) << named;
    if (!plan->warnings.empty()) {
      EXPECT_THAT(plan->warnings[0], HasSubstr("it was trained on '" + named));
    }
  }
}

TEST_F(AdapterCatalogTest, ABaseMayHaveTheNameOfWhatItWasReadFrom) {
  MadeAdapter adapter = SmallestAdapter();
  adapter.config["base_model_name_or_path"] = "\"org/SmolLM2-135M-Instruct\"";
  adapter.WriteTo(folder_, "a");
  for (const auto& [from, warnings] :
       std::vector<std::pair<std::string, size_t>>{{"/models/SmolLM2-135M-Instruct.Q4_1.gguf", 0},
                                                   {"org/SmolLM2-135M-Instruct@main", 0},
                                                   {"/models/model.gguf", 1},
                                                   {"", 1}}) {
    AdapterCatalog catalog(source_, &loader_, "Smollm2 135M 8k Lc100K Mix1 Ep2", from);
    const auto plan = catalog.Check(kTenant, "a");
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->warnings.size(), warnings) << from;
  }
}

TEST_F(AdapterCatalogTest, WarnsOfWhatAConfigurationHardlyMeans) {
  for (const auto& [field, value, warnings] :
       std::vector<std::tuple<std::string, std::string, size_t>>{
           {"lora_alpha", "40000", 0},
           {"lora_alpha", "40001", 1},  // r is 4
           {"target_modules", "\".*q_proj\"", 0},
           {"target_modules", "\"all-linear\"", 0},
           {"target_modules", "\"q_proj(\"", 1}}) {
    MadeAdapter adapter = SmallestAdapter();
    adapter.config[field] = value;
    adapter.WriteTo(folder_, "a");
    const auto plan = catalog_.Check(kTenant, "a");
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->warnings.size(), warnings) << field << value;
  }
}

TEST(CatalogFoldersTest, SaysWhichFileAFolderLacks) {
  const TemporaryFolder folder;
  LittleModel model;
  FakeBackend backend;
  PeftLoader loader(model.targets(), &backend, kBlockBytes);
  AdapterCatalog catalog(*MakeLocalSource(folder.path()), &loader, "the-base");
  folder.Write("plain/adapter_model.safetensors", SmallestAdapter().WeightsText());
  SmallestAdapter().WriteTo(folder, "group/one");
  for (const std::string id : {"plain", "group"}) {
    for (const absl::Status& status :
         {catalog.Resolve(kTenant, id).status(), catalog.Check(kTenant, id).status(),
          catalog.Register(kTenant, "x", {.location = id}).status()}) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("the folder '" + id + "' has no adapter_config.json"));
    }
  }
  for (const auto& [id, hint] : {std::pair("absent", false), std::pair("org/name", true)}) {
    const absl::Status status = catalog.Resolve(kTenant, id).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_EQ(absl::StrContains(status.message(), "--hub-allow"), hint) << status;
  }
  EXPECT_THAT(
      std::string(catalog.Register(kTenant, "x", {.location = "s3://bucket/c"}).status().message()),
      HasSubstr("--s3-allow"));
  EXPECT_THAT(
      std::string(
          catalog.Register(kTenant, "x", {.location = "https://host/c"}).status().message()),
      HasSubstr("--mirror-allow"));
}

TEST_F(AdapterCatalogTest, ChecksTheGrammarBeforeTouchingFiles) {
  for (const char* id : {"", "../a", "a//b", "a b", "a@"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Resolve(id).status())) << id;
    EXPECT_TRUE(absl::IsInvalidArgument(Register(id).status())) << id;
    EXPECT_TRUE(absl::IsInvalidArgument(catalog_.Delete(kTenant, id))) << id;
    EXPECT_TRUE(absl::IsInvalidArgument(catalog_.Get(kTenant, id).status())) << id;
    EXPECT_TRUE(absl::IsInvalidArgument(catalog_.Check(kTenant, id).status())) << id;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Register("a", {.location = "../x"}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Register("a@v1").status()));
  EXPECT_EQ(source_->opens, 0);
}

TEST_F(AdapterCatalogTest, UnknownIdsLeaveNothingBehind) {
  GenerationCache cache(source_, &loader_, 100);
  for (int i = 0; i < 20000; ++i) {
    const std::string id = absl::StrCat("unknown-", i);
    ASSERT_TRUE(absl::IsNotFound(Resolve(id).status()));
    ASSERT_TRUE(absl::IsNotFound(cache.Look(id).status()));
  }
  EXPECT_EQ(cache.folders(), 0);
  EXPECT_EQ(source_->bytes_read, 0);
  SmallestAdapter().WriteTo(folder_, "a");
  EXPECT_TRUE(cache.Look("a").ok());
  EXPECT_EQ(cache.folders(), 1);
  fs::remove_all(fs::path(folder_.path()) / "a");
  EXPECT_TRUE(absl::IsNotFound(cache.Look("a").status()));
  EXPECT_EQ(cache.folders(), 0);
}

TEST_F(AdapterCatalogTest, RemembersABoundedNumberOfFolders) {
  GenerationCache cache(source_, &loader_, 3);
  for (int i = 0; i < 4; ++i) {
    const std::string location = absl::StrCat("a", i);
    SmallestAdapter(i).WriteTo(folder_, location);
    EXPECT_TRUE(cache.Look(location).ok());
    EXPECT_EQ(cache.folders(), std::min(i + 1, 3));
  }
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(cache.Look(absl::StrCat("a", i)).ok());
}

TEST_F(AdapterCatalogTest, ManyCallersOfAColdFolderHashItOnce) {
  SmallestAdapter().WriteTo(folder_, "a");
  const int64_t file_bytes =
      std::ssize(SmallestAdapter().WeightsText()) + std::ssize(SmallestAdapter().ConfigText());
  source_->slow = true;
  std::vector<std::thread> threads;
  std::vector<GenerationPtr> results(16);
  for (GenerationPtr& result : results) {
    threads.emplace_back([&] { result = *Resolve("a"); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(source_->bytes_read, file_bytes);
  for (const GenerationPtr& result : results) EXPECT_EQ(result, results[0]);
}

TEST_F(AdapterCatalogTest, CallersAndWritersTogetherSeeWholeContents) {
  std::vector<std::string> digests;
  for (uint32_t seed : {1, 2}) {
    SmallestAdapter(seed).WriteTo(folder_, "a");
    digests.push_back(Digest("a"));
  }
  std::atomic<bool> stop = false;
  std::atomic<int> answers = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const auto generation = Resolve("a");
        if (!generation.ok()) continue;
        ++answers;
        EXPECT_TRUE((*generation)->digest == digests[0] || (*generation)->digest == digests[1]);
      }
    });
  }
  for (int i = 0; i < 20 || answers < 20; ++i) {
    // By rename, as a deploying script should.
    folder_.Write("new", SmallestAdapter(1 + i % 2).WeightsText());
    fs::rename(fs::path(folder_.path()) / "new",
               fs::path(folder_.path()) / "a" / "adapter_model.safetensors");
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(AdapterCatalogTest, RevisionsAreDigests) {
  SmallestAdapter().WriteTo(folder_, "a");
  const std::string digest = Digest("a");
  EXPECT_EQ(Digest("a@" + digest), digest);
  EXPECT_EQ(Digest("a@" + digest.substr(0, 8)), digest);
  EXPECT_TRUE(absl::IsNotFound(Resolve("a@" + digest.substr(0, 7)).status()));
  EXPECT_TRUE(absl::IsNotFound(Resolve("a@main").status()));
  EXPECT_THAT(std::string(Resolve("a@main").status().message()), HasSubstr(digest.substr(0, 12)));
}

TEST_F(AdapterCatalogTest, RegistersANameForAFolder) {
  SmallestAdapter().WriteTo(folder_, "owner/a");
  const auto registered = Register("alias", {.location = "owner/a"});
  ASSERT_TRUE(registered.ok()) << registered.status();
  EXPECT_TRUE(registered->created);
  EXPECT_EQ(Digest("alias"), Digest("owner/a"));
  const auto again = Register("alias", {.location = "owner/a"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->created);
  EXPECT_EQ(again->replaced, "");
  EXPECT_TRUE(absl::IsNotFound(Register("x", {.location = "absent"}).status()));
  EXPECT_TRUE(absl::IsNotFound(Resolve("x").status()));
}

TEST_F(AdapterCatalogTest, ANameMovesOnlyWhenAsked) {
  SmallestAdapter(1).WriteTo(folder_, "v1");
  SmallestAdapter(2).WriteTo(folder_, "v2");
  SmallestAdapter(1).WriteTo(folder_, "copy");
  ASSERT_TRUE(Register("app", {.location = "v1"}).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Register("app", {.location = "v2"}).status()));
  EXPECT_EQ(Digest("app"), Digest("v1"));
  EXPECT_TRUE(Register("app", {.location = "copy"}).ok());  // the same content
  const auto moved = Register("app", {.location = "v2", .replace = true});
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->replaced, Digest("v1"));
  EXPECT_FALSE(moved->created);
  EXPECT_EQ(Digest("app"), Digest("v2"));
  EXPECT_EQ(Register("app", {.location = "v2", .replace = true})->replaced, "");
}

TEST_F(AdapterCatalogTest, ExpectedGenerationIsCompareAndSet) {
  SmallestAdapter(1).WriteTo(folder_, "v1");
  SmallestAdapter(2).WriteTo(folder_, "v2");
  const std::string v1 = Digest("v1");
  ASSERT_TRUE(Register("app", {.location = "v1"}).ok());
  EXPECT_TRUE(absl::IsAborted(
      Register("app", {.location = "v2", .expected_generation = Digest("v2")}).status()));
  EXPECT_TRUE(absl::IsAborted(
      Register("app", {.location = "v2", .replace = true, .expected_generation = "x"}).status()));
  ASSERT_TRUE(Register("app", {.location = "v2", .expected_generation = v1}).ok());
  EXPECT_EQ(Digest("app"), Digest("v2"));
  EXPECT_TRUE(
      absl::IsAborted(Register("new", {.location = "v1", .expected_generation = v1}).status()));
}

TEST_F(AdapterCatalogTest, AFoldersOwnNameIsTakenToo) {
  SmallestAdapter(1).WriteTo(folder_, "a");
  SmallestAdapter(2).WriteTo(folder_, "b");
  EXPECT_TRUE(absl::IsAlreadyExists(Register("a", {.location = "b"}).status()));
  ASSERT_TRUE(Register("a", {.location = "b", .replace = true}).ok());
  EXPECT_EQ(Digest("a"), Digest("b"));
}

TEST_F(AdapterCatalogTest, NamesThatDifferByCaseOnlyAreRefused) {
  SmallestAdapter().WriteTo(folder_, "Folder");
  ASSERT_TRUE(Register("Name", {.location = "Folder"}).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Register("name", {.location = "Folder"}).status()));
  EXPECT_TRUE(absl::IsAlreadyExists(Register("folder", {.location = "Folder"}).status()));
  EXPECT_TRUE(Register("Folder").ok());
  ASSERT_TRUE(catalog_.Delete(kTenant, "Name").ok());
  EXPECT_TRUE(Register("name", {.location = "Folder"}).ok());
}

TEST_F(AdapterCatalogTest, TheBaseModelsNameIsNotForAdapters) {
  SmallestAdapter().WriteTo(folder_, "the-base");
  EXPECT_TRUE(absl::IsInvalidArgument(Register("the-base").status()));
  EXPECT_THAT(Ids(), IsEmpty());
}

TEST_F(AdapterCatalogTest, DeletedNamesStayUnknownUntilRegistered) {
  SmallestAdapter().WriteTo(folder_, "a");
  ASSERT_TRUE(Register("alias", {.location = "a"}).ok());
  ASSERT_TRUE(catalog_.Delete(kTenant, "alias").ok());
  EXPECT_TRUE(absl::IsNotFound(Resolve("alias").status()));
  EXPECT_TRUE(absl::IsNotFound(catalog_.Delete(kTenant, "alias")));

  ASSERT_TRUE(catalog_.Delete(kTenant, "a").ok());
  EXPECT_TRUE(absl::IsNotFound(Resolve("a").status()));
  EXPECT_TRUE(absl::IsNotFound(catalog_.Get(kTenant, "a").status()));
  EXPECT_TRUE(absl::IsNotFound(catalog_.Delete(kTenant, "a")));
  EXPECT_THAT(Ids(), IsEmpty());
  ASSERT_TRUE(Register("a").ok());
  EXPECT_TRUE(Resolve("a").ok());
  EXPECT_THAT(Ids(), ElementsAre("a"));
}

TEST_F(AdapterCatalogTest, DeletedNamesAreListedWhereAskedForWhileTheirFolderIsThere) {
  SmallestAdapter().WriteTo(folder_, "a");
  SmallestAdapter().WriteTo(folder_, "b");
  ASSERT_TRUE(Register("name", {.location = "a"}).ok());
  for (const char* id : {"name", "b"}) ASSERT_TRUE(catalog_.Delete(kTenant, id).ok());
  EXPECT_THAT(Ids(), ElementsAre("a"));
  const auto all = *catalog_.List(kTenant, "", "", 10, true);
  ASSERT_EQ(all.size(), 2u) << "a name without a folder of its own is gone";
  EXPECT_FALSE(all[0].deleted);
  EXPECT_EQ(all[1].adapter_id, "b");
  EXPECT_TRUE(all[1].deleted);
  EXPECT_TRUE(all[1].error.ok());
  EXPECT_EQ(catalog_.List("other", "", "", 10, true)->size(), 2u);
  EXPECT_FALSE(catalog_.List("other", "", "", 10, true)->back().deleted) << "a tenant's own names";
  std::filesystem::remove_all(folder_.path() + "/b");
  EXPECT_EQ(catalog_.List(kTenant, "", "", 10, true)->size(), 1u);
}

TEST_F(AdapterCatalogTest, ListsFoldersAndNamesInPagesWithoutReading) {
  for (const char* location : {"a", "b", "owner/c", "not an id", "x--y"}) {
    SmallestAdapter().WriteTo(folder_, location);
  }
  ASSERT_TRUE(Register("alias", {.location = "b"}).ok());
  const int64_t read = source_->bytes_read;
  EXPECT_THAT(Ids(), ElementsAre("a", "alias", "b", "owner/c"));
  EXPECT_THAT(Ids("", "", 2), ElementsAre("a", "alias"));
  EXPECT_THAT(Ids("", "alias", 2), ElementsAre("b", "owner/c"));
  EXPECT_THAT(Ids("a"), ElementsAre("a", "alias"));
  EXPECT_THAT(Ids("owner/", "a"), ElementsAre("owner/c"));
  EXPECT_THAT(Ids("zzz"), IsEmpty());
  EXPECT_EQ(source_->bytes_read, read);
  const auto entries = *catalog_.List(kTenant, "", "", 10);
  EXPECT_EQ(entries[0].generation, nullptr);  // nobody has looked at a
  EXPECT_NE(entries[1].generation, nullptr);
  EXPECT_TRUE(entries[1].registered);
  EXPECT_EQ(entries[1].location, "b");
}

TEST_F(AdapterCatalogTest, AFolderThatNoIdCanNameIsListedWithTheReason) {
  for (const char* location : {"a", "a@b"}) SmallestAdapter().WriteTo(folder_, location);
  const auto entries = *catalog_.List(kTenant, "", "", 10);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_TRUE(entries[0].error.ok());
  EXPECT_EQ(entries[1].adapter_id, "a@b");
  EXPECT_EQ(entries[1].location, "a@b") << "not that of a";
  EXPECT_TRUE(absl::IsFailedPrecondition(entries[1].error));
  EXPECT_THAT(std::string(entries[1].error.message()), HasSubstr("rename the folder"));
}

TEST_F(AdapterCatalogTest, GetShowsWhatIsWrong) {
  MadeAdapter adapter = SmallestAdapter();
  adapter.config["r"] = "0";
  adapter.WriteTo(folder_, "bad");
  SmallestAdapter().WriteTo(folder_, "good");
  EXPECT_TRUE(absl::IsFailedPrecondition(catalog_.Get(kTenant, "bad")->error));
  EXPECT_NE(catalog_.Get(kTenant, "good")->generation, nullptr);
  EXPECT_TRUE(absl::IsNotFound(catalog_.Get(kTenant, "absent").status()));
  ASSERT_TRUE(Register("alias", {.location = "good"}).ok());
  fs::remove_all(fs::path(folder_.path()) / "good");
  EXPECT_TRUE(absl::IsNotFound(catalog_.Get(kTenant, "alias")->error));
}

TEST_F(AdapterCatalogTest, CheckReadsTheWeightsAndHashesThemOnce) {
  MadeAdapter adapter = SmallestAdapter();
  adapter.AddPair(1, LoraModule::kDown, 4);
  adapter.WriteTo(folder_, "a");
  const auto plan = catalog_.Check(kTenant, "a");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->modules.size(), 2u);
  const int64_t first = source_->bytes_read;
  EXPECT_GE(first, 2 * plan->file_bytes) << "for the digest, and for what the loader would say";
  EXPECT_TRUE(catalog_.Check(kTenant, "a").ok());
  EXPECT_GE(source_->bytes_read - first, plan->file_bytes);
  EXPECT_LT(source_->bytes_read - first, plan->file_bytes * 3 / 2);
  ASSERT_TRUE(Register("alias", {.location = "a"}).ok());
  EXPECT_TRUE(catalog_.Check(kTenant, "alias").ok());
  EXPECT_TRUE(absl::IsNotFound(catalog_.Check(kTenant, "absent").status()));
}

}  // namespace
}  // namespace lorica
