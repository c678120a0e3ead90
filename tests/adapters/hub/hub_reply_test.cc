#include "adapters/hub/hub_reply.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/hub/retry_delay.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kSha256(64, 'a');
const std::string kSha1(40, 'b');

TEST(HubReply, AnEntityTagIsAHashOrRefused) {
  for (const std::string& text : {kSha256, "\"" + kSha256 + "\"", "W/\"" + kSha256 + "\""}) {
    const auto hash = ParseEntityTag(text);
    ASSERT_TRUE(hash.ok()) << text;
    EXPECT_EQ(hash->hex, kSha256);
    EXPECT_EQ(hash->algorithm, HashAlgorithm::kSha256);
  }
  EXPECT_EQ(ParseEntityTag("\"" + kSha1 + "\"")->algorithm, HashAlgorithm::kSha1);
  for (const std::string& text :
       {std::string(), std::string("\"\""), std::string("../x"),
        std::string("\"../../etc/passwd\""), std::string(64, 'A'), std::string(63, 'a'),
        std::string(65, 'a'), std::string(41, 'a'), std::string(64 << 10, 'a'), kSha256 + "-gzip",
        "\"" + kSha256, "W/" + kSha256 + "\""}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(ParseEntityTag(text).status())) << text;
  }
}

TEST(HubReply, ACommitIsFortyHexDigits) {
  EXPECT_EQ(*ParseCommit(kSha1), kSha1);
  for (const std::string& text :
       {std::string(), std::string("main"), kSha1 + "0", std::string(39, 'b'), std::string(40, 'B'),
        std::string("../") + std::string(37, 'b')}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(ParseCommit(text).status())) << text;
  }
}

TEST(HubReply, ReadsContentRanges) {
  const auto range = ParseContentRange("bytes 5-9/10");
  ASSERT_TRUE(range.has_value());
  EXPECT_EQ(range->first, 5);
  EXPECT_EQ(range->last, 9);
  EXPECT_EQ(range->total, 10);
  for (const char* text : {"", "bytes", "bytes 5-9", "bytes 5-9/*", "bytes 9-5/10", "bytes 5-10/10",
                           "bytes -5-9/10", "items 5-9/10", "bytes 5-9/99999999999999999999",
                           "bytes 5-9/10/11", "bytes a-b/c", "bytes */10"}) {
    EXPECT_FALSE(ParseContentRange(text).has_value()) << text;
  }
}

TEST(HubReply, ReadsHowLongToWait) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);  // 2023-11-14 22:13:20
  const auto delay = [&](const std::string& name, const std::string& value) {
    HttpClientReply reply;
    reply.headers[name] = value;
    return RetryDelay(reply, now);
  };
  EXPECT_EQ(delay("retry-after", "0"), absl::ZeroDuration());
  EXPECT_EQ(delay("retry-after", "7"), absl::Seconds(7));
  EXPECT_EQ(delay("retry-after", "3600"), kRetryDelayMax);
  EXPECT_EQ(delay("retry-after", "3601"), kRetryDelayMax);
  EXPECT_EQ(delay("retry-after", "1000000000"), kRetryDelayMax);
  EXPECT_EQ(delay("retry-after", "Tue, 14 Nov 2023 22:14:20 GMT"), absl::Minutes(1));
  EXPECT_EQ(delay("retry-after", "Tue, 14 Nov 2000 22:14:20 GMT"), absl::ZeroDuration());
  EXPECT_EQ(delay("retry-after", "Tue, 14 Nov 2990 22:14:20 GMT"), kRetryDelayMax);
  for (const char* text : {"", "soon", "-1", "1.5", "99999999999999999999999", "7 s"}) {
    EXPECT_EQ(delay("retry-after", text), std::nullopt) << text;
  }
  EXPECT_EQ(delay("ratelimit", "\"api\";r=0;t=57"), absl::Seconds(58));
  EXPECT_EQ(delay("ratelimit", "\"api\"; r=0; t=9999999"), kRetryDelayMax);
  EXPECT_EQ(delay("ratelimit", "\"api\";r=3;t=57"), std::nullopt);
  EXPECT_EQ(delay("ratelimit", "garbage"), std::nullopt);
}

