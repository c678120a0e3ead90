// A whole server and a hub: what a call's or a tenant's own token opens, and for whom.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

// Two operators: "with" has a token for the hub, "without" has none.
class RemotePartsTokensTest : public RemotePartsTest {
 protected:
  static constexpr char kToken[] = "hf_of_the_tenant";

  void WithTenants() {
    hub_.SetAccess("org/a", HubAccess::kPrivate, kToken);
    data_.Write("token", kToken);
    const std::string own = absl::StrCat(R"(, "hub_token_file": ")", data_.path(), R"(/token")");
    data_.Write("tenants.json", absl::StrCat(R"({"tenants": [)", Entry("with", own), ",",
                                             Entry("without", ""), "]}"));
    config_.tenants_file = data_.path() + "/tenants.json";
    Restart();
  }
  static std::string Entry(const std::string& name, const std::string& more,
                           const std::string& adapters = "*") {
    Sha256 hash;
    hash.Update("key-" + name);
    return absl::StrCat(R"({"name": ")", name, R"(", "role": "operator", "adapters": [")", adapters,
                        R"("], "keys": [")", hash.Finish(), "\"]", more, "}");
  }
  static void Be(const std::string& who, Context* context) {
    context->AddMetadata("authorization", "Bearer key-" + who);
  }
  grpc::Status GenerateAs(const std::string& who, const std::string& token = "") {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id("org/a");
    request.set_hub_token(token);
    Context context;
    Be(who, &context);
    v1::GenerateResponse response;
    return server_->inference().Generate(&context, request, &response);
  }
  // A call about org/a; by nobody where there are no tenants.
  template <typename Request, typename Response>
  grpc::StatusCode CodeOf(grpc::Status (v1::AdapterService::Stub::*method)(grpc::ClientContext*,
                                                                           const Request&,
                                                                           Response*),
                          Request request, const std::string& token, const std::string& who = "") {
    request.set_adapter_id("org/a");
    request.set_hub_token(token);
    Context context;
    if (!who.empty()) Be(who, &context);
    Response response;
    return (server_->admin().*method)(&context, request, &response).error_code();
  }
  std::vector<std::string> ListedFor(const std::string& who, const std::string& as = "") {
    v1::ListAdaptersRequest request;
    request.set_prefix("org/");
    Context context;
    Be(who, &context);
    if (!as.empty()) context.AddMetadata("x-tenant-id", as);
    v1::ListAdaptersResponse response;
    EXPECT_TRUE(server_->admin().ListAdapters(&context, request, &response).ok());
    std::vector<std::string> ids;
    for (const v1::Adapter& adapter : response.adapters()) ids.push_back(adapter.adapter_id());
    return ids;
  }
  // What cannot be served is an answer, too.
  grpc::Status CheckAs(const std::string& who, const std::string& token = "") {
    v1::CheckAdapterRequest request;
    request.set_source("org/a");
    request.set_hub_token(token);
    Context context;
    Be(who, &context);
    v1::CheckAdapterResponse response;
    const grpc::Status status = server_->admin().CheckAdapter(&context, request, &response);
    if (!status.ok() || response.servable()) return status;
    return {grpc::StatusCode::FAILED_PRECONDITION, response.reason()};
  }
};

