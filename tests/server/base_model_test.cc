#include "server/base_model.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "adapters/hub/hub_source.h"
#include "gmock/gmock.h"
#include "tests/fakes/disk_room.h"
#include "tests/fakes/fake_hub.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class BaseModelTest : public ::testing::Test {
 protected:
  BaseModelTest()
      : files_(FakeHub::FilesOf(std::string(LORICA_TEST_DATA) + "/reference/tiny-llama")) {
    files_["pytorch_model.bin"] = "a pickle";
    commit_ = hub_.Commit("org/tiny", files_);
    HubOptions options;
    options.endpoint = hub_.endpoint();
    options.redirect_hosts = {hub_.cdn_place()};
    options.retry.attempts_max = 2;
    options.retry.pause_min = options.retry.pause_max = absl::Milliseconds(1);
    source_ = *MakeHubSource(options);
  }
  absl::StatusOr<std::string> Fetch(const std::string& revision = "main", bool offline = false,
                                    const std::string& repo = "org/tiny") {
    return FetchBaseModel({repo, revision}, {data_.path(), offline}, *source_);
  }

  FakeHub hub_;
  FakeHub::Files files_;
  std::string commit_;
  TemporaryFolder data_;
  std::unique_ptr<RemoteSource> source_;
};

TEST(BaseModelName, IsARepositoryWhereThereIsNoSuchPath) {
  EXPECT_EQ(ParseBaseModelName("org/name")->repo, "org/name");
  EXPECT_EQ(ParseBaseModelName("org/name")->revision, "main");
  EXPECT_EQ(ParseBaseModelName("org/name@v1")->revision, "v1");
  for (const char* text :
       {"name", "/org/name", "org/name@", "a/b/c", "../name", "org/..", LORICA_TEST_DATA}) {
    EXPECT_FALSE(ParseBaseModelName(text)) << text;
  }
}

TEST_F(BaseModelTest, BringsWhatAModelIsMadeOfAndNothingElse) {
  const auto path = Fetch();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(fs::path(*path).filename(), commit_);
  for (const auto& [file, content] : files_) {
    if (file == "pytorch_model.bin") continue;
    ASSERT_TRUE(fs::exists(*path + "/" + file)) << file;
    EXPECT_EQ(fs::file_size(*path + "/" + file), content.size()) << file;
  }
  EXPECT_FALSE(fs::exists(*path + "/pytorch_model.bin"));
  EXPECT_EQ(hub_.CountOf("pytorch_model"), 0);
  const int blobs = hub_.CountOf("/blobs/", "GET");
  ASSERT_TRUE(Fetch().ok());
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), blobs) << "what is complete is not fetched again";
}

TEST_F(BaseModelTest, ShardsAreThoseOfTheIndex) {
  files_["extra.safetensors"] = "x";
  hub_.Commit("org/tiny", files_);
  const auto path = Fetch();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_TRUE(fs::exists(*path + "/model-00002-of-00002.safetensors"));
  EXPECT_FALSE(fs::exists(*path + "/extra.safetensors"));
  for (const char* name : {"../x.safetensors", "/x.safetensors", "a/b.safetensors", "x.bin", ""}) {
    files_["model.safetensors.index.json"] =
        absl::StrCat(R"({"weight_map": {"a": ")", name, "\"}}");
    hub_.Commit("org/tiny", files_);
    EXPECT_TRUE(absl::IsFailedPrecondition(Fetch().status())) << name;
  }
}

TEST_F(BaseModelTest, WhatIsHereIsServedWithoutAHub) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch("main", /*offline=*/true).status()));
  ASSERT_TRUE(Fetch().ok());
  const size_t asked = hub_.requests().size();
  EXPECT_TRUE(Fetch("main", /*offline=*/true).ok());
  EXPECT_EQ(hub_.requests().size(), asked);
  hub_.AddFault({.times = -1, .status = 503});
  EXPECT_TRUE(Fetch().ok()) << "a hub that is down";
  EXPECT_TRUE(absl::IsUnavailable(Fetch("v2").status()));
  hub_.ClearFaults();
  hub_.SetAccess("org/tiny", HubAccess::kGated, "hf_other");
  EXPECT_TRUE(Fetch().ok()) << "a hub that says no";
  hub_.Delete("org/tiny");
  EXPECT_TRUE(Fetch().ok()) << "a hub that does not know it any more";
  EXPECT_TRUE(absl::IsNotFound(Fetch("v2").status()));
}

