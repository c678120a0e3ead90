// A whole server, a hub and a web server: what registered names know of where they are from.
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "tests/fakes/wire_server.h"
#include "tests/server/http/http_call.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

// Whatever becomes of the branch: the name stands for the commit that this was then.
TEST_F(RemotePartsTest, ARegisteredNameIsOfTheCommitThatItsBranchWasThen) {
  ASSERT_TRUE(Register("mine", "org/a").ok());
  const Answered first = Generate("mine");
  EXPECT_EQ(Get("mine").commit(), commit_);
  const auto lose = [&](const std::string& digest) {
    std::filesystem::remove_all(config_.data_dir + "/registered/" + digest);
    std::filesystem::remove_all(config_.data_dir + "/fetched/content/" + digest);
    Restart();
  };
  const std::string moved =
      hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"));
  Restart();
  EXPECT_EQ(Generate("mine").tokens, first.tokens);
  lose(first.generation);
  EXPECT_EQ(Generate("mine").tokens, first.tokens);
  EXPECT_EQ(Get("mine").commit(), commit_);
  EXPECT_EQ(Generate("org/a").tokens, Generate("other").tokens) << "the branch goes on";

  // A rollback leads to a commit, too.
  EXPECT_EQ(Register("mine", "org/a").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  v1::RegisterAdapterResponse response;
  const grpc::Status status = Register("mine", "org/a", true, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.adapter().commit(), moved);
  EXPECT_EQ(response.adapter().source(), "org/a");
  v1::RollbackAdapterRequest back;
  back.set_adapter_id("mine");
  Context rollback;
  v1::RollbackAdapterResponse rolled;
  ASSERT_TRUE(server_->admin().RollbackAdapter(&rollback, back, &rolled).ok());
  EXPECT_EQ(Get("mine").commit(), commit_);
  lose(first.generation);
  EXPECT_EQ(Generate("mine").tokens, first.tokens);

  // Files that nobody loads may change without the content: then it is of that commit, as well.
  FakeHub::Files files = files_;
  files["README.md"] = "new";
  const std::string same = hub_.Commit("org/a", files);
  ASSERT_TRUE(Register("mine", absl::StrCat("org/a@", same)).ok());
  EXPECT_EQ(Get("mine").commit(), same);
}

// What one call has found is there until it has done its work, also where another call's end
// was all that kept it, or where its branch is looked at anew in the meantime.
TEST_F(RemotePartsTest, ACallKeepsWhatItHasFound) {
  ASSERT_TRUE(Register("mine", "other").ok());
  for (int round = 0; round < 60; ++round) {
    ASSERT_EQ(Register("mine", "org/a").error_code(), grpc::StatusCode::ALREADY_EXISTS) << round;
  }
}

TEST_F(RemotePartsTest, WhatTheHubLacksIsRefusedInTheHubsWords) {
  for (const char* source : {"org/missing", "org/missing@v1"}) {
    const grpc::Status status = Register("none", source);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_THAT(status.error_message(), testing::HasSubstr("the hub has no repository 'org/missi"));
  }
}

// As PEFT saves adapters that have a name of their own.
TEST_F(RemotePartsTest, AnAdapterInAFolderOfARepositoryIsRegistered) {
  FakeHub::Files files = files_;
  for (const auto& [name, text] : FakeHub::FilesOf(server_->adapters().path() + "/other")) {
    files["second/" + name] = text;
  }
  const std::string commit = hub_.Commit("other/one", files);
  EXPECT_TRUE(Register("top", "other/one").ok());
  for (const std::string& source :
       {std::string("other/one/second"), absl::StrCat("other/one/second@", commit)}) {
    const grpc::Status status = Register("mine", source);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(Get("mine").source(), source);
    EXPECT_EQ(Get("mine").commit(), commit);
  }
  EXPECT_EQ(Generate("top").tokens, Generate("plain").tokens);
  EXPECT_EQ(Generate("mine").tokens, Generate("other").tokens);
  v1::CheckAdapterRequest check;
  check.set_source("other/one/second");
  Context context;
  v1::CheckAdapterResponse checked;
  ASSERT_TRUE(server_->admin().CheckAdapter(&context, check, &checked).ok());
  EXPECT_EQ(checked.adapter().rank_max(), 8);
  check.set_source("other/one/third");
  Context other;
  ASSERT_TRUE(server_->admin().CheckAdapter(&other, check, &checked).ok());
  EXPECT_EQ(checked.reason(), "it has no adapter_config.json: is it an adapter?");

  EXPECT_EQ(Register("none", "other/one/third").error_code(), grpc::StatusCode::FAILED_PRECONDITION)
      << "no adapter lies there";
  EXPECT_EQ(Register("none", "other/two/second").error_code(), grpc::StatusCode::NOT_FOUND)
      << "its repository is not allowed";
  EXPECT_EQ(CodeOf("other/one/second"), grpc::StatusCode::INVALID_ARGUMENT) << "it is no id";
  std::filesystem::remove_all(config_.data_dir + "/registered");
  std::filesystem::remove_all(config_.data_dir + "/fetched/content");
  std::filesystem::create_directories(config_.data_dir + "/registered");
  Restart();
  EXPECT_EQ(Generate("mine").tokens, Generate("other").tokens) << "fetched again";
}

// Whoever registers from a place that is no id asks there how far the fetch is.
TEST_F(RemotePartsTest, APlaceSaysHowFarItsFetchIs) {
  absl::Notification go_on;
  WireServer mirror([&](const WireRequest& request, WireServer::Connection& out) {
    const auto file = files_.find(request.target.substr(request.target.rfind('/') + 1));
    out.Send(WireHead(200, {{"ETag", "\"" + file->first + "\""},
                            {"Content-Length", absl::StrCat(file->second.size())}}));
    if (request.method == "HEAD") return;
    if (file->first == "adapter_model.safetensors") go_on.WaitForNotification();
    out.Send(file->second);
  });
  config_.mirror_allow = absl::StrCat("http://", mirror.place(), "/*");
  Restart();
  const std::string location = absl::StrCat("http://", mirror.place(), "/team/a");
  const auto look = [&](const std::string& place, v1::GetAdapterResponse* response) {
    v1::GetAdapterRequest request;
    request.set_adapter_id(place);
    Context context;
    return server_->admin().GetAdapter(&context, request, response).error_code();
  };
  v1::GetAdapterResponse seen;
  EXPECT_EQ(look(location, &seen), grpc::StatusCode::NOT_FOUND) << "nobody fetches it";
  std::thread registering([&] { EXPECT_TRUE(Register("mine", location).ok()); });
  while (look(location, &seen) != grpc::StatusCode::OK || seen.adapter().fetch_bytes_total() == 0) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(seen.adapter().state(), v1::ADAPTER_STATE_LOADING);
  EXPECT_EQ(seen.adapter().fetch_bytes_total(),
            files_["adapter_config.json"].size() + files_["adapter_model.safetensors"].size());
  go_on.Notify();
  registering.join();
  EXPECT_EQ(look(location, &seen), grpc::StatusCode::OK);
  EXPECT_EQ(seen.adapter().generation(), Get("mine").generation());

  EXPECT_EQ(look("https://nobody.example/a", &seen), grpc::StatusCode::NOT_FOUND) << "not allowed";
  EXPECT_EQ(look("org/a/none", &seen), grpc::StatusCode::NOT_FOUND) << "nobody fetches it";
  EXPECT_EQ(look("s3://x", &seen), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(RemotePartsTest, WhatIsRegisteredFromElsewhereIsOnDisk) {
  ASSERT_TRUE(Register("of-o", "org/a").ok());
  ASSERT_TRUE(Register("of-p", "plain").ok());
  EXPECT_EQ(Get("of-o").tier(), v1::TIER_DISK);
  EXPECT_EQ(Get("of-p").tier(), v1::TIER_SOURCE) << "a folder of the operator's";
  ASSERT_TRUE(Generate("of-o").status.ok());
  EXPECT_EQ(Get("of-o").tier(), v1::TIER_DEVICE);
  ASSERT_TRUE(Evict("of-o").ok());
  Restart();
  EXPECT_EQ(Get("of-o").tier(), v1::TIER_DISK);
}

// A location is where an adapter came from, and no name of it.
TEST_F(RemotePartsTest, NoLocationIsListedAsAnId) {
  WireServer mirror([this](const WireRequest& request, WireServer::Connection& out) {
    const auto file = files_.find(request.target.substr(request.target.rfind('/') + 1));
    if (file == files_.end()) {
      out.Send(WireHead(404, {{"Content-Length", "0"}}));
      return;
    }
    out.Send(WireHead(200, {{"ETag", "\"" + file->first + "\""},
                            {"Content-Length", absl::StrCat(file->second.size())}}));
    if (request.method != "HEAD") out.Send(file->second);
  });
  config_.mirror_allow = absl::StrCat("http://", mirror.place(), "/*");
  Restart();
  const std::string location = absl::StrCat("http://", mirror.place(), "/team/a");
  hub_.Commit("org/deep", {{"in/adapter_config.json", files_["adapter_config.json"]},
                           {"in/adapter_model.safetensors", files_["adapter_model.safetensors"]}});
  for (const std::string& source : {location, std::string("org/deep/in")}) {
    const grpc::Status status = Register("mine", source);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(Generate("mine").status.ok());
    Context context;
    v1::ListAdaptersResponse listed;
    ASSERT_TRUE(server_->admin().ListAdapters(&context, v1::ListAdaptersRequest(), &listed).ok());
    for (const v1::Adapter& adapter : listed.adapters()) EXPECT_NE(adapter.adapter_id(), source);
    const HttpAnswer models = HttpCall(server_->server().http_port(), "GET", "/v1/models");
    const nlohmann::json known = models.json();
    for (const auto& model : known["data"]) EXPECT_NE(model["id"], source);
  }
}

}  // namespace
}  // namespace lorica
