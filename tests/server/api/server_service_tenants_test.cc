// Keys, roles, scopes, quotas and the bill, through a whole server.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "client/rpc_status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string HashOf(const std::string& key) {
  Sha256 hash;
  hash.Update(key);
  return hash.Finish();
}

std::string Entry(const std::string& name, const std::string& more) {
  return absl::StrCat(R"({"name": ")", name, R"(", "keys": [")", HashOf("key-" + name), R"("], )",
                      more, "}");
}

class TenantServer : public ::testing::Test {
 protected:
  TenantServer() {
    Write({Entry("op", R"("role": "operator", "adapters": ["*"])"),
           Entry("acme", R"("role": "manager", "adapters": ["plain", "dora"])"),
           Entry("small", R"("adapters": ["plain"], "streams": 1, "requests_per_minute": 5)")});
    Restart();
  }
  void Restart() {
    Config config;
    config.tenants_file = file_;
    config.data_dir = folder_.path() + "/data";
    server_ = std::make_unique<TinyServer>(config);
    status_ = v1::ServerService::NewStub(server_->channel());
  }
  void Write(const std::vector<std::string>& tenants) {
    std::string text;
    for (const std::string& tenant : tenants) {
      absl::StrAppend(&text, text.empty() ? "" : ",", tenant);
    }
    std::ofstream(file_) << "{\"tenants\": [" << text << "]}";
  }

  // One call by whoever has the key of `tenant` ("" = without).
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(const std::string& tenant, Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response, const std::string& acting = "") {
    Context context;
    if (!tenant.empty()) context.AddMetadata("authorization", "Bearer key-" + tenant);
    if (!acting.empty()) context.AddMetadata("x-tenant-id", acting);
    return (stub.*method)(&context, request, response);
  }
  grpc::Status Generate(const std::string& tenant, const std::string& id, int tokens = 3,
                        const std::string& acting = "") {
    v1::GenerateRequest request = TokensRequest(tokens);
    request.set_adapter_id(id);
    return Call(tenant, server_->inference(), &v1::InferenceService::Stub::Generate, request,
                &generated_, acting);
  }
  template <typename Request, typename Response>
  StatusCode Admin(const std::string& tenant,
                   grpc::Status (v1::AdapterService::Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, Response*),
                   const Request& request) {
    Response response;
    return Call(tenant, server_->admin(), method, request, &response).error_code();
  }
  std::vector<std::string> Ids(const std::string& tenant) {
    v1::ListAdaptersResponse response;
    Call(tenant, server_->admin(), &v1::AdapterService::Stub::ListAdapters,
         v1::ListAdaptersRequest(), &response);
    std::vector<std::string> ids;
    for (const v1::Adapter& adapter : response.adapters()) ids.push_back(adapter.adapter_id());
    return ids;
  }
  v1::GetUsageResponse UsageOf(const std::string& caller, const std::string& tenant = "") {
    v1::GetUsageRequest request;
    request.set_tenant(tenant);
    v1::GetUsageResponse response;
    EXPECT_TRUE(
        Call(caller, *status_, &v1::ServerService::Stub::GetUsage, request, &response).ok());
    return response;
  }

  TemporaryFolder folder_;
  const std::string file_ = folder_.path() + "/tenants.json";
  std::unique_ptr<TinyServer> server_;
  std::unique_ptr<v1::ServerService::Stub> status_;
  v1::GenerateResponse generated_;
};

template <typename Request>
Request About(const std::string& id) {
  Request request;
  request.set_adapter_id(id);
  return request;
}