TEST_F(BaseModelTest, OneGgufFileIsFetchedByItsName) {
  const std::string content(3 << 20, 'g');
  hub_.Commit("org/quantised", {{"a.Q8_0.gguf", content}, {"b.gguf", "b"}});
  const auto name = ParseBaseModelName("org/quantised/a.Q8_0.gguf@main");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->repo + " " + name->file + " " + name->revision, "org/quantised a.Q8_0.gguf main");
  const auto path = FetchBaseModel(*name, {data_.path()}, *source_);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(fs::path(*path).filename(), "a.Q8_0.gguf");
  EXPECT_EQ(fs::file_size(*path), content.size());
  EXPECT_EQ(hub_.CountOf("b.gguf"), 0);
  EXPECT_EQ(*FetchBaseModel(*name, {data_.path(), /*offline=*/true}, *source_), *path);
  const absl::Status other =
      FetchBaseModel(*ParseBaseModelName("org/quantised/c.gguf"), {data_.path()}, *source_)
          .status();
  EXPECT_THAT(std::string(other.message()), HasSubstr("has no c.gguf"));
  const absl::Status folder = Fetch("main", false, "org/quantised").status();
  EXPECT_THAT(std::string(folder.message()), HasSubstr("org/name/file.gguf"));
}

TEST_F(BaseModelTest, WhatAnEarlierProcessBeganIsResumed) {
  const std::string shard = "model-00002-of-00002.safetensors";
  const std::string content = files_[shard];
  hub_.AddFault({.target_part = shard, .times = -1, .status = 503});
  ASSERT_TRUE(absl::IsUnavailable(Fetch().status()));
  hub_.ClearFaults();
  const std::string part = absl::StrCat(data_.path(), "/org--tiny/", commit_, "/", shard, ".part");
  const auto range_asked = [this] {
    std::string range;
    for (const HubRequest& request : hub_.requests()) {
      const auto found = request.headers.find("range");
      if (request.method == "GET" && found != request.headers.end()) range = found->second;
    }
    return range;
  };
  std::ofstream(part, std::ios::binary) << content.substr(0, 1000);
  auto path = Fetch();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(range_asked(), "bytes=1000-");
  EXPECT_EQ(fs::file_size(*path + "/" + shard), content.size());
  // All of it, and something that is not it.
  for (const std::string& begun : {content + "and more", std::string(2000, 'x')}) {
    fs::rename(*path + "/" + shard, part);
    std::ofstream(part, std::ios::binary) << begun;
    path = Fetch();
    ASSERT_TRUE(path.ok()) << path.status();
    std::ifstream file(*path + "/" + shard, std::ios::binary);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), content);
  }
}

