#include "server/http/origins.h"

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(AllowedOriginsTest, NoneUnlessTheyAreNamed) {
  const AllowedOrigins none = *AllowedOrigins::Parse("");
  EXPECT_TRUE(none.none());
  EXPECT_FALSE(none.Allows("https://app.example"));
  const auto some = *AllowedOrigins::Parse("https://App.example, http://localhost:3000");
  EXPECT_FALSE(some.none());
  for (const char* origin : {"https://app.example", "http://localhost:3000"}) {
    EXPECT_TRUE(some.Allows(origin)) << origin;
  }
  for (const char* origin : {"http://app.example", "https://app.example:444", "null", "",
                             "https://app.example.evil", "http://localhost"}) {
    EXPECT_FALSE(some.Allows(origin)) << origin;
  }
  EXPECT_TRUE(AllowedOrigins::Parse("*")->Allows("https://whoever.example"));
}

TEST(AllowedOriginsTest, WhatIsNoOriginIsRefused) {
  for (const char* list : {"app.example", "https://", "https://a/b", "https://*.example", "ftp://a",
                           "https://a b", "https://a,,x"}) {
    EXPECT_FALSE(AllowedOrigins::Parse(list).ok()) << list;
  }
}

}  // namespace
}  // namespace lorica
