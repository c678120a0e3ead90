// A whole server with tenants and a hub: what each may take from the others of what was fetched.
#include <atomic>
#include <filesystem>
#include <iterator>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "tests/server/http/http_call.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;
using Stub = v1::AdapterService::Stub;

constexpr char kToken[] = "hf_of_red";

// "red", a manager, has a token for the hub; "blue", a manager, and "op", an operator, have none.
class RemotePartsSharingTest : public RemotePartsTest {
 protected:
  RemotePartsSharingTest() {
    data_.Write("token", kToken);
    hub_.SetAccess("org/a", HubAccess::kPublic, kToken);
    const std::string own = absl::StrCat(R"(, "hub_token_file": ")", data_.path(), R"(/token")");
    data_.Write("tenants.json",
                absl::StrCat(R"({"tenants": [)", Entry("red", "manager", own), ",",
                             Entry("blue", "manager"), ",", Entry("op", "operator"), "]}"));
    config_.tenants_file = data_.path() + "/tenants.json";
    Restart();
  }
  static std::string Entry(const std::string& name, const std::string& role,
                           const std::string& more = "") {
    Sha256 hash;
    hash.Update("key-" + name);
    return absl::StrCat(R"({"name": ")", name, R"(", "role": ")", role,
                        R"(", "adapters": ["*"], "keys": [")", hash.Finish(), "\"]", more, "}");
  }
  // A call of `who`, without a token of its own unless the request has one.
  template <typename Request, typename Response>
  grpc::Status As(const std::string& who,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
    Context context;
    context.AddMetadata("authorization", "Bearer key-" + who);
    return (server_->admin().*method)(&context, request, response);
  }
  grpc::Status GenerateAs(const std::string& who, const std::string& id = "org/a") {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(id);
    Context context;
    context.AddMetadata("authorization", "Bearer key-" + who);
    v1::GenerateResponse response;
    return server_->inference().Generate(&context, request, &response);
  }
  grpc::Status DeleteAs(const std::string& who, const std::string& id = "org/a") {
    v1::DeleteAdapterRequest request;
    request.set_adapter_id(id);
    v1::DeleteAdapterResponse response;
    return As(who, &Stub::DeleteAdapter, request, &response);
  }
  StatusCode GetAs(const std::string& who, const std::string& id, v1::Adapter* adapter = nullptr) {
    v1::GetAdapterRequest request;
    request.set_adapter_id(id);
    v1::GetAdapterResponse response;
    const grpc::Status status = As(who, &Stub::GetAdapter, request, &response);
    if (adapter != nullptr) *adapter = response.adapter();
    return status.error_code();
  }
  grpc::Status MergeAs(const std::string& who, const std::string& name, const std::string& token) {
    v1::MergeAdaptersRequest request;
    request.set_adapter_id(name);
    request.set_method(v1::MERGE_METHOD_CAT);
    request.set_hub_token(token);
    for (const char* part : {"org/a", "other"}) {
      v1::MergePart* one = request.add_parts();
      one->set_adapter_id(part);
      one->set_weight(0.5);
    }
    v1::MergeAdaptersResponse response;
    return As(who, &Stub::MergeAdapters, request, &response);
  }
  int OnDisk() const {
    return static_cast<int>(
        std::distance(std::filesystem::directory_iterator(config_.data_dir + "/fetched/content"),
                      std::filesystem::directory_iterator()));
  }
  // As LoRAX's clients ask for a merge.
  int MergedStatus(const std::string& who, const std::string& token) {
    nlohmann::json parameters = {
        {"max_new_tokens", 2},
        {"merged_adapters", {{"ids", {"org/a", "twin"}}, {"weights", {0.5, 0.5}}}}};
    if (!token.empty()) parameters["api_token"] = token;
    const nlohmann::json body = {{"inputs", "a"}, {"parameters", parameters}};
    return Post(server_->server().http_port(), "/generate", body,
                {{"Authorization", "Bearer key-" + who}})
        .status;
  }
};