TEST_F(BaseModelTest, AnOperatorsCacheIsReadWhereItIs) {
  TemporaryFolder hf;
  const fs::path repo = fs::path(hf.path()) / "models--org--tiny";
  for (const auto& [file, content] : files_) {
    hf.Write("models--org--tiny/blobs/" + file, content);
    const fs::path link = repo / "snapshots" / commit_ / file;
    fs::create_directories(link.parent_path());
    fs::create_symlink("../../blobs/" + file, link);
  }
  hf.Write("models--org--tiny/refs/main", commit_);
  const auto fetch = [&] {
    return FetchBaseModel({"org/tiny"}, {data_.path(), /*offline=*/true, hf.path()}, *source_);
  };
  const auto path = fetch();
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_EQ(*path, (repo / "snapshots" / commit_).string());
  EXPECT_TRUE(hub_.requests().empty());
  Config config;
  config.model = *path;
  EXPECT_EQ(TinyServer(config).Status().model().layers(), TinyServer().Status().model().layers());
  for (const auto& [file, content] : files_) {
    if (file == "pytorch_model.bin") continue;
    const fs::path link = repo / "snapshots" / commit_ / file;
    hf.Write("elsewhere/" + file, content);
    fs::remove(link);
    fs::create_symlink("../../../elsewhere/" + file, link);
    ASSERT_TRUE(fs::exists(link));
    EXPECT_TRUE(absl::IsFailedPrecondition(fetch().status())) << file << " leads elsewhere";
    fs::remove(link);
    fs::create_symlink("../../blobs/" + file, link);
    EXPECT_TRUE(fetch().ok()) << file;
  }
  fs::remove(repo / "snapshots" / commit_ / "model-00002-of-00002.safetensors");
  EXPECT_TRUE(absl::IsFailedPrecondition(fetch().status())) << "a cache that is not whole";
}

TEST_F(BaseModelTest, CommitsThatNoRevisionMeansGo) {
  const std::string old_path = *Fetch();
  hub_.Commit("org/tiny", files_, "v2");
  const std::string v2_path = *Fetch("v2");
  EXPECT_TRUE(fs::exists(old_path));
  files_["config.json"] += " ";
  hub_.Commit("org/tiny", files_);
  const std::string path = *Fetch();
  EXPECT_NE(path, old_path);
  EXPECT_FALSE(fs::exists(old_path));
  EXPECT_TRUE(fs::exists(v2_path));
}

TEST_F(BaseModelTest, WhatTheDiskHasNoRoomForIsNotFetched) {
  constexpr int64_t kStaysFree = int64_t{256} << 20;
  files_.erase("pytorch_model.bin");
  size_t largest = 0;
  for (const auto& [file, content] : files_) largest = std::max(largest, content.size());
  fakes::g_disk_bytes_left = kStaysFree + static_cast<int64_t>(largest) - 1;
  const absl::Status status = Fetch().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("make room"));
  ++fakes::g_disk_bytes_left;
  EXPECT_TRUE(Fetch().ok());
  fakes::g_disk_bytes_left = -1;
}

TEST_F(BaseModelTest, DamagedDownloadsGetNoName) {
  hub_.AddFault({.target_part = "/blobs/", .times = -1, .corrupt_at = 1000});
  EXPECT_TRUE(absl::IsDataLoss(Fetch().status()));
  for (const auto& entry : fs::recursive_directory_iterator(data_.path())) {
    EXPECT_EQ(entry.path().string().find(".part"), std::string::npos) << entry.path();
    EXPECT_NE(entry.path().extension(), ".safetensors") << entry.path();
  }
  hub_.ClearFaults();
  EXPECT_TRUE(Fetch().ok());
}

TEST_F(BaseModelTest, SaysWhatIsNoModel) {
  hub_.Commit("org/adapter", {{"adapter_config.json", "{}"}});
  const absl::Status status = Fetch("main", false, "org/adapter").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
}

TEST_F(BaseModelTest, AServerStartsFromARepository) {
  Config config;
  config.model = "org/tiny";
  config.hub_endpoint = hub_.endpoint();
  config.hub_redirect_hosts = hub_.cdn_place();
  config.data_dir = data_.path();
  TinyServer fetched(config);
  TinyServer local;
  const auto tokens = [](TinyServer& server) {
    Context context;
    v1::GenerateResponse response;
    EXPECT_TRUE(server.inference().Generate(&context, TokensRequest(8), &response).ok());
    return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
  };
  EXPECT_EQ(tokens(fetched), tokens(local));
  EXPECT_EQ(fetched.Status().model().name(), "org/tiny") << "not the commit of its folder";
  EXPECT_EQ(local.Status().model().name(), "tiny-llama");
  config.data_dir = "";
  config.grpc_address = "127.0.0.1:0";
  const absl::Status status = Server::Start(config).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--data-dir"));
}

}  // namespace
}  // namespace lorica
