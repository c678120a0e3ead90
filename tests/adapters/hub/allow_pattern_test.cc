#include "adapters/hub/allow_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "adapters/hub/object_source.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

void ExpectTaken(AllowKind kind, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    EXPECT_TRUE(CheckAllowPattern(kind, pattern).ok()) << pattern;
  }
}

void ExpectRefused(AllowKind kind, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    const absl::Status status = CheckAllowPattern(kind, pattern);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr("write ")) << pattern;
  }
}

TEST(AllowPattern, RepositoriesHaveAnOwner) {
  ExpectTaken(AllowKind::kRepository, {"*", "org/name", "org/*", "org/pre-*", "te*"});
  ExpectRefused(AllowKind::kRepository,
                {"", "team", "team/*/x", "team/**", "/*", "/name", "org/", "a/b/c", "a/b/*", "a--*",
                 "../*", "https://x/*", "s3://b/*", "org/na me", "org/name@main"});
}

TEST(AllowPattern, BucketsAreNamedWhole) {
  ExpectTaken(AllowKind::kBucket, {"s3://bucket/*", "s3://bucket/a/b", "s3://bucket/a/b*"});
  ExpectRefused(AllowKind::kBucket, {"", "*", "s3://*", "s3://buck*", "s3://bucket", "s3://bucket/",
                                     "s3://*/a", "s3://bucket/*/a", "S3://bucket/*", "bucket/*",
                                     "https://bucket/*", "s3://bucket/../*"});
}

TEST(AllowPattern, HostsAreNamedWhole) {
  ExpectTaken(AllowKind::kMirror, {"https://files.example/*", "https://files.example:8443/a/*",
                                   "https://files.example/a/b", "http://127.0.0.1:80/*",
                                   "http://localhost/*", "https://[2001:db8::1]/*"});
  ExpectRefused(AllowKind::kMirror, {"",
                                     "*",
                                     "h*",
                                     "https*",
                                     "https://*",
                                     "https://files.example*",
                                     "https://files.example:*",
                                     "https://files.example:84*",
                                     "https://files.example",
                                     "https://files.example/",
                                     "https://*.example/a",
                                     "files.example/*",
                                     "HTTPS://x/*",
                                     "https://Files.example/*",
                                     "http://*",
                                     "http://files.example/*",
                                     "https://user@files.example/*",
                                     "https://files.example/*/a",
                                     "s3://bucket/*",
                                     "ftp://files.example/*",
                                     "https://files.example/a?b*"});
}

TEST(AllowPattern, LocationsAsLongAsMayBe) {
  const std::string begin = "https://files.example/";
  const auto path = [&](int64_t bytes) { return std::string(bytes - begin.size(), 'a'); };
  ExpectTaken(AllowKind::kMirror, {absl::StrCat(begin, path(kLocationBytesMax)),
                                   absl::StrCat(begin, path(kLocationBytesMax - 1), "*")});
  ExpectRefused(AllowKind::kMirror, {absl::StrCat(begin, path(kLocationBytesMax + 1)),
                                     absl::StrCat(begin, path(kLocationBytesMax), "*")});
}

TEST(AllowPattern, MatchesOneNameOrABeginning) {
  EXPECT_TRUE(IsAllowed({"org/a"}, "org/a"));
  EXPECT_FALSE(IsAllowed({"org/a"}, "org/ab"));
  EXPECT_TRUE(IsAllowed({"x/y", "org/a*"}, "org/ab"));
  EXPECT_FALSE(IsAllowed({"org/*"}, "organisation/a"));
  EXPECT_FALSE(IsAllowed({}, "org/a"));
  EXPECT_TRUE(IsAllowed({"https://files.example/*"}, "https://files.example/a"));
  EXPECT_FALSE(IsAllowed({"https://files.example/*"}, "https://files.example.invalid/a"));
  EXPECT_FALSE(IsAllowed({"https://files.example/*"}, "https://files.example:9999/a"));
}

}  // namespace
}  // namespace lorica
