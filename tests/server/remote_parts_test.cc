// A whole server and a hub: adapters that come from elsewhere, asked for over gRPC.
#include "server/remote_parts.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "tests/server/http/http_call.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(RemotePartsTest, TheSameTokensAsFromTheLocalFolder) {
  const Answered local = Generate("plain");
  ASSERT_TRUE(local.status.ok()) << local.status.error_message();
  ASSERT_EQ(local.tokens.size(), 8u);
  EXPECT_NE(local.tokens, Generate("").tokens);
  hub_.Commit("org/a", files_, "v1");
  hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"));
  for (const std::string& id : {std::string("org/a@v1"), absl::StrCat("org/a@", commit_)}) {
    const Answered remote = Generate(id);
    EXPECT_TRUE(remote.status.ok()) << id << remote.status.error_message();
    EXPECT_EQ(remote.tokens, local.tokens) << id;
    EXPECT_EQ(remote.generation, local.generation) << id;
  }
  EXPECT_EQ(Generate("org/a").tokens, Generate("other").tokens);
  const v1::TierCounters disk = server_->Status().disk_tier();
  EXPECT_EQ(disk.adapters(), 2);
  EXPECT_GT(disk.bytes(), 0);
  EXPECT_EQ(disk.byte_limit(), config_.disk_bytes);
}

// Four connections, as each carries a bounded number of calls.
TEST_F(RemotePartsTest, AThousandCallsForAColdAdapterAreOneDownload) {
  constexpr int kCalls = 1000;
  config_.queue_requests = kCalls;
  Restart();
  absl::Notification all_wait;
  hub_.AddFault({.target_part = "/blobs/", .before = [&] { all_wait.WaitForNotification(); }});
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs;
  for (int i = 0; i < 4; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs.push_back(v1::InferenceService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", server_->server().port()),
                                  grpc::InsecureChannelCredentials(), arguments)));
  }
  struct Call {
    grpc::ClientContext context;
    grpc::Status status;
    v1::GenerateResponse response;
    std::unique_ptr<grpc::ClientAsyncResponseReader<v1::GenerateResponse>> reader;
  };
  std::vector<Call> calls(kCalls);
  v1::GenerateRequest request = TokensRequest(1);
  request.set_adapter_id("org/a");
  for (int i = 0; i < kCalls; ++i) {
    Call& call = calls[i];
    call.reader = stubs[i % 4]->AsyncGenerate(&call.context, request, &queue);
    call.reader->Finish(&call.response, &call.status, nullptr);
  }
  server_->WaitFor([](const v1::GetStatusResponse& status) { return status.waiting() == kCalls; });
  // Nothing of it has reached the engine, and others are served.
  EXPECT_EQ(server_->Status().queued() + server_->Status().running(), 0);
  EXPECT_TRUE(Generate("other").status.ok());
  all_wait.Notify();
  void* tag = nullptr;
  bool ok = false;
  for (int i = 0; i < kCalls; ++i) ASSERT_TRUE(queue.Next(&tag, &ok));
  const Tokens expected = Generate("plain", 1).tokens;
  for (const Call& call : calls) {
    ASSERT_TRUE(call.status.ok()) << call.status.error_message();
    EXPECT_THAT(call.response.token_ids(), ElementsAre(expected[0]));
  }
  EXPECT_EQ(Downloads(), 1);
  EXPECT_EQ(server_->Status().waiting(), 0);
}

TEST_F(RemotePartsTest, AStalledFetchHoldsUpNobodyElse) {
  hub_.AddFault({.target_part = "/org/slow/", .times = -1, .stall_head = true});
  const absl::Time begun = absl::Now();
  const Answered late = Generate("org/slow", 1, absl::Milliseconds(300));
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LT(absl::Now() - begun, absl::Seconds(2));
  // The first one left; the next waits on for the same fetch.
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(1);
  request.set_adapter_id("org/slow");
  auto stream = server_->inference().GenerateStream(&context, request);
  server_->WaitFor([](const auto& status) { return status.waiting() == 1; });
  const absl::Time others = absl::Now();
  for (const char* id : {"", "plain", "org/a"}) EXPECT_TRUE(Generate(id).status.ok()) << id;
  EXPECT_LT(absl::Now() - others, absl::Seconds(5));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_->WaitFor([](const auto& status) { return status.waiting() == 0; });
  // Stopping does not wait for the hub.
  const absl::Time stopping = absl::Now();
  server_ = nullptr;
  EXPECT_LT(absl::Now() - stopping, absl::Seconds(8));
}

