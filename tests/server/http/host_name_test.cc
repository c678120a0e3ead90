#include "server/http/host_name.h"

#include "gtest/gtest.h"

namespace lorica {
namespace {

TEST(HostName, NamesAndAddressesWithAndWithoutAPort) {
  for (const char* host : {"", "localhost", "a-b.example:80", "under_score", "127.0.0.1:8080",
                           "x:", "x:0", "x:65535", "x:00080", "[::1]", "[::1]:8080",
                           "[fe80::1%eth0]:1", "[fe80::1%25eth0]", "[::ffff:1.2.3.4]", "b%C3%bc"}) {
    EXPECT_TRUE(IsHost(host)) << host;
  }
}

TEST(HostName, WhatNamesNoHostIsNone) {
  for (const char* host :
       {"a b",       "a/b",         "u@b",     "b\xC3\xBC", "x%zz",
        "x%",        "x%4",         "x:65536", "x:99999",   "x:18446744073709551696",
        "x:-1",      "x:8o",        "x:80:80", "::1",       "[::1",
        "[::1]8080", "[::1]:99999", "[]",      "[x]",       "[::1%a]b]",
        "[::g]",     "::1]",        "a]b",     "a[b]",      "[[::1]]"}) {
    EXPECT_FALSE(IsHost(host)) << host;
  }
}

}  // namespace
}  // namespace lorica
