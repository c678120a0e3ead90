#include "adapters/hub/url.h"

#include <gtest/gtest.h>

namespace lorica {
namespace {

std::string Place(const std::string& text) {
  const auto url = ParseUrl(text);
  return url.ok() ? url->place() : "refused";
}

TEST(Url, ReadsWhatTheClientWillConnectTo) {
  const auto url = ParseUrl("HTTPS://Hub.Example/a/b?x=1#part");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->scheme, "https");
  EXPECT_EQ(url->place(), "hub.example:443");
  EXPECT_EQ(url->text, "https://Hub.Example/a/b?x=1");
  EXPECT_EQ(Place("http://h:8080/"), "h:8080");
  EXPECT_EQ(Place("http://[::1]:99/"), "::1:99");
  // Other spellings of an address come out as the address.
  EXPECT_EQ(Place("http://0x7f.1/"), "127.0.0.1:80");
  EXPECT_EQ(Place("http://2130706433/"), "127.0.0.1:80");
}

TEST(Url, RefusesWhatParsersReadDifferently) {
  for (const char* text :
       {"", "hub.example", "//hub.example/", "ftp://h/", "file:///etc/passwd", "gopher://h/",
        "https://user:pass@h/", "https://user@h/", "https://h\\@evil/", "https://h/a\r\nX: y",
        "https://h/a b", "https://[fe80::1%25eth0]/", "https://h:0/", "https://h:65536/",
        "https://h:x/", "https://", "javascript:alert(1)", "https://h/\x01",
        "https://h\xc3\xa9/", "https://%cdn.example/x", "https://h%20/", "https://h%2f/",
        "https://0x%36/"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseUrl(text).status())) << text;
  }
  const std::string base = "https://h/";
  EXPECT_TRUE(ParseUrl(base + std::string(kUrlBytesMax - base.size(), 'a')).ok());
  EXPECT_FALSE(ParseUrl(base + std::string(kUrlBytesMax - base.size() + 1, 'a')).ok());
}

TEST(Url, ResolvesLocations) {
  const Url base = *ParseUrl("https://h:99/a/b?x=1");
  EXPECT_EQ(ResolveUrl(base, "/c/d")->text, "https://h:99/c/d");
  EXPECT_EQ(ResolveUrl(base, "c")->text, "https://h:99/a/c");
  EXPECT_EQ(ResolveUrl(base, "//other/c")->place(), "other:443");
  EXPECT_EQ(ResolveUrl(base, "http://h:99/")->secure(), false);
  for (const char* location : {"", "file:///etc/passwd", "ftp://h/", "https://u:p@h/", "/a\\b",
                               "https://[fe80::1%25lo]/", "/a\r\nb"}) {
    EXPECT_FALSE(ResolveUrl(base, location).ok()) << location;
  }
}

TEST(Url, EscapesSegments) {
  EXPECT_EQ(EscapeSegment("refs/pr/1"), "refs%2Fpr%2F1");
  EXPECT_EQ(EscapeSegment("a-b_c.d~1"), "a-b_c.d~1");
  EXPECT_EQ(EscapeSegment("\xc3\xa9 ?"), "%C3%A9%20%3F");
}

}  // namespace
}  // namespace lorica