TEST_F(RemotePartsSharingTest, ADeleteForgetsOnlyWhatTheCallersOwnTokenBrought) {
  ASSERT_TRUE(GenerateAs("red").ok()) << GenerateAs("red").error_message();
  ASSERT_TRUE(GenerateAs("blue").ok());
  EXPECT_EQ(OnDisk(), 1) << "the same content";
  const grpc::Status deleted = DeleteAs("red");
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
  EXPECT_EQ(GetAs("red", "org/a"), StatusCode::NOT_FOUND);
  EXPECT_EQ(GetAs("blue", "org/a"), StatusCode::OK);
  const int before = Downloads();
  Restart();
  EXPECT_EQ(GetAs("red", "org/a"), StatusCode::NOT_FOUND) << "nor is it on the disk for red";
  EXPECT_TRUE(GenerateAs("blue").ok());
  EXPECT_EQ(Downloads(), before) << "it is still there for blue";
}

TEST_F(RemotePartsSharingTest, WithItsLastOriginTheContentLeavesTheDisk) {
  ASSERT_TRUE(GenerateAs("red").ok());
  const grpc::Status deleted = DeleteAs("red");
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
  EXPECT_EQ(OnDisk(), 0);
  EXPECT_EQ(DeleteAs("red").error_code(), StatusCode::NOT_FOUND);
}

TEST_F(RemotePartsSharingTest, WhatTheServersTokenBroughtIsAnOperatorsToDelete) {
  ASSERT_TRUE(GenerateAs("blue").ok());
  const grpc::Status refused = DeleteAs("blue");
  EXPECT_EQ(refused.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("operator"));
  EXPECT_EQ(OnDisk(), 1);
  const grpc::Status deleted = DeleteAs("op");
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
  EXPECT_EQ(OnDisk(), 0);
}

// A call that waits for another adapter holds its first one, so deletes of that are refused only
// after a while.
TEST_F(RemotePartsSharingTest, DeletesThatWaitHoldUpNoCall) {
  ASSERT_TRUE(GenerateAs("red").ok());
  hub_.Commit("org/slow", files_);
  hub_.AddFault({.target_part = "/org/slow/", .times = -1, .stall_head = true});
  std::thread holder([this] {
    v1::GenerateRequest request = TokensRequest(2);
    for (const char* id : {"org/a", "org/slow"}) request.add_adapters()->set_adapter_id(id);
    Context context;
    context.AddMetadata("authorization", "Bearer key-red");
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(8)));
    v1::GenerateResponse response;
    server_->inference().Generate(&context, request, &response);
  });
  while (hub_.CountOf("/org/slow/") == 0) absl::SleepFor(absl::Milliseconds(1));
  constexpr int kDeletes = 8;
  std::vector<std::thread> deletes;
  std::atomic<int> refused = 0;
  for (int i = 0; i < kDeletes; ++i) {
    deletes.emplace_back(
        [&] { refused += DeleteAs("red").error_code() == StatusCode::FAILED_PRECONDITION; });
  }
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(GenerateAs("blue", "plain").ok());
  v1::CheckAdapterRequest check;  // operators' calls neither
  check.set_source("plain");
  v1::CheckAdapterResponse checked;
  EXPECT_TRUE(As("blue", &Stub::CheckAdapter, check, &checked).ok());
  EXPECT_LT(absl::Now() - begun, absl::Milliseconds(600));
  for (std::thread& one : deletes) one.join();
  EXPECT_EQ(refused, kDeletes);
  hub_.ClearFaults();
  holder.join();
}