TEST_F(RemotePartsTokensTest, ACallsOwnTokenIsUsedForItsFetchAloneAndNeverLogged) {
  std::ostringstream log;
  const auto old_logger = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  spdlog::set_level(spdlog::level::trace);
  hub_.SetAccess("org/a", HubAccess::kPrivate, kToken);
  const auto code = [this](const std::string& token, const std::string& id = "org/a") {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(id);
    request.set_hub_token(token);
    Context context;
    v1::GenerateResponse response;
    const grpc::Status status = server_->inference().Generate(&context, request, &response);
    EXPECT_THAT(status.error_message(), testing::Not(HasSubstr("hf_")));
    return status.error_code();
  };
  EXPECT_EQ(code(""), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(code("hf_wrong"), grpc::StatusCode::FAILED_PRECONDITION) << "a token that is none";
  EXPECT_EQ(code(kToken), grpc::StatusCode::OK);
  EXPECT_EQ(code(""), grpc::StatusCode::NOT_FOUND) << "what a token opened is not for all";
  EXPECT_EQ(code("with blank"), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(std::string(5000, 't')), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(kToken, "plain"), grpc::StatusCode::OK);
  {
    Context context;
    v1::RegisterAdapterRequest request;
    request.set_adapter_id("mine");
    request.set_source("org/a");
    v1::RegisterAdapterResponse response;
    EXPECT_EQ(server_->admin().RegisterAdapter(&context, request, &response).error_code(),
              grpc::StatusCode::NOT_FOUND);
    Context again;
    request.set_hub_token(kToken);
    const grpc::Status status = server_->admin().RegisterAdapter(&again, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_EQ(code("", "mine"), grpc::StatusCode::OK) << "a name that its owner gave it";
  for (const HubRequest& request : hub_.requests()) {
    for (const auto& [name, value] : request.headers) {
      const bool has_token = absl::StrContains(value, kToken);
      EXPECT_TRUE(!has_token || request.place == "hub") << name;
    }
  }
  spdlog::set_default_logger(old_logger);
  EXPECT_THAT(log.str(), testing::Not(HasSubstr(kToken)));
  for (const auto& entry : std::filesystem::recursive_directory_iterator(data_.path())) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    EXPECT_FALSE(absl::StrContains(text, kToken)) << entry.path();
  }
}

TEST_F(RemotePartsTokensTest, ATenantsOwnTokenIsUsedForItsCallsAndOpensNothingForOthers) {
  WithTenants();
  EXPECT_EQ(GenerateAs("without").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(GenerateAs("with").ok()) << GenerateAs("with").error_message();
  EXPECT_EQ(GenerateAs("without").error_code(), grpc::StatusCode::NOT_FOUND) << "not for all";
  const grpc::Status wrong = GenerateAs("with", "hf_wrong");
  EXPECT_EQ(wrong.error_code(), grpc::StatusCode::FAILED_PRECONDITION) << "the call's comes first";
  EXPECT_THAT(wrong.error_message(), HasSubstr("the caller's own token"));
  {
    Context context;
    Be("with", &context);
    v1::SetAliasRequest request;
    request.set_alias("live");
    request.set_adapter_id("org/a");
    v1::SetAliasResponse response;
    const grpc::Status status = server_->admin().SetAlias(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.adapter().alias_of(), "org/a");
    EXPECT_FALSE(response.adapter().generation().empty());
  }
  data_.Write("token", "hf_of_somebody_else");
  EXPECT_EQ(GenerateAs("with").error_code(), grpc::StatusCode::FAILED_PRECONDITION) << "read anew";
}

TEST_F(RemotePartsTokensTest, EveryCallThatNamesAnAdapterTakesTheTokenThatBroughtIt) {
  using Stub = v1::AdapterService::Stub;
  hub_.SetAccess("org/a", HubAccess::kPrivate, kToken);
  const auto with = [&](const auto& method, const auto& request) {
    EXPECT_EQ(CodeOf(method, request, kToken), grpc::StatusCode::OK);
  };
  const auto only_with = [&](const auto& method, const auto& request) {
    EXPECT_EQ(CodeOf(method, request, ""), grpc::StatusCode::NOT_FOUND);
    with(method, request);
  };
  only_with(&Stub::PinAdapter, v1::PinAdapterRequest());
  with(&Stub::GetAdapter, v1::GetAdapterRequest());
  v1::SetAliasRequest alias;
  alias.set_alias("live");
  only_with(&Stub::SetAlias, alias);
  with(&Stub::UnpinAdapter, v1::UnpinAdapterRequest());
  only_with(&Stub::LoadAdapter, v1::LoadAdapterRequest());
  with(&Stub::EvictAdapter, v1::EvictAdapterRequest());
  EXPECT_EQ(server_->Status().disk_tier().adapters(), 1);
  only_with(&Stub::DeleteAdapter, v1::DeleteAdapterRequest());
  EXPECT_EQ(server_->Status().disk_tier().adapters(), 0);
}

TEST_F(RemotePartsTokensTest, ATenantSeesAndDeletesWhatItsOwnTokenBroughtAndNobodyElseDoes) {
  WithTenants();
  EXPECT_THAT(ListedFor("with"), testing::IsEmpty());
  ASSERT_TRUE(GenerateAs("with").ok());
  EXPECT_THAT(ListedFor("with"), testing::ElementsAre("org/a"));
  EXPECT_THAT(ListedFor("without"), testing::IsEmpty());
  EXPECT_THAT(ListedFor("without", "with"), testing::ElementsAre("org/a"))
      << "an operator acts for it";
  Restart();
  EXPECT_THAT(ListedFor("with"), testing::ElementsAre("org/a")) << "from the disk";
  EXPECT_THAT(ListedFor("without"), testing::IsEmpty());
  using Stub = v1::AdapterService::Stub;
  const auto remove = [&](const std::string& who) {
    return CodeOf(&Stub::DeleteAdapter, v1::DeleteAdapterRequest(), "", who);
  };
  EXPECT_EQ(remove("without"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(remove("with"), grpc::StatusCode::OK);
  EXPECT_THAT(ListedFor("with"), testing::IsEmpty());
}

TEST_F(RemotePartsTokensTest, WithoutItsTokenFileATenantIsListedWhatIsItsOwn) {
  WithTenants();
  ASSERT_TRUE(GenerateAs("with").ok());
  std::filesystem::remove(data_.path() + "/token");
  Context context;
  Be("with", &context);
  v1::ListAdaptersResponse response;
  ASSERT_TRUE(server_->admin().ListAdapters(&context, v1::ListAdaptersRequest(), &response).ok());
  EXPECT_GT(response.adapters_size(), 0) << "its folders";
  for (const v1::Adapter& adapter : response.adapters()) EXPECT_NE(adapter.adapter_id(), "org/a");
}

// Its scope names the repository, whose revisions are all its own.
TEST_F(RemotePartsTokensTest, ATenantOfOneRepositoryRegistersAnyRevisionOfIt) {
  hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"), "v2");
  hub_.Commit("org/b", files_);
  data_.Write("tenants.json", absl::StrCat(R"({"tenants": [)", Entry("one", "", "org/a"), "]}"));
  config_.tenants_file = data_.path() + "/tenants.json";
  Restart();
  const auto add = [&](const std::string& id, const std::string& source) {
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(id);
    request.set_source(source);
    Context context;
    Be("one", &context);
    v1::RegisterAdapterResponse response;
    return server_->admin().RegisterAdapter(&context, request, &response).error_code();
  };
  const auto generate = [&](const std::string& id) {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(id);
    Context context;
    Be("one", &context);
    v1::GenerateResponse response;
    return server_->inference().Generate(&context, request, &response).error_code();
  };
  EXPECT_EQ(add("branch", "org/a@v2"), grpc::StatusCode::OK);
  EXPECT_EQ(add("commit", absl::StrCat("org/a@", commit_)), grpc::StatusCode::OK);
  EXPECT_EQ(add("foreign", "org/b@main"), grpc::StatusCode::NOT_FOUND);
  Restart();
  for (const char* id : {"branch", "commit"}) EXPECT_EQ(generate(id), grpc::StatusCode::OK) << id;
}

TEST_F(RemotePartsTokensTest, ACheckLooksWithTheTokenAndOpensNothing) {
  WithTenants();
  EXPECT_EQ(CheckAs("without").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(CheckAs("with", "hf_wrong").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(CheckAs("with").ok()) << CheckAs("with").error_message();
  EXPECT_TRUE(CheckAs("without", kToken).ok());
  EXPECT_EQ(CheckAs("without").error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(GenerateAs("without").error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace lorica