TEST_F(TenantServer, EveryMethodNeedsAKey) {
  using Adapters = v1::AdapterService::Stub;
  for (const char* who : {"", "nobody"}) {
    EXPECT_EQ(Generate(who, "plain").error_code(), StatusCode::UNAUTHENTICATED);
    v1::TokenizeResponse tokens;
    EXPECT_EQ(Call(who, server_->inference(), &v1::InferenceService::Stub::Tokenize,
                   v1::TokenizeRequest(), &tokens)
                  .error_code(),
              StatusCode::UNAUTHENTICATED);
    v1::GetStatusResponse status;
    EXPECT_EQ(
        Call(who, *status_, &v1::ServerService::Stub::GetStatus, v1::GetStatusRequest(), &status)
            .error_code(),
        StatusCode::UNAUTHENTICATED);
    v1::GetUsageResponse usage;
    EXPECT_EQ(Call(who, *status_, &v1::ServerService::Stub::GetUsage, v1::GetUsageRequest(), &usage)
                  .error_code(),
              StatusCode::UNAUTHENTICATED);
    const StatusCode codes[] = {
        Admin(who, &Adapters::RegisterAdapter, About<v1::RegisterAdapterRequest>("x")),
        Admin(who, &Adapters::RollbackAdapter, About<v1::RollbackAdapterRequest>("x")),
        Admin(who, &Adapters::SetAlias, About<v1::SetAliasRequest>("x")),
        Admin(who, &Adapters::CheckAdapter, v1::CheckAdapterRequest()),
        Admin(who, &Adapters::GetAdapter, About<v1::GetAdapterRequest>("plain")),
        Admin(who, &Adapters::ListAdapters, v1::ListAdaptersRequest()),
        Admin(who, &Adapters::LoadAdapter, About<v1::LoadAdapterRequest>("plain")),
        Admin(who, &Adapters::EvictAdapter, About<v1::EvictAdapterRequest>("plain")),
        Admin(who, &Adapters::PinAdapter, About<v1::PinAdapterRequest>("plain")),
        Admin(who, &Adapters::UnpinAdapter, About<v1::UnpinAdapterRequest>("plain")),
        Admin(who, &Adapters::DeleteAdapter, About<v1::DeleteAdapterRequest>("plain")),
    };
    for (const StatusCode code : codes) EXPECT_EQ(code, StatusCode::UNAUTHENTICATED);
    Context context;
    if (*who != 0) context.AddMetadata("authorization", "Bearer key-nobody");
    auto reader = server_->admin().WatchAdapters(&context, v1::WatchAdaptersRequest());
    v1::WatchAdaptersResponse event;
    EXPECT_FALSE(reader->Read(&event));
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAUTHENTICATED);
  }
  EXPECT_TRUE(Generate("small", "plain").ok());
}

TEST_F(TenantServer, RolesSayWhoMayChangeWhat) {
  using Adapters = v1::AdapterService::Stub;
  const auto evict = About<v1::EvictAdapterRequest>("plain");
  EXPECT_EQ(Admin("small", &Adapters::EvictAdapter, evict), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Admin("acme", &Adapters::EvictAdapter, evict), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Admin("op", &Adapters::EvictAdapter, evict), StatusCode::OK);
  const auto pin = About<v1::PinAdapterRequest>("plain");
  EXPECT_EQ(Admin("acme", &Adapters::PinAdapter, pin), StatusCode::PERMISSION_DENIED);
  v1::RegisterAdapterRequest name;
  name.set_adapter_id("mine");
  name.set_source("plain");
  EXPECT_EQ(Admin("small", &Adapters::RegisterAdapter, name), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Admin("acme", &Adapters::RegisterAdapter, name), StatusCode::OK);
}

