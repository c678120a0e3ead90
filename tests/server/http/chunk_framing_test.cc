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
        "\r\n", ";x\r\n", "g\r\n", "3\r\r\nabc\r\n", "3;x\nabc\r\n", "0\r\nTrailer: x\r\n\r\n",
        "0\r\n\n", "0\r\n\r\nG"}) {
    EXPECT_FALSE(Takes(body)) << body;
  }
}

TEST(ChunkFraming, SizesAreBounded) {
  EXPECT_TRUE(Takes(std::string(kChunkSizeDigitsMax, 'f') + "\r\nabc"));
  EXPECT_FALSE(Takes(std::string(kChunkSizeDigitsMax + 1, 'f') + "\r\nabc"));
}

}  // namespace
}  // namespace lorica