TEST(HubReply, RefusalsHaveTheirCodes) {
  const auto code = [](int status, const std::string& error = "", const std::string& text = "") {
    HttpClientReply reply{status, {{"x-error-code", error}, {"x-error-message", text}}};
    return RefusalOf(reply, "repository 'a/b'", TokenOwner::kServer, absl::UnixEpoch()).code();
  };
  using absl::StatusCode;
  EXPECT_EQ(code(404, "RepoNotFound"), StatusCode::kNotFound);
  EXPECT_EQ(code(404, "RevisionNotFound"), StatusCode::kNotFound);
  EXPECT_EQ(code(404), StatusCode::kNotFound);
  EXPECT_EQ(code(410), StatusCode::kNotFound);
  EXPECT_EQ(code(401), StatusCode::kNotFound);
  EXPECT_EQ(code(401, "", "Invalid credentials in Authorization header"),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(401, "GatedRepo"), StatusCode::kPermissionDenied);
  EXPECT_EQ(code(403, "GatedRepo"), StatusCode::kPermissionDenied);
  EXPECT_EQ(code(403, "", "Access to this resource is disabled."), StatusCode::kPermissionDenied);
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    EXPECT_EQ(code(status), StatusCode::kUnavailable) << status;
  }
  for (const int status : {201, 204, 304, 400, 409, 418}) {
    EXPECT_EQ(code(status), StatusCode::kFailedPrecondition) << status;
  }
}

TEST(HubReply, SaysWhoseTokenIsNotAccepted) {
  const auto text = [](int status, const std::string& message, TokenOwner owner) {
    const HttpClientReply reply{status, {{"x-error-message", message}}};
    return std::string(RefusalOf(reply, "x", owner, absl::UnixEpoch()).message());
  };
  const std::string bad = "Invalid credentials in Authorization header";
  EXPECT_THAT(text(401, bad, TokenOwner::kServer), HasSubstr("this server's token"));
  EXPECT_THAT(text(401, bad, TokenOwner::kCaller), HasSubstr("the caller's own token"));
  EXPECT_THAT(text(403, "no", TokenOwner::kCaller), HasSubstr("does not let the caller read"));
}

TEST(HubReply, ARefusalCarriesTheDelayAndNotTheHubsWords) {
  HttpClientReply reply{429, {{"retry-after", "20"}, {"x-error-message", "secret\r\nwords"}}};
  const absl::Status status =
      RefusalOf(reply, "repository 'a/b'", TokenOwner::kServer, absl::UnixEpoch());
  EXPECT_EQ(RetryDelayIn(status), absl::Seconds(20));
  EXPECT_EQ(status.message().find("secret"), absl::string_view::npos);
}

TEST(HubReply, RefusalsNameTheHubsRequest) {
  const auto text = [](const std::string& id, int status = 503) {
    HttpClientReply reply;
    reply.status = status;
    reply.headers = {{"x-request-id", id}, {"retry-after", "7"}};
    const absl::Status refusal =
        RefusalOf(reply, "repository 'a/b'", TokenOwner::kServer, absl::UnixEpoch());
    EXPECT_EQ(RetryDelayIn(refusal).has_value(), status == 503);
    return std::string(refusal.message());
  };
  EXPECT_THAT(text("Root=1-65f0;4b1d"),
              HasSubstr("(HTTP 503) [the hub's request Root=1-65f0;4b1d]"));
  EXPECT_THAT(text("abc", 404),
              HasSubstr("the hub has no repository 'a/b' [the hub's request abc]"));
  EXPECT_THAT(text(std::string(80, 'a')), HasSubstr(std::string(80, 'a')));
  for (const std::string& bad : {std::string(), std::string(81, 'a'), std::string("a b"),
                                 std::string("a\nb"), std::string("\xc3\xa4")}) {
    EXPECT_THAT(text(bad), Not(HasSubstr("request")));
  }
}

}  // namespace
}  // namespace lorica
