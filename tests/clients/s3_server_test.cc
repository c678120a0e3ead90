// Goal: what we send to S3 is what S3 takes, as moto plays it with signatures and rights checked;
// and a whole server registers adapters from there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/hub/object_source.h"
#include "tests/fakes/collecting_sink.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr int kSkipped = 77;
constexpr char kFile[] = "adapter_model.safetensors";

class S3Server : public ::testing::Test {
 protected:
  void SetUp() override {
    first_.Write("adapter_config.json", "{\"peft_type\": \"LORA\"}");
    first_.Write(kFile, std::string(3 << 20, 'w'));
    moto_ = std::make_unique<Subprocess>(std::vector<std::string>{
        LORICA_SOURCE_DIR "/tests/clients/run_s3_server.sh", "bucket", "team/a", first_.path()});
    if (!moto_->WaitForOutput("\n", absl::Minutes(4))) {
      moto_->CloseInput();
      if (moto_->Wait() == kSkipped) GTEST_SKIP() << moto_->error();
      FAIL() << moto_->error();
    }
    const Json told = Json::parse(moto_->output());
    endpoint_ = told["endpoint"];
    WriteKeys(told["access_key"], told["secret_key"]);
  }
  void WriteKeys(const std::string& access_key, const std::string& secret_key) {
    keys_.Write("credentials",
                absl::StrCat("[other]\naws_access_key_id = x\n\n[default]\naws_access_key_id = ",
                             access_key, "\naws_secret_access_key=", secret_key, "\n"));
    access_key_ = access_key;
  }
  std::string KeysPath() const { return keys_.path() + "/credentials"; }
  std::unique_ptr<RemoteSource> Source(bool with_keys = true) {
    S3Options options;
    options.endpoint = endpoint_;
    if (with_keys) options.credentials_file = KeysPath();
    options.object.retry.attempts_max = 1;
    return *MakeS3Source(std::move(options));
  }
  void Put(const std::string& folder) {
    moto_->Write(absl::StrCat("put ", folder, "\n"));
    ASSERT_TRUE(moto_->WaitForOutput(absl::StrCat("ok\n"))) << moto_->error();
  }

  TemporaryFolder first_;
  TemporaryFolder keys_;
  std::unique_ptr<Subprocess> moto_;
  std::string endpoint_;
  std::string access_key_;
};

TEST_F(S3Server, TakesOurSignaturesAndNoOthers) {
  const auto source = Source();
  const auto session = *source->Begin("s3://bucket/team/a", "", "");
  const auto file = session->Look(kFile);
  ASSERT_TRUE(file.ok() && file->has_value()) << file.status();
  EXPECT_EQ((*file)->size_bytes, 3 << 20);
  CollectingSink got;
  ASSERT_TRUE(session->Download(**file, got).ok());
  EXPECT_EQ(got.text, std::string(3 << 20, 'w'));
  const auto status = [](RemoteSource& from, const std::string& location) {
    return (*from.Begin(location, "", ""))->Look(kFile).status();
  };
  EXPECT_TRUE(absl::IsPermissionDenied(status(*Source(/*with_keys=*/false), "s3://bucket/team/a")));
  WriteKeys(access_key_, "not-the-secret");
  EXPECT_TRUE(absl::IsPermissionDenied(status(*source, "s3://bucket/team/a")));
  EXPECT_THAT(std::string(status(*source, "s3://bucket/team/a").message()),
              testing::Not(HasSubstr("not-the-secret")));
}

TEST_F(S3Server, AServerRegistersFromThere) {
  TemporaryFolder data;
  Config config;
  config.s3_allow = "s3://bucket/team/*";
  config.s3_endpoint = endpoint_;
  config.s3_credentials_file = KeysPath();
  config.data_dir = data.path();
  TinyServer server(config);
  const auto put = [&](const std::string& adapter) {
    Put(server.adapters().path() + "/" + adapter);
  };
  const auto registered = [&](const std::string& source, bool replace) {
    Context context;
    v1::RegisterAdapterRequest request;
    request.set_adapter_id("mine");
    request.set_source(source);
    request.set_replace(replace);
    v1::RegisterAdapterResponse response;
    const grpc::Status status = server.admin().RegisterAdapter(&context, request, &response);
    EXPECT_EQ(status.ok(), !response.adapter().generation().empty()) << status.error_message();
    return std::pair(status.error_code(), response.adapter().generation());
  };
  EXPECT_EQ(registered("s3://bucket/team/a", false).first, grpc::StatusCode::FAILED_PRECONDITION)
      << "that is no adapter yet";
  EXPECT_EQ(registered("s3://bucket/else/a", false).first, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(registered("s3://bucket/team/../else/a", false).first,
            grpc::StatusCode::INVALID_ARGUMENT);
  put("plain");
  absl::SleepFor(absl::Seconds(13));  // failures are remembered for a while
  const auto [code, generation] = registered("s3://bucket/team/a", false);
  ASSERT_EQ(code, grpc::StatusCode::OK);
  v1::GenerateRequest request = TokensRequest(8);
  const auto tokens = [&](const std::string& id) {
    Context context;
    request.set_adapter_id(id);
    v1::GenerateResponse response;
    const grpc::Status status = server.inference().Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
  };
  EXPECT_EQ(tokens("mine"), tokens("plain"));
  // LoRAX's way: a call names the place itself.
  const auto text = [&](Json parameters) {
    parameters["max_new_tokens"] = 8;
    const HttpAnswer answer = Post(server.server().http_port(), "/generate",
                                   {{"inputs", "hi"}, {"parameters", parameters}});
    EXPECT_EQ(answer.status, 200) << answer.body;
    return answer.json()["generated_text"];
  };
  const Json plain = text({{"adapter_id", "plain"}});
  EXPECT_EQ(text({{"adapter_id", "s3://bucket/team/a"}, {"adapter_source", "s3"}}), plain);
  EXPECT_EQ(text({{"adapter_id", "bucket/team/a"}, {"adapter_source", "S3"}}), plain);
  EXPECT_NE(text(Json::object()), plain);
  const HttpAnswer named =
      Post(server.server().http_port(), "/generate",
           {{"inputs", "hi"}, {"parameters", {{"adapter_id", "mine"}, {"max_new_tokens", 1}}}});
  EXPECT_EQ(named.headers.at("x-adapter-source"), "s3");
  // LoRAX's routes for OpenAI's clients take the same.
  const HttpAnswer completed = Post(server.server().http_port(), "/v1/completions",
                                    {{"model", "bucket/team/a"},
                                     {"adapter_source", "s3"},
                                     {"prompt", "hi"},
                                     {"temperature", 0},
                                     {"max_tokens", 8}});
  EXPECT_EQ(completed.status, 200) << completed.body;
  EXPECT_EQ(completed.json()["choices"][0]["text"], plain);
}

}  // namespace
}  // namespace lorica