TEST_F(RemotePartsTest, BoundsTheCallsThatWait) {
  config_.queue_requests = 2;
  Restart();
  hub_.AddFault({.target_part = "/org/slow/", .times = -1, .stall_head = true});
  v1::GenerateRequest request = TokensRequest(1);
  request.set_adapter_id("org/slow");
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> streams[2];
  for (int i = 0; i < 2; ++i) {
    streams[i] = server_->inference().GenerateStream(&contexts[i], request);
  }
  server_->WaitFor([](const auto& status) { return status.waiting() == 2; });
  EXPECT_EQ(CodeOf("org/slow"), grpc::StatusCode::UNAVAILABLE);
  for (int i = 0; i < 2; ++i) {
    contexts[i].TryCancel();
    streams[i]->Finish();
  }
  server_->WaitFor([](const auto& status) { return status.waiting() == 0; });
}

TEST_F(RemotePartsTest, WhatAHubAnswersHasItsCode) {
  const auto code_of = [this](HubFault fault) {
    const std::string repo = NewRepo();
    hub_.ClearFaults();
    fault.times = -1;
    hub_.AddFault(std::move(fault));
    return CodeOf(repo);
  };
  using grpc::StatusCode;
  const auto refusal = [](int status, const std::string& code) {
    return HubFault{.status = status, .headers = {{"X-Error-Code", code}}};
  };
  EXPECT_EQ(code_of(refusal(404, "RepoNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(code_of(refusal(404, "RevisionNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(code_of(refusal(404, "EntryNotFound")), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(code_of(refusal(401, "")), StatusCode::NOT_FOUND);
  EXPECT_EQ(code_of(refusal(403, "GatedRepo")), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(code_of({.status = 429, .headers = {{"Retry-After", "1000"}}}),
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(code_of({.headers = {{"X-Repo-Commit", ""}}}), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(code_of({.target_part = "/blobs/", .corrupt_at = 100}), StatusCode::DATA_LOSS);
  EXPECT_EQ(code_of({.target_part = "/blobs/", .endless = true}), StatusCode::DATA_LOSS);
  EXPECT_EQ(code_of({.method = "GET",
                     .status = 302,
                     .headers = {{"Location", "http://169.254.169.254/latest/meta-data/"}}}),
            StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(code_of({.method = "GET", .status = 302, .headers = {{"Location", "/loop"}}}),
            StatusCode::FAILED_PRECONDITION);
  hub_.ClearFaults();
  EXPECT_TRUE(Generate("org/a").status.ok());
}

TEST_F(RemotePartsTest, ABusyHubsDelayReachesTheClient) {
  hub_.AddFault({.times = -1, .status = 429, .headers = {{"Retry-After", "77"}}});
  const Answered busy = Generate("org/a");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(busy.status.error_details()));
  google::rpc::RetryInfo retry;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 77);
}

TEST_F(RemotePartsTest, WhatMayNotBeNamedIsUnknownAndNobodyIsAsked) {
  hub_.Commit("elsewhere/a", files_);
  hub_.Commit("other/two", files_);
  for (const char* id : {"elsewhere/a", "other/two", "a", "org--x/a"}) {
    const auto code = CodeOf(id);
    EXPECT_TRUE(code == grpc::StatusCode::NOT_FOUND || code == grpc::StatusCode::INVALID_ARGUMENT)
        << id;
  }
  for (const char* id : {"http://169.254.169.254/x", "s3://a/b", "org/../a", "org/a@../../x"}) {
    EXPECT_EQ(CodeOf(id), grpc::StatusCode::INVALID_ARGUMENT) << id;
  }
  EXPECT_EQ(hub_.requests().size(), 0u);
  hub_.Commit("other/one", files_);
  EXPECT_TRUE(Generate("other/one").status.ok());
}

TEST_F(RemotePartsTest, ALocalFolderGoesBeforeTheHub) {
  server_->WriteAdapter("org/a", 8, false);
  EXPECT_EQ(Generate("org/a").tokens, Generate("other").tokens);
  EXPECT_EQ(hub_.requests().size(), 0u);
}

TEST_F(RemotePartsTest, CachedAdaptersOutliveTheHubAndARestart) {
  const Tokens tokens = Generate("org/a").tokens;
  hub_.AddFault({.times = -1, .status = 503});
  Restart();
  EXPECT_EQ(Generate("org/a").tokens, tokens);
  config_.hub_offline = true;
  Restart();
  const size_t asked = hub_.requests().size();
  EXPECT_EQ(Generate("org/a").tokens, tokens);
  EXPECT_EQ(CodeOf("org/cold"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(hub_.requests().size(), asked);
}

TEST_F(RemotePartsTest, AMixWaitsForAllOfItsAdapters) {
  hub_.Commit("org/b", FakeHub::FilesOf(server_->adapters().path() + "/other"));
  const auto mix = [this](const std::string& first, const std::string& second) {
    v1::GenerateRequest request = TokensRequest(8);
    for (const std::string& id : {first, second}) {
      auto* adapter = request.add_adapters();
      adapter->set_adapter_id(id);
      adapter->set_weight(0.5);
    }
    Context context;
    v1::GenerateResponse response;
    const grpc::Status status = server_->inference().Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return Tokens(response.token_ids().begin(), response.token_ids().end());
  };
  EXPECT_EQ(mix("org/a", "org/b"), mix("plain", "other"));
  EXPECT_EQ(mix("org/a", "other"), mix("plain", "org/b"));
}

TEST_F(RemotePartsTest, OperatorsSeeAndMoveThem) {
  {
    Context context;
    v1::CheckAdapterRequest request;
    request.set_source("org/a");
    v1::CheckAdapterResponse response;
    ASSERT_TRUE(server_->admin().CheckAdapter(&context, request, &response).ok());
    EXPECT_TRUE(response.servable()) << response.reason();
    EXPECT_EQ(response.adapter().rank_max(), 4);
    EXPECT_EQ(response.modules(0).alpha_max(), 4 * response.modules(0).scale_max());
    EXPECT_EQ(server_->Status().disk_tier().insertions(), 0) << "it changes nothing";
    EXPECT_EQ(server_->Status().fetches().fetched(), 0);
    EXPECT_THAT(Listed(), ElementsAre());
  }
  {
    Context context;
    v1::LoadAdapterRequest request;
    request.set_adapter_id("org/a@main");
    v1::LoadAdapterResponse response;
    const grpc::Status status = server_->admin().LoadAdapter(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.adapter().tier(), v1::TIER_DEVICE);
    EXPECT_THAT(response.adapter().source(), testing::StartsWith("org/a@"));
  }
  {
    Context context;
    v1::ListAdaptersRequest request;
    request.set_prefix("org/");
    v1::ListAdaptersResponse response;
    ASSERT_TRUE(server_->admin().ListAdapters(&context, request, &response).ok());
    ASSERT_EQ(response.adapters_size(), 1);
    EXPECT_EQ(response.adapters(0).adapter_id(), "org/a");
  }
  Context context;
  v1::LoadAdapterRequest request;
  request.set_adapter_id("org/missing");
  v1::LoadAdapterResponse response;
  EXPECT_EQ(server_->admin().LoadAdapter(&context, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

// The pool knows this content by the folder's name, and keeps that generation alone.
TEST_F(RemotePartsTest, ContentThatIsKnownByAnotherNameIsSeenAndLetGo) {
  ASSERT_TRUE(Generate("plain").status.ok());
  v1::PinAdapterRequest pin;
  pin.set_adapter_id("org/a");
  v1::PinAdapterResponse pinned;
  Context first;
  ASSERT_TRUE(server_->admin().PinAdapter(&first, pin, &pinned).ok());
  EXPECT_EQ(pinned.adapter().pinned(), v1::TIER_DEVICE);
  EXPECT_EQ(Get("org/a").pinned(), v1::TIER_DEVICE);
  EXPECT_THAT(Listed(), ElementsAre("org/a"));
  v1::UnpinAdapterRequest unpin;
  unpin.set_adapter_id("org/a");
  v1::UnpinAdapterResponse unpinned;
  Context second;
  EXPECT_TRUE(server_->admin().UnpinAdapter(&second, unpin, &unpinned).ok());
  EXPECT_EQ(unpinned.adapter().pinned(), v1::TIER_UNSPECIFIED);
  EXPECT_TRUE(Evict("org/a").ok());
}

TEST_F(RemotePartsTest, ADeleteDropsAnIdleCopyAndNoneThatIsInUse) {
  const auto refused = [this](const char* why) {
    const grpc::Status status = Delete("org/a");
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), testing::HasSubstr(why));
    EXPECT_EQ(server_->Status().disk_tier().adapters(), 1);
  };
  {
    v1::GenerateRequest request = TokensRequest(kTinyContext - 64);
    request.set_adapter_id("org/a");
    Context context;
    const auto stream = server_->inference().GenerateStream(&context, request);
    v1::GenerateStreamResponse chunk;
    ASSERT_TRUE(stream->Read(&chunk));
    refused("using");
    context.TryCancel();
    stream->Finish();
    server_->WaitFor([](const v1::GetStatusResponse& now) { return now.running() == 0; });
  }
  v1::PinAdapterRequest pin;
  pin.set_adapter_id("org/a");
  Context pin_context;
  v1::PinAdapterResponse pinned;
  ASSERT_TRUE(server_->admin().PinAdapter(&pin_context, pin, &pinned).ok());
  refused("pinned");
  v1::UnpinAdapterRequest unpin;
  unpin.set_adapter_id("org/a");
  Context unpin_context;
  v1::UnpinAdapterResponse unpinned;
  ASSERT_TRUE(server_->admin().UnpinAdapter(&unpin_context, unpin, &unpinned).ok());
  EXPECT_EQ(Get("org/a").tier(), v1::TIER_DEVICE);
  const grpc::Status deleted = Delete("org/a");
  EXPECT_TRUE(deleted.ok()) << deleted.error_message();
  EXPECT_EQ(server_->Status().disk_tier().adapters(), 0);
  EXPECT_EQ(server_->Status().device_tier().adapters(), 0);
  EXPECT_TRUE(Generate("org/a").status.ok()) << "fetched again";
}

TEST_F(RemotePartsTest, WhatIsOnDiskIsSeenAndCanBeDeleted) {
  ASSERT_TRUE(Generate("org/a").status.ok());
  ASSERT_TRUE(Evict("org/a").ok());
  EXPECT_EQ(Get("org/a").tier(), v1::TIER_DISK);
  EXPECT_EQ(Get("org/a").rank_max(), 4);
  Restart();
  EXPECT_THAT(Listed(), ElementsAre("org/a"));
  EXPECT_EQ(Get("org/a").tier(), v1::TIER_DISK);
  EXPECT_EQ(Get("org/a").source(), absl::StrCat("org/a@", commit_));
  EXPECT_TRUE(Evict("org/a").ok()) << "it is not in memory anyway";
  EXPECT_EQ(Downloads(), 1);
  EXPECT_TRUE(Delete("org/a").ok());
  EXPECT_THAT(Listed(), ElementsAre());
  EXPECT_EQ(server_->Status().disk_tier().adapters(), 0);
  EXPECT_EQ(Delete("org/a").error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(Generate("org/a").status.ok());
  EXPECT_EQ(Downloads(), 2);
  const v1::FetchCounters fetches = server_->Status().fetches();
  EXPECT_EQ(fetches.fetched(), 1);
  EXPECT_EQ(fetches.failed(), 0);
  EXPECT_GT(fetches.downloaded_bytes(), std::ssize(files_["adapter_model.safetensors"]));
  EXPECT_EQ(CodeOf("org/none"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(server_->Status().fetches().failed(), 1);
}

TEST_F(RemotePartsTest, MetricsTellOfTheDiskAndOfFetches) {
  config_.http_address = "127.0.0.1:0";
  Restart();
  ASSERT_TRUE(Generate("org/a").status.ok());
  const std::string page = HttpCall(server_->server().http_port(), "GET", "/metrics").body;
  for (const char* line :
       {"lorica_tier_adapters{tier=\"disk\"} 1\n", "lorica_tier_hits_total{tier=\"disk\"} 0\n",
        "lorica_tier_misses_total{tier=\"disk\"} 1\n",
        "lorica_tier_evictions_total{tier=\"disk\"} 0\n",
        "lorica_fetches_total{outcome=\"fetched\"} 1\n",
        "lorica_fetches_total{outcome=\"failed\"} 0\n", "lorica_fetches_under_way 0\n"}) {
    EXPECT_THAT(page, HasSubstr(line));
  }
}

TEST_F(RemotePartsTest, ARegisteredNameKeepsWhatTheHubHadThen) {
  v1::RegisterAdapterResponse response;
  const grpc::Status status = Register("mine", "org/a", false, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(response.created());
  const Tokens tokens = Generate("plain").tokens;
  EXPECT_EQ(Generate("mine").tokens, tokens);
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(config_.data_dir + "/registered")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(entry.hard_link_count(), 2u) << entry.path();
  }
  hub_.Delete("org/a");
  config_.hub_allow = "";
  Restart();
  EXPECT_EQ(Generate("mine").tokens, tokens);
  EXPECT_EQ(CodeOf("org/a"), grpc::StatusCode::NOT_FOUND);
}

// A registered name whose copy is lost: what it was registered with is fetched again, and nothing
// else takes its place.
TEST_F(RemotePartsTest, ADamagedCopyIsFetchedAgain) {
  config_.http_address = "127.0.0.1:0";
  ASSERT_TRUE(Register("mine", "org/a").ok());
  const Answered first = Generate("mine");
  const std::string content = config_.data_dir + "/registered/" + first.generation + "/";
  const Tokens tokens = Generate("plain").tokens;
  int downloads = Downloads();
  for (const bool lost : {false, true}) {
    ASSERT_TRUE(Evict("mine").ok());
    if (lost) {
      std::filesystem::remove_all(config_.data_dir + "/registered/" + first.generation);
      std::filesystem::remove_all(config_.data_dir + "/fetched/content/" + first.generation);
    } else {
      // Also that of what was fetched, which is the same file.
      std::filesystem::resize_file(content + "adapter_model.safetensors", 100);
    }
    Restart();
    EXPECT_EQ(Generate("mine").tokens, tokens);
    EXPECT_EQ(Downloads(), ++downloads);
    EXPECT_THAT(HttpCall(server_->server().http_port(), "GET", "/metrics").body,
                HasSubstr(absl::StrCat("lorica_damaged_copies_total ", lost ? 0 : 1, "\n")));
    EXPECT_EQ(Generate("mine").tokens, tokens);
    EXPECT_TRUE(std::filesystem::exists(content)) << "it is there again";
    Restart();
    EXPECT_EQ(Generate("mine").tokens, tokens);
    EXPECT_EQ(Downloads(), downloads);
  }
}

// While the server runs, too.
TEST_F(RemotePartsTest, WhatIsDamagedOnTheDiskIsFetchedAgain) {
  const Answered first = Generate("org/a");
  ASSERT_TRUE(first.status.ok());
  ASSERT_TRUE(Evict("org/a").ok());
  const std::string weights =
      config_.data_dir + "/fetched/content/" + first.generation + "/adapter_model.safetensors";
  std::string text = files_["adapter_model.safetensors"];
  text.back() ^= 1;
  std::ofstream(weights, std::ios::binary) << text;
  EXPECT_EQ(Generate("org/a").tokens, first.tokens);
  EXPECT_EQ(Downloads(), 2);
}

// Also where the name is spelled as what it is made of.
TEST_F(RemotePartsTest, ANameOfARepositorysOwnSpellingMovesToWhatTheRepositoryHas) {
  const auto move = [this](const std::string& source, bool replace) {
    v1::RegisterAdapterResponse response;
    const grpc::Status status = Register("org/a", source, replace, &response);
    EXPECT_TRUE(status.ok()) << source << ": " << status.error_message();
    EXPECT_TRUE(response.adapter().registered());
    return response.replaced();
  };
  hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"), "v2");
  EXPECT_EQ(move("", false), "");
  const std::string first = Get("org/a").generation();
  EXPECT_EQ(move("", true), "") << "it is there already";
  EXPECT_EQ(move("org/a", true), "") << "as an import names it";
  hub_.AddFault({.target_part = "/org/a", .times = -1, .status = 404});
  EXPECT_EQ(move("", true), "") << "what is here, where the hub has nothing";
  hub_.ClearFaults();
  EXPECT_EQ(move("org/a@v2", true), first);
  EXPECT_EQ(Generate("org/a").tokens, Generate("other").tokens);
  Restart();
  EXPECT_NE(move(absl::StrCat("org/a@", commit_), true), "");
  EXPECT_EQ(Get("org/a").generation(), first);
  hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"));
  EXPECT_EQ(move("", true), first) << "the branch as it is now, not as it was fetched before";
}

// A controller gives up after 30 s and calls again: the download went on meanwhile, once.
TEST_F(RemotePartsTest, AControllersLoadIsAnsweredInTimeAndFoundByItsRetry) {
  // Neither reply is as late as what the hub's client gives up.
  absl::Notification go_on;
  const auto wait = [&] { go_on.WaitForNotificationWithTimeout(absl::Seconds(12)); };
  hub_.AddFault({.target_part = "org/a", .before = wait});
  hub_.AddFault({.target_part = "/blobs/", .before = wait});
  const nlohmann::json load = {{"lora_name", "mine"}, {"lora_path", "huggingface://org/a"}};
  const int port = server_->server().http_port();
  const absl::Time began = absl::Now();
  const HttpAnswer first = Post(port, "/v1/load_lora_adapter", load);
  EXPECT_LT(absl::Now() - began, absl::Seconds(25));
  EXPECT_EQ(first.status, 503) << first.body;
  EXPECT_THAT(first.json()["message"].get<std::string>(), HasSubstr("still loading"));
  EXPECT_TRUE(first.headers.contains("retry-after"));
  EXPECT_EQ(HttpCall(port, "GET", "/v1/models/mine").status, 404) << "not before it can be used";
  go_on.Notify();
  for (int i = 0; i < 2; ++i) {
    const HttpAnswer again = Post(port, "/v1/load_lora_adapter", load);
    EXPECT_EQ(again.status, 200) << again.body;
  }
  EXPECT_EQ(Downloads(), 1);
  EXPECT_EQ(HttpCall(port, "GET", "/v1/models/mine").status, 200);
}

// Clients and proxies give up what is silent for long.
TEST_F(RemotePartsTest, AStreamThatWaitsHearsThatItsConnectionLives) {
  absl::Notification go_on;
  hub_.AddFault({.target_part = "/blobs/", .before = [&] { go_on.WaitForNotification(); }});
  const int port = server_->server().http_port();
  HttpSocket lorax(port);
  lorax.Send(RequestBytes(
      "POST", "/generate_stream",
      R"({"inputs": "hi", "parameters": {"adapter_id": "org/a", "max_new_tokens": 1}})"));
  HttpSocket openai(port);
  openai.Send(RequestBytes("POST", "/v1/completions",
                           R"({"model": "org/a", "prompt": "hi", "stream": true})"));
  for (HttpSocket* waiting : {&lorax, &openai}) {
    EXPECT_THAT(waiting->Read(absl::Seconds(15), ":\n\n"), HasSubstr("\r\n\r\n3\r\n:\n\n"))
        << "a comment, and no event yet";
  }
  go_on.Notify();
  EXPECT_THAT(lorax.Read(absl::Seconds(10), "generated_text\":\""), HasSubstr("data: "));
  EXPECT_THAT(openai.Read(absl::Seconds(10), "[DONE]"), HasSubstr("[DONE]"));
}

TEST_F(RemotePartsTest, AnAliasOfARepositoryIsServedAndListed) {
  Context context;
  v1::SetAliasRequest request;
  request.set_alias("live");
  request.set_adapter_id("org/a");
  v1::SetAliasResponse response;
  const grpc::Status status = server_->admin().SetAlias(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Generate("live").tokens, Generate("plain").tokens);
  Restart();
  Context listing;
  v1::ListAdaptersRequest list;
  list.set_prefix("live");
  v1::ListAdaptersResponse adapters;
  ASSERT_TRUE(server_->admin().ListAdapters(&listing, list, &adapters).ok());
  ASSERT_EQ(adapters.adapters_size(), 1);
  EXPECT_EQ(adapters.adapters(0).alias_of(), "org/a");
  EXPECT_EQ(adapters.adapters(0).error(), "") << "not looked at since the start, but no error";
  EXPECT_EQ(Generate("live").tokens, Generate("plain").tokens);
}

}  // namespace
}  // namespace lorica