TEST_F(RemotePartsSharingTest, AMergeIsMadeWithTheTokenOfItsPartsAndOpensNothingForOthers) {
  hub_.SetAccess("org/a", HubAccess::kPrivate, kToken);
  EXPECT_EQ(MergeAs("blue", "mine", "").error_code(), StatusCode::NOT_FOUND);
  const grpc::Status merged = MergeAs("blue", "mine", kToken);
  ASSERT_TRUE(merged.ok()) << merged.error_message();
  EXPECT_TRUE(GenerateAs("blue", "mine").ok()) << "a name that its owner gave it";
  v1::Adapter mine;
  ASSERT_EQ(GetAs("blue", "mine", &mine), StatusCode::OK);
  EXPECT_EQ(GetAs("op", "mine"), StatusCode::NOT_FOUND);
  EXPECT_EQ(GetAs("op", absl::StrCat("mine@", mine.generation())), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(GenerateAs("op", absl::StrCat("mine@", mine.generation())).error_code(),
            StatusCode::NOT_FOUND);
  // Made and known by now: whoever may not have its parts gets nothing by that.
  EXPECT_EQ(MergeAs("op", "mine", "").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(MergeAs("op", "mine", "hf_wrong").error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(MergeAs("blue", "again", "").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(MergeAs("red", "again", "").error_code(), StatusCode::OK) << "its tenant's own";
}

TEST_F(RemotePartsSharingTest, AMergeOfACallTakesItsToken) {
  hub_.SetAccess("org/a", HubAccess::kPrivate, kToken);
  constexpr int kNoAdapter = 424;  // as LoRAX says it
  server_->WriteAdapter("twin", 4, false);
  EXPECT_EQ(MergedStatus("blue", ""), kNoAdapter);
  EXPECT_EQ(MergedStatus("blue", kToken), 200);
  EXPECT_EQ(MergedStatus("blue", ""), kNoAdapter);
  EXPECT_EQ(MergedStatus("op", ""), kNoAdapter);
  EXPECT_EQ(MergedStatus("red", ""), 200);
}

TEST_F(RemotePartsSharingTest, OnlyAnOperatorSeesAllTenantsUse) {
  ASSERT_TRUE(GenerateAs("blue", "plain").ok());
  v1::Adapter seen;
  ASSERT_EQ(GetAs("op", "plain", &seen), StatusCode::OK);
  EXPECT_EQ(seen.load_count(), 1);
  EXPECT_TRUE(seen.has_hit_count() && seen.has_lease_count()) << "0 is told, too";
  EXPECT_GE(seen.last_used_seconds_ago(), 0.0);
  EXPECT_GT(seen.last_load_ms(), 0.0);
  const auto check = [](const v1::Adapter& adapter) {
    EXPECT_FALSE(adapter.has_hit_count() || adapter.has_load_count() || adapter.has_lease_count());
    EXPECT_FALSE(adapter.has_last_used_seconds_ago() || adapter.has_last_load_ms());
    EXPECT_EQ(adapter.rank_max(), 4) << "what it is";
  };
  ASSERT_EQ(GetAs("red", "plain", &seen), StatusCode::OK);
  check(seen);
  v1::ListAdaptersRequest list;
  list.set_prefix("plain");
  v1::ListAdaptersResponse listed;
  ASSERT_TRUE(As("red", &Stub::ListAdapters, list, &listed).ok());
  ASSERT_EQ(listed.adapters_size(), 1);
  check(listed.adapters(0));
  v1::LoadAdapterRequest load;
  load.set_adapter_id("plain");
  v1::LoadAdapterResponse loaded;
  ASSERT_TRUE(As("red", &Stub::LoadAdapter, load, &loaded).ok());
  check(loaded.adapter());
  Context context;
  context.AddMetadata("authorization", "Bearer key-red");
  const auto watch = server_->admin().WatchAdapters(&context, v1::WatchAdaptersRequest());
  v1::WatchAdaptersResponse event;
  ASSERT_TRUE(watch->Read(&event));
  for (const v1::Adapter& adapter : event.adapters()) {
    if (adapter.adapter_id() == "plain") check(adapter);
  }
  context.TryCancel();
  watch->Finish();
}

}  // namespace
}  // namespace lorica
