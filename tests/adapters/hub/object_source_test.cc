#include "adapters/hub/object_source.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/collecting_sink.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/fakes/wire_server.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kConfig[] = "adapter_config.json";
constexpr char kWeights[] = "adapter_model.safetensors";

// A web server with two files, which says what the test wants.
class ObjectSourceTest : public ::testing::Test {
 protected:
  ObjectSourceTest()
      : server_([this](const WireRequest& request, WireServer::Connection& out) {
          Answer(request, out);
        }) {
    options_.retry.attempts_max = 2;
    options_.retry.pause_min = options_.retry.pause_max = absl::Milliseconds(1);
  }
  void Answer(const WireRequest& request, WireServer::Connection& out) {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(request);
    const bool config = absl::EndsWith(request.target, kConfig);
    if (!config && !absl::EndsWith(request.target, kWeights)) {
      out.Send(WireHead(404, {{"Content-Length", "0"}}));
      return;
    }
    if (status_ != 0) {
      out.Send(WireHead(status_, refusal_));
      return;
    }
    std::string body = config ? "{}" : weights_;
    std::map<std::string, std::string> headers = {{"ETag", config ? "\"c\"" : tag_}};
    if (!digest_.empty() && !config) headers["Digest"] = digest_;
    int status = 200;
    const std::string wanted = request.Header("if-match");
    if (!wanted.empty() && wanted != headers["ETag"]) {
      out.Send(WireHead(412, {{"Content-Length", "0"}}));
      return;
    }
    const std::string range = request.Header("range");
    if (!range.empty()) {
      const size_t from = std::stoul(range.substr(6));
      headers["Content-Range"] =
          absl::StrCat("bytes ", from, "-", body.size() - 1, "/", body.size());
      body = body.substr(from);
      status = 206;
    }
    headers["Content-Length"] = absl::StrCat(body.size());
    out.Send(WireHead(status, headers));
    if (request.method == "HEAD") return;
    out.Send(body.substr(0, std::exchange(cut_at_, std::string::npos)));
  }
  std::string Location(const std::string& name = "team/a") {
    return absl::StrCat("http://", server_.place(), "/", name);
  }
  std::unique_ptr<RemoteSession> Begin() {
    mirror_ = MakeMirrorSource(options_);
    return *mirror_->Begin(Location(), "", "");
  }
  absl::Status LookAt(int status, std::map<std::string, std::string> headers = {}) {
    {
      absl::MutexLock lock(&mutex_);
      status_ = status;
      refusal_ = std::move(headers);
      refusal_["Content-Length"] = "0";
    }
    return Begin()->Look(kWeights).status();
  }

  absl::Mutex mutex_;
  std::vector<WireRequest> requests_;
  std::string weights_ = std::string(100'000, 'w');
  std::string tag_ = "\"one\"";
  std::string digest_;
  int status_ = 0;
  std::map<std::string, std::string> refusal_;
  size_t cut_at_ = std::string::npos;
  ObjectOptions options_;
  std::unique_ptr<RemoteSource> mirror_;
  WireServer server_;
};

TEST(ObjectLocation, IsABucketOrAWebFolderAndNothingElse) {
  for (const char* text :
       {"s3://bucket/a", "s3://my.bucket-1/team/a_b.c=d", "https://host/a", "https://host:8443/a/b",
        "http://127.0.0.1:9000/a", "http://localhost/a"}) {
    EXPECT_TRUE(IsObjectLocation(text)) << text;
  }
  for (const char* text : {"",
                           "s3://",
                           "s3://bucket",
                           "s3://bucket/",
                           "s3://bucket//a",
                           "s3://bucket/../a",
                           "s3://bucket/a/..",
                           "s3://bucket/./a",
                           "s3://Bucket/a",
                           "s3://b/a",
                           "s3://bucket/a?x=1",
                           "s3://bucket/a b",
                           "s3://bucket/%2e%2e/a",
                           "S3://bucket/a",
                           "https://host",
                           "https://host/",
                           "https://host/a/../b",
                           "https://host/a?x",
                           "https://host/a#b",
                           "https://user@host/a",
                           "https://HOST/a",
                           "http://host/a",
                           "http://169.254.169.254/a",
                           "ftp://host/a",
                           "file:///etc/passwd",
                           "https://host/a\n",
                           "//host/a",
                           "org/name"}) {
    EXPECT_FALSE(IsObjectLocation(text)) << text;
  }
  const std::string stem = "s3://bucket/";
  EXPECT_TRUE(IsObjectLocation(stem + std::string(kLocationBytesMax - stem.size(), 'a')));
  EXPECT_FALSE(IsObjectLocation(stem + std::string(kLocationBytesMax - stem.size() + 1, 'a')));
}

TEST_F(ObjectSourceTest, DownloadsWhatIsThereAndPinsBothFiles) {
  const auto session = Begin();
  const auto config = session->Look(kConfig);
  ASSERT_TRUE(config.ok() && config->has_value()) << config.status();
  EXPECT_EQ(session->commit().size(), 40u);
  const auto weights = session->Look(kWeights);
  ASSERT_TRUE(weights.ok() && weights->has_value());
  EXPECT_EQ((*weights)->size_bytes, std::ssize(weights_));
  EXPECT_FALSE((*session->Look("adapter_model.bin")).has_value());
  CollectingSink got;
  ASSERT_TRUE(session->Download(**weights, got).ok());
  EXPECT_EQ(got.text, weights_);
  EXPECT_EQ(requests_.back().Header("if-match"), "\"one\"");
  const std::string before = session->commit();
  tag_ = "\"two\"";
  const auto later = Begin();
  ASSERT_TRUE(later->Look(kConfig).ok());
  EXPECT_NE(later->commit(), before);
}

TEST_F(ObjectSourceTest, GoesOnWhereItWasCut) {
  const auto session = Begin();
  const auto weights = *session->Look(kWeights);
  cut_at_ = 60'000;
  CollectingSink got;
  const absl::Status status = session->Download(*weights, got);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(got.text, weights_);
  EXPECT_EQ(requests_.back().Header("range"), "bytes=60000-");
}

TEST_F(ObjectSourceTest, WhatChangesMeanwhileIsRefused) {
  const auto session = Begin();
  const auto weights = *session->Look(kWeights);
  tag_ = "\"two\"";
  CollectingSink got;
  const absl::Status status = session->Download(*weights, got);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("changed"));
}

