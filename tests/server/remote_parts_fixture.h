// A whole server and a hub in this process: what every test of fetched adapters begins with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_hub.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {

using Tokens = std::vector<int32_t>;

class RemotePartsTest : public ::testing::Test {
 protected:
  RemotePartsTest() {
    config_.hub_allow = "org/*, other/one";
    config_.hub_endpoint = hub_.endpoint();
    config_.hub_redirect_hosts = hub_.cdn_place();
    config_.data_dir = data_.path() + "/data";
    config_.drain_seconds = 0;
    Restart();
    files_ = FakeHub::FilesOf(server_->adapters().path() + "/plain");
    commit_ = hub_.Commit("org/a", files_);
  }
  void Restart() {
    server_ = nullptr;
    server_ = std::make_unique<TinyServer>(config_);
  }

  struct Answered {
    grpc::Status status;
    Tokens tokens;
    std::string generation;
  };
  Answered Generate(const std::string& adapter, int tokens = 8,
                    absl::Duration limit = absl::Seconds(20)) {
    v1::GenerateRequest request = TokensRequest(tokens);
    request.set_adapter_id(adapter);
    Context context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
    v1::GenerateResponse response;
    Answered answered{server_->inference().Generate(&context, request, &response)};
    answered.tokens.assign(response.token_ids().begin(), response.token_ids().end());
    answered.generation = response.adapter().generation();
    return answered;
  }
  grpc::StatusCode CodeOf(const std::string& adapter) {
    return Generate(adapter).status.error_code();
  }
  v1::Adapter Get(const std::string& id) {
    v1::GetAdapterRequest request;
    request.set_adapter_id(id);
    Context context;
    v1::GetAdapterResponse response;
    const grpc::Status status = server_->admin().GetAdapter(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.adapter();
  }
  std::vector<std::string> Listed() {
    v1::ListAdaptersRequest request;
    request.set_prefix("org/");
    Context context;
    v1::ListAdaptersResponse response;
    EXPECT_TRUE(server_->admin().ListAdapters(&context, request, &response).ok());
    std::vector<std::string> ids;
    for (const v1::Adapter& adapter : response.adapters()) ids.push_back(adapter.adapter_id());
    return ids;
  }
  grpc::Status Evict(const std::string& id) {
    v1::EvictAdapterRequest request;
    request.set_adapter_id(id);
    request.set_wait(true);
    Context context;
    v1::EvictAdapterResponse response;
    return server_->admin().EvictAdapter(&context, request, &response);
  }
  grpc::Status Register(const std::string& id, const std::string& source, bool replace = false,
                        v1::RegisterAdapterResponse* response = nullptr) {
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(id);
    request.set_source(source);
    request.set_replace(replace);
    Context context;
    v1::RegisterAdapterResponse unread;
    return server_->admin().RegisterAdapter(&context, request,
                                            response == nullptr ? &unread : response);
  }
  grpc::Status Delete(const std::string& id) {
    v1::DeleteAdapterRequest request;
    request.set_adapter_id(id);
    Context context;
    v1::DeleteAdapterResponse response;
    return server_->admin().DeleteAdapter(&context, request, &response);
  }
  // Repositories that nobody has asked for yet.
  std::string NewRepo() {
    const std::string repo = absl::StrCat("org/new-", repos_++);
    hub_.Commit(repo, files_);
    return repo;
  }
  int Downloads() const { return hub_.CountOf("/blobs/", "GET"); }

  FakeHub hub_;
  TemporaryFolder data_;
  Config config_;
  FakeHub::Files files_;
  std::string commit_;
  int repos_ = 0;
  std::unique_ptr<TinyServer> server_;
};

}  // namespace lorica
