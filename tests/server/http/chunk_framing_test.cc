// Where a chunked body ends, and what is none.
#include "server/http/chunk_framing.h"

#include <string>

#include "gtest/gtest.h"

namespace lorica {
namespace {

// The same in one piece and byte by byte.
bool Takes(const std::string& body) {
  ChunkFraming whole, pieces;
  bool taken = true;
  for (size_t i = 0; i < body.size() && taken; ++i) taken = pieces.Take(&body[i], 1);
  EXPECT_EQ(whole.Take(body.data(), body.size()), taken) << body;
  return taken;
}

TEST(ChunkFraming, ChunksAreTaken) {
  for (const std::string body :
       {"0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "00000003\r\nabc\r\n00\r\n\r\n", "3;name=value\r\nabc\r\n0;last\r\n\r\n",
        "4\r\n\r\n\r\n\r\n0\r\n\r\n"}) {
    EXPECT_TRUE(Takes(body)) << body;
  }
}

TEST(ChunkFraming, WhatOthersReadDifferentlyIsRefused) {
  for (const std::string body :
       {"3\nabc\r\n0\r\n\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nabc0\r\n\r\n",
        "0x3\r\nabc\r\n", "+3\r\nabc\r\n", "-3\r\nabc\r\n", " 3\r\nabc\r\n", "3 \r\nabc\r\n",
        "\r\n", ";x\r\n", "g\r\n", "3\r\r\nabc\r\n", "3;x\nabc\r\n", "0\r\n\n", "0\r\n\r\nG"}) {
    EXPECT_FALSE(Takes(body)) << body;
  }
}

TEST(ChunkFraming, TrailersAreSkipped) {
  for (const std::string trailers :
       {"Trailer: x\r\n", "a:\r\n", "a: b: c\td\xc3\xa4\r\nX-Check!: 1\r\n"}) {
    ChunkFraming framing;
    const std::string body = "3\r\nabc\r\n0\r\n" + trailers + "\r\n";
    std::string shown;
    for (const char byte : body) {
      EXPECT_TRUE(framing.Take(&byte, 1)) << body;
      if (!framing.is_of_trailer()) shown += byte;
    }
    EXPECT_EQ(shown, "3\r\nabc\r\n0\r\n\r\n");
    EXPECT_EQ(framing.trailer_bytes(), std::ssize(trailers));
    EXPECT_FALSE(framing.Take("G", 1)) << "it has ended";
  }
}

TEST(ChunkFraming, TrailersThatAreNoneAreRefused) {
  for (const std::string trailers :
       {"Trailer x\r\n\r\n", ": x\r\n\r\n", " a: x\r\n\r\n", "a : x\r\n\r\n",
        "a: x\r\n b: y\r\n\r\n", "a: x\n\r\n", "a: x\r\r\n\r\n", "a: x\r\n\n", "a\r\n\r\n",
        "a: \x01\r\n\r\n", "a: \x7f\r\n\r\n", "Content-Length: 3\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n", "HOST: x\r\n\r\n"}) {
    EXPECT_FALSE(Takes("0\r\n" + trailers)) << trailers;
  }
  EXPECT_FALSE(Takes(std::string("0\r\na: \0\r\n\r\n", 11)));
}

TEST(ChunkFraming, SizesAreBounded) {
  EXPECT_TRUE(Takes(std::string(kChunkSizeDigitsMax, 'f') + "\r\nabc"));
  EXPECT_FALSE(Takes(std::string(kChunkSizeDigitsMax + 1, 'f') + "\r\nabc"));
}

}  // namespace
}  // namespace lorica