TEST_F(ObjectSourceTest, AnAnnouncedHashIsCompared) {
  digest_ = absl::StrCat("sha-256=", absl::Base64Escape(std::string(32, 'x')));
  const auto session = Begin();
  const auto weights = *session->Look(kWeights);
  ASSERT_EQ(weights->hash.hex.size(), 64u);
  CollectingSink got;
  EXPECT_TRUE(absl::IsDataLoss(session->Download(*weights, got)));
}

TEST_F(ObjectSourceTest, RefusalsHaveTheirCodes) {
  EXPECT_TRUE(absl::IsPermissionDenied(LookAt(403)));
  EXPECT_TRUE(absl::IsPermissionDenied(LookAt(401)));
  EXPECT_TRUE(absl::IsUnavailable(LookAt(503)));
  EXPECT_TRUE(absl::IsUnavailable(LookAt(429, {{"Retry-After", "0"}})));
  EXPECT_TRUE(absl::IsFailedPrecondition(LookAt(400)));
  EXPECT_TRUE(absl::IsNotFound(LookAt(410)));
  const absl::Status moved =
      LookAt(301, {{"Location", "http://127.0.0.1:1/"}, {"x-amz-bucket-region", "eu-west-1"}});
  EXPECT_TRUE(absl::IsFailedPrecondition(moved));
  EXPECT_THAT(std::string(moved.message()), HasSubstr("eu-west-1"));
  EXPECT_EQ(LookAt(404), absl::OkStatus()) << "a file that is not there";
}

TEST_F(ObjectSourceTest, S3RequestsAreSignedWithTheKeysAsTheyAreNow) {
  TemporaryFolder folder;
  const std::string path = folder.path() + "/credentials";
  const auto write = [&](const std::string& key) {
    folder.Write("credentials", absl::StrCat("[default]\naws_access_key_id=", key,
                                             "\naws_secret_access_key=the/secret+key\n"
                                             "aws_session_token=the-session\n"));
  };
  write("KEY1");
  S3Options options;
  options.endpoint = absl::StrCat("http://", server_.place());
  options.region = "eu-west-1";
  options.credentials_file = path;
  options.object = options_;
  const auto source = *MakeS3Source(options);
  for (const char* key : {"KEY1", "KEY2"}) {
    write(key);
    ASSERT_TRUE((*source->Begin("s3://bucket/team/a", "", ""))->Look(kWeights).ok());
    const WireRequest& request = requests_.back();
    EXPECT_EQ(request.target, "/bucket/team/a/adapter_model.safetensors");
    const std::string signature = request.Header("authorization");
    EXPECT_THAT(signature, HasSubstr(absl::StrCat("AWS4-HMAC-SHA256 Credential=", key, "/")));
    EXPECT_THAT(signature, HasSubstr("/eu-west-1/s3/aws4_request"));
    EXPECT_THAT(signature, HasSubstr("x-amz-content-sha256"));
    EXPECT_EQ(request.Header("x-amz-security-token"), "the-session");
    for (const auto& [name, value] : request.headers) {
      EXPECT_THAT(value, Not(HasSubstr("the/secret")));
    }
  }
  folder.Write("credentials", "[default]\naws_access_key_id = x\n");
  EXPECT_TRUE(absl::IsFailedPrecondition(source->Begin("s3://bucket/a", "", "").status()));
  options.credentials_file = folder.path() + "/nothing";
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeS3Source(options).status()));
  options.credentials_file = "";
  options.endpoint = "http://s3.example";
  EXPECT_TRUE(absl::IsInvalidArgument(MakeS3Source(options).status()));
}

TEST_F(ObjectSourceTest, EachSourceTakesItsOwnLocationsAlone) {
  S3Options options;
  options.endpoint = absl::StrCat("http://", server_.place());
  const auto s3 = *MakeS3Source(options);
  mirror_ = MakeMirrorSource(options_);
  EXPECT_TRUE(absl::IsNotFound(s3->Begin(Location(), "", "").status()));
  EXPECT_TRUE(absl::IsNotFound(mirror_->Begin("s3://bucket/a", "", "").status()));
  EXPECT_TRUE(absl::IsNotFound(mirror_->Begin(Location("../a"), "", "").status()));
  EXPECT_TRUE(requests_.empty());
}

}  // namespace
}  // namespace lorica
