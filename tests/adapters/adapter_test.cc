#include "adapters/adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorica {
namespace {

using ::testing::HasSubstr;

void ExpectBadId(const std::string& id, const std::string& reason) {
  const absl::Status status = CheckAdapterId(id);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << id.substr(0, 200);
  EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  for (unsigned char c : std::string(status.message())) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
  EXPECT_LT(status.message().size(), 300u);
}

TEST(AdapterIdTest, AcceptsTheGrammar) {
  for (const char* id : {"a", "0", "intent", "owner/name", "a.b_c-d", "Owner/Name-1.0_x@v1.0",
                         "a@-x", "a@0123456789abcdef", "a.gitx"}) {
    EXPECT_TRUE(CheckAdapterId(id).ok()) << id << CheckAdapterId(id);
  }
}

TEST(AdapterIdTest, RefusesPathsAndEscapes) {
  for (const char* id : {"../../etc/passwd", "a/../b", "..", "a..b", "..\\..\\x"}) {
    ExpectBadId(id, "'..' is not allowed");
  }
  for (const char* id : {".", "-a", "_a", "a/-b", "a/.b", "@v"}) ExpectBadId(id, "part");
  for (const char* id : {"%2e%2e%2f", "%252e", "C:\\x", "C:x", "a\\b"}) {
    ExpectBadId(id, "letters, digits");
  }
  for (const char* id : {"/a", "a/", "/", "a@"}) ExpectBadId(id, "empty");
  ExpectBadId("a/b/c", "at most one '/'");
  ExpectBadId("a//b", "at most one '/'");
  ExpectBadId("\\\\host\\share", "letters, digits");
}

TEST(AdapterIdTest, RefusesCharactersThatBreakHeadersLogsAndMetrics) {
  for (const char c : {'\r', '\n', '\t', '\x7f', '\x1b', ',', ' ', '"', '\'', '\\', '{', '=', ':',
                       '\x80', '\xff'}) {
    ExpectBadId(std::string("a") + c + "b", "letters, digits");
  }
  ExpectBadId(std::string("a\0b", 3), "letters, digits");
  ExpectBadId("\xD0\xB0", "letters, digits");   // Cyrillic a
  ExpectBadId("e\xCC\x81", "letters, digits");  // combining accent
  ExpectBadId("a@b@c", "letters, digits");
}

TEST(AdapterIdTest, RefusesUrls) {
  for (const char* id : {"http://169.254.169.254/latest", "file:///etc/passwd", "s3://b/k"}) {
    ExpectBadId(id, "");
  }
}

TEST(AdapterIdTest, RefusesWhatHubsRefuse) {
  ExpectBadId("a--b", "'--'");
  ExpectBadId("a.git", ".git");
  ExpectBadId("a.GIT", ".git");
  ExpectBadId("a.git/b", ".git");
  ExpectBadId("a/b@c.git", ".git");
}

TEST(AdapterIdTest, BoundsTheLength) {
  ExpectBadId("", "empty");
  EXPECT_TRUE(CheckAdapterId(std::string(kAdapterIdBytesMax, 'a')).ok());
  ExpectBadId(std::string(kAdapterIdBytesMax + 1, 'a'), "129 bytes");
  ExpectBadId(std::string(4 << 20, 'a'), "4194304 bytes");
}

}  // namespace
}  // namespace lorica