TEST_F(TenantServer, TenantsSeeTheirOwnAdaptersAlone) {
  EXPECT_THAT(Ids("op"), ElementsAre("broken", "dora", "other", "plain"));
  EXPECT_THAT(Ids("acme"), ElementsAre("dora", "plain"));
  v1::RegisterAdapterRequest name;
  name.set_adapter_id("mine");
  name.set_source("dora");
  ASSERT_EQ(Admin("acme", &v1::AdapterService::Stub::RegisterAdapter, name), StatusCode::OK);
  EXPECT_THAT(Ids("acme"), ElementsAre("dora", "mine", "plain"));
  EXPECT_THAT(Ids("small"), ElementsAre("plain"));
  EXPECT_TRUE(Generate("acme", "mine").ok());
  const grpc::Status foreign = Generate("small", "mine");
  const grpc::Status absent = Generate("small", "none");
  EXPECT_EQ(foreign.error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(foreign.error_message().substr(14), absent.error_message().substr(14))
      << "not to be told from one that does not exist";
  EXPECT_EQ(Generate("small", "dora").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Generate("small", "mine", 3, "acme").error_code(), StatusCode::NOT_FOUND) << "forged";
  EXPECT_TRUE(Generate("op", "mine", 3, "acme").ok()) << "an operator acts for it";
  EXPECT_EQ(Generate("op", "mine", 3, "nobody").error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(TenantServer, QuotasAreRefusedWithATimeToWait) {
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Generate("small", "plain").ok()) << i;
  const grpc::Status refused = Generate("small", "plain");
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("5 requests a minute"));
  const auto delay = RetryInfoDelay(ToAbslStatus(refused));
  ASSERT_TRUE(delay.has_value());
  EXPECT_GT(*delay, absl::Seconds(5));
  EXPECT_LE(*delay, absl::Seconds(12));
  EXPECT_TRUE(Generate("acme", "plain").ok()) << "others go on";
}

TEST_F(TenantServer, StreamsAreCapped) {
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer key-small");
  v1::GenerateRequest request = TokensRequest(500);
  request.set_logprobs(20);
  auto reader = server_->inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(Generate("small", "plain").error_code(), StatusCode::RESOURCE_EXHAUSTED);
  context.TryCancel();
  while (reader->Read(&chunk)) {
  }
  reader->Finish();
  const absl::Time end = absl::Now() + absl::Seconds(5);
  grpc::Status again;
  do {
    again = Generate("small", "plain");
  } while (!again.ok() && absl::Now() < end &&
           again.error_message().find("streams") != std::string::npos);
  EXPECT_TRUE(again.ok()) << again.error_message();
}

TEST_F(TenantServer, TheBillIsByTenantAndGeneration) {
  EXPECT_THAT(UsageOf("op").rows(), IsEmpty()) << "the warm-up is nobody's";
  ASSERT_TRUE(Generate("acme", "plain", 4).ok());
  const std::string plain = generated_.adapter().generation();
  ASSERT_TRUE(Generate("acme", "plain", 6).ok());
  ASSERT_TRUE(Generate("acme", "", 2).ok());
  ASSERT_TRUE(Generate("small", "plain", 5).ok());
  ASSERT_TRUE(Generate("op", "plain", 7, "small").ok());
  const auto rows = UsageOf("op").rows();
  ASSERT_EQ(rows.size(), 3);
  EXPECT_EQ(rows[0].tenant(), "acme");
  EXPECT_EQ(rows[0].generation(), "");
  EXPECT_EQ(rows[0].completion_tokens(), 2);
  EXPECT_EQ(rows[1].generation(), plain);
  EXPECT_EQ(rows[1].requests(), 2);
  EXPECT_EQ(rows[1].prompt_tokens(), 6);
  EXPECT_EQ(rows[1].completion_tokens(), 10);
  EXPECT_EQ(rows[2].tenant(), "small");
  EXPECT_EQ(rows[2].completion_tokens(), 12) << "also what an operator asked for it";
  EXPECT_EQ(UsageOf("op", "acme").rows_size(), 2);
  EXPECT_EQ(UsageOf("small", "small").rows_size(), 1) << "its own";
  v1::GetUsageRequest foreign;
  foreign.set_tenant("acme");
  v1::GetUsageResponse nothing;
  EXPECT_EQ(
      Call("small", *status_, &v1::ServerService::Stub::GetUsage, foreign, &nothing).error_code(),
      StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(UsageOf("small").rows(0).tenant(), "small");
}

TEST_F(TenantServer, TheBillGoesOnAfterARestart) {
  ASSERT_TRUE(Generate("acme", "plain", 4).ok());
  const v1::GetUsageResponse before = UsageOf("op");
  status_.reset();
  server_.reset();
  Restart();
  EXPECT_GE(UsageOf("op").seconds(), before.seconds());
  ASSERT_EQ(UsageOf("op").rows_size(), 1);
  EXPECT_EQ(UsageOf("op").rows(0).SerializeAsString(), before.rows(0).SerializeAsString());
  ASSERT_TRUE(Generate("acme", "plain", 4).ok());
  EXPECT_EQ(UsageOf("op").rows(0).completion_tokens(), 8);
}

TEST_F(TenantServer, TheFileIsReadAgainAndAMistakeKeepsTheOldOne) {
  std::ofstream(file_) << "{";
  EXPECT_FALSE(server_->server().Reload().ok());
  EXPECT_TRUE(Generate("acme", "plain").ok());
  Write({Entry("acme", R"("adapters": ["other"])"), Entry("late", R"("adapters": ["*"])")});
  ASSERT_TRUE(server_->server().Reload().ok());
  EXPECT_EQ(Generate("small", "plain").error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(Generate("late", "plain").ok());
  EXPECT_EQ(Generate("acme", "plain").error_code(), StatusCode::NOT_FOUND);
  EXPECT_TRUE(Generate("acme", "other").ok());
}

TEST(TenantFlags, AServerDoesNotStartWithoutItsTenants) {
  TemporaryFolder folder;
  Config config;
  config.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  config.tenants_file = folder.path() + "/absent.json";
  const auto server = Server::Start(config);
  EXPECT_TRUE(absl::IsNotFound(server.status())) << server.status();
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("--tenants-file"));
}

}  // namespace
}  // namespace lorica
